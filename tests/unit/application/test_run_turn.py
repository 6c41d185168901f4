"""The loop between model and tools."""

import asyncio
import gc
import json
from collections.abc import AsyncGenerator, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from tests.support.until import until
from tests.unit.application.house import OWNER, FunctionTool, Gate, House, echo, failing, opened, steps_in
from tests.unit.application.logs import BusyLog

from luxx.adapters.models.scripted import Cue, calling, spoken
from luxx.application.ports import (
    AssistantEntry,
    ModelEnd,
    ModelEvent,
    ModelRequest,
    ModelText,
    ModelThinking,
    ModelToolCall,
    SystemEntry,
    ToolEntry,
    UserEntry,
)
from luxx.application.run_turn import MAX_CALLS, PROBLEM_LIMIT
from luxx.application.tools import acting_for
from luxx.domain.errors import (
    Fault,
    InvalidInput,
    LuxxError,
    ModelRateLimited,
    ModelRejected,
    ModelTimeout,
    ModelUnavailable,
    ToolBroken,
    ToolRefused,
    ToolTimeout,
)
from luxx.domain.message import Json, Problem, Status, TextPart, ThinkingPart, ToolCallPart, Usage
from luxx.domain.tool import ToolCall
from luxx.domain.turn import MERGED_LIMIT, Done, Failed, Text, Thinking, ToolCalled, ToolReturned, fold

ECHO = FunctionTool("echo", echo)


def calls_of(message_parts: object) -> list[ToolCallPart]:
    assert isinstance(message_parts, tuple)
    return [part for part in message_parts if isinstance(part, ToolCallPart)]


async def test_an_answer_without_tools_is_stored_as_it_was_streamed(house: House) -> None:
    usage = Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)
    house.model.then(spoken("Good day", usage=usage))
    answer = await house.answer()
    assert answer.parts == (TextPart(text="Good day"),)
    assert (answer.status, answer.model, answer.usage, answer.error) == (Status.COMPLETE, "glm-5", usage, None)
    events = await house.events(answer.id)
    assert [event.delta for event in steps_in(events, Text)] == ["Good ", "day"]
    assert events[-1] == Done(message=answer)
    assert fold(events).parts == answer.parts


async def test_what_a_model_says_at_once_is_told_in_events_of_bounded_size(house: House) -> None:
    thought, said = "hm " * 10_000, "word 🦉 " * 10_000
    house.model.then([ModelThinking(thought), ModelText(said), ModelEnd("stop")])
    answer = await house.answer(await house.conversation(thinking_enabled=True))
    assert answer.parts == (ThinkingPart(text=thought), TextPart(text=said))
    events = await house.events(answer.id)
    deltas = [event.delta for event in (*steps_in(events, Text), *steps_in(events, Thinking))]
    assert max(map(len, deltas)) <= MERGED_LIMIT


async def test_a_turn_reads_on_from_its_model_when_its_log_is_ready() -> None:
    logs: list[BusyLog] = []

    def busy(log: object) -> BusyLog:
        logs.append(BusyLog(log))
        return logs[0]

    async with opened(log=busy) as house:
        gate = Gate()
        house.model.then([ModelText("one"), gate, ModelText("two"), ModelEnd("stop")])
        message_id = await house.send(await house.conversation())
        await until(lambda: logs[0].asked == 1)
        assert not gate.reached.is_set()
        logs[0].free.set()
        await gate.wait_reached()
        gate.opened.set()
        assert steps_in(await house.events(message_id), Text) == [Text(delta="one"), Text(delta="two")]


async def test_calls_of_tools_and_the_end_of_an_answer_wait_for_no_commit() -> None:
    logs: list[BusyLog] = []

    def busy(log: object) -> BusyLog:
        logs.append(BusyLog(log))
        return logs[0]

    async with opened(tools=(ECHO,), log=busy) as house:
        house.model.then(calling(("echo", {"a": 1}), ("echo", {"a": 2})))
        house.model.then([ModelEnd("stop")])
        answer = await house.answer()
        assert [call.success for call in calls_of(answer.parts)] == [True, True]
        assert logs[0].asked == 0


