"""Answers of OpenAI-compatible providers, well and badly behaved, as model events."""

import asyncio
import gzip
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Self, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luxx.adapters.models.openai import OpenAIChatModel, OpenAISettings
from luxx.application.ports import (
    AssistantEntry,
    ModelEnd,
    ModelEvent,
    ModelRequest,
    ModelText,
    ModelThinking,
    ModelToolCall,
    UserEntry,
)
from luxx.domain.errors import ModelError, ModelRateLimited, ModelRejected, ModelTimeout, ModelUnavailable
from luxx.domain.message import Usage
from luxx.domain.tool import ToolCall, ToolSpec
from luxx.testing.contracts.chat_model import heard, heard_until_error, text_in
from luxx.testing.upstream import DONE, Reply, ScriptedUpstream, Step, Wait, delta, event, finish, saying, usage

TOOL: Final = ToolSpec(name="get_weather", description="", category="weather", parameters={"type": "object"})
REQUEST: Final = ModelRequest(
    model="glm-5", entries=(UserEntry(text="Hi"),), tools=(TOOL,), temperature=1.0, max_tokens=100
)

Answered: TypeAlias = Callable[..., Any]


@pytest.fixture
async def model(upstream: ScriptedUpstream) -> AsyncIterator[OpenAIChatModel]:
    model = OpenAIChatModel(OpenAISettings(base_url=upstream.url, retries=0, idle_s=2, first_token_s=2))
    yield model
    await model.aclose()


@pytest.fixture
def answered(upstream: ScriptedUpstream, model: OpenAIChatModel) -> Answered:
    """Play these steps and give the events that come of them, and the error, if any."""

    async def play(*steps: Step, **reply: Any) -> tuple[list[ModelEvent], ModelError | None]:
        upstream.play(Reply(steps=steps, **reply))
        return await heard_until_error(model, REQUEST)

    return play


def joined(events: Sequence[ModelEvent]) -> list[ModelEvent]:
    """Join neighbouring deltas: how they were read together is another matter."""
    told: list[ModelEvent] = []
    for one in events:
        last = told[-1] if told else None
        if isinstance(one, ModelText) and isinstance(last, ModelText):
            told[-1] = ModelText(last.delta + one.delta)
        elif isinstance(one, ModelThinking) and isinstance(last, ModelThinking):
            told[-1] = ModelThinking(last.delta + one.delta)
        else:
            told.append(one)
    return told


def calls_in(events: Sequence[ModelEvent]) -> list[ToolCall]:
    return [event.call for event in events if isinstance(event, ModelToolCall)]


def fragment(
    name: str | None = None, arguments: Any = None, *, index: int | None = 0, call_id: str | None = None
) -> bytes:
    """Give a chunk with one tool-call fragment; what is None is left out."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    call = {"index": index, "id": call_id, "function": function}
    return delta(tool_calls=[{key: value for key, value in call.items() if value is not None}])


# --- text, thinking, usage --------------------------------------------------------------------------


async def test_text_and_thinking_come_in_order_with_reason_and_usage(
    upstream: ScriptedUpstream, model: OpenAIChatModel
) -> None:
    upstream.play(saying("你", "好", thinking="hm", reason="length"))
    assert joined(await heard(model, REQUEST)) == [
        ModelThinking("hm"),
        ModelText("你好"),
        ModelEnd("length", Usage(prompt_tokens=7, completion_tokens=2, total_tokens=9)),
    ]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_thinking_is_read_under_both_of_its_names(answered: Answered, field: str) -> None:
    events, _ = await answered(delta(**{field: "hm"}), delta(content="a"), finish(), DONE)
    assert events == [ModelThinking("hm"), ModelText("a"), ModelEnd("stop")]


async def test_thinking_sent_under_both_names_at_once_is_given_once(answered: Answered) -> None:
    events, _ = await answered(delta(reasoning_content="hm", reasoning="hm"), finish(), DONE)
    assert events == [ModelThinking("hm"), ModelEnd("stop")]


async def test_null_empty_and_unknown_fields_are_read_over(answered: Answered) -> None:
    events, error = await answered(
        event({"choices": None, "usage": None, "error": None}),
        event({"choices": [], "x": {"y": [1]}}),
        event({"choices": [{"delta": None}]}),
        event({"choices": [{"index": 0.0, "delta": {"content": None, "tool_calls": None, "role": "assistant"}}]}),
        event({"choices": [{"delta": {"content": ""}, "logprobs": {}, "finish_reason": ""}]}),
        delta(content="a"),
        b"data:\n\n: a comment\n\n",
        finish(),
        event({"usage": {"prompt_tokens": 3.0, "completion_tokens": 4.0, "total_tokens": None, "details": {}}}),
        DONE,
    )
    assert error is None
    assert events == [ModelText("a"), ModelEnd("stop", Usage(prompt_tokens=3, completion_tokens=4, total_tokens=7))]


async def test_content_in_typed_parts_is_read(answered: Answered) -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}]
    events, _ = await answered(delta(content=parts), finish(), DONE)
    assert events == [ModelThinking("hm"), ModelText("a"), ModelEnd("stop")]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_a_piece_that_looks_like_a_number_may_come_as_one(answered: Answered, field: str) -> None:
    """Cloudflare's do; a piece that looks like a truth value as well."""
    thought = delta(**{field: 7})
    pieces = delta(content="$"), delta(content=0.5), delta(content=" ["), delta(content=0), delta(content="]")
    events, error = await answered(thought, *pieces, delta(content=True), finish(), DONE)
    assert joined(events) == [ModelThinking("7"), ModelText("$0.5 [0]true"), ModelEnd("stop", None)]
    assert error is None


