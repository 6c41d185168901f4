"""Messages, usage, and what is fit to store."""

import json
import math
from datetime import date
from enum import Enum, IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.domain.events import json_values, message

from luxx.domain.message import (
    CONTENT_LIMIT,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    Usage,
    clean,
    content_faults,
    text_of,
)


class Colour(str, Enum):  # noqa: UP042 - as it is often written
    RED = "red"


class Size(IntEnum):
    SMALL = 7


# All that Python's own JSON reader may give, and more: any string, any number.
wild = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(st.characters(exclude_categories=[])) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(wild)
def test_whatever_is_cleaned_can_be_written_as_json_in_utf_8_and_stays_clean(value: Any) -> None:
    cleaned = clean(value)
    written = json.dumps(cleaned, allow_nan=False, ensure_ascii=False).encode()
    assert b"\\u0000" not in written
    assert clean(cleaned) == cleaned
    assert json.loads(written) == cleaned


@given(json_values)
def test_what_is_clean_already_is_left_as_it_is(value: Any) -> None:
    assert clean(value) == value


@pytest.mark.parametrize(
    ("value", "cleaned"),
    [
        ("a\0b", "a\ufffdb"),
        ("\ud800", "\ufffd"),
        ("\udfff x \ud8ff", "\ufffd x \ufffd"),
        ("\U0001f600", "\U0001f600"),
        (math.nan, None),
        (math.inf, None),
        (-math.inf, None),
        (-0.0, -0.0),
        (10**400, 10**400),
        (-(2**63) - 1, -(2**63) - 1),
        (True, True),
        ({"\0": {"\ud800": [math.nan]}}, {"\ufffd": {"\ufffd": [None]}}),
        ({1: "x"}, {"1": "x"}),
        ({True: 1, None: 2, 1.5: 3}, {"true": 1, "null": 2, "1.5": 3}),
        ({Colour.RED: 1, Size.SMALL: 2}, {"red": 1, "7": 2}),
        ({date(2026, 1, 31): 1}, {"2026-01-31": 1}),
        (((1,), "\0"), [[1], "\ufffd"]),
    ],
)
def test_cleaning_mends_what_no_storage_takes_and_nothing_else(value: Any, cleaned: Any) -> None:
    assert clean(value) == cleaned
    assert type(clean(value)) is type(cleaned)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_integer_that_nobody_could_read_again_is_refused(sign: int) -> None:
    longest = sign * int("9" * 4200)
    assert json.loads(json.dumps(clean([longest]))) == [longest]
    with pytest.raises(ValueError, match="digits"):
        clean([longest + sign])


@given(st.lists(st.builds(Usage, prompt_tokens=st.integers(), completion_tokens=st.integers())))
def test_usage_is_added_field_by_field(usages: list[Usage]) -> None:
    total = sum(usages, Usage())
    assert total.prompt_tokens == sum(usage.prompt_tokens for usage in usages)
    assert total.completion_tokens == sum(usage.completion_tokens for usage in usages)
    assert total.total_tokens == 0


def test_the_content_is_the_text_of_all_parts_and_nothing_else() -> None:
    parts = (
        TextPart(text="a"),
        ThinkingPart(text="b"),
        ToolCallPart(id="c", name="d", arguments={}, result="e", success=True, duration_ms=1),
        TextPart(text="f"),
    )
    assert text_of(parts) == message(*parts).content == "af"


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("", "too_short"),
        (" ", None),
        ("字" * CONTENT_LIMIT, None),
        ("字" * (CONTENT_LIMIT + 1), "too_long"),
        ("a\0", "nul"),
    ],
)
def test_a_user_sends_1_to_200_000_characters_without_nul(content: str, rule: str | None) -> None:
    assert [(fault.field, fault.rule) for fault in content_faults(content)] == (
        [] if rule is None else [("content", rule)]
    )