async def test_the_request_carries_the_conversations_settings(house: House) -> None:
    house.model.then(spoken("ok"))
    conversation = await house.conversation(
        model="other", system_prompt="Be brief.", temperature=0.25, max_tokens=77, thinking_enabled=True
    )
    await house.answer(conversation, "Hi")
    (request,) = house.model.requests
    assert request.entries == (SystemEntry(text="Be brief."), UserEntry(text="Hi"))
    assert (request.model, request.temperature, request.max_tokens, request.thinking_enabled, request.tools) == (
        "other",
        0.25,
        77,
        True,
        (),
    )


async def test_calls_of_one_round_run_together_and_are_told_in_the_order_asked() -> None:
    """Each of the two tools waits for the other; the second call ends first and is logged first."""
    first, second, second_logged = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def one(_: Mapping[str, Json]) -> Json:
        first.set()
        await second.wait()
        await second_logged.wait()
        return "one"

    async def two(_: Mapping[str, Json]) -> Json:
        second.set()
        await first.wait()
        return "two"

    async with opened(tools=[FunctionTool("one", one), FunctionTool("two", two)]) as house:
        house.model.then(calling(("one", {}), ("two", {})), spoken("done"))
        message_id = await house.send(await house.conversation())
        async for logged in await house.follow_turn(user_id=OWNER, message_id=message_id):
            if isinstance(logged.event, ToolReturned) and logged.event.name == "two":
                second_logged.set()
        returned = steps_in(await house.events(message_id), ToolReturned)
        assert [event.name for event in returned] == ["two", "one"]
        assert house.model.requests[1].entries[-2:] == (
            ToolEntry(call_id="call_1", name="one", text='"one"'),
            ToolEntry(call_id="call_2", name="two", text='"two"'),
        )
        assert [part.name for part in calls_of((await house.stored(message_id)).parts)] == ["one", "two"]


@pytest.mark.parametrize(
    ("tool", "code", "words"),
    [
        (FunctionTool("t", failing(ToolRefused("no such city"))), "tool_failed", "no such city"),
        (FunctionTool("t", failing(ToolBroken("the engine is off"))), "tool_failed", "the engine is off"),
        (FunctionTool("t", failing(ToolTimeout("5 s have passed"))), "tool_timeout", "5 s have passed"),
        (
            FunctionTool("t", failing(InvalidInput(Fault(field="n", rule="required")))),
            "validation_failed",
            "Bad arguments: n is required",
        ),
        (FunctionTool("t", failing(ZeroDivisionError("secret detail"))), "tool_failed", "t failed unexpectedly"),
        (FunctionTool("t", failing(asyncio.CancelledError())), "tool_failed", "t failed unexpectedly"),
        (FunctionTool("other", echo), "tool_not_found", "There is no tool named 't'"),
    ],
    ids=["refused", "broken", "timeout", "bad arguments", "crash", "cancels itself", "unknown"],
)
async def test_a_call_that_fails_goes_back_to_the_model_and_the_answer_goes_on(
    tool: FunctionTool, code: str, words: str
) -> None:
    async with opened(tools=[tool]) as house:
        house.model.then(calling(("t", {"n": 1})), spoken("never mind"))
        answer = await house.answer()
        assert answer.status is Status.COMPLETE
        assert answer.content == "never mind"
        (call,) = calls_of(answer.parts)
        assert call.success is False
        assert call.result is None
        assert call.error is not None
        assert call.error.code == code
        assert words in call.error.message
        assert "secret detail" not in call.error.message
        told = house.model.requests[1].entries[-1]
        assert isinstance(told, ToolEntry)
        assert json.loads(told.text) == {"error": {"code": code, "message": call.error.message}}


@pytest.mark.parametrize(
    ("malformed", "where"),
    [
        pytest.param('{"n": ', " (Expecting value: character 6 of 6)", id="cut off"),
        pytest.param('{"n": "a', " (Unterminated string starting at: character 6 of 8)", id="cut off in a string"),
        pytest.param("[1]", "", id="another kind"),
        pytest.param("[" * 100_000, "", id="nested beyond all use"),
    ],
)
async def test_arguments_that_are_no_object_go_back_to_the_model(malformed: str, where: str) -> None:
    async with opened(tools=[ECHO]) as house:
        call = ToolCall(id="c", name="echo", arguments=None, malformed=malformed)
        house.model.then([ModelToolCall(call), ModelEnd("tool_calls")], spoken("sorry"))
        answer = await house.answer()
        (part,) = calls_of(answer.parts)
        assert part.arguments == {}
        assert part.error == Problem(code="validation_failed", message=f"The arguments were no JSON object{where}.")
        assert house.model.requests[1].entries[1] == AssistantEntry(calls=(call,))
        assert answer.content == "sorry"


