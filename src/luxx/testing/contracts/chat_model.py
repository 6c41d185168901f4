"""What every `ChatModel` promises.

Subclass `ChatModelContract` in a test file, and `RemoteChatModelContract` instead where the adapter
reaches out of the process; give the fixtures that raise NotImplementedError.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

import pytest

from luxx.application.ports import (
    AssistantEntry,
    ChatModel,
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
from luxx.domain.errors import ModelError, ModelTimeout
from luxx.domain.tool import ToolCall, ToolSpec

AT_ONCE_S: Final = 1.0
"""How long closing may take: a person who presses stop is not kept waiting for more."""

CALCULATE: Final = ToolSpec(
    name="calculate",
    description="Work out an arithmetic expression.",
    category="data",
    parameters={
        "type": "object",
        "properties": {"expression": {"type": "string"}},
        "required": ["expression"],
        "additionalProperties": False,
    },
)
CURRENT_TIME: Final = ToolSpec(
    name="current_time",
    description="The time now in an IANA time zone.",
    category="data",
    parameters={"type": "object", "properties": {"timezone": {"type": "string", "default": "UTC"}}},
)

QUESTION: Final = ModelRequest(
    model="glm-5",
    entries=(SystemEntry(text="Be brief."), UserEntry(text="Who are you, and what can you do?")),
    temperature=1.0,
    max_tokens=1_000,
)
"""A request for plain text."""

ERRAND: Final = replace(
    QUESTION,
    entries=(UserEntry(text="What is 6*7? And what time is it in Tokyo?"),),
    tools=(CALCULATE, CURRENT_TIME),
)
"""A request that takes two tool calls."""

ERRAND_DONE: Final = replace(
    ERRAND,
    entries=(
        *ERRAND.entries,
        AssistantEntry(
            text="Let me see.",
            thinking="Two tools.",
            calls=(
                ToolCall(id="call_1", name="calculate", arguments={"expression": "6*7"}),
                ToolCall(id="call_2", name="current_time", arguments=None, malformed='{"timezone": '),
            ),
        ),
        ToolEntry(call_id="call_1", name="calculate", text='{"result": 42}'),
        ToolEntry(call_id="call_2", name="current_time", text='{"error": {"code": "tool_failed", "message": "no"}}'),
    ),
)
"""The next round of the errand: one call went well, one was malformed."""


async def heard(model: ChatModel, request: ModelRequest) -> list[ModelEvent]:
    """Read a whole answer."""
    return [event async for event in model.stream(request)]


async def heard_until_error(model: ChatModel, request: ModelRequest) -> tuple[list[ModelEvent], ModelError | None]:
    """Read an answer as far as it goes, and give the error that ended it."""
    events: list[ModelEvent] = []
    try:
        async for event in model.stream(request):
            events.append(event)  # noqa: PERF401 - a comprehension would lose what came before the error
    except ModelError as error:
        return events, error
    return events, None


def text_in(events: list[ModelEvent]) -> str:
    """Join the text of an answer."""
    return "".join(event.delta for event in events if isinstance(event, ModelText))


class ChatModelContract:
    """The promises of the port, without those about a far end."""

    @pytest.fixture
    def talking(self) -> ChatModel:
        """Give a model that answers each request of a test, two at least, with several text deltas."""
        raise NotImplementedError

    @pytest.fixture
    def calling(self) -> ChatModel:
        """Give a model that answers `ERRAND` with both calls, and then `ERRAND_DONE` with text."""
        raise NotImplementedError

    @pytest.fixture
    def lingering(self) -> ChatModel:
        """Give a model that starts to answer each request, two at least, and then takes over a minute."""
        raise NotImplementedError

    async def test_a_whole_answer_ends_with_exactly_one_end(self, talking: ChatModel) -> None:
        events = await heard(talking, QUESTION)
        assert isinstance(events[-1], ModelEnd)
        assert events[-1].reason
        assert isinstance(events[-1].reason, str)
        assert sum(isinstance(event, ModelEnd) for event in events) == 1

    async def test_deltas_are_never_empty_nor_parts_of_a_character(self, talking: ChatModel) -> None:
        deltas = [e.delta for e in await heard(talking, QUESTION) if isinstance(e, ModelText | ModelThinking)]
        assert deltas
        assert all(deltas)
        assert all(delta.encode() for delta in deltas)

    async def test_usage_adds_up_where_it_is_given(self, talking: ChatModel) -> None:
        end = (await heard(talking, QUESTION))[-1]
        assert isinstance(end, ModelEnd)
        if end.usage is not None:
            assert type(end.usage.total_tokens) is int
            assert min(end.usage.prompt_tokens, end.usage.completion_tokens) >= 0
            assert end.usage.total_tokens == end.usage.prompt_tokens + end.usage.completion_tokens > 0

    async def test_an_answer_is_given_as_it_arrives(self, lingering: ChatModel) -> None:
        async with asyncio.timeout(AT_ONCE_S), aclosing(_closable(lingering, QUESTION)) as answer:
            assert isinstance(await anext(answer), ModelText | ModelThinking)

    async def test_closing_in_the_middle_ends_the_iterator_at_once(self, lingering: ChatModel) -> None:
        answer = _closable(lingering, QUESTION)
        await anext(answer)
        async with asyncio.timeout(AT_ONCE_S):
            await answer.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(answer)

    async def test_cancelling_the_reader_ends_it_at_once_and_as_cancelled(self, lingering: ChatModel) -> None:
        task = await _reading(lingering)
        task.cancel()
        async with asyncio.timeout(AT_ONCE_S):
            with pytest.raises(asyncio.CancelledError):
                await task

    async def test_answers_at_the_same_time_do_not_mix(self, talking: ChatModel) -> None:
        alone = text_in(await heard(talking, QUESTION))
        both = await asyncio.gather(heard(talking, QUESTION), heard(talking, QUESTION))
        assert [text_in(events) for events in both] == [alone, alone]

    async def test_calls_come_complete_before_the_end_each_with_its_own_id(self, calling: ChatModel) -> None:
        events = await heard(calling, ERRAND)
        calls = [event.call for event in events if isinstance(event, ModelToolCall)]
        assert isinstance(events[-1], ModelEnd)
        assert {call.name for call in calls} == {"calculate", "current_time"}
        assert len({call.id for call in calls}) == len(calls) == 2
        assert all(call.id and isinstance(call.id, str) for call in calls)
        for call in calls:
            assert isinstance(call.arguments, Mapping)
            assert json.loads(json.dumps(call.arguments, allow_nan=False)) == call.arguments

    async def test_a_transcript_with_tool_results_is_answered(self, calling: ChatModel) -> None:
        await heard(calling, ERRAND)
        events = await heard(calling, ERRAND_DONE)
        assert isinstance(events[-1], ModelEnd)
        assert text_in(events)


class RemoteChatModelContract(ChatModelContract):
    """All promises: for adapters with a far end that fails, is slow, and must be let go of."""

    @pytest.fixture
    def refusing(self) -> ChatModel:
        """Give a model whose far end refuses every request."""
        raise NotImplementedError

    @pytest.fixture
    def breaking(self) -> ChatModel:
        """Give a model whose far end says `half` and breaks off."""
        raise NotImplementedError

    @pytest.fixture
    def silent(self) -> ChatModel:
        """Give a model, with deadlines below a second, whose far end says `half` and then nothing."""
        raise NotImplementedError

    @pytest.fixture
    def let_go(self) -> Callable[[], Awaitable[None]]:
        """Give something to wait for: that no request is open at the far end."""
        raise NotImplementedError

    async def test_a_refusal_is_raised_as_a_model_error(self, refusing: ChatModel) -> None:
        with pytest.raises(ModelError) as caught:
            await heard(refusing, QUESTION)
        assert str(caught.value)

    async def test_what_arrived_before_a_break_is_given_and_the_break_is_raised(self, breaking: ChatModel) -> None:
        events, error = await heard_until_error(breaking, QUESTION)
        assert isinstance(error, ModelError)
        assert text_in(events) == "half"
        assert not any(isinstance(event, ModelEnd) for event in events)

    async def test_silence_ends_within_the_deadline(self, silent: ChatModel) -> None:
        async with asyncio.timeout(3):
            with pytest.raises(ModelTimeout):
                await heard(silent, QUESTION)

    async def test_closing_the_iterator_closes_the_request_at_the_far_end(
        self, lingering: ChatModel, let_go: Callable[[], Awaitable[None]]
    ) -> None:
        answer = _closable(lingering, QUESTION)
        await anext(answer)
        await answer.aclose()
        async with asyncio.timeout(AT_ONCE_S):
            await let_go()

    async def test_cancelling_the_reader_closes_the_request_at_the_far_end(
        self, lingering: ChatModel, let_go: Callable[[], Awaitable[None]]
    ) -> None:
        task = await _reading(lingering)
        task.cancel()
        async with asyncio.timeout(AT_ONCE_S):
            await asyncio.gather(task, return_exceptions=True)
            await let_go()

    async def test_after_a_cancel_the_model_can_be_asked_again(self, lingering: ChatModel) -> None:
        task = await _reading(lingering)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(AT_ONCE_S), aclosing(_closable(lingering, QUESTION)) as answer:
            assert isinstance(await anext(answer), ModelText | ModelThinking)


def _closable(model: ChatModel, request: ModelRequest) -> Any:
    answer = model.stream(request)
    assert hasattr(answer, "aclose"), "the iterator must have aclose"
    return answer


async def _reading(model: ChatModel) -> asyncio.Task[None]:
    """Start a task that reads an answer, and wait until it has read the first event."""
    begun = asyncio.Event()

    async def read() -> None:
        async with aclosing(_closable(model, QUESTION)) as answer:
            async for _ in answer:
                begun.set()

    task = asyncio.create_task(read())
    async with asyncio.timeout(AT_ONCE_S):
        await begun.wait()
    return task
