"""Strategies for the events of turns."""

from datetime import UTC, datetime
from typing import Any, Final

from hypothesis import strategies as st

from luxx.domain.message import Message, Problem, Role, Status, TextPart
from luxx.domain.turn import Done, Failed, Started, Step, Text, Thinking, ToolCalled, ToolReturned, TurnEvent

NOW: Final = datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=UTC)


def message(*parts: Any, role: Role = Role.ASSISTANT, status: Status = Status.COMPLETE) -> Message:
    return Message(id=f"msg_{role}", conversation_id="conv_1", role=role, parts=parts, status=status, created_at=NOW)


STARTED: Final = Started(user_message=message(TextPart(text="Hi"), role=Role.USER), message_id="msg_assistant")

# What can be stored: any text without U+0000 and surrogates.
stored_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | stored_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(stored_text, inner, max_size=3),
    max_leaves=6,
)
problems = st.builds(Problem, code=st.sampled_from(["tool_failed", "tool_timeout"]), message=stored_text)
texts = st.builds(Text, delta=stored_text)
thoughts = st.builds(Thinking, delta=stored_text)


@st.composite
def step_sequences(draw: st.DrawFn, *, names: int = 4) -> list[Step]:
    """Draw steps in a possible order: calls have ids of their own, results come once and after their call."""
    steps: list[Step] = []
    waiting: list[str] = []
    called = 0
    for kind in draw(st.lists(st.sampled_from(["text", "thinking", "call", "result"]), max_size=16)):
        match kind:
            case "text":
                steps.append(draw(texts))
            case "thinking":
                steps.append(draw(thoughts))
            case "call" if called < names:
                called += 1
                waiting.append(f"call_{called}")
                arguments = draw(st.dictionaries(stored_text, json_values, max_size=2))
                steps.append(ToolCalled(id=waiting[-1], name="t", arguments=arguments))
            case "result" if waiting:
                identity = waiting.pop(draw(st.integers(0, len(waiting) - 1)))
                problem = draw(st.none() | problems)
                steps.append(
                    ToolReturned(
                        id=identity,
                        name="t",
                        success=problem is None,
                        result=draw(json_values) if problem is None else None,
                        error=problem,
                        duration_ms=draw(st.integers(0, 10_000)),
                    )
                )
            case _:
                pass
    return steps


ends = st.just(Done(message=message())) | st.builds(
    Failed, code=st.just("interrupted"), message=stored_text, message_id=st.just("msg_assistant")
)


@st.composite
def turns(draw: st.DrawFn) -> list[TurnEvent]:
    """Draw a turn from its start on, ended or not."""
    end = draw(st.lists(ends, max_size=1))
    return [STARTED, *draw(step_sequences()), *end]