async def test_what_a_provider_wants_back_with_a_call_is_told_in_this_turn_alone() -> None:
    async with opened(tools=[ECHO]) as house:
        call = ToolCall(id="c", name="echo", arguments={}, seal='{"signed": true}')
        house.model.then([ModelToolCall(call), ModelEnd("tool_calls")], spoken("done"), spoken("again"))
        conversation = await house.conversation()
        await house.answer(conversation)
        await house.answer(conversation)
        _, second, third = house.model.requests
        assert second.entries[1] == AssistantEntry(calls=(call,))
        assert third.entries[1] == AssistantEntry(calls=(replace(call, seal=""),))


async def test_a_tool_runs_for_the_owner_of_the_turn() -> None:
    seen: list[int | None] = []

    async def look(arguments: Mapping[str, Json]) -> Json:
        seen.append(acting_for.get())
        return arguments.get("unused")

    async with opened(tools=[FunctionTool("look", look)]) as house:
        house.model.then(calling(("look", {})), spoken("Done."))
        await house.answer()
    assert seen == [OWNER]


async def test_a_tool_that_is_too_slow_is_stopped_and_told_to_the_model() -> None:
    stopped = asyncio.Event()

    async def forever(_: Mapping[str, Json]) -> Json:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with opened(tools=[FunctionTool("slow", forever)], tool_seconds=0.01) as house:
        house.model.then(calling(("slow", {})), spoken("too slow"))
        answer = await house.answer()
        (call,) = calls_of(answer.parts)
        assert call.error == Problem(code="tool_timeout", message="The tool slow took longer than 0.01 s.")
        assert stopped.is_set()
        assert answer.content == "too slow"


async def test_after_the_last_round_with_tools_there_is_one_without() -> None:
    async with opened(tools=[ECHO], run={"max_rounds": 2}) as house:
        house.model.then(*(calling(("echo", {"n": n})) for n in range(2)), spoken("enough"))
        answer = await house.answer()
        assert [[spec.name for spec in request.tools] for request in house.model.requests] == [["echo"], ["echo"], []]
        assert len(calls_of(answer.parts)) == 2
        assert answer.content == "enough"


async def test_a_call_where_no_tool_was_offered_is_passed_over() -> None:
    async with opened(tools=[ECHO]) as house:
        house.model.then(calling(("echo", {}), text="Look:"))
        answer = await house.answer(tools_enabled=False)
        assert house.model.requests[0].tools == ()
        assert answer.parts == (TextPart(text="Look:"),)
        assert answer.status is Status.COMPLETE


async def test_calls_beyond_the_bound_are_refused_and_the_others_run() -> None:
    async with opened(tools=[ECHO]) as house:
        house.model.then(calling(*(("echo", {"n": n}) for n in range(MAX_CALLS + 2))), spoken("ok"))
        answer = await house.answer()
        outcomes = [call.success for call in calls_of(answer.parts)]
        assert outcomes == [True] * MAX_CALLS + [False, False]
        entries = [entry for entry in house.model.requests[1].entries if isinstance(entry, ToolEntry)]
        assert [entry.call_id for entry in entries] == [f"call_{n}" for n in range(1, MAX_CALLS + 3)]
        assert f"more than {MAX_CALLS} calls" in entries[-1].text


async def test_ids_that_repeat_within_a_turn_are_told_apart() -> None:
    async with opened(tools=[ECHO]) as house:
        twice = [ModelToolCall(ToolCall(id="call_1", name="echo", arguments={"n": n})) for n in (2, 3)]
        house.model.then(calling(("echo", {"n": 1})), [*twice, ModelEnd("tool_calls")], spoken("ok"))
        calls = calls_of((await house.answer()).parts)
        assert [call.id for call in calls] == ["call_1", "call_1_2", "call_1_3"]
        assert [call.result for call in calls] == [{"n": 1}, {"n": 2}, {"n": 3}]


