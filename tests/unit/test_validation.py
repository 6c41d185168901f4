"""Reading JSON values into Structs, with every fault named."""

import math
import tracemalloc
from contextlib import suppress
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Struct, UnsetType

from luxx.adapters.validation import convert
from luxx.domain.errors import Fault, InvalidInput


def not_bob(name: str) -> Fault | None:
    return Fault(field="somebody", rule="common") if name == "bob" else None


class Inner(Struct, forbid_unknown_fields=True):
    x: int


class Outer(Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=2, max_length=4, extra={"fault": not_bob})]
    count: Annotated[int, Meta(ge=1, le=10)] = 1
    ratio: float = 0.5
    flag: bool = False
    mode: Literal["a", "b"] = "a"
    tags: Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=3)] = []
    inner: Inner | None = None
    data: Any = None
    both: str | list[Any] = ""
    later: str | UnsetType | None = UNSET
    nick: Annotated[Annotated[str, Meta(min_length=2)] | None, Meta(extra={"fault": not_bob})] = None
    table: dict[str, int] = {}
    lists: dict[str, list[int]] = {}
    half: Annotated[float, Meta(gt=0, lt=1)] | None = None
    even: Annotated[int, Meta(multiple_of=2)] = 0
    code: Annotated[str, Meta(pattern=r"^[a-z]*$")] = ""


def faults_of(value: object) -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        convert(value, Outer)
    return {fault.field: f"{fault.rule}: {fault}" for fault in caught.value.faults}


def test_a_right_value_becomes_the_struct() -> None:
    assert convert({"name": "ada", "count": 10, "ratio": 1, "inner": {"x": 3}}, Outer) == Outer(
        name="ada", count=10, ratio=1.0, inner=Inner(x=3)
    )


def test_absent_and_null_are_told_apart() -> None:
    assert convert({"name": "ada"}, Outer).later is UNSET
    assert convert({"name": "ada", "later": None}, Outer).later is None


def test_all_faults_are_reported_at_once() -> None:
    found = faults_of({"count": 0, "flag": 1, "mode": "c", "tags": ["", "x"], "inner": {"y": 1}, "nmae": "x"})
    assert found == {
        "name": "required: is required",
        "count": "too_small: must be at least 1",
        "flag": "type: must be true or false",
        "mode": "choice: must be one of: a, b",
        "tags.0": "too_short: must have at least 1 characters",
        "inner.x": "required: is required",
        "inner.y": "unknown: is not a known field",
        "nmae": "unknown: is not a known field",
    }


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("name", 5, "type: must be a string"),
        ("name", None, "type: must be a string"),
        ("name", "a", "too_short: must have at least 2 characters"),
        ("name", "abcde", "too_long: must have at most 4 characters"),
        ("name", "a\0", "nul: must not hold the character U+0000"),
        ("name", "a\ud800", "invalid: is not valid: it holds an unpaired surrogate"),
        ("count", "5", "type: must be an integer"),
        ("count", True, "type: must be an integer"),
        ("count", 1.5, "type: must be an integer"),
        ("count", 11, "too_large: must be at most 10"),
        ("count", 10**400, "too_large: must be at most 10"),
        ("count", 1e300, "type: must be an integer"),
        ("ratio", "0.5", "type: must be a number"),
        ("ratio", False, "type: must be a number"),
        ("ratio", math.nan, "type: must be a finite number"),
        ("ratio", math.inf, "type: must be a finite number"),
        ("ratio", 10**400, "invalid: is not valid: the number is too large"),
        ("flag", "true", "type: must be true or false"),
        ("mode", 1, "choice: must be one of: a, b"),
        ("tags", "x", "type: must be an array"),
        ("tags", ["x"] * 4, "too_many: must have at most 3 items"),
        ("inner", [], "type: must be an object or null"),
        ("both", 1, "type: must be a string or an array"),
        ("both", "\0", "nul: must not hold the character U+0000"),
        ("table", [], "type: must be an object"),
        ("half", 1, "invalid: is not valid: it must be less than 1"),
        ("half", 0, "invalid: is not valid: it must be more than 0"),
        ("even", 3, "invalid: is not valid: it must be a multiple of 2"),
        ("code", "A", "invalid: is not valid: it must match ^[a-z]*$"),
    ],
)
def test_each_rule_is_reported_by_its_name(field: str, value: object, rule: str) -> None:
    assert faults_of({"name": "ada", field: value}) == {field: rule}


def test_an_integral_float_is_an_integer() -> None:
    assert repr(convert({"name": "ada", "count": 5.0}, Outer).count) == "5"