async def test_of_typed_parts_what_is_no_text_is_read_over(answered: Answered) -> None:
    parts = [{"thinking": "h"}, {"thinking": ["x", {"text": 5}, {"text": "m"}]}, {"text": None}, {"text": "a"}]
    events, error = await answered(delta(content=parts), finish(), DONE)
    assert error is None
    assert events == [ModelThinking("hm"), ModelText("a"), ModelEnd("stop")]


async def test_what_a_model_says_in_refusing_is_its_answer(answered: Answered) -> None:
    events, _ = await answered(delta(content=None, refusal="I will not."), finish(), DONE)
    assert text_in(events) == "I will not."


async def test_a_total_that_counts_more_than_prompt_and_answer_is_kept(answered: Answered) -> None:
    figures = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 9}
    events, _ = await answered(delta(content="a"), finish(), event({"choices": [], "usage": figures}), DONE)
    assert events[-1] == ModelEnd("stop", Usage(prompt_tokens=3, completion_tokens=4, total_tokens=9))


async def test_other_choices_than_the_first_are_read_over(answered: Answered) -> None:
    other = event({"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"}]})
    events, _ = await answered(delta(content="a"), other, finish(), DONE)
    assert text_in(events) == "a"


async def test_an_answer_needs_no_done_once_it_has_a_finish_reason(answered: Answered) -> None:
    events, error = await answered(delta(content="a"), finish())
    assert error is None
    assert events[-1] == ModelEnd("stop")


async def test_a_whole_answer_in_one_json_object_is_read_too(answered: Answered) -> None:
    call = {"id": "c", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    message = {"role": "assistant", "content": "a", "reasoning_content": "hm", "tool_calls": [call, call]}
    whole = {
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }
    events, error = await answered(json.dumps(whole).encode(), content_type="application/json; charset=utf-8")
    assert error is None
    assert events[:2] == [ModelThinking("hm"), ModelText("a")]
    assert [(call.id, call.arguments) for call in calls_in(events)] == [
        ("c", {"city": "Oslo"}),
        ("c_2", {"city": "Oslo"}),
    ]
    assert events[-1] == ModelEnd("tool_calls", Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3))