async def test_usage_is_summed_over_rounds_and_a_round_without_it_counts_nothing() -> None:
    async with opened(tools=[ECHO]) as house:
        usage = Usage(prompt_tokens=10, completion_tokens=1, total_tokens=11)
        house.model.then(
            calling(("echo", {}), usage=usage),
            calling(("echo", {})),
            spoken("ok", usage=Usage(prompt_tokens=20, completion_tokens=2, total_tokens=22)),
        )
        assert (await house.answer()).usage == Usage(prompt_tokens=30, completion_tokens=3, total_tokens=33)


@pytest.mark.parametrize("enabled", [True, False])
async def test_thinking_is_kept_only_where_the_conversation_has_it_on(enabled: bool) -> None:
    async with opened(tools=[ECHO]) as house:
        rounds: list[list[Cue]] = [
            [ModelThinking("Hm"), ModelThinking("m."), *calling(("echo", {}))],
            [ModelText("Yes.")],
        ]
        house.model.then(rounds[0], [*rounds[1], ModelEnd("stop")])
        answer = await house.answer(await house.conversation(thinking_enabled=enabled))
        thoughts = [part for part in answer.parts if isinstance(part, ThinkingPart)]
        assert thoughts == ([ThinkingPart(text="Hmm.")] if enabled else [])
        assert bool(steps_in(await house.events(answer.id), Thinking)) is enabled
        # The model is told its own thinking within the turn: some providers ask for it between tool rounds.
        said = house.model.requests[1].entries[1]
        assert isinstance(said, AssistantEntry)
        assert said.thinking == "Hmm."


async def test_earlier_turns_are_told_with_their_tool_rounds_and_without_thinking() -> None:
    async with opened(tools=[ECHO]) as house:
        house.model.then(
            [ModelThinking("Hm."), *calling(("echo", {"n": 1}), ("nope", {}), text="Let me see.")],
            calling(("echo", {"n": 2}), text="And again.", ids="again"),
            spoken("It is 2."),
            spoken("Bye."),
        )
        conversation = await house.conversation(thinking_enabled=True)
        await house.answer(conversation, "What is it?")
        await house.answer(conversation, "Thanks")
        assert house.model.requests[-1].entries == (
            UserEntry(text="What is it?"),
            AssistantEntry(
                text="Let me see.",
                calls=(
                    ToolCall(id="call_1", name="echo", arguments={"n": 1}),
                    ToolCall(id="call_2", name="nope", arguments={}),
                ),
            ),
            ToolEntry(call_id="call_1", name="echo", text='{"n":1}'),
            ToolEntry(
                call_id="call_2",
                name="nope",
                text='{"error": {"code": "tool_not_found", "message": "There is no tool named \'nope\'."}}',
            ),
            AssistantEntry(text="And again.", calls=(ToolCall(id="again_1", name="echo", arguments={"n": 2}),)),
            ToolEntry(call_id="again_1", name="echo", text='{"n":2}'),
            AssistantEntry(text="It is 2."),
            UserEntry(text="Thanks"),
        )


async def test_rounds_without_a_word_between_them_are_told_later_as_they_were() -> None:
    async with opened(tools=[ECHO]) as house:
        house.model.then(
            calling(("echo", {"n": 1}), ("echo", {"n": 2})), calling(("echo", {"n": 3}), ids="next"), spoken("It is 2.")
        )
        conversation = await house.conversation()
        await house.answer(conversation, "What is it?")
        as_it_was = house.model.requests[-1].entries
        house.model.then(spoken("Bye."))
        await house.answer(conversation, "Thanks")
        assert house.model.requests[-1].entries[: len(as_it_was)] == as_it_was


async def test_only_the_newest_messages_are_shown_to_the_model() -> None:
    async with opened(send={"history": 2}) as house:
        house.model.then(spoken("a"), spoken("b"))
        conversation = await house.conversation()
        await house.answer(conversation, "first")
        await house.answer(conversation, "second")
        assert house.model.requests[-1].entries == (AssistantEntry(text="a"), UserEntry(text="second"))


async def test_a_long_result_is_cut_for_the_model_and_kept_for_the_reader() -> None:
    async with opened(tools=[ECHO], run={"result_budget": 10}) as house:
        house.model.then(calling(("echo", {"text": "x" * 50})), spoken("ok"))
        answer = await house.answer()
        (call,) = calls_of(answer.parts)
        assert call.result == {"text": "x" * 50}
        told = house.model.requests[1].entries[-1]
        assert isinstance(told, ToolEntry)
        assert told.text == '{"text":"x\n[cut: 51 of 61 characters left out]'