def test_values_of_any_type_are_searched_for_what_json_may_not_hold() -> None:
    found = faults_of({"name": "ada", "data": {"a": [1, {"b": "x\0"}, math.inf], "c\0": 1}})
    assert found == {
        "data.a.1.b": "nul: must not hold the character U+0000",
        "data.a.2": "type: must be a finite number",
        "data.c�": "nul: must not hold the character U+0000",
    }


def test_deep_nesting_is_no_danger() -> None:
    deep: Any = "\0"
    for _ in range(5_000):
        deep = [deep]
    assert len(faults_of({"name": "ada", "data": deep})) == 1


def most_memory(value: object) -> int:
    """Give the most bytes that were held at once while `value` was looked through."""
    tracemalloc.start()
    try:
        with suppress(InvalidInput):
            convert(value, Outer)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "value",
    [
        {"name": "ada", "data": {"k" * 50_000: [0] * 2_000}},
        {"name": "ada", "data": {"k" * 50_000: {str(number): 0 for number in range(2_000)}}},
        {"name": "ada", "lists": {"k" * 50_000: [0] * 2_000}},
        {"name": "ada", "lists": {"k" * 50_000: ["x"] * 2_000}},
        {"name": "ada", "data": {"k" * 50_000: ["\0"] * 2_000}},
        {"name": "ada", "data": [0] * 100_000},
    ],
    ids=["a list", "an object", "a list of a type", "faults", "faults in any value", "a long list"],
)
def test_to_look_through_a_value_takes_no_memory_to_speak_of(value: object) -> None:
    assert most_memory({"name": "ada", "data": 1}) < 1_000_000
    assert most_memory(value) < 1_000_000


def test_a_path_shows_so_much_of_each_key_and_of_all_of_them() -> None:
    (long,) = faults_of({"name": "ada", "data": {"k" * 1_000: {"in": "\0"}}})
    assert long == f"data.{'k' * 200}….in"
    (unknown,) = faults_of({"name": "ada", "k" * 1_000: 1})
    assert unknown == "k" * 200 + "…"
    deep: Any = "\0"
    for _ in range(5_000):
        deep = {"k" * 150: deep}
    (path,) = faults_of({"name": "ada", "data": deep})
    assert path.startswith("data.kkk")
    assert path.endswith("…")
    assert len(path) <= 501


def test_a_path_can_be_written_whatever_the_keys_are() -> None:
    assert set(faults_of({"name": "ada", "\0": 1, "\ud800x": 1, "data": {"a\udfff": "\0"}})) == {"�", "�x", "data.a�"}


@pytest.mark.parametrize(
    "value",
    [
        {"name": "ada"} | {f"unknown{number}": 0 for number in range(1_000)},
        {"name": "ada", "data": ["\0"] * 1_000},
        {"name": "ada", "table": dict.fromkeys(map(str, range(1_000)), "x")},
    ],
    ids=["unknown fields", "values", "items"],
)
def test_of_many_faults_the_first_are_told_and_the_others_counted(value: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        convert(value, Outer)
    assert (len(caught.value.faults), caught.value.more) == (100, 900)
    assert str(caught.value).endswith("; and 900 more")


def test_items_of_a_mapping_are_checked() -> None:
    assert faults_of({"name": "ada", "table": {"a": "x", "b": 1}}) == {"table.a": "type: must be an integer"}


def test_a_rule_of_the_domain_runs_only_on_values_that_keep_the_others() -> None:
    assert faults_of({"name": "bob"}) == {"somebody": "common: is one of the most common passwords; choose another"}
    assert faults_of({"name": "b"}) == {"name": "too_short: must have at least 2 characters"}
    assert convert({"name": "ada", "nick": None}, Outer).nick is None
    assert "somebody" in faults_of({"name": "ada", "nick": "bob"})


@pytest.mark.parametrize("value", [None, 1, "x", [], [{}]])
def test_what_is_no_object_is_one_fault_of_the_whole(value: object) -> None:
    assert faults_of(value) == {"": "type: must be an object"}


def test_what_a_struct_finds_wrong_itself_is_a_fault_too() -> None:
    class Span(Struct, forbid_unknown_fields=True):
        start: int
        end: int

        def __post_init__(self) -> None:
            if self.end < self.start:
                raise ValueError("it ends before it starts")

    with pytest.raises(InvalidInput, match="it ends before it starts"):
        convert({"start": 2, "end": 1}, Span)


def test_a_type_that_json_has_no_form_for_is_a_fault_of_the_programmer() -> None:
    class Odd(Struct):
        x: complex

    with pytest.raises(TypeError, match="x: a field of the type"):
        convert({"x": 1}, Odd)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(list(Outer.__struct_fields__)) | st.text(max_size=3), json_values, max_size=6))
def test_any_json_value_is_either_converted_or_refused(value: dict[str, Any]) -> None:
    with suppress(InvalidInput):
        assert convert(value, Outer).name == value["name"]