@pytest.mark.parametrize("begun", [delta(content="ab", reasoning_content="hm"), fragment("t", "{}", call_id="c")])
async def test_an_answer_told_once_more_as_a_whole_at_its_end_is_given_once(answered: Answered, begun: bytes) -> None:
    """MiniMax does so, in the chunk that has the reason to finish."""
    call = {"id": "c", "function": {"name": "t", "arguments": "{}"}}
    message = {"role": "assistant", "content": "ab", "reasoning_content": "hm", "tool_calls": [call]}
    last = {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    events, error = await answered(begun, Wait(0.02), event(last), DONE)
    assert (events, error) == await answered(begun, finish(), DONE)
    assert events


async def test_a_message_in_a_stream_that_said_nothing_before_is_the_answer(answered: Answered) -> None:
    whole = event({"choices": [{"index": 0, "message": {"content": "ab"}, "finish_reason": "stop"}]})
    events, _ = await answered(delta(role="assistant", content=""), whole, DONE)
    assert events == [ModelText("ab"), ModelEnd("stop")]


async def test_a_json_object_that_is_no_completion_is_a_failure(answered: Answered) -> None:
    _, error = await answered(b'{"hello": "world"}', content_type="application/json")
    assert isinstance(error, ModelUnavailable)


async def test_a_message_behind_deltas_that_only_thought_is_the_answer(answered: Answered) -> None:
    message = {"content": "ab", "reasoning_content": "hm"}
    whole = event({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    events, _ = await answered(delta(reasoning_content="hm"), Wait(0.02), whole, DONE)
    assert events == [ModelThinking("hm"), ModelText("ab"), ModelEnd("stop")]


async def test_an_answer_whose_pieces_are_called_messages_is_given_to_its_end(answered: Answered) -> None:
    pieces = [event({"choices": [{"index": 0, "message": {"content": text}}]}) for text in "abc"]
    events, _ = await answered(pieces[0], Wait(0.02), *pieces[1:], finish(), DONE)
    assert joined(events) == [ModelText("abc"), ModelEnd("stop")]


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", None])
async def test_a_stream_is_read_as_one_whatever_its_type_is_called(
    answered: Answered, content_type: str | None
) -> None:
    events, error = await answered(
        b"\r\n", delta(content="a"), Wait(0.02), delta(content="b"), finish(), DONE, content_type=content_type
    )
    assert (joined(events), error) == ([ModelText("ab"), ModelEnd("stop")], None)


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream", "application/problem+json", None])
@pytest.mark.parametrize("before", [b"", b"\n\n\n", b"\xef\xbb\xbf"])
async def test_an_object_is_read_as_one_whatever_its_type_is_called(
    answered: Answered, content_type: str | None, before: bytes
) -> None:
    """A refusal comes so with status 200, from who had promised a stream by then."""
    _, error = await answered(before, b'{"error": {"message": "SECRET", ', b'"code": 429}}', content_type=content_type)
    assert isinstance(error, ModelRateLimited)
    whole = {"choices": [{"message": {"content": "ab"}, "finish_reason": "stop"}]}
    events, _ = await answered(before, json.dumps(whole).encode(), content_type=content_type)
    assert events == [ModelText("ab"), ModelEnd("stop")]


# --- surrogate halves -------------------------------------------------------------------------------


async def test_surrogate_halves_in_neighbouring_deltas_are_joined(answered: Answered) -> None:
    high = b'data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}\n\n'
    low = b'data: {"choices":[{"delta":{"content":"\\ude00b"}}]}\n\n'
    events, _ = await answered(high, low, finish(), DONE)
    assert joined(events) == [ModelText("a😀b"), ModelEnd("stop")]


async def test_surrogate_halves_without_the_other_become_replacement_characters(answered: Answered) -> None:
    low = b'data: {"choices":[{"delta":{"content":"\\ude00"}}]}\n\n'
    high = b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n'
    events, _ = await answered(low, high, delta(content="a"), high, finish(), DONE)
    assert text_in(events) == "\ufffd\ufffda\ufffd"


async def test_bytes_that_are_no_utf8_become_replacement_characters(answered: Answered) -> None:
    events, _ = await answered(b'data: {"choices":[{"delta":{"content":"a\xffb"}}]}\n\n', finish(), DONE)
    assert text_in(events) == "a\ufffdb"


async def test_u_0000_which_no_store_takes_becomes_a_replacement_character(answered: Answered) -> None:
    events, _ = await answered(delta(content="a\0"), fragment("t\0", '"\\u0000'), finish(), DONE)
    assert text_in(events) == "a\ufffd"
    assert calls_in(events)[0].name == "t\ufffd"


async def test_a_surrogate_half_in_arguments_spoils_neither_the_call_nor_the_rest(answered: Answered) -> None:
    events, _ = await answered(fragment("get_weather", '{"city": "\\ud83d", "n": 1}'), finish(), DONE)
    assert calls_in(events)[0].arguments == {"city": "\ufffd", "n": 1}


# --- tool calls -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fragments",
    [
        pytest.param([fragment("get_weather", '{"city": "Oslo"}', call_id="c")], id="whole, in one chunk"),
        pytest.param(
            [fragment("get_weather", "", call_id="c"), *(fragment(None, letter) for letter in '{"city": "Oslo"}')],
            id="arguments letter by letter",
        ),
        pytest.param(
            [fragment("get_weather", '{"ci'), fragment(None, 'ty": "Oslo"}', call_id="c")], id="the id comes late"
        ),
        pytest.param(
            [fragment("get_weather", '{"ci', call_id="c"), fragment("get_weather", 'ty": "Oslo"}', call_id="c")],
            id="id and name with every fragment",
        ),
        pytest.param(
            [fragment("get_", "", call_id="c"), fragment("weather", '{"city": '), fragment(None, '"Oslo"}')],
            id="the name in pieces",
        ),
        pytest.param([fragment("get_", call_id="c"), fragment("get_weather", '{"city": "Oslo"}')], id="the name grows"),
        pytest.param(
            [fragment("get_weather", '{"city": ', index=None, call_id="c"), fragment(None, '"Oslo"}', index=None)],
            id="no index",
        ),
        pytest.param([fragment("get_weather", {"city": "Oslo"}, call_id="c")], id="arguments as an object"),
        pytest.param(
            [fragment("get_weather", "{}", call_id="c"), fragment(None, '{"city": '), fragment(None, '"Oslo"}')],
            id="an empty object before the arguments, as gateways to Claude",
        ),
        pytest.param(
            [fragment("get_weather", {}, call_id="c"), fragment(None, '{"city": "Oslo"}')],
            id="an empty object before the arguments, and no text",
        ),
        pytest.param(
            [
                fragment("get_weather", '{"city"', call_id="c"),
                fragment(None, ': "Oslo"', call_id="another"),
                fragment(None, "}", call_id="and-another"),
            ],
            id="another id with every fragment",
        ),
        pytest.param(
            [fragment("get_weather", '{"city": "Oslo"}', call_id="c"), fragment("get_weather", "")],
            id="the name once more at the end",
        ),
    ],
)
async def test_a_call_is_the_same_however_it_is_cut(answered: Answered, fragments: list[bytes]) -> None:
    events, error = await answered(*fragments, finish("tool_calls"), DONE)
    assert error is None
    assert events == [
        ModelToolCall(ToolCall(id="c", name="get_weather", arguments={"city": "Oslo"})),
        ModelEnd("tool_calls"),
    ]


@pytest.mark.parametrize(
    "fragments",
    [
        pytest.param(
            [
                fragment("a", '{"n"', index=0, call_id="c1"),
                fragment("b", '{"n"', index=1, call_id="c2"),
                fragment(None, ": 1}", index=0),
                fragment(None, ": 2}", index=1),
            ],
            id="interleaved",
        ),
        pytest.param(
            [fragment("a", '{"n": 1}', index=0, call_id="c1"), fragment("b", '{"n": 2}', index=0, call_id="c2")],
            id="the same index",
        ),
        pytest.param(
            [fragment("a", '{"n": 1}', index=None, call_id="c1"), fragment("b", '{"n": 2}', index=None, call_id="c2")],
            id="no index",
        ),
        pytest.param(
            [
                fragment("a", '{"n"', index=None, call_id="c1"),
                fragment("b", '{"n"', index=None, call_id="c2"),
                fragment(None, ": 1}", index=None, call_id="c1"),
                fragment(None, ": 2}", index=None, call_id="c2"),
            ],
            id="no index, told apart by id",
        ),
        pytest.param(
            [
                delta(
                    tool_calls=[
                        {"id": "c1", "function": {"name": "a", "arguments": '{"n": 1}'}},
                        {"id": "c2", "function": {"name": "b", "arguments": {"n": 2}}},
                    ]
                )
            ],
            id="both in one chunk",
        ),
    ],
)
async def test_two_calls_are_told_apart(answered: Answered, fragments: list[bytes]) -> None:
    events, _ = await answered(*fragments, finish("tool_calls"), DONE)
    assert [(call.id, call.name, call.arguments) for call in calls_in(events)] == [
        ("c1", "a", {"n": 1}),
        ("c2", "b", {"n": 2}),
    ]


async def test_two_calls_at_one_index_without_ids_are_told_apart(answered: Answered) -> None:
    events, _ = await answered(fragment("a", "{}"), fragment("a", "{}"), finish(), DONE)
    calls = calls_in(events)
    assert [call.name for call in calls] == ["a", "a"]
    assert len({call.id for call in calls}) == 2


async def test_what_a_provider_wants_back_with_a_call_goes_back_with_it(
    upstream: ScriptedUpstream, model: OpenAIChatModel
) -> None:
    """Gemini signs its calls there, and refuses the next round of the turn without the signature."""
    signed = {"google": {"thought_signature": "c2lnbmVk", "\ud800": 1 << 70}}
    chunk = {"index": 0, "id": "c", "extra_content": signed, "function": {"name": "get_weather", "arguments": "{}"}}
    upstream.play(Reply(steps=(event(json.dumps({"choices": [{"delta": {"tool_calls": [chunk]}}]})), finish(), DONE)))
    upstream.play(saying("ok"), saying("ok"))
    calls = calls_in(await heard(model, REQUEST))
    other = ToolCall(id="d", name="get_weather", arguments={})
    entries = (*REQUEST.entries, AssistantEntry(calls=(*calls, other)))
    await heard(model, replace(REQUEST, entries=entries))
    first, second = upstream.requests[1].messages[1]["tool_calls"]
    assert first["extra_content"]["google"]["thought_signature"] == "c2lnbmVk"
    assert "extra_content" not in second


@pytest.mark.parametrize(
    ("fragments", "whole"),
    [
        pytest.param(
            [
                [{"type": "reasoning.text", "text": "Let", "format": "anthropic-claude-v1", "index": 0}],
                [{"type": "reasoning.text", "text": " me \ud83e", "format": "anthropic-claude-v1", "index": 0}],
                [{"type": "reasoning.text", "text": "\udd89", "signature": None, "index": 0}],
                [{"type": "reasoning.text", "signature": "c2ln", "index": 0}],
                [{"type": "reasoning.text", "text": "And", "index": 0}],
                [{"type": "reasoning.text", "text": "?", "signature": "bmVk", "index": 0}],
            ],
            [
                {
                    "type": "reasoning.text",
                    "text": "Let me \ud83e\udd89",
                    "format": "anthropic-claude-v1",
                    "index": 0,
                    "signature": "c2ln",
                },
                {"type": "reasoning.text", "text": "And?", "index": 0, "signature": "bmVk"},
            ],
            id="Claude's, signed as a whole",
        ),
        pytest.param(
            [
                [{"type": "reasoning.summary", "summary": "So", "id": None}],
                [{"type": "reasoning.summary", "summary": " be it", "id": "rs_1"}],
                [{"type": "reasoning.encrypted", "data": "YQ==", "id": "rs_1", "index": 0}],
            ],
            [
                {"type": "reasoning.summary", "summary": "So be it", "id": "rs_1"},
                {"type": "reasoning.encrypted", "data": "YQ==", "id": "rs_1", "index": 0},
            ],
            id="OpenAI's",
        ),
        pytest.param(
            [
                [
                    {"type": "reasoning.text", "text": "Hm", "index": 0},
                    {"type": "reasoning.text", "text": "m", "index": 1},
                ],
                [{"type": "reasoning.encrypted", "data": "YQ==", "id": "tool_0", "index": 0}],
                [{"type": "reasoning.encrypted", "data": "Yg==", "id": "tool_1", "index": 0}],
            ],
            [
                {"type": "reasoning.text", "text": "Hm", "index": 0},
                {"type": "reasoning.text", "text": "m", "index": 1},
                {"type": "reasoning.encrypted", "data": "YQ==", "id": "tool_0", "index": 0},
                {"type": "reasoning.encrypted", "data": "Yg==", "id": "tool_1", "index": 0},
            ],
            id="Gemini's, one to a call",
        ),
    ],
)
async def test_the_reasoning_behind_a_round_of_calls_goes_back_with_it(
    upstream: ScriptedUpstream, model: OpenAIChatModel, fragments: list[Any], whole: list[Any]
) -> None:
    """Behind OpenRouter, Gemini and Claude refuse the next round of the turn where it is missing, or in pieces."""
    chunks = [event(json.dumps({"choices": [{"delta": {"reasoning_details": some}}]})) for some in fragments]
    called = fragment("get_weather", "{}", index=0, call_id="c"), fragment("get_weather", "{}", index=1, call_id="d")
    upstream.play(Reply(steps=(*chunks, *called, finish(), DONE)), saying("ok"))
    calls = calls_in(await heard(model, REQUEST))
    await heard(model, replace(REQUEST, entries=(*REQUEST.entries, AssistantEntry(calls=tuple(calls)))))
    told = upstream.requests[1].messages[1]
    assert told["reasoning_details"] == json.loads(json.dumps(whole))
    assert [set(call) for call in told["tool_calls"]] == [{"id", "type", "function"}] * 2


@pytest.mark.parametrize("again", ["", "Step 1. Step"])
async def test_the_thinking_behind_a_round_of_calls_goes_back_with_it_as_it_was_signed(
    upstream: ScriptedUpstream, model: OpenAIChatModel, again: str
) -> None:
    """Behind LiteLLM, Claude refuses the next round of the turn where it is missing."""
    redacted: dict[str, Any] = {"type": "redacted_thinking", "data": "YQ=="}
    pieces: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "Step 1. ", "signature": ""},
        {"type": "thinking", "thinking": "Step", "signature": None},
        {"type": "thinking", "thinking": again, "signature": "c2ln"},
        redacted,
        {"type": "thinking", "thinking": "", "signature": "bmVk"},
        {"type": "thinking", "thinking": "never signed"},
    ]
    chunks = [delta(reasoning_content=one.get("thinking"), thinking_blocks=[one]) for one in pieces]
    called = fragment("get_weather", "{}", index=0, call_id="c"), fragment("get_weather", "{}", index=1, call_id="d")
    upstream.play(Reply(steps=(*chunks, *called, finish(), DONE)), saying("ok"))
    calls = calls_in(await heard(model, REQUEST))
    await heard(model, replace(REQUEST, entries=(*REQUEST.entries, AssistantEntry(calls=tuple(calls)))))
    told = upstream.requests[1].messages[1]
    assert told["thinking_blocks"] == [
        {"type": "thinking", "thinking": "Step 1. Step", "signature": "c2ln"},
        redacted,
        {"type": "thinking", "thinking": "", "signature": "bmVk"},
    ]
    assert "reasoning_details" not in told