async def test_what_cannot_be_stored_is_cleaned_on_its_way_in() -> None:
    async def odd(_: Mapping[str, Json]) -> Json:
        return {"a\0": [float("nan"), "\ud800"]}

    async with opened(tools=[FunctionTool("odd", odd)]) as house:
        house.model.then(
            [
                ModelText("a\0b"),
                ModelToolCall(ToolCall(id="i\0", name="odd", arguments={"k": "\udfff"})),
                ModelToolCall(ToolCall(id="j", name="n\0", arguments=None, malformed="{\ud800")),
                ModelEnd("x"),
            ],
            spoken("ok"),
        )
        answer = await house.answer()
        assert answer.parts[0] == TextPart(text="a\ufffdb")
        call, unknown = calls_of(answer.parts)
        assert (call.id, call.arguments, call.result) == ("i\ufffd", {"k": "\ufffd"}, {"a\ufffd": [None, "\ufffd"]})
        assert unknown.name == "n\ufffd"
        told = house.model.requests[1].entries[1]
        assert isinstance(told, AssistantEntry)
        assert told.calls[1].malformed == "{\ufffd"


async def test_what_a_model_says_of_its_failure_is_cleaned_before_it_is_stored() -> None:
    async with opened() as house:
        house.model.then([ModelUnavailable("a\0b \ud800")])
        assert (await house.answer()).error == Problem(code="model_unavailable", message="a\ufffdb \ufffd")


async def test_what_a_tool_says_of_its_failure_is_cleaned_before_it_is_stored() -> None:
    async with opened(tools=[FunctionTool("odd", failing(ToolRefused("a\0b \ud800")))]) as house:
        house.model.then(calling(("odd", {})), spoken("ok"))
        (call,) = calls_of((await house.answer()).parts)
        assert call.error == Problem(code="tool_failed", message="a\ufffdb \ufffd")


@pytest.mark.parametrize(
    ("cues", "code", "text"),
    [
        ([ModelText("half")], "model_unavailable", "half"),
        ([], "model_unavailable", ""),
        ([ModelTimeout("too slow")], "model_timeout", ""),
        ([ModelText("half"), ModelUnavailable("broke off")], "model_unavailable", "half"),
        ([ModelText("half"), ModelRateLimited("wait", retry_after=3)], "model_rate_limited", "half"),
        ([ModelRejected("wrong key")], "model_rejected", ""),
        ([ModelText("half"), KeyError("secret detail")], "internal_error", "half"),
        # Of the process that wrote it, which has not ended, nothing is said.
        ([ModelText("half"), asyncio.CancelledError("secret detail")], "internal_error", "half"),
    ],
    ids=["no end", "nothing", "error first", "error later", "rate", "rejected", "a bug", "cancelled within"],
)
async def test_a_model_that_fails_leaves_what_had_arrived_stored_as_failed(
    house: House, cues: list[Cue], code: str, text: str
) -> None:
    house.model.then(cues)
    answer = await house.answer()
    assert (answer.status, answer.content) == (Status.FAILED, text)
    assert answer.error is not None
    assert answer.error.code == code
    assert "secret" not in answer.error.message
    events = await house.events(answer.id)
    assert events[-1] == Failed(code=code, message=answer.error.message, message_id=answer.id)
    assert fold(events).parts == answer.parts
    assert house.model.open_streams == 0


async def test_a_failure_in_a_later_round_keeps_the_rounds_before() -> None:
    async with opened(tools=[ECHO]) as house:
        usage = Usage(total_tokens=7)
        house.model.then(calling(("echo", {"n": 1}), text="See:", usage=usage), [ModelTimeout("slow")], spoken("ok"))
        conversation = await house.conversation()
        answer = await house.answer(conversation)
        assert [type(part) for part in answer.parts] == [TextPart, ToolCallPart]
        assert (answer.status, answer.usage) == (Status.FAILED, usage)
        again = await house.answer(conversation, "Again?")
        assert again.status is Status.COMPLETE, "the conversation is free again"


