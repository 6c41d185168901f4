"""The toolbox, and tools run by hand."""

import asyncio
import gc
import sys
from collections.abc import Mapping
from contextlib import suppress
from enum import IntEnum, StrEnum

import pytest
from tests.support.until import until
from tests.unit.application.house import FunctionTool, echo, failing

from luxx.application import ExecuteTool, GetTool, ListTools, Toolbox
from luxx.application.tools import RESULT_LIMIT, acting_for
from luxx.domain.errors import Fault, InvalidInput, NotFound, ToolBroken, ToolRefused, ToolTimeout
from luxx.domain.message import NESTING_LIMIT, Json


class Size(IntEnum):
    SMALL = 1


class Colour(StrEnum):
    RED = "red"


def giving(result: Json) -> FunctionTool:
    async def give(_: Mapping[str, Json]) -> Json:
        return result

    return FunctionTool("t", give)


def nested(levels: int) -> list[Json]:
    value: list[Json] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_tools_are_listed_by_category_in_the_order_of_the_contract() -> None:
    categories = ["weather", "mine", "data", "code", "crawler"]
    toolbox = Toolbox(FunctionTool(f"{category}_{n}", echo, category) for n in (1, 2) for category in categories)
    names = [spec.name for spec in ListTools(toolbox=toolbox)()]
    ordered = ["crawler", "code", "data", "weather", "mine"]
    assert names == [f"{category}_{n}" for category in ordered for n in (1, 2)]
    assert [spec.name for spec in ListTools(toolbox=toolbox)(category="data")] == ["data_1", "data_2"]
    assert list(ListTools(toolbox=toolbox)(category="none")) == []


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="Two tools are named 'twice'"):
        Toolbox([FunctionTool("twice", echo), FunctionTool("once", echo), FunctionTool("twice", echo, "weather")])


async def test_a_disabled_tool_is_absent() -> None:
    toolbox = Toolbox([FunctionTool("on", echo), FunctionTool("off", echo)], disabled=frozenset({"off", "nothing"}))
    assert [spec.name for spec in toolbox.specs] == ["on"]
    assert GetTool(toolbox=toolbox)(name="on").name == "on"
    with pytest.raises(NotFound) as absent:
        GetTool(toolbox=toolbox)(name="off")
    assert absent.value.code == "tool_not_found"
    with pytest.raises(NotFound):
        await ExecuteTool(toolbox=toolbox)(name="off", arguments={})


async def test_a_result_comes_as_json_and_as_text() -> None:
    result = await ExecuteTool(toolbox=Toolbox([giving({"a": (1, "é\0"), 2: None})]))(name="t", arguments={})
    assert result.result == {"a": [1, "é\ufffd"], "2": None}
    assert result.text == '{"a":[1,"é\ufffd"],"2":null}'
    assert result.name == "t"
    assert result.duration_ms >= 0


async def test_numbers_and_words_of_somebodys_own_types_become_plain_ones() -> None:
    """`json` takes them for what they are made of, and a storage does not: numpy's float64 is such a float."""

    class Price(float):
        pass

    class Pieces(int):
        pass

    result = (await Toolbox([giving([Price(1.5), Pieces(4), Size.SMALL, Colour.RED, True])]).run("t", {})).result
    assert result == [1.5, 4, 1, "red", True]
    assert [type(one) for one in result] == [float, int, int, str, bool]


