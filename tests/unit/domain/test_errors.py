"""Errors: their tree, their codes, and what they say."""

import ast
import re
from pathlib import Path
from string import Formatter

import pytest

import luxx
from luxx.domain import errors, fields
from luxx.domain.errors import (
    RULES,
    Fault,
    InternalError,
    Interrupted,
    InvalidInput,
    LuxxError,
    ModelRateLimited,
    ModelRejected,
    ModelTimeout,
    ModelUnavailable,
    NotFound,
    Overloaded,
    turn_error,
)
from luxx.entrypoints.http.text import ERRORS, RULES_ZH, Language, fault_text

SOURCE = Path(luxx.__file__).parent

# The contract's list.
CODES = {
    *("invalid_json", "validation_failed", "unauthenticated", "token_expired", "token_revoked", "invalid_credentials"),
    *("account_disabled", "forbidden", "username_taken", "email_taken", "conversation_not_found", "message_not_found"),
    *("tool_not_found", "not_found", "method_not_allowed", "payload_too_large", "uri_too_long"),
    *("unsupported_media_type", "generation_in_progress", "idempotency_conflict", "rate_limited", "tool_failed"),
    *("tool_timeout", "model_unavailable", "model_timeout", "model_rate_limited", "model_rejected", "interrupted"),
    *("overloaded", "internal_error"),
}


def all_errors(root: type[LuxxError] = LuxxError) -> set[type[LuxxError]]:
    return {root}.union(*map(all_errors, root.__subclasses__()))


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    assert errors.__doc__ is not None
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        if match := re.match(r"    ([│ ├└─]*)([A-Z]\w+)", line):
            depth, name = len(match[1]), match[2]
            above = [one for one in above if one[0] < depth]
            if above:
                drawn[name] = above[-1][1]
            above.append((depth, name))
    real = {
        kind.__name__: kind.__base__.__name__
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, LuxxError) and kind is not LuxxError and kind.__base__
    }
    assert drawn == real


def codes_in_source() -> dict[str, set[str]]:
    """Find each literal that is given as an error's code, by file: `code=…`, and `code: str = …` in a class."""
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            value: ast.expr | None = None
            match node:
                case ast.Call(keywords=keywords):
                    for keyword in keywords:
                        if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                            found.setdefault(str(keyword.value.value), set()).add(path.name)
                case ast.Assign(targets=[ast.Name(id="code")], value=value):
                    pass
                case ast.AnnAssign(target=ast.Name(id="code"), value=value):
                    pass
                case _:
                    pass
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found.setdefault(value.value, set()).add(path.name)
    return found


def test_every_code_in_the_source_is_one_of_the_contracts() -> None:
    found = codes_in_source()
    assert len(found) > 20, "the search finds codes"
    assert {code: files for code, files in found.items() if code not in CODES} == {}


def test_every_error_has_a_code_of_the_contract() -> None:
    assert {kind.__name__: kind.code for kind in all_errors() if kind.code not in CODES} == {}


def test_every_code_and_every_rule_has_its_chinese_text() -> None:
    assert set(ERRORS) == CODES
    assert set(RULES_ZH) == set(RULES)
    assert all(re.search("[\u4e00-\u9fff]", text) for text in (*ERRORS.values(), *RULES_ZH.values()))


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_takes_the_same_parameters_in_both_languages(rule: str) -> None:
    names = [{name for _, name, _, _ in Formatter().parse(rules[rule]) if name} for rules in (RULES, RULES_ZH)]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        (fields.BOOLEAN, "x 必须是布尔值"),
        (f"{fields.STRING} or {fields.NULL}", "x 必须是字符串或空值"),
        (f"{fields.BOOLEAN} or {fields.NULL}", "x 必须是布尔值或空值"),
    ],
)
def test_a_wanted_type_is_told_in_chinese(expected: str, told: str) -> None:
    fault = Fault(field="x", rule="type", parameters={"expected": expected})
    assert f"x {fault_text(fault, Language.ZH)}" == told


def test_invalid_input_says_everything_that_is_wrong() -> None:
    error = InvalidInput(
        Fault(field="a.b", rule="too_long", parameters={"limit": 3}),
        Fault(field="", rule="type", parameters={"expected": "an object"}),
    )
    assert str(error) == "a.b must have at most 3 characters; must be an object"
    assert (len(error.faults), error.more) == (2, 0)


def test_invalid_input_tells_the_first_hundred_faults_and_how_many_more_there_are() -> None:
    faults = [Fault(field=f"f{number}", rule="unknown") for number in range(250)]
    error = InvalidInput(*faults, more=1_000)
    assert (error.faults, error.more) == (tuple(faults[:100]), 1_150)
    assert str(error).endswith("; f99 is not a known field; and 1150 more")
    assert str(InvalidInput(*faults[:100])).endswith("; f99 is not a known field")


def test_a_code_of_its_own_does_not_change_the_class() -> None:
    assert NotFound("x", code="tool_not_found").code == "tool_not_found"
    assert NotFound.code == NotFound("x").code == "not_found"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("model_unavailable", ModelUnavailable),
        ("model_timeout", ModelTimeout),
        ("model_rate_limited", ModelRateLimited),
        ("model_rejected", ModelRejected),
        ("interrupted", Interrupted),
        ("internal_error", InternalError),
        ("tool_failed", InternalError),
    ],
)
def test_what_a_turn_ended_with_can_be_raised_again(code: str, kind: type[LuxxError]) -> None:
    error = turn_error(code, "what happened")
    assert (type(error), str(error)) == (kind, "what happened")


@pytest.mark.parametrize(("asked", "told"), [(None, 10), (0.0, 0), (7.5, 7.5), (1e9, 3600), (float("nan"), 3600)])
def test_the_pause_that_a_provider_asked_for_is_told_within_reason(asked: float | None, told: float) -> None:
    error = turn_error("model_rate_limited", "slowly", retry_after=asked)
    assert isinstance(error, ModelRateLimited)
    assert error.retry_after == told


@pytest.mark.parametrize(("code", "kind"), [("overloaded", Overloaded), ("message_not_found", NotFound)])
def test_an_end_that_is_no_fault_of_the_model_keeps_its_kind(code: str, kind: type[LuxxError]) -> None:
    error = turn_error(code, "so it ended")
    assert type(error) is kind
    assert error.code == code