@pytest.mark.parametrize("odd", [7, "x", {"type": "thinking"}, [7], [[]], [{"type": "thinking", "thinking": 7}]])
async def test_thinking_that_is_told_oddly_costs_no_answer(answered: Answered, odd: Any) -> None:
    called = fragment("t", "{}", index=0, call_id="c")
    events, error = await answered(delta(content="a", thinking_blocks=odd), called, finish(), DONE)
    assert (calls_in(events), error) == ([ToolCall(id="c", name="t", arguments={})], None)


async def test_reasoning_that_names_a_call_names_it_by_the_id_that_it_was_given(
    upstream: ScriptedUpstream, model: OpenAIChatModel
) -> None:
    """Ids that a provider gives again in each round are made unique."""
    details = [{"type": "reasoning.encrypted", "data": "YQ==", "id": "c"}]
    chunk = event(json.dumps({"choices": [{"delta": {"reasoning_details": details}}]}))
    upstream.play(Reply(steps=(chunk, fragment("t", "{}", call_id="c"), finish(), DONE)), saying("ok"))
    entries = (*REQUEST.entries, AssistantEntry(calls=(ToolCall(id="c", name="t", arguments={}),)))
    (call,) = calls_in(await heard(model, replace(REQUEST, entries=entries)))
    await heard(model, replace(REQUEST, entries=(*entries, AssistantEntry(calls=(call,)))))
    told = upstream.requests[1].messages[2]
    assert (told["tool_calls"][0]["id"], told["reasoning_details"][0]["id"]) == ("c_2", "c_2")


