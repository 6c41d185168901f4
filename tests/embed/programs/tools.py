"""The built-in tools, each of its own or with what its worker loads."""

import asyncio
import pkgutil
from contextlib import suppress
from importlib import import_module
from typing import Any

from one_turn import answer  # type: ignore[import-not-found]  # it lies beside this program

import luxx.adapters.tools
from luxx.adapters.memory import MemoryStorage
from luxx.adapters.models import OfflineChatModel
from luxx.adapters.system import utc_now
from luxx.adapters.tools.loading import load_tools
from luxx.adapters.tools.resources import ToolResources, ToolSettings
from luxx.domain.errors import ToolRefused
from luxx.testing.upstream import ScriptedUpstream

WORK: dict[str, dict[str, Any]] = {
    "analyze_text": {"text": "One. Two!", "pattern": "o"},
    "calculate": {"expression": "6*7"},
    "current_time": {"timezone": "Asia/Tokyo"},
    "execute_python": {"code": "6*7"},
    "query_table": {"data": "a\n42", "sql": "SELECT a FROM data"},
    "transform_json": {"data": {"a": 42}, "expression": "a"},
}


async def main() -> None:
    async with ScriptedUpstream() as page, ToolResources.open(utc_now, ToolSettings(workers=1)) as resources:
        tools = {tool.spec.name: tool for tool in load_tools(resources)}
        for name, arguments in WORK.items():
            assert await tools[name].run(arguments), name
        with suppress(ToolRefused):  # the address is a private one
            await tools["fetch_page"].run({"url": page.url})
            raise AssertionError(page.url)
        assert "42" in await answer(MemoryStorage(), OfflineChatModel(), tools=tuple(tools.values()))


for module in pkgutil.walk_packages(luxx.adapters.tools.__path__, "luxx.adapters.tools."):
    import_module(module.name)
asyncio.run(main())
