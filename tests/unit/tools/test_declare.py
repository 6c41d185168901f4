"""Declaring, finding and running tools."""

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Meta, Struct
from tests.support.jobs import nested

from luxx.adapters.tools.declare import parameters_of, tool
from luxx.adapters.tools.loading import ENTRY_POINTS, ToolsMisdeclared, load_tools
from luxx.adapters.tools.resources import ToolResources
from luxx.domain.errors import ToolBroken, ToolRefused, ToolTimeout

Described = Annotated[int, Meta(description="A number")]


class Inner(Struct, frozen=True, forbid_unknown_fields=True):
    title: Annotated[str, Meta(description="A title")]


class Some(Struct, frozen=True, forbid_unknown_fields=True):
    number: Described = 1
    inner: Annotated[Inner | None, Meta(description="An inner one")] = None
    items: Annotated[list[Any], Meta(description="Some")] = []


@pytest.fixture
async def resources() -> AsyncIterator[ToolResources]:
    async with ToolResources.open(lambda: datetime(2026, 3, 1, tzinfo=UTC)) as opened:
        yield opened


@tool(category="data")
async def doubled(arguments: Some, resources: ToolResources) -> int:  # noqa: ARG001 - the form of a tool
    """Give the double of a number."""
    return arguments.number * 2


def test_parameters_hold_no_references_and_keep_a_field_named_title() -> None:
    parameters = parameters_of(Some)
    inner = parameters["properties"]["inner"]["anyOf"][0]
    assert inner["properties"] == {"title": {"type": "string", "description": "A title"}}
    assert inner["additionalProperties"] is False
    assert parameters["properties"]["items"]["items"] == {}
    assert parameters["required"] == []


def test_arguments_that_contain_themselves_are_refused() -> None:
    with pytest.raises(TypeError, match="cannot be recursive"):
        parameters_of(Tree)


class Tree(Struct, forbid_unknown_fields=True):
    children: "Annotated[list[Tree], Meta(description='More')]"


async def test_a_declaration_becomes_a_tool(resources: ToolResources) -> None:
    bound = doubled.bind(resources)
    assert (bound.spec.name, bound.spec.description) == ("doubled", "Give the double of a number.")
    assert not bound.spec.untrusted
    assert await bound.run({"number": 4}) == 8


async def test_a_description_may_depend_on_the_resources(resources: ToolResources) -> None:
    @tool(category="x", description=lambda given: f"Opened {given.clock():%Y}.", untrusted=True)
    async def dated(arguments: Some, resources: ToolResources) -> None: ...

    spec = dated.bind(resources).spec
    assert (spec.description, spec.untrusted) == ("Opened 2026.", True)


def test_a_declaration_with_a_hole_is_refused_at_once() -> None:
    class Open(Struct):
        number: Described = 1

    class Bare(Struct, forbid_unknown_fields=True):
        number: int = 1

    async def open_(arguments: Open, resources: ToolResources) -> None:
        """Text."""

    async def bare(arguments: Bare, resources: ToolResources) -> None:
        """Text."""

    async def silent(arguments: Some, resources: ToolResources) -> None: ...

    def plain(arguments: Some, resources: ToolResources) -> None:
        """Text."""

    async def loose(arguments: dict[str, Any], resources: ToolResources) -> None:
        """Text."""

    for function, reason in (
        (open_, "forbid_unknown_fields=True"),
        (bare, r"description=.* missing on number"),
        (silent, "docstring"),
        (plain, "async function"),
        (loose, "msgspec Struct"),
    ):
        function.__annotations__ |= {
            "arguments": {open_: Open, bare: Bare, loose: dict}.get(function, Some),
        }
        with pytest.raises(TypeError, match=reason):
            tool(category="data")(function)  # type: ignore[arg-type]  # that is the point


async def test_a_tool_that_takes_too_long_is_ended(resources: ToolResources) -> None:
    ended = asyncio.Event()

    @tool(category="data", description="Wait.", seconds=0.02)
    async def waits(arguments: Some, resources: ToolResources) -> None:  # noqa: ARG001 - the form of a tool
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(ToolTimeout, match=r"waits took more than 0\.02 seconds"):
        await waits.bind(resources).run({})
    assert ended.is_set()


async def test_no_more_calls_run_at_once_than_declared(resources: ToolResources) -> None:
    running, most = 0, 0

    @tool(category="data", description="Count.", concurrency=2)
    async def counted(arguments: Some, resources: ToolResources) -> None:  # noqa: ARG001 - the form of a tool
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    bound = counted.bind(resources)
    await asyncio.gather(*(bound.run({}) for _ in range(10)))
    assert most == 2