@pytest.mark.parametrize("odd", [[], {}, "hm", [1], [{"type": "reasoning.text", "text": 1}, {"text": "a"}]])
async def test_reasoning_that_is_told_oddly_costs_no_answer(answered: Answered, odd: Any) -> None:
    chunk = event(json.dumps({"choices": [{"delta": {"content": "ok", "reasoning_details": odd}}]}))
    events, error = await answered(chunk, chunk, fragment("t", "{}", index=0, call_id="c"), finish(), DONE)
    assert (text_in(events), error) == ("okok", None)
    assert [call.id for call in calls_in(events)] == ["c"]


async def test_what_no_json_can_say_is_not_sent_back_with_a_call(answered: Answered) -> None:
    chunk = event(
        '{"choices":[{"delta":{"tool_calls":[{"id":"c","extra_content":{"n":NaN},"function":{"name":"t"}}]}}]}'
    )
    events, error = await answered(chunk, finish(), DONE)
    assert (calls_in(events), error) == ([ToolCall(id="c", name="t", arguments={})], None)


@pytest.mark.parametrize("arguments", [None, "", " ", "{}", {}, "null", " null\n"])
async def test_a_call_without_arguments_has_none(answered: Answered, arguments: Any) -> None:
    events, _ = await answered(fragment("get_weather", arguments, call_id="c"), finish(), DONE)
    assert calls_in(events)[0].arguments == {}


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        pytest.param('{"code": "a = 1\n\tb"}', {"code": "a = 1\n\tb"}, id="line breaks and tabs as they are"),
        pytest.param(json.dumps('{"city": "Oslo"}'), {"city": "Oslo"}, id="an object in a string, as Granite"),
        pytest.param(json.dumps('{"code": "a\n\ud83d"}'), {"code": "a\n\ufffd"}, id="all at once"),
    ],
)
async def test_arguments_that_are_an_object_but_for_how_they_are_written_are_read(
    answered: Answered, text: str, arguments: dict[str, Any]
) -> None:
    events, error = await answered(fragment("get_weather", text, call_id="c"), finish(), DONE)
    assert (calls_in(events), error) == ([ToolCall(id="c", name="get_weather", arguments=arguments)], None)


