"""What every `Tool` must do. Subclass `ToolContract` and give it a `case` fixture."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field

import jsonschema_rs
import msgspec
import pytest

from luxx.application.ports import Tool
from luxx.domain.errors import InvalidInput, ToolError
from luxx.domain.message import Json

PATIENCE = 10.0
"""Seconds to wait for what must come."""

STALL = 0.05
"""Seconds of its own processor time that the event loop's thread may spend between two looks."""


async def _nothing() -> None:
    return


def _nobody() -> Collection[object]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCase:
    """One tool with arguments to try it on.

    `good` give a result. Each of `bad` breaks the schema at the dotted path beside it. `slow` keep the
    tool busy for seconds, where there are such; `under_way` returns once they do, and `at_work` gives
    what works for them (processes, connections), which must be nothing after a cancel.
    """

    tool: Tool
    good: Mapping[str, Json]
    bad: Sequence[tuple[Mapping[str, Json], str]]
    refused: Sequence[Mapping[str, Json]] = ()
    slow: Mapping[str, Json] | None = None
    under_way: Callable[[], Awaitable[None]] = field(default=_nothing)
    at_work: Callable[[], Collection[object]] = field(default=_nobody)


class ToolContract:
    """The obligations of the port `Tool`."""

    async def test_the_spec_says_what_a_model_and_a_person_need(self, case: ToolCase) -> None:
        spec = case.tool.spec
        assert re.fullmatch(r"[a-z][a-z0-9_]{0,63}", spec.name)
        assert spec.category
        assert len(spec.description) >= 20
        assert "\0" not in spec.description
        assert case.tool.spec == spec, "it is asked for more than once"

    async def test_the_parameters_are_one_closed_object_in_json_schema_2020_12(self, case: ToolCase) -> None:
        parameters = dict(case.tool.spec.parameters)
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **parameters})
        assert parameters["type"] == "object"
        assert parameters["additionalProperties"] is False
        assert "$ref" not in json.dumps(parameters)
        for name, form in parameters["properties"].items():
            assert form.get("description"), f"{name} is not described"
            if "default" in form:
                assert name not in parameters.get("required", ())

    async def test_good_arguments_give_a_json_value(self, case: ToolCase) -> None:
        arguments = deepcopy(dict(case.good))
        result = await case.tool.run(arguments)
        assert arguments == case.good, "the arguments were changed"
        text = msgspec.json.encode(result)
        assert len(text) <= 2**20
        assert msgspec.json.decode(text) == json.loads(json.dumps(result, allow_nan=False))

    async def test_the_schema_and_the_tool_agree_on_what_is_good(self, case: ToolCase) -> None:
        schema = jsonschema_rs.Draft202012Validator(dict(case.tool.spec.parameters))
        assert schema.is_valid(dict(case.good))
        for arguments, _ in case.bad:
            assert not schema.is_valid(dict(arguments))

    async def test_what_breaks_the_schema_is_refused_with_its_path(self, case: ToolCase) -> None:
        for arguments, path in case.bad:
            with pytest.raises(InvalidInput) as caught:
                await case.tool.run(arguments)
            assert path in {fault.field for fault in caught.value.faults}, f"{arguments} gave {caught.value}"

    async def test_unknown_arguments_are_refused_together_with_all_other_faults(self, case: ToolCase) -> None:
        required = set(case.tool.spec.parameters.get("required", ()))
        with pytest.raises(InvalidInput) as caught:
            await case.tool.run({"misspelt": 1, "also_misspelt": 2})
        assert {fault.field for fault in caught.value.faults} == {"misspelt", "also_misspelt"} | required

    async def test_the_character_u_0000_is_refused_in_every_text(self, case: ToolCase) -> None:
        for name, value in case.good.items():
            if isinstance(value, str):
                with pytest.raises(InvalidInput) as caught:
                    await case.tool.run({**case.good, name: value[:-1] + "\0"})
                assert [fault.rule for fault in caught.value.faults if fault.field == name] in (["nul"], ["choice"])

    async def test_what_it_cannot_work_with_is_refused_in_words(self, case: ToolCase) -> None:
        for arguments in case.refused:
            with pytest.raises(ToolError) as caught:
                await case.tool.run(arguments)
            text = str(caught.value)
            assert len(text) >= 10
            assert "Traceback" not in text
            assert 'File "' not in text

    async def test_calls_at_the_same_time_do_not_mix(self, case: ToolCase) -> None:
        results = await asyncio.gather(*(case.tool.run(case.good) for _ in range(4)))
        assert all(type(result) is type(results[0]) for result in results)
        for arguments, path in case.bad:
            calls = (case.good, arguments, case.good)
            first, fault, last = await asyncio.gather(*map(case.tool.run, calls), return_exceptions=True)
            assert isinstance(fault, InvalidInput)
            assert path in {one.field for one in fault.faults}
            assert type(first) is type(last) is type(results[0])

    async def test_the_event_loop_goes_on_while_it_works(self, case: ToolCase) -> None:
        await case.tool.run(case.good)
        worst = 0.0

        async def watch() -> None:
            nonlocal worst
            seen = time.thread_time()
            while True:
                await asyncio.sleep(0)
                worst, seen = max(worst, time.thread_time() - seen), time.thread_time()

        watcher = asyncio.create_task(watch())
        await case.tool.run(case.good)
        watcher.cancel()
        assert worst < STALL

    async def test_a_cancelled_call_ends_at_any_point(self, case: ToolCase) -> None:
        for steps in range(4):
            call = asyncio.create_task(_run(case.tool, case.good))
            for _ in range(steps):
                await asyncio.sleep(0)
            call.cancel()
            async with asyncio.timeout(PATIENCE):
                with suppress(asyncio.CancelledError):
                    await call
            await _idle(case)

    async def test_cancelling_ends_what_works_for_the_call(self, case: ToolCase) -> None:
        if case.slow is None:
            pytest.skip("nothing makes this tool slow")
        call = asyncio.create_task(_run(case.tool, case.slow))
        async with asyncio.timeout(PATIENCE):
            await case.under_way()
            for _ in range(3):  # it has begun, also where nothing tells that it has
                await asyncio.sleep(0)
            assert not call.done(), "it is not slow, or blocks the event loop"
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        await _idle(case)
        await case.tool.run(case.good)


async def _idle(case: ToolCase) -> None:
    """Wait until nothing works any more; what the other end of a connection sees takes a moment."""
    async with asyncio.timeout(PATIENCE):
        while case.at_work():  # noqa: ASYNC110 - another process ends it, and sends no event
            await asyncio.sleep(0.001)


async def _run(tool: Tool, arguments: Mapping[str, Json]) -> Json:
    return await tool.run(arguments)
