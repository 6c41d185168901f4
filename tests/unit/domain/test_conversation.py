"""The rules of a conversation's fields."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luxx.domain.conversation import TOOLS_LIMIT, Conversation

NOW = datetime(2026, 3, 1, tzinfo=UTC)
GOOD = Conversation(
    id="conv_1",
    user_id=1,
    project_id=None,
    title="t",
    model="glm-5",
    system_prompt=None,
    temperature=1.0,
    max_tokens=65_536,
    thinking_enabled=False,
    created_at=NOW,
    updated_at=NOW,
)


def rules(**changes: Any) -> list[tuple[str, str]]:
    return [(fault.field, fault.rule) for fault in replace(GOOD, **changes).faults()]


@pytest.mark.parametrize(("field", "longest"), [("title", 255), ("model", 255), ("project_id", 64)])
def test_texts_have_at_least_one_character_and_no_more_than_their_limit(field: str, longest: int) -> None:
    assert rules(**{field: ""}) == [(field, "too_short")]
    assert rules(**{field: "字"}) == []
    assert rules(**{field: "字" * longest}) == []
    assert rules(**{field: "字" * (longest + 1)}) == [(field, "too_long")]


def test_a_system_prompt_may_be_empty_and_long() -> None:
    assert rules(system_prompt="") == []
    assert rules(system_prompt="x" * 65_536) == []
    assert rules(system_prompt="x" * 65_537) == [("system_prompt", "too_long")]


@pytest.mark.parametrize("field", ["title", "model", "project_id", "system_prompt"])
def test_no_text_holds_nul(field: str) -> None:
    assert rules(**{field: "a\0"}) == [(field, "nul")]


@pytest.mark.parametrize(
    ("temperature", "rule"),
    [
        (0, None),
        (-0.0, None),
        (2, None),
        (-5e-324, "too_small"),
        (math.nextafter(2, 3), "too_large"),
        (math.inf, "too_large"),
        (-math.inf, "too_small"),
        (math.nan, "too_small"),
    ],
)
def test_a_temperature_is_0_to_2_and_a_number(temperature: float, rule: str | None) -> None:
    assert rules(temperature=temperature) == ([] if rule is None else [("temperature", rule)])


@pytest.mark.parametrize(
    ("tokens", "rule"), [(0, "too_small"), (1, None), (2**31 - 1, None), (2**31, "too_large"), (-1, "too_small")]
)
def test_the_tokens_are_at_least_one_and_fit_a_database(tokens: int, rule: str | None) -> None:
    assert rules(max_tokens=tokens) == ([] if rule is None else [("max_tokens", rule)])


def test_a_conversation_names_so_many_tools_and_no_more() -> None:
    assert rules(tools=()) == []
    assert rules(tools=("t",) * TOOLS_LIMIT) == []
    assert rules(tools=("t",) * (TOOLS_LIMIT + 1)) == [("tools", "too_many")]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("title", None, "title must be a string"),
        ("model", 5, "model must be a string"),
        ("project_id", 5, "project_id must be a string"),
        ("system_prompt", b"x", "system_prompt must be a string"),
        ("temperature", "hot", "temperature must be a number"),
        ("temperature", True, "temperature must be a number"),
        ("max_tokens", 1.5, "max_tokens must be an integer"),
        ("thinking_enabled", None, "thinking_enabled must be true or false"),
        ("tools", "calculate", "tools must be an array or null"),
        ("tools", ("calculate", 5), "tools.1 must be a string"),
        ("tools", ("",), "tools.0 must have at least 1 characters"),
        ("title", "\ud800", "title is not valid: it holds an unpaired surrogate"),
    ],
)
def test_what_is_of_another_type_is_a_fault_and_no_crash(field: str, value: Any, said: str) -> None:
    assert [f"{fault.field} {fault}" for fault in replace(GOOD, **{field: value}).faults()] == [said]


def test_every_fault_is_told_at_once_and_in_words() -> None:
    bad = replace(GOOD, title="", project_id="x" * 65, temperature=3.0, max_tokens=0)
    assert [f"{fault.field} {fault}" for fault in bad.faults()] == [
        "title must have at least 1 characters",
        "project_id must have at most 64 characters",
        "temperature must be at most 2.0",
        "max_tokens must be at least 1",
    ]


@given(st.floats(min_value=0, max_value=2), st.integers(1, 2**31 - 1), st.text(min_size=1, max_size=255))
def test_what_is_within_the_limits_has_no_fault(temperature: float, tokens: int, title: str) -> None:
    assert rules(temperature=temperature, max_tokens=tokens, title=title.replace("\0", "x")) == []