@pytest.mark.parametrize("text", ['{"city": ', "[1]", '"x"', "nullnull", "{} {}", '{"n": NaN}', "[" * 100_000])
async def test_arguments_that_are_no_object_are_kept_as_the_text_they_were(answered: Answered, text: str) -> None:
    events, error = await answered(fragment("get_weather", text, call_id="c"), finish(), DONE)
    assert error is None
    (call,) = calls_in(events)
    assert (call.arguments, call.malformed) == (None, text)


async def test_integers_of_any_size_in_arguments_stay_exact(answered: Answered) -> None:
    events, _ = await answered(fragment("t", '{"n": 123456789012345678901234567890}'), finish(), DONE)
    assert calls_in(events)[0].arguments == {"n": 123456789012345678901234567890}


async def test_ids_given_twice_or_used_in_an_earlier_round_are_made_unique(
    upstream: ScriptedUpstream, model: OpenAIChatModel
) -> None:
    earlier = AssistantEntry(calls=(ToolCall(id="c", name="a", arguments={}),))
    request = ModelRequest(model="m", entries=(UserEntry(text="Hi"), earlier), temperature=1, max_tokens=9)
    chunks = (fragment("a", "{}", index=number, call_id=given) for number, given in enumerate(["c", "c", None]))
    upstream.play(Reply(steps=(*chunks, finish(), DONE)))
    ids = [call.id for call in calls_in(await heard(model, request))]
    assert len({"c", *ids}) == 4


async def test_an_id_that_is_a_number_is_read_as_text(answered: Answered) -> None:
    function = {"name": "get_weather", "arguments": "{}"}
    events, error = await answered(delta(tool_calls=[{"index": 0, "id": 0, "function": function}]), finish(), DONE)
    assert (calls_in(events), error) == ([ToolCall(id="0", name="get_weather", arguments={})], None)


async def test_calls_of_an_answer_that_breaks_off_are_not_given(answered: Answered) -> None:
    events, error = await answered(delta(content="a"), fragment("t", "{}"))
    assert events == [ModelText("a")]
    assert isinstance(error, ModelUnavailable)


# --- failures inside an answer ----------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"\n", b"", b"\r\n"])
async def test_the_last_event_may_lack_the_empty_line_behind_it(answered: Answered, end: bytes) -> None:
    """As gateways end a stream at once."""
    events, error = await answered(delta(content="a"), finish().rstrip() + end)
    assert (events, error) == ([ModelText("a"), ModelEnd("stop", None)], None)


async def test_an_error_without_the_empty_line_behind_it_is_one(answered: Answered) -> None:
    events, error = await answered(delta(content="a"), event({"error": {"code": 429}}).rstrip())
    assert events == [ModelText("a")]
    assert isinstance(error, ModelRateLimited)


async def test_an_error_behind_the_end_costs_no_answer_though_it_lacks_the_empty_line(answered: Answered) -> None:
    _, error = await answered(delta(content="a"), finish(), event({"error": {"code": 429}}).rstrip())
    assert error is None


async def test_half_an_event_at_the_end_is_none(answered: Answered) -> None:
    _, error = await answered(delta(content="a"), finish()[:-20])
    assert isinstance(error, ModelUnavailable)
    assert "before it was whole" in str(error)


async def test_events_without_empty_lines_between_them_are_told_apart(answered: Answered) -> None:
    """As Baseten sends GLM and Kimi."""
    lines = delta(content="a"), fragment("get_weather", '{"city"', call_id="c"), fragment(None, ': "Oslo"}'), finish()
    events, error = await answered(b"".join(line.removesuffix(b"\n") for line in lines) + DONE)
    call = ToolCall(id="c", name="get_weather", arguments={"city": "Oslo"})
    assert (events, error) == ([ModelText("a"), ModelToolCall(call), ModelEnd("stop", None)], None)


@pytest.mark.parametrize("end", [(), (DONE,)])
async def test_an_end_without_a_finish_reason_is_a_failure(answered: Answered, end: tuple[bytes, ...]) -> None:
    events, error = await answered(delta(content="a"), *end)
    assert events == [ModelText("a")]
    assert isinstance(error, ModelUnavailable)


@pytest.mark.parametrize(
    "reason",
    [
        "error",
        "network_error",
        pytest.param("insufficient_system_resource", id="DeepSeek's"),
        pytest.param("function_call_filter: MALFORMED_FUNCTION_CALL", id="Gemini's"),
        pytest.param("malformed_function_call", id="Gemini's behind a gateway"),
    ],
)
async def test_a_finish_reason_that_says_broken_is_a_failure(answered: Answered, reason: str) -> None:
    _, error = await answered(delta(content="a"), finish(reason), DONE)
    assert isinstance(error, ModelUnavailable)


