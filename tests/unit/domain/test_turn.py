"""The fold of a turn's events, and which may follow which."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.domain.events import STARTED, ends, step_sequences, turns

from luxx.domain.message import Part, TextPart, ThinkingPart, ToolCallPart, text_of
from luxx.domain.turn import (
    MERGED_LIMIT,
    Answer,
    Done,
    Failed,
    ImpossibleStep,
    Text,
    Thinking,
    ToolCalled,
    ToolReturned,
    TurnEvent,
    fold,
    merged,
)

CALL = ToolCalled(id="c", name="t", arguments={"n": 1})
RESULT = ToolReturned(id="c", name="t", success=True, result=2, duration_ms=3)


def naive(events: list[TurnEvent]) -> tuple[Part, ...]:
    """Fold as a client would who joins by himself: append to the last part, or begin a new one."""
    parts: list[dict[str, object]] = []
    for event in events:
        match event:
            case Text(delta=delta) | Thinking(delta=delta) if delta:
                kind = "text" if isinstance(event, Text) else "thinking"
                if not parts or parts[-1]["type"] != kind:
                    parts.append({"type": kind, "text": ""})
                parts[-1]["text"] = f"{parts[-1]['text']}{delta}"
            case ToolCalled():
                parts.append({"type": "tool_call", "id": event.id, "name": event.name, "arguments": event.arguments})
            case ToolReturned():
                (call,) = (part for part in parts if part.get("id") == event.id)
                call |= {
                    "result": event.result,
                    "success": event.success,
                    "error": event.error,
                    "duration_ms": event.duration_ms,
                }
            case _:
                pass
    made = {"text": TextPart, "thinking": ThinkingPart, "tool_call": ToolCallPart}
    return tuple(made[str(part.pop("type"))](**part) for part in parts)


@given(turns())
def test_the_fold_is_what_a_client_joins_by_itself(events: list[TurnEvent]) -> None:
    answer = fold(events)
    assert answer.parts == naive(events)
    assert answer.end == (events[-1] if isinstance(events[-1], Done | Failed) else None)
    assert text_of(answer.parts) == "".join(event.delta for event in events if isinstance(event, Text))


@given(turns())
def test_merging_deltas_changes_no_fold_and_leaves_no_neighbours_of_a_kind(events: list[TurnEvent]) -> None:
    joined = merged(events)
    assert fold(joined).parts == fold(events).parts
    assert merged(joined) == joined
    for one, next_one in pairwise(joined):
        assert not (isinstance(one, Text | Thinking) and type(one) is type(next_one))
    others = [event for event in events if not isinstance(event, Text | Thinking)]
    assert [event for event in joined if not isinstance(event, Text | Thinking)] == others


def test_a_delta_that_has_grown_long_takes_in_no_more() -> None:
    lengths = [MERGED_LIMIT - 1, 1, 1, MERGED_LIMIT, 1]
    joined = merged(Text(delta="x" * length) for length in lengths)
    assert [len(event.delta) for event in joined if isinstance(event, Text)] == [MERGED_LIMIT, MERGED_LIMIT + 1, 1]


@given(turns(), st.data())
def test_merging_in_any_batches_changes_no_fold(events: list[TurnEvent], data: st.DataObject) -> None:
    places = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=5)))
    batches = [events[start:end] for start, end in zip([0, *places], [*places, len(events)], strict=True)]
    assert fold(event for batch in batches for event in merged(batch)).parts == fold(events).parts


@given(turns(), st.data())
def test_splitting_deltas_anywhere_changes_no_fold(events: list[TurnEvent], data: st.DataObject) -> None:
    split: list[TurnEvent] = []
    for event in events:
        if isinstance(event, Text | Thinking):
            place = data.draw(st.integers(0, len(event.delta)))
            split += [type(event)(delta=event.delta[:place]), type(event)(delta=event.delta[place:])]
        else:
            split.append(event)
    assert fold(split).parts == fold(events).parts


@given(turns())
def test_looking_at_the_parts_along_the_way_changes_nothing(events: list[TurnEvent]) -> None:
    answer = Answer()
    for place, event in enumerate(events, start=1):
        answer.add(event)
        assert answer.parts == fold(events[:place]).parts
        assert answer.parts == answer.parts


def unchanged(answer: Answer, event: TurnEvent, match: str) -> None:
    before = (answer.parts, answer.end)
    with pytest.raises(ImpossibleStep, match=match):
        answer.add(event)
    assert (answer.parts, answer.end) == before


@given(step_sequences(), ends, st.sampled_from([STARTED, Text(delta="x"), Thinking(delta="x"), CALL, RESULT]))
def test_nothing_follows_the_end(steps: list[TurnEvent], end: TurnEvent, event: TurnEvent) -> None:
    answer = fold([STARTED, *steps, end])
    unchanged(answer, event, f"{type(event).__name__} after the end")
    unchanged(answer, end, "after the end")


@given(step_sequences())
def test_a_result_needs_an_open_call(steps: list[TurnEvent]) -> None:
    answer = fold(steps)
    unchanged(answer, RESULT, "no open call: 'c'")
    for call in [part for part in answer.parts if isinstance(part, ToolCallPart) and part.success is not None]:
        again = ToolReturned(id=call.id, name="t", success=False, duration_ms=0)
        unchanged(answer, again, "no open call")


@given(step_sequences())
def test_no_two_calls_have_one_id(steps: list[TurnEvent]) -> None:
    answer = fold([*steps, CALL])
    unchanged(answer, CALL, "second tool call with the id 'c'")
    answer.add(RESULT)
    unchanged(answer, CALL, "second tool call with the id 'c'")


@pytest.mark.parametrize("step", [Text(delta="x"), CALL])
def test_a_start_comes_before_the_first_step(step: TurnEvent) -> None:
    unchanged(fold([STARTED, step]), STARTED, "start after the first step")
    assert fold([STARTED, Text(delta=""), STARTED]).parts == ()


def test_a_result_closes_its_own_call_and_leaves_the_order() -> None:
    other = ToolCalled(id="d", name="t", arguments={})
    answer = fold([CALL, other, Text(delta="x"), RESULT])
    assert answer.parts == (
        ToolCallPart(id="c", name="t", arguments={"n": 1}, result=2, success=True, duration_ms=3),
        ToolCallPart(id="d", name="t", arguments={}),
        TextPart(text="x"),
    )


def test_a_call_after_an_outcome_is_of_a_later_round() -> None:
    """All calls of a round are told before the first outcome: nothing else says where the next one began."""
    steps = [step for name in "abcde" for step in (replace(CALL, id=name), replace(RESULT, id=name))]
    a, a_back, b, b_back, c, c_back, d, d_back, e, _ = steps
    parts = fold([a, b, b_back, a_back, c, d, c_back, d_back, Text(delta="x"), e]).parts
    assert [(part.id, part.later) for part in parts if isinstance(part, ToolCallPart)] == [
        ("a", False),
        ("b", False),
        ("c", True),
        ("d", False),
        ("e", True),
    ]