@pytest.mark.parametrize(
    ("result", "error", "reason"),
    [
        ({1: object()}, ToolBroken, "no JSON"),
        ("x" * 2**20, ToolRefused, "too large"),
        (nested(5_000), ToolRefused, "nested too deeply"),
    ],
)
async def test_a_result_must_be_json_and_of_a_size(
    resources: ToolResources, result: object, error: type[Exception], reason: str
) -> None:
    @tool(category="data", description="Give it.")
    async def gives(arguments: Some, resources: ToolResources) -> object:  # noqa: ARG001 - the form of a tool
        return result

    with pytest.raises(error, match=reason):
        await gives.bind(resources).run({})


async def test_a_timeout_inside_a_tool_is_not_taken_for_its_own(resources: ToolResources) -> None:
    @tool(category="data", description="Fail.")
    async def fails(arguments: Some, resources: ToolResources) -> None:  # noqa: ARG001 - the form of a tool
        raise TimeoutError

    with pytest.raises(ToolBroken, match="lost its connection"):
        await fails.bind(resources).run({})


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function that installs a package with the entry points it is given."""

    def install(*points: tuple[str, str], **modules: str) -> None:
        about = tmp_path / "parrot-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot\nVersion: 1.0\n", encoding="utf-8")
        lines = "".join(f"{name} = {value}\n" for name, value in points)
        (about / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\n{lines}", encoding="utf-8")
        for name, source in modules.items():
            (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


PARROT = '''
from typing import Annotated
from msgspec import Meta, Struct
from luxx.adapters.tools.declare import tool
from luxx.adapters.tools.resources import ToolResources

class Words(Struct, forbid_unknown_fields=True):
    text: Annotated[str, Meta(description="What to say")]

@tool(category="birds")
async def NAME(arguments: Words, resources: ToolResources) -> str:
    """Say it again."""
    return arguments.text
'''


async def test_a_tool_of_another_package_is_found_by_its_entry_point(installed: Any, resources: ToolResources) -> None:
    installed(("parrot", "parrot_tools"), parrot_tools=PARROT.replace("NAME", "parrot"))
    tools = load_tools(resources)
    assert tools[-1].spec.name == "parrot"
    assert tools[-1].spec.category == "birds"
    assert await tools[-1].run({"text": "hi"}) == "hi"


async def test_an_entry_point_may_name_the_tool_itself(installed: Any, resources: ToolResources) -> None:
    installed(("parrot", "parrot_one:parrot"), parrot_one=PARROT.replace("NAME", "parrot"))
    assert "parrot" in {found.spec.name for found in load_tools(resources)}


async def test_two_tools_of_one_name_are_an_error_that_names_both(installed: Any, resources: ToolResources) -> None:
    installed(("parrot", "parrot_two"), parrot_two=PARROT.replace("NAME", "calculate"))
    with pytest.raises(ToolsMisdeclared, match=r"entry point parrot of parrot and .*calculate both declare"):
        load_tools(resources)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x = 1", "neither a tool nor a module with tools"),
        ("from luxx.adapters.tools.calculate import calculate", "neither a tool nor a module with tools"),
        ("1/0", "cannot be loaded: ZeroDiv"),
        ("raise SystemExit('no licence')", "cannot be loaded: SystemExit: no licence"),
        (
            PARROT.replace("NAME", "parrot").replace('"birds"', '"birds", description=lambda resources: 1 // 0'),
            "cannot be loaded: ZeroDiv",
        ),
    ],
)
async def test_an_entry_point_without_a_tool_is_an_error_that_names_it(
    installed: Any, resources: ToolResources, source: str, reason: str
) -> None:
    installed(("parrot", "parrot_bad"), parrot_bad=source)
    with pytest.raises(ToolsMisdeclared, match=f"entry point parrot of parrot .*{reason}"):
        load_tools(resources)


async def test_tools_are_listed_by_category_then_name(resources: ToolResources) -> None:
    order = ["crawler", "code", "data", "weather"]
    places = [(order.index(found.spec.category), found.spec.name) for found in load_tools(resources)]
    assert places == sorted(places)


async def test_the_time_is_told_in_any_zone(resources: ToolResources) -> None:
    bound = {found.spec.name: found for found in load_tools(resources)}["current_time"]
    assert await bound.run({"timezone": "asia/kolkata"}) == {
        "timezone": "Asia/Kolkata",
        "iso": "2026-03-01T05:30:00+05:30",
        "date": "2026-03-01",
        "time": "05:30:00",
        "weekday": "Sunday",
        "utc_offset": "+05:30",
        "unix": 1772323200,
    }
    assert (await bound.run({}))["utc_offset"] == "+00:00"
    with pytest.raises(ToolRefused, match="did you mean Asia/Tokyo"):
        await bound.run({"timezone": "Japan/Tokyo"})