@pytest.mark.parametrize(
    ("object_", "kind"),
    [
        ({"error": {"message": "SECRET", "code": 429}}, ModelRateLimited),
        ({"error": {"message": "SECRET", "code": "503"}}, ModelUnavailable),
        ({"error": {"message": "SECRET", "type": "rate_limit_error"}}, ModelRateLimited),
        ({"error": {"message": "SECRET", "code": "context_length_exceeded"}}, ModelRejected),
        ({"error": {"message": "SECRET", "type": "authentication_error"}}, ModelRejected),
        ({"error": {"message": "SECRET", "type": "timeout"}}, ModelTimeout),
        ({"error": {"message": "SECRET", "code": "1234"}}, ModelUnavailable),
        ({"error": "SECRET"}, ModelUnavailable),
        ({"object": "error", "message": "SECRET", "code": 400}, ModelRejected),
    ],
)
async def test_an_error_object_in_the_stream_is_raised_after_what_came_before_it(
    answered: Answered, object_: Any, kind: type[ModelError]
) -> None:
    events, error = await answered(delta(content="a") + event(object_))
    assert events == [ModelText("a")]
    assert type(error) is kind
    assert "SECRET" not in str(error)


@pytest.mark.parametrize(
    "told",
    [
        pytest.param({"code": "data_inspection_failed", "type": "data_inspection_failed"}, id="Qwen"),
        pytest.param({"code": "content_filter", "status": 400}, id="Azure"),
        pytest.param({"code": "1301"}, id="GLM"),
    ],
)
async def test_what_a_content_filter_stops_is_told_as_that(answered: Answered, told: dict[str, Any]) -> None:
    events, error = await answered(delta(content="a"), event({"error": {"message": "SECRET", **told}}))
    assert events == [ModelText("a")]
    assert isinstance(error, ModelRejected)
    assert "content filter" in str(error)


async def test_an_error_in_a_field_of_its_own_is_an_error(answered: Answered) -> None:
    """So llama.cpp told one until late in 2025, with [DONE] behind it."""
    told = b'error: {"code":400,"message":"SECRET","type":"invalid_request_error"}\n\n'
    events, error = await answered(delta(content="a"), told, DONE)
    assert events == [ModelText("a")]
    assert isinstance(error, ModelRejected)
    assert "SECRET" not in str(error)


async def test_an_event_of_the_type_error_is_an_error_whatever_its_data(answered: Answered) -> None:
    _, error = await answered(b'event: error\ndata: {"code": "429", "message": "SECRET"}\n\n')
    assert isinstance(error, ModelRateLimited)
    assert "SECRET" not in str(error)


@pytest.mark.parametrize("data", ["{", "<p>SECRET</p>", "[]", '"x"', '{"choices": 5}', "[" * 100_000])
async def test_data_that_is_no_chunk_is_a_failure(answered: Answered, data: str) -> None:
    events, error = await answered(delta(content="a") + event(data))
    assert events == [ModelText("a")]
    assert isinstance(error, ModelUnavailable)
    assert "SECRET" not in str(error)


HUGE: Final = [
    pytest.param(2**53 + 2, id="a little too large"),
    pytest.param(10**400, id="too large for a float"),
    pytest.param(1e300, id="a large float"),
]


@pytest.mark.parametrize("figure", HUGE)
async def test_figures_that_no_provider_means_are_none(answered: Answered, figure: float) -> None:
    huge = event({"usage": {"prompt_tokens": figure, "completion_tokens": 3, "total_tokens": figure}})
    events, error = await answered(delta(content="a") + huge + finish() + DONE)
    assert error is None
    assert events == [ModelText("a"), ModelEnd("stop", Usage(prompt_tokens=0, completion_tokens=3, total_tokens=3))]


@pytest.mark.parametrize("place", [*HUGE, pytest.param(-(10**400), id="too small for a float")])
async def test_a_place_that_no_provider_means_is_none(answered: Answered, place: Any) -> None:
    events, error = await answered(delta(content="a") + fragment("get_weather", "{}", index=place) + finish() + DONE)
    assert error is None
    assert (text_in(events), [call.name for call in calls_in(events)]) == ("a", ["get_weather"])


async def test_an_error_code_of_thousands_of_digits_is_an_error_like_another(answered: Answered) -> None:
    events, error = await answered(delta(content="a") + event({"error": {"code": "9" * 5_000}}))
    assert events == [ModelText("a")]
    assert isinstance(error, ModelUnavailable)


# --- compression ------------------------------------------------------------------------------------

WHOLE: Final = delta(content="a") + delta(content="b") + finish() + DONE


async def test_an_answer_compressed_without_being_asked_for_is_read(answered: Answered) -> None:
    compressed = gzip.compress(WHOLE)
    slices = (compressed[place : place + 7] for place in range(0, len(compressed), 7))
    events, error = await answered(*slices, headers={"Content-Encoding": "gzip"})
    assert error is None
    assert text_in(events) == "ab"


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        pytest.param("gzip", b"no gzip at all", id="broken"),
        pytest.param("gzip", gzip.compress(WHOLE)[:40], id="cut off"),
        pytest.param("br", WHOLE, id="unknown"),
    ],
)
async def test_what_cannot_be_decompressed_is_a_failure(answered: Answered, encoding: str, data: bytes) -> None:
    _, error = await answered(data, headers={"Content-Encoding": encoding})
    assert isinstance(error, ModelUnavailable)


async def test_a_small_answer_that_inflates_without_end_is_cut_off(upstream: ScriptedUpstream) -> None:
    bomb = gzip.compress(b": nothing\n" * 1_000_000)
    upstream.play(Reply(steps=(bomb,), headers={"Content-Encoding": "gzip"}))
    model = OpenAIChatModel(OpenAISettings(base_url=upstream.url, response_limit=1 << 20))
    with pytest.raises(ModelUnavailable, match="1048576 bytes"):
        await heard(model, REQUEST)
    await model.aclose()


