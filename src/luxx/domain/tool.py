"""Tools: what a model may call, and what a call comes to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from luxx.domain.message import Json

CATEGORIES: Final = ("crawler", "code", "data", "weather")
"""The categories of the built-in tools, in the order in which they are listed."""


def category_order(category: str) -> tuple[int, str]:
    """Give what categories are sorted by: those above first, as they stand, then all others by name."""
    return (CATEGORIES.index(category) if category in CATEGORIES else len(CATEGORIES)), category


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """What is known of a tool without running it. `parameters` is JSON Schema 2020-12 of an object.

    `untrusted` says that strangers write its results: a page, a search. Nothing in them is an instruction.
    """

    name: str
    description: str
    category: str
    parameters: Mapping[str, Json]
    untrusted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that a model asked for; `id` is unique within the turn.

    `arguments` is None where the model's text was no JSON object; `malformed` holds that text then. `seal` is
    what its provider wants back with the call, in this turn, as it was: no part of what is stored.
    """

    id: str
    name: str
    arguments: Mapping[str, Json] | None
    malformed: str = ""
    seal: str = ""
