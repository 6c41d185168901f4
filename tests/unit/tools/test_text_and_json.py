"""`analyze_text` and `transform_json`."""

import time
from typing import Any

import pytest

from luxx.adapters.tools.jobs.reshape import transform_json
from luxx.adapters.tools.jobs.text import analyze_text
from luxx.domain.errors import ToolRefused


@pytest.mark.parametrize(
    ("text", "words", "sentences", "lines"),
    [
        ("", 0, 0, 0),
        ("Hello, world!", 2, 1, 1),
        ("It's 3.14 o'clock. Dr. Smith said “Hi.” Really?", 8, 4 - 1, 1),
        ("one\ntwo\n", 2, 1, 2),
        ("one\r\n\r\ntwo", 2, 2, 3),
        ("今天天气很好。我们去公园！", 11, 2, 1),
        ("私はAdaです", 5, 1, 1),
        ("한국어 단어", 2, 1, 1),
        ("état naïve well-known e.g. this", 5, 1, 1),
        ("... --- !!!", 0, 0, 1),
    ],
)
def test_words_sentences_and_lines_of_any_script_are_counted(text: str, words: int, sentences: int, lines: int) -> None:
    counted = analyze_text(text)
    assert (counted["words"], counted["sentences"], counted["lines"]) == (words, sentences, lines)


def test_characters_are_code_points() -> None:
    counted = analyze_text("a é\u3000🦉\n")
    assert (counted["characters"], counted["characters_without_spaces"]) == (6, 3)


def test_frequent_words_ignore_case_and_find_pairs_of_ideographs() -> None:
    frequent = analyze_text("The cat and the dog. 北京和北京 THE")["frequent_words"]
    assert frequent[0] == {"word": "the", "count": 3}
    assert {"word": "北京", "count": 2} in frequent
    assert "京和" not in {entry["word"] for entry in frequent}


def test_matches_are_told_with_their_places_in_characters() -> None:
    found = analyze_text("北京: ada@x.org, bob@y.org", r"(\w+)@(?P<host>[\w.]+)")["matches"]
    assert found == {
        "count": 2,
        "truncated": False,
        "items": [
            {"text": "ada@x.org", "start": 4, "end": 13, "groups": ["ada", "x.org"]},
            {"text": "bob@y.org", "start": 15, "end": 24, "groups": ["bob", "y.org"]},
        ],
    }


def test_empty_matches_are_counted_once_a_place() -> None:
    assert analyze_text("北京", "x*")["matches"]["count"] == 3


def test_many_matches_are_counted_and_some_shown() -> None:
    found = analyze_text("a" * 1000, "a")["matches"]
    assert (found["count"], len(found["items"]), found["truncated"]) == (1000, 100, True)


@pytest.mark.parametrize(
    "pattern", ["(x+x+)+y", "(a|aa)+$", "(.*)*z", "([a-zA-Z]+)*1", "(a?){50}a{50}", "^(([a-z])+.)+[A-Z]"]
)
def test_no_pattern_explodes(pattern: str) -> None:
    started = time.process_time()
    analyze_text("x" * 20_000 + "a" * 20_000, pattern)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "pattern", ["(", "(?=x)", r"(a)\1", "[z-a]", "x{99999}", "*", "(?<=x)y", "((a{1000}){1000}){1000}"]
)
def test_what_is_no_pattern_is_refused_in_words(pattern: str) -> None:
    with pytest.raises(ToolRefused, match="no regular expression that RE2 knows"):
        analyze_text("x", pattern)


PEOPLE = {"people": [{"name": "Ada", "age": 36}, {"name": "Bob", "age": 20}]}


@pytest.mark.parametrize(
    ("data", "expression", "result"),
    [
        (PEOPLE, "people[?age > `30`].name", ["Ada"]),
        (PEOPLE, "sum(people[].age)", 56),
        (PEOPLE, "people[].{n: name}", [{"n": "Ada"}, {"n": "Bob"}]),
        (PEOPLE, "nothing.here", None),
        ('{"a": [1, 2]}', "a[-1]", 2),
        ("plain text", "length(@)", 10),
        ([3, 1, 2], "sort(@)", [1, 2, 3]),
    ],
)
def test_json_is_reshaped(data: Any, expression: str, result: Any) -> None:
    assert transform_json(data, expression) == result


@pytest.mark.parametrize(
    ("data", "expression", "reason"),
    [
        ({}, "a[", "Incomplete expression"),
        ({}, "nope(@)", "Unknown function"),
        ([1], "abs('x')", "invalid type"),
        ("[1", "@", "starts like a JSON"),
        ([1], "@" + "|[@,@]" * 30, "more than 500000 values"),
        (["x" * 1000], "@" + "|[@,@]" * 12, "longer than"),
        ({}, "to_number('1e999')", "no form"),
        ({}, "&a", "is an expression"),
        ({}, "[{x: &a}]", "is an expression"),
    ],
)
def test_what_cannot_be_reshaped_is_explained(data: Any, expression: str, reason: str) -> None:
    with pytest.raises(ToolRefused, match=reason):
        transform_json(data, expression)