async def test_inflating_lets_others_run_between_slices() -> None:
    """A small answer that came whole can take a second to inflate and to read."""
    rounds = 0

    async def other() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    slices = [gzip.compress(b": nothing\n" * 200_000 + WHOLE)]
    model = OpenAIChatModel(OpenAISettings(base_url="http://model/v1"), network=Slices(slices, encoding="gzip"))
    running = asyncio.create_task(other())
    assert text_in(await heard(model, REQUEST)) == "ab"
    running.cancel()
    assert rounds >= 30, "2 MB are 30 slices of 64 KiB"
    await model.aclose()


@pytest.mark.parametrize(
    "slices",
    [
        pytest.param([gzip.compress(b":\n" * (8 << 20))], id="one slice"),
        pytest.param(
            itertools.chain([gzip.compress(b"")[:10]], itertools.repeat(b"\0\0\0\xff\xff")), id="slices of nothing"
        ),
    ],
)
async def test_inflating_is_bounded_in_time(slices: Iterable[bytes]) -> None:
    settings = OpenAISettings(base_url="http://model/v1", total_s=0.05)
    model = OpenAIChatModel(settings, network=Slices(slices, encoding="gzip"))
    with pytest.raises(ModelTimeout, match=r"no whole answer within 0\.05 s"):
        await heard(model, REQUEST)
    await model.aclose()


async def test_what_comes_behind_the_end_of_what_is_compressed_is_not_read() -> None:
    read = 0

    def slices() -> Iterable[bytes]:
        nonlocal read
        yield gzip.compress(delta(content="ab") + finish())
        for _ in range(100):
            read += 1
            yield b"more"

    network = Slices(slices(), encoding="gzip")
    model = OpenAIChatModel(OpenAISettings(base_url="http://model/v1"), network=network)
    assert text_in(await heard(model, REQUEST)) == "ab"
    assert not read
    await model.aclose()


# --- slices -----------------------------------------------------------------------------------------


class Slices:
    """A network that delivers an answer in given slices: each is one read."""

    status = 200
    ready = True

    def __init__(self, slices: Iterable[bytes], *, encoding: str = "identity") -> None:
        self._slices = iter(slices)
        self.headers: Mapping[str, str] = {"content-type": "text/event-stream", "content-encoding": encoding}

    async def post(self, body: bytes) -> Self:
        del body
        return self

    async def read(self) -> bytes:
        return next(self._slices, b"")

    def close(self) -> None:
        """Nothing is open."""

    async def aclose(self) -> None:
        """Nothing is open."""


def outcome(slices: Sequence[bytes]) -> tuple[list[ModelEvent], str]:
    async def read() -> tuple[list[ModelEvent], str]:
        model = OpenAIChatModel(OpenAISettings(base_url="http://model/v1"), network=Slices(slices))
        events, error = await heard_until_error(model, REQUEST)
        await model.aclose()
        return joined(events), repr(error)

    return asyncio.run(read())


async def test_deltas_that_come_in_one_read_are_told_as_one() -> None:
    """Thousands come at once from a fast model; each costs as much to store as all of them."""
    one = b"".join([delta(reasoning_content="h"), delta(reasoning_content="m"), delta(content="a"), delta(content="b")])
    slices = [one, delta(content="c") + delta(content="d"), finish() + DONE]
    model = OpenAIChatModel(OpenAISettings(base_url="http://model/v1"), network=Slices(slices))
    events = await heard(model, REQUEST)
    await model.aclose()
    assert events == [ModelThinking("hm"), ModelText("ab"), ModelText("cd"), ModelEnd("stop")]


async def test_an_answer_that_never_has_to_be_waited_for_is_bounded_in_time_all_the_same() -> None:
    """A reader that is slower than its model finds bytes whenever it looks."""
    slices = itertools.repeat(delta(content="on and on "))
    model = OpenAIChatModel(OpenAISettings(base_url="http://model/v1", total_s=0.1), network=Slices(slices))
    with pytest.raises(ModelTimeout, match=r"no whole answer within 0\.1 s"):
        await heard(model, REQUEST)
    await model.aclose()


CHUNKS: Final = (
    delta(content="你好😀"),
    b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\r\n\r\n',
    b'data: {"choices":[{"delta":{"content":"\\ude00"}}]}\r\r',
    b'data: {"choices":\ndata: [{"delta":{"reasoning":"hm"}}]}\n\n',
    b": comment\n\n",
    b"\n",
    fragment("get_", '{"城', call_id="c"),
    fragment("weather", '": "京"}'),
    event({"error": {"code": 500}}),
    event("{"),
    finish(),
    usage(1, 2),
    DONE,
)


@settings(max_examples=60, deadline=None)
@given(chunks=st.lists(st.sampled_from(CHUNKS), max_size=8), cuts=st.sets(st.integers(0, 900)), end=st.booleans())
def test_any_slicing_of_the_bytes_gives_the_same_events_and_the_same_error(
    chunks: list[bytes], cuts: set[int], end: bool
) -> None:
    stream = b"".join([*chunks, *((finish(), usage(1, 2), DONE) if end else ())])
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    slices = [stream[start:stop] for start, stop in itertools.pairwise(places)]
    assert outcome(slices) == outcome([stream] if stream else [])
