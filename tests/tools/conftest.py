"""Tools with real servers on loopback."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeAlias

import h11
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


@asynccontextmanager
async def at_a_stretch(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[int]]:
    """Count how many pieces of an answer are worked through each time, before others may run."""
    steps = [0]
    next_event = h11.Connection.next_event

    def counted(connection: h11.Connection) -> object:
        steps[-1] += 1
        return next_event(connection)

    async def others() -> None:
        while True:
            steps.append(0)
            await asyncio.sleep(0)

    monkeypatch.setattr(h11.Connection, "next_event", counted)
    running = asyncio.create_task(others())
    try:
        yield steps
    finally:
        running.cancel()