@pytest.mark.parametrize(
    "error", [ToolRefused("no"), ToolBroken("off"), InvalidInput(Fault(field="a.b", rule="required"))]
)
async def test_what_a_tool_says_is_raised_as_it_stands(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        await Toolbox([FunctionTool("t", failing(error))]).run("t", {})
    assert raised.value is error


@pytest.mark.parametrize("result", [{1, 2}, object(), 10**5000], ids=["a set", "an object", "too long a number"])
async def test_a_result_that_is_no_json_is_the_tools_fault(result: object, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ToolBroken, match="The tool t failed unexpectedly"):
        await Toolbox([giving(result)]).run("t", {})
    assert "the tool t failed unexpectedly" in caplog.text


@pytest.mark.parametrize("levels", [NESTING_LIMIT + 2, 100_000])
async def test_a_result_nested_too_deeply_is_refused_in_words(levels: int, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ToolRefused, match="The result of t is nested more than 200 levels deep"):
        await Toolbox([giving(nested(levels))]).run("t", {})
    assert not caplog.records, "it is nobody's fault"
    assert (await Toolbox([giving(nested(NESTING_LIMIT))]).run("t", {})).result == nested(NESTING_LIMIT)


async def test_what_a_tool_raises_is_not_taken_for_its_results_fault() -> None:
    with pytest.raises(ToolBroken):
        await Toolbox([FunctionTool("t", failing(ValueError("nested")))]).run("t", {})


async def test_a_result_may_have_the_limit_and_not_a_byte_more() -> None:
    fits = "é" * (RESULT_LIMIT // 2 - 1)
    assert (await Toolbox([giving(fits)]).run("t", {})).result == fits
    with pytest.raises(ToolBroken, match="larger than 1048576 bytes"):
        await Toolbox([giving(fits + "x")]).run("t", {})


async def test_a_run_ends_with_its_time_and_its_work_is_stopped() -> None:
    stopped = asyncio.Event()

    async def forever(_: Mapping[str, Json]) -> Json:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    with pytest.raises(ToolTimeout, match=r"The tool t took longer than 0\.01 s") as slow:
        await Toolbox([FunctionTool("t", forever)], timeout=0.01).run("t", {})
    assert slow.value.code == "tool_timeout"
    assert stopped.is_set()


async def test_who_stops_a_run_from_outside_is_obeyed() -> None:
    started = asyncio.Event()

    async def forever(_: Mapping[str, Json]) -> Json:
        started.set()
        await asyncio.Event().wait()

    run = asyncio.ensure_future(Toolbox([FunctionTool("t", forever)]).run("t", {}))
    await started.wait()
    run.cancel()
    await asyncio.wait({run})
    assert run.cancelled()


async def test_a_tool_that_takes_no_notice_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools of others have bare excepts in their loops."""
    monkeypatch.setattr("luxx.application.tools.LET_GO_S", 0.01)
    started, over = asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    async def deaf(_: Mapping[str, Json]) -> Json:
        started.set()
        while not over.is_set():
            with suppress(BaseException):
                await over.wait()
        ended.append("at last")
        return None

    with pytest.raises(ToolTimeout):
        await Toolbox([FunctionTool("t", deaf)], timeout=0.01).run("t", {})
    started.clear()
    run = asyncio.ensure_future(Toolbox([FunctionTool("t", deaf)]).run("t", {}))
    await started.wait()
    run.cancel()
    await asyncio.wait({run})
    assert run.cancelled()
    assert ended == [], "both go on"
    over.set()
    await until(lambda: ended == ["at last"] * 2)


async def test_a_run_that_is_stopped_as_it_fails_is_no_fault_of_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody would have looked at what it raised, which may quote what it was given."""
    runs: list[asyncio.Future[object]] = []

    async def fail(_: Mapping[str, Json]) -> Json:
        asyncio.get_running_loop().call_soon(runs[0].cancel)
        raise ValueError

    runs.append(asyncio.ensure_future(Toolbox([FunctionTool("t", fail)]).run("t", {})))
    await asyncio.wait(runs)
    assert runs[0].cancelled()
    runs.clear()
    gc.collect()
    assert not caplog.records


async def test_a_tool_that_would_end_the_process_fails_and_ends_nothing() -> None:
    """Whatever reads a command line inside it calls `sys.exit`."""

    async def leave(_: Mapping[str, Json]) -> Json:
        sys.exit(2)

    with pytest.raises(ToolBroken):
        await Toolbox([FunctionTool("t", leave)]).run("t", {})


async def test_a_tool_runs_for_the_user_who_called_it_and_nobody_else_does() -> None:
    seen: list[int | None] = []

    async def look(arguments: Mapping[str, Json]) -> Json:
        seen.append(acting_for.get())
        return arguments.get("unused")

    execute = ExecuteTool(toolbox=Toolbox([FunctionTool("look", look)]))
    await execute(name="look", arguments={}, user_id=7)
    await execute(name="look", arguments={})
    assert seen == [7, None]
    assert acting_for.get() is None


async def test_a_tool_that_calls_another_calls_it_for_the_same_user() -> None:
    seen: list[int | None] = []

    async def inner(_: Mapping[str, Json]) -> Json:
        seen.append(acting_for.get())
        return None

    async def outer(_: Mapping[str, Json]) -> Json:
        return (await toolbox.run("inner", {})).result

    toolbox = Toolbox([FunctionTool("inner", inner), FunctionTool("outer", outer)])
    await ExecuteTool(toolbox=toolbox)(name="outer", arguments={}, user_id=7)
    assert seen == [7]
