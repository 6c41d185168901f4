"""Tools over HTTP."""

import gc
from typing import Any

import pytest
from litestar import Request
from tests.support.live import Account

from luxx.application.tools import Toolbox, acting_for
from luxx.container import Container
from luxx.domain.errors import ToolBroken, ToolRefused, ToolTimeout
from luxx.domain.message import Json
from luxx.domain.tool import CATEGORIES, ToolSpec

DATA_TOOLS = {"calculate", "current_time", "query_table", "transform_json", "analyze_text"}


class FailingTool:
    """A tool that fails in a way the test chooses."""

    def __init__(self, error: Exception) -> None:
        self.spec = ToolSpec(name="failing", description="Fails.", category="data", parameters={"type": "object"})
        self._error = error

    async def run(self, _arguments: object) -> Json:
        raise self._error


class WhoseTool:
    """A tool that tells for whom it runs."""

    spec = ToolSpec(name="whose", description="Tells.", category="data", parameters={"type": "object"})

    async def run(self, _arguments: object) -> Json:
        return acting_for.get()


@pytest.fixture
def whose(container: Container) -> WhoseTool:
    """Before the first request: handlers take what they use once."""
    tool = WhoseTool()
    container.toolbox.override(Toolbox([tool]))
    return tool


async def test_a_tool_runs_for_whoever_called_it(whose: WhoseTool, user: Account) -> None:
    answer = await user.post(f"/api/tools/{whose.spec.name}/execute", json={})
    assert answer.json()["data"]["result"] == user.user_id


async def test_the_list_shows_every_tool_twice_and_counts_it_once(user: Account) -> None:
    answer = await user.get("/api/tools/")
    assert answer.status_code == 200
    assert set(answer.json()) == {"success", "data"}
    data = answer.json()["data"]
    assert set(data) == {"tools", "categorized", "total"}
    assert data["total"] == len(data["tools"])
    assert {tool["name"] for tool in data["tools"]} >= DATA_TOOLS
    assert set(data["categorized"]) <= set(CATEGORIES)
    assert [tool for tools in data["categorized"].values() for tool in tools] == data["tools"]
    for tool in data["tools"]:
        assert list(tool) == ["name", "description", "category", "parameters"]
        assert tool["parameters"]["type"] == "object"


async def test_a_category_filters_both_forms(user: Account) -> None:
    data = (await user.get("/api/tools/", params={"category": "data"})).json()["data"]
    assert {tool["name"] for tool in data["tools"]} == DATA_TOOLS
    assert data["categorized"] == {"data": data["tools"]}
    nothing = (await user.get("/api/tools/", params={"category": "nothing"})).json()["data"]
    assert nothing == {"tools": [], "categorized": {}, "total": 0}


async def test_a_tool_is_read_and_run_by_its_name(user: Account) -> None:
    listed = (await user.get("/api/tools/")).json()["data"]["tools"]
    detail = await user.get("/api/tools/calculate")
    assert detail.json() == {"success": True, "data": next(one for one in listed if one["name"] == "calculate")}
    done = await user.post("/api/tools/calculate/execute", json={"expression": "2**70 + 1"})
    assert done.status_code == 200
    assert set(done.json()) == {"success", "data"}
    data = done.json()["data"]
    assert list(data) == ["name", "result", "duration_ms"]
    assert data["result"]["value"] == 2**70 + 1
    assert isinstance(data["duration_ms"], int)


BAD_CALLS: list[tuple[str, Any, tuple[int, str, list[str]]]] = [
    ("calculate", {"expression": "1/0"}, (422, "tool_failed", [])),
    ("calculate", {}, (422, "validation_failed", ["expression"])),
    ("calculate", {"expression": 1, "more": 2}, (422, "validation_failed", ["expression", "more"])),
    ("calculate", [], (422, "validation_failed", [""])),
    ("query_table", {"data": "a\n1", "sql": "SELEC"}, (422, "tool_failed", [])),
    ("analyze_text", {"text": "\0"}, (422, "validation_failed", ["text"])),
    ("nothing", {}, (404, "tool_not_found", [])),
    ("%00", {}, (404, "tool_not_found", [])),
    ("x" * 3000, {}, (404, "tool_not_found", [])),
]
"""Tools and arguments; the status, the code and the bad fields to be told."""


async def test_a_call_that_cannot_work_says_why(user: Account) -> None:
    for name, arguments, expected in BAD_CALLS:
        answer = await user.post(f"/api/tools/{name}/execute", json=arguments)
        error = answer.json()["error"]
        fields = [detail["field"] for detail in error.get("details", [])]
        assert (answer.status_code, error["code"], fields) == expected, (name, arguments)


@pytest.fixture
def failing(request: pytest.FixtureRequest, container: Container) -> Exception:
    """Before the first request: handlers take what they use once."""
    error: Exception = request.param
    container.toolbox.override(Toolbox([FailingTool(error)]))
    return error


@pytest.mark.parametrize(
    ("failing", "status", "code"),
    [
        (ToolRefused("no such place"), 422, "tool_failed"),
        (ToolBroken("the back end is down"), 502, "tool_failed"),
        (ToolTimeout("too slow"), 504, "tool_timeout"),
        (ZeroDivisionError("secret"), 502, "tool_failed"),
    ],
    indirect=["failing"],
)
async def test_a_tool_that_fails_maps_to_a_status_and_keeps_its_word(
    failing: Exception, user: Account, status: int, code: str
) -> None:
    answer = await user.post("/api/tools/failing/execute", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    if isinstance(failing, ZeroDivisionError):
        assert "secret" not in answer.text
    else:
        assert str(failing) in answer.json()["message"]


async def test_a_failed_request_leaves_nothing_for_the_garbage_collector(user: Account) -> None:
    """Which comes seldom in a service: each failure would hold its request, with all that was sent."""

    def kept() -> int:
        return sum(isinstance(one, Request) for one in gc.get_objects())

    body = {"data": "[1]", "expression": "]]"}
    gc.collect()
    gc.disable()
    try:
        before = kept()
        for _ in range(5):
            assert (await user.post("/api/tools/transform_json/execute", json=body)).status_code == 422
        assert (await user.post("/api/messages/", json={"conversation_id": "x", "content": "y"})).status_code == 404
        assert kept() <= before + 1
    finally:
        gc.enable()
