"""Stored messages told as what a model is shown."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luxx.application.ports import AssistantEntry, SystemEntry, ToolEntry, UserEntry
from luxx.application.transcript import HISTORY_CHARACTERS, STRANGERS_WORDS, transcript, within
from luxx.domain.message import Json, Message, Part, Problem, Role, Status, TextPart, ThinkingPart, ToolCallPart
from luxx.domain.tool import ToolCall


def message(*parts: Part, role: Role = Role.ASSISTANT) -> Message:
    return Message(
        id="msg_1",
        conversation_id="conv_1",
        role=role,
        parts=parts,
        status=Status.COMPLETE,
        created_at=datetime(2026, 3, 1, tzinfo=UTC),
    )


def call(number: int) -> ToolCallPart:
    return ToolCallPart(id=f"c{number}", name="t", arguments={}, result=number, success=True, duration_ms=1)


def asked(*numbers: int) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(id=f"c{number}", name="t", arguments={}) for number in numbers)


def told(number: int) -> ToolEntry:
    return ToolEntry(call_id=f"c{number}", name="t", text=str(number))


@pytest.mark.parametrize("prompt", [None, ""])
def test_without_a_system_prompt_there_is_no_system_entry(prompt: str | None) -> None:
    question = message(TextPart(text="Hi"), role=Role.USER)
    assert transcript(prompt, [question], budget=100) == (UserEntry(text="Hi"),)
    assert transcript("Be brief.", [question], budget=100)[0] == SystemEntry(text="Be brief.")


def test_of_a_conversation_that_no_model_could_read_the_oldest_is_not_told() -> None:
    def said(letter: str, times: int) -> Message:
        return message(TextPart(text=letter * times), role=Role.USER)

    half = HISTORY_CHARACTERS // 2
    entries = transcript("Be brief.", [said("a", 2), said("b", half), said("c", half - 1), said("d", 1)], budget=100)
    assert [entry.text[0] for entry in entries] == ["B", "b", "c", "d"]
    alone = transcript(None, [said("a", 1), said("b", HISTORY_CHARACTERS + 1), said("c", half * 3)], budget=100)
    assert [entry.text[0] for entry in alone] == ["c"]


def test_an_answer_without_anything_to_tell_is_left_out() -> None:
    assert transcript(None, [message(), message(ThinkingPart(text="Hm."))], budget=100) == ()


def test_text_tells_where_the_next_round_began() -> None:
    parts = (TextPart(text="a"), call(1), call(2), ThinkingPart(text="Hm."), TextPart(text="b"), call(3))
    assert transcript(None, [message(*parts)], budget=100) == (
        AssistantEntry(text="a", calls=asked(1, 2)),
        told(1),
        told(2),
        AssistantEntry(text="b", calls=asked(3)),
        told(3),
    )


def test_a_call_that_came_later_began_a_round_without_a_word() -> None:
    parts = (TextPart(text="a"), call(1), call(2), ThinkingPart(text="Hm."), replace(call(3), later=True), call(4))
    assert transcript(None, [message(*parts)], budget=100) == (
        AssistantEntry(text="a", calls=asked(1, 2)),
        told(1),
        told(2),
        AssistantEntry(calls=asked(3, 4)),
        told(3),
        told(4),
    )


def test_text_around_thinking_is_one_entry() -> None:
    parts = (TextPart(text="a"), ThinkingPart(text="Hm."), TextPart(text="b"))
    assert transcript(None, [message(*parts)], budget=100) == (AssistantEntry(text="ab"),)


PARTS: list[Part] = [TextPart(text="a"), ThinkingPart(text="b"), call(0), replace(call(0), later=True)]


@given(st.lists(st.sampled_from(PARTS), max_size=12))
def test_every_result_follows_the_entry_that_called_it(parts: list[Part]) -> None:
    numbered = [
        replace(part, id=str(place)) if isinstance(part, ToolCallPart) else part for place, part in enumerate(parts)
    ]
    open_calls: list[str] = []
    text = ""
    for entry in transcript(None, [message(*numbered)], budget=100):
        if isinstance(entry, ToolEntry):
            assert entry.call_id == open_calls.pop(0)
        else:
            assert isinstance(entry, AssistantEntry)
            assert not open_calls, "calls without results are refused by providers"
            open_calls = [one.id for one in entry.calls]
            text += entry.text
    assert not open_calls
    assert text == message(*numbered).content


@given(st.text(), st.integers(min_value=0, max_value=40))
def test_a_text_is_cut_only_where_it_is_too_long_and_says_so(text: str, budget: int) -> None:
    cut = within(text, budget)
    if len(text) <= budget:
        assert cut == text
    else:
        assert cut == f"{text[:budget]}\n[cut: {len(text) - budget} of {len(text)} characters left out]"


BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ({"content": f"a{BREAKS}b", f"c{BREAKS}d": [BREAKS]}, None),
        (None, Problem(code="tool_failed", message=f"a{BREAKS}b")),
    ],
)
def test_nothing_ends_the_line_of_what_strangers_wrote(result: Json, error: Problem | None) -> None:
    part = ToolCallPart(id="c1", name="t", arguments={}, result=result, error=error, success=error is None)
    entry = transcript(None, [message(part)], budget=10_000, untrusted=frozenset({"t"}))[-1]
    assert isinstance(entry, ToolEntry)
    mark, line = entry.text.splitlines()
    assert f"{mark}\n" == STRANGERS_WORDS
    told = {"error": {"code": error.code, "message": error.message}} if error else result
    assert json.loads(line) == told
