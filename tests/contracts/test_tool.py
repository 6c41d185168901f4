"""The built-in tools keep the contract of `Tool`."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from tests.support.until import until

from luxx.adapters.tools.loading import load_tools
from luxx.adapters.tools.resources import ToolResources
from luxx.testing.contracts.tool import ToolCase, ToolContract

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOW_SQL = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range = 7"

# Of each tool: arguments that are good, bad ones with the path of the fault, ones it cannot work with, slow ones.
CASES: Mapping[str, Mapping[str, Any]] = {
    "calculate": {
        "good": {"expression": "0.1 + 0.2"},
        "bad": [({"expression": 5}, "expression"), ({"expression": ""}, "expression"), ({}, "expression")],
        "refused": [{"expression": "1/0"}, {"expression": "9**9**9"}, {"expression": "__import__('os')"}],
    },
    "current_time": {
        "good": {"timezone": "Asia/Shanghai"},
        "bad": [({"timezone": None}, "timezone"), ({"timezone": "x" * 65}, "timezone")],
        "refused": [{"timezone": "Mars/Olympus"}, {"timezone": "../../etc/passwd"}],
    },
    "query_table": {
        "good": {"data": "a,b\n1,2", "sql": "SELECT a + b AS c FROM data"},
        "bad": [({"data": 5, "sql": "SELECT 1"}, "data"), ({"data": "a", "sql": ""}, "sql"), ({"data": "a"}, "sql")],
        "refused": [{"data": "a\n1", "sql": "SELEC"}, {"data": "", "sql": "SELECT 1"}],
        "slow": {"data": "a\n1", "sql": SLOW_SQL},
    },
    "transform_json": {
        "good": {"data": {"a": [{"b": 1}]}, "expression": "a[*].b"},
        "bad": [({"data": 1, "expression": 1}, "expression"), ({"expression": "a"}, "data")],
        "refused": [{"data": 1, "expression": "a["}, {"data": {}, "expression": "nope(@)"}],
    },
    "analyze_text": {
        "good": {"text": "One. Two!", "pattern": r"\w+"},
        "bad": [({"text": 5}, "text"), ({"text": "x", "pattern": ""}, "pattern"), ({}, "text")],
        "refused": [{"text": "x", "pattern": "("}, {"text": "x", "pattern": "(?=x)"}],
        "slow": {"text": "a" * 1_000_000, "pattern": "a"},
    },
}


def now() -> datetime:
    return datetime(2026, 3, 1, 12, 30, 15, 999, tzinfo=UTC)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def resources() -> AsyncIterator[ToolResources]:
    async with ToolResources.open(now) as opened:
        yield opened


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, resources: ToolResources) -> ToolCase:
    tools = {tool.spec.name: tool for tool in load_tools(resources)}

    async def under_way() -> None:
        await until(lambda: resources.workers.at_work)

    return ToolCase(
        tool=tools[request.param],
        under_way=under_way,
        at_work=lambda: resources.workers.at_work,
        **CASES[request.param],
    )


class TestBuiltIn(ToolContract):
    pass


async def test_every_built_in_tool_is_held_to_the_contract(resources: ToolResources) -> None:
    assert {tool.spec.name for tool in load_tools(resources)} == set(CASES)
