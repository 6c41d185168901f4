"""The JSON forms: what is written is what is read."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.domain.events import NOW, STARTED, json_values, message, problems, stored_text, turns

from luxx.adapters import wire
from luxx.domain.message import Message, Problem, Role, Status, TextPart, ThinkingPart, ToolCallPart, Usage
from luxx.domain.turn import Done, Failed, Text, Thinking, ToolCalled, ToolReturned, TurnEvent, fold

counts = st.integers(0, 2**53)
usages = st.builds(Usage, prompt_tokens=counts, completion_tokens=counts, total_tokens=counts)
parts = st.lists(
    st.builds(TextPart, text=stored_text)
    | st.builds(ThinkingPart, text=stored_text)
    | st.builds(
        ToolCallPart,
        id=stored_text,
        name=stored_text,
        arguments=st.dictionaries(stored_text, json_values, max_size=2),
        result=json_values,
        success=st.none() | st.booleans(),
        error=st.none() | problems,
        duration_ms=st.none() | counts,
        later=st.booleans(),
    ),
    max_size=5,
)


def later_in(some: Iterable[Any]) -> list[bool]:
    return [part.later for part in some if isinstance(part, ToolCallPart)]


@given(turns())
def test_every_event_survives_the_log_and_so_does_the_fold(events: list[TurnEvent]) -> None:
    read = [wire.decode_event(*wire.encode_event(event)) for event in events]
    assert read == events
    assert fold(read).parts == fold(events).parts


@given(parts)
def test_parts_survive_storage(stored: list[Any]) -> None:
    read = wire.decode_parts(wire.encode_parts(stored))
    assert read == tuple(stored)
    assert later_in(read) == later_in(stored)


def test_that_a_call_came_later_is_stored_and_told_to_nobody() -> None:
    call = ToolCallPart(id="c", name="t", arguments={}, result=1, success=True, duration_ms=2)
    said, later = message(call), message(replace(call, later=True))
    assert wire.encode(wire.message_json(later)) == wire.encode(wire.message_json(said))
    assert wire.encode_event(Done(message=later)) == wire.encode_event(Done(message=said))
    stored, first = json.loads(wire.encode_parts(later.parts)), json.loads(wire.encode_parts(said.parts))
    assert stored == [first[0] | {"later": True}]
    assert first == json.loads(wire.encode(wire.message_json(said).parts))


@given(parts, st.none() | usages, st.none() | problems, st.sampled_from(Status), st.sampled_from(Role))
def test_a_message_survives_the_wire_and_its_content_is_its_text(
    stored: list[Any], usage: Usage | None, problem: Problem | None, status: Status, role: Role
) -> None:
    given_message = Message(
        id="msg_1",
        conversation_id="conv_1",
        role=role,
        parts=tuple(stored),
        status=status,
        model="glm-5",
        usage=usage,
        error=problem,
        created_at=NOW,
    )
    text = wire.encode(wire.message_json(given_message))
    assert wire.message_of(msgspec.json.decode(text, type=wire.MessageJson)) == given_message
    assert json.loads(text)["content"] == given_message.content


@given(st.none() | usages, st.none() | problems)
def test_usage_and_problems_survive_storage(usage: Usage | None, problem: Problem | None) -> None:
    assert wire.decode_usage(wire.encode_usage(usage)) == usage
    assert wire.decode_problem(wire.encode_problem(problem)) == problem


def test_numbers_of_any_size_are_kept_to_the_digit() -> None:
    numbers = [2**53 + 1, 2**64, -(2**70), 10**400, -0.0, 5e-324, 1e308]
    (part,) = wire.decode_parts(
        wire.encode_parts([ToolCallPart(id="a", name="b", arguments={}, result=numbers, success=True, duration_ms=0)])
    )
    assert isinstance(part, ToolCallPart)
    assert [(type(number), repr(number)) for number in part.result] == [
        (type(number), repr(number)) for number in numbers
    ]


@pytest.mark.parametrize(
    ("event", "name", "data"),
    [
        (Text(delta="é"), "text", {"delta": "é"}),
        (Thinking(delta="x"), "thinking", {"delta": "x"}),
        (
            ToolCalled(id="c", name="t", arguments={"n": 1}),
            "tool_call",
            {"id": "c", "name": "t", "arguments": {"n": 1}},
        ),
        (
            ToolReturned(id="c", name="t", success=True, result=[1], duration_ms=2),
            "tool_result",
            {"id": "c", "name": "t", "success": True, "result": [1], "error": None, "duration_ms": 2},
        ),
        (
            ToolReturned(
                id="c", name="t", success=False, error=Problem(code="tool_failed", message="no"), duration_ms=2
            ),
            "tool_result",
            {
                "id": "c",
                "name": "t",
                "success": False,
                "result": None,
                "error": {"code": "tool_failed", "message": "no"},
                "duration_ms": 2,
            },
        ),
        (
            Failed(code="interrupted", message="gone", message_id="msg_1"),
            "error",
            {"code": "interrupted", "message": "gone", "message_id": "msg_1"},
        ),
    ],
)
def test_events_have_the_names_and_the_data_of_the_contract(event: TurnEvent, name: str, data: dict[str, Any]) -> None:
    written, text = wire.encode_event(event)
    assert (written, json.loads(text)) == (name, data)
    assert "\n" not in text


def test_the_first_and_the_last_event_carry_whole_messages() -> None:
    name, text = wire.encode_event(STARTED)
    assert name == "start"
    assert json.loads(text) == {
        "message_id": "msg_assistant",
        "user_message": {
            "id": "msg_user",
            "conversation_id": "conv_1",
            "role": "user",
            "content": "Hi",
            "parts": [{"type": "text", "text": "Hi"}],
            "status": "complete",
            "model": None,
            "usage": None,
            "error": None,
            "created_at": "2026-03-01T12:00:00.123456Z",
        },
    }
    answer = message(ThinkingPart(text="Hm."), ToolCallPart(id="c", name="t", arguments={}))
    name, text = wire.encode_event(Done(message=answer))
    assert name == "done"
    assert json.loads(text)["message"]["parts"] == [
        {"type": "thinking", "text": "Hm."},
        {
            "type": "tool_call",
            "id": "c",
            "name": "t",
            "arguments": {},
            "result": None,
            "success": None,
            "error": None,
            "duration_ms": None,
        },
    ]


@given(turns())
def test_the_data_of_an_event_is_one_line(events: list[TurnEvent]) -> None:
    for event in events:
        data = wire.encode_event(event)[1]
        assert "\n" not in data
        assert "\r" not in data