async def test_a_call_whose_round_never_ended_is_told_as_stopped_in_later_turns() -> None:
    async with opened(tools=[ECHO]) as house:
        house.model.then([ModelToolCall(ToolCall(id="c", name="echo", arguments={})), LuxxError("gone")], spoken("ok"))
        conversation = await house.conversation()
        answer = await house.answer(conversation)
        (call,) = calls_of(answer.parts)
        assert call.success is None
        assert not steps_in(await house.events(answer.id), ToolReturned)
        await house.answer(conversation, "And?")
        told = house.model.requests[1].entries[2]
        assert isinstance(told, ToolEntry)
        assert json.loads(told.text)["error"]["code"] == "cancelled"


async def test_a_call_is_seen_before_its_result_is_there() -> None:
    gate = Gate()

    async def held(_: Mapping[str, Json]) -> Json:
        await gate()
        return 1

    async with opened(tools=[FunctionTool("held", held)]) as house:
        house.model.then(calling(("held", {"a": 1})), spoken("ok"))
        message_id = await house.send(await house.conversation())
        await gate.wait_reached()
        (called,) = steps_in([logged.event for logged in await house.log.read(message_id)], ToolCalled)
        assert called == ToolCalled(id="call_1", name="held", arguments={"a": 1})
        gate.opened.set()
        await house.ended(message_id)


class Coroutine:
    """What somebody writes who forgets to yield."""

    async def stream(self, request: Any) -> Any:
        return [ModelText(request.model)]


class Listing:
    """What somebody writes who forgets to be asynchronous."""

    def stream(self, request: Any) -> Any:
        return [ModelText(request.model)]


