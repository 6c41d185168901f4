"""What fields of every kind keep to: their type, their length, and text that can be stored and sent."""

import re
from typing import Final

from luxx.domain.errors import Fault

_UNSEEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Line breaks, and what else commands a terminal."""

_BREAKS: Final = re.compile("[\x85\u2028\u2029]")
"""What Unicode calls a line break, and JSON leaves as it is."""

# What the parameter `expected` of a `type` fault is made of; several are joined by " or ".
STRING: Final = "a string"
INTEGER: Final = "an integer"
NUMBER: Final = "a number"
FINITE: Final = "a finite number"
BOOLEAN: Final = "true or false"
NULL: Final = "null"
ARRAY: Final = "an array"
OBJECT: Final = "an object"


def type_fault(field: str, *expected: str) -> Fault:
    """Say what would have been right, in the words above."""
    return Fault(field=field, rule="type", parameters={"expected": " or ".join(expected)})


def unstorable(text: str, field: str) -> Fault | None:
    """Check for what no storage and no UTF-8 holds: U+0000 and unpaired surrogates."""
    if "\0" in text:
        return Fault(field=field, rule="nul")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return Fault(field=field, rule="invalid", parameters={"reason": "it holds an unpaired surrogate"})
    return None


def visible(text: str) -> str:
    """Escape what makes a line or commands a terminal."""
    return _UNSEEN.sub(lambda one: one[0].encode("unicode_escape").decode(), text)


def on_one_line(json: str) -> str:
    """Escape in JSON text what readers may take for the end of a line, besides what JSON itself escapes."""
    return _BREAKS.sub(lambda one: f"\\u{ord(one[0]):04x}", json)


def string_fault(field: str, value: object) -> Fault | None:
    return None if isinstance(value, str) else type_fault(field, STRING)


def text_fault(field: str, text: object, least: int, most: int) -> Fault | None:
    """Check a text of `least` to `most` characters."""
    if not isinstance(text, str):
        return type_fault(field, STRING)
    if len(text) < least:
        return Fault(field=field, rule="too_short", parameters={"limit": least})
    if len(text) > most:
        return Fault(field=field, rule="too_long", parameters={"limit": most})
    return unstorable(text, field)


def number_fault(field: str, number: object, least: float, most: float, *, whole: bool = False) -> Fault | None:
    """Check a number from `least` to `most`; true and false are none."""
    if isinstance(number, bool) or not isinstance(number, int if whole else int | float):
        return type_fault(field, INTEGER if whole else NUMBER)
    # Not `number < least`: that would let a NaN pass.
    if not number >= least:
        return Fault(field=field, rule="too_small", parameters={"limit": least})
    if not number <= most:
        return Fault(field=field, rule="too_large", parameters={"limit": most})
    return None


def boolean_fault(field: str, value: object) -> Fault | None:
    return None if isinstance(value, bool) else type_fault(field, BOOLEAN)
