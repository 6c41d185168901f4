"""Tools with real servers on loopback."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, TypeAlias

import pytest
from tests.support.web import WebServer, web_server

from luxx.adapters.tools.loading import load_tools
from luxx.adapters.tools.resources import ToolResources, ToolSettings

Run: TypeAlias = Callable[..., Any]


@pytest.fixture
async def site() -> AsyncIterator[WebServer]:
    async with web_server() as server:
        yield server


@pytest.fixture
async def tools() -> AsyncIterator[Callable[..., Run]]:
    """Give a function that opens the tools with settings and gives a function to run them by name."""
    async with AsyncExitStack() as stack:

        def opened(**settings: Any) -> Run:
            resources = ToolResources.open(
                lambda: datetime(2026, 3, 1, 12, tzinfo=UTC), ToolSettings(**{"pause": 0.0, **settings})
            )
            stack.push_async_exit(resources)
            found = {tool.spec.name: tool for tool in load_tools(resources)}

            async def run(name: str, **arguments: Any) -> Any:
                return await found[name].run(arguments)

            return run

        yield opened