@pytest.mark.parametrize(("model", "gave"), [(Coroutine(), "coroutine"), (Listing(), "list")])
async def test_a_model_that_is_no_async_generator_is_said_to_be_none(
    model: Any, gave: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(chat_model=model) as house:
        answer = await house.answer()
    assert answer.error is not None
    assert answer.error.code == "internal_error"
    (record,) = [one for one in caplog.records if one.exc_info]
    error = record.exc_info[1] if record.exc_info else None
    assert str(error) == f"{type(model).__name__}.stream must be an async generator, and gave a {gave}"
    assert error is not None
    assert error.__context__ is None


class Giving:
    """A model of somebody's who trusts what a provider sends."""

    def __init__(self, event: Any) -> None:
        self._event = event

    async def stream(self, request: Any) -> Any:  # noqa: ARG002 - its shape
        yield ModelText("half")
        yield self._event
        yield ModelEnd("stop")


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ("text", "str"),
        (None, "NoneType"),
        (ModelText(b"bytes"), "ModelText"),  # type: ignore[arg-type]  # the fault
        (ModelThinking(None), "ModelThinking"),  # type: ignore[arg-type]  # the fault
        (ModelToolCall(ToolCall(id=None, name="echo", arguments={})), "ModelToolCall"),  # type: ignore[arg-type]  # the fault
        (ModelToolCall(ToolCall(id="c", name=None, arguments={})), "ModelToolCall"),  # type: ignore[arg-type]  # the fault
        (ModelEnd("stop", {"total_tokens": 7}), "ModelEnd"),  # type: ignore[arg-type]  # the fault
        (ModelEnd("stop", Usage(total_tokens=None)), "ModelEnd"),  # type: ignore[arg-type]  # the fault
        (ModelEnd("stop", Usage(total_tokens=True)), "ModelEnd"),
        (ModelEnd("stop", Usage(prompt_tokens=2**63)), "ModelEnd"),
        (ModelEnd("stop", Usage(completion_tokens=-1)), "ModelEnd"),
        (ModelEnd(7), "ModelEnd"),  # type: ignore[arg-type]  # the fault
    ],
)
async def test_what_is_no_event_of_a_model_fails_the_answer_and_is_told_to_who_wrote_the_model(
    event: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Stored, it could be read by nobody: the conversation would be lost, or its turn never end."""
    async with opened(chat_model=Giving(event), tools=[ECHO]) as house:
        answer = await house.answer(await house.conversation(thinking_enabled=True))
    assert (answer.status, answer.parts, answer.usage) == (Status.FAILED, (TextPart(text="half"),), None)
    assert answer.error is not None
    assert answer.error.code == "internal_error"
    (error,) = [one.exc_info[1] for one in caplog.records if one.exc_info]
    assert str(error).startswith(f"Giving.stream gave a {kind} ")


class Raising:
    """A model of somebody's that raises what no model should."""

    def __init__(self, error: BaseException, *events: ModelEvent) -> None:
        self._error = error
        self._events = events

    async def stream(self, request: Any) -> Any:  # noqa: ARG002 - its shape
        for event in self._events:
            yield event
        raise self._error


async def test_a_model_that_would_end_the_process_fails_its_answer_alone(caplog: pytest.LogCaptureFixture) -> None:
    """What reads a command line inside it calls `sys.exit`."""
    async with opened(chat_model=Raising(SystemExit(2), ModelText("half"))) as house:
        answer = await house.answer()
    assert (answer.status, answer.content) == (Status.FAILED, "half")
    assert answer.error is not None
    assert answer.error.code == "internal_error"
    (logged,) = [one.exc_info[1] for one in caplog.records if one.exc_info]
    assert str(logged) == "Raising.stream would end the process"


@pytest.mark.parametrize(
    "error", [ToolRefused("x" * 3_000_000), InvalidInput(Fault(field="a" * 3_000_000, rule="required"))]
)
async def test_what_a_tool_says_of_its_failure_is_stored_up_to_a_limit(error: LuxxError) -> None:
    async with opened(tools=[FunctionTool("t", failing(error))]) as house:
        house.model.then(calling(("t", {})), spoken("sorry"))
        (call,) = calls_of((await house.answer()).parts)
    assert call.error is not None
    assert len(call.error.message) == PROBLEM_LIMIT + 1
    assert call.error.message.endswith("…")


async def test_what_a_model_says_of_its_failure_is_stored_up_to_a_limit(house: House) -> None:
    house.model.then([ModelRejected("x" * 3_000_000)], [ModelRejected("x" * PROBLEM_LIMIT)])
    for cut in ("…", ""):
        answer = await house.answer()
        assert answer.error == Problem(code="model_rejected", message="x" * PROBLEM_LIMIT + cut)


@pytest.mark.parametrize("arguments", [[1], "{}", {"a": {1, 2}}, {"a": object()}, {"a": 10**5000}])
async def test_arguments_that_are_no_json_object_are_none(arguments: Any) -> None:
    async with opened(tools=[ECHO]) as house:
        call = ToolCall(id="c", name="echo", arguments=arguments)
        house.model.then([ModelToolCall(call), ModelEnd("tool_calls")], spoken("sorry"))
        answer = await house.answer()
        (part,) = calls_of(answer.parts)
        assert (part.arguments, answer.content) == ({}, "sorry")
        assert part.error == Problem(code="validation_failed", message="The arguments were no JSON object.")


async def test_what_a_tool_does_to_its_arguments_changes_nothing_that_is_told_of_the_call() -> None:
    asked: dict[str, Any] = {"a": {"b": [1]}, "c": 2}

    async def consume(arguments: Any) -> Json:
        arguments["a"]["b"].clear()
        return arguments.pop("c")

    async with opened(tools=[FunctionTool("consume", consume)]) as house:
        house.model.then(calling(("consume", deepcopy(asked))), spoken("ok"))
        answer = await house.answer()
        (call,) = calls_of(answer.parts)
        assert (call.arguments, call.result) == (asked, 2)
        (called,) = steps_in(await house.events(answer.id), ToolCalled)
        assert called.arguments == asked
        said = house.model.requests[1].entries[1]
        assert isinstance(said, AssistantEntry)
        assert said.calls[0].arguments == asked


class Grudging:
    """Fails with an error that it holds on to, as whoever tries again does."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        error = ModelUnavailable(f"{request.model} is away")
        yield ModelText(delta="half")
        try:
            raise error
        except ModelUnavailable as again:
            raise ModelUnavailable("It was tried again.") from again


async def test_a_failed_answer_leaves_nothing_for_the_garbage_collector() -> None:
    """Which comes seldom in a service: with each failure it would hold all that the model was told."""
    gc.collect()
    gc.disable()
    try:
        async with opened(chat_model=Grudging()) as house:
            assert (await house.answer(content="a long history")).status is Status.FAILED
            await house.idle()
            await asyncio.sleep(0)
            requests = [one for one in gc.get_objects() if isinstance(one, ModelRequest)]
            assert [one for one in requests if one.entries == (UserEntry(text="a long history"),)] == []
    finally:
        gc.enable()
