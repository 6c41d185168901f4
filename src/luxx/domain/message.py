"""Messages, and the parts an answer is made of."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, TypeAlias

from luxx.domain.errors import Fault, NotFound
from luxx.domain.fields import text_fault

CONTENT_LIMIT: Final = 200_000
"""Characters in one user message, at most."""

Json: TypeAlias = Any
"""A JSON value: None, bool, int, float, str, list or dict of such."""


_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")


NESTING_LIMIT: Final = 200
"""Levels of lists and objects within each other, at most, in what a model or a tool gave."""


_INTEGER_LIMIT: Final = 10**4200
"""Python neither writes nor reads more than 4 300 digits, where nobody told it to."""


class NestedTooDeeply(ValueError):
    """A value of more than `NESTING_LIMIT` levels: whoever reads it back would run out of stack."""

    def __init__(self) -> None:
        super().__init__(f"nested more than {NESTING_LIMIT} levels deep")


def clean(value: Json, *, level: int = 0) -> Json:
    """Make what a model or a tool gave fit to store and to send: any JSON value in, the same kind out.

    U+0000 and lone surrogates become U+FFFD, numbers that JSON cannot write become null, and those of
    somebody's own types (an enum, numpy's float64) plain ones. Raises `NestedTooDeeply`, ValueError for an integer
    of more than 4 200 digits, and TypeError for what is no JSON value.
    """
    if level > NESTING_LIMIT:
        raise NestedTooDeeply
    match value:
        case str():
            return _UNSTORABLE.sub("\ufffd", value)
        case None | bool():
            return value
        case int():
            if abs(value) >= _INTEGER_LIMIT:
                raise ValueError("an integer of more than 4200 digits cannot be written")
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else None
        case list() | tuple():
            return [clean(item, level=level + 1) for item in value]
        case Mapping():
            return {_key(key): clean(item, level=level + 1) for key, item in value.items()}
        case _:
            raise TypeError(f"a {type(value).__name__} is no JSON value")


def _key(key: object) -> str:
    if isinstance(key, bool | int | float | None):
        key = json.dumps(key)  # true, null: as whoever writes it as JSON has it
    text: str = clean(key if isinstance(key, str) else str(key))
    return text


def no_message(message_id: str) -> NotFound:
    return NotFound(f"There is no message {message_id!r}.", code="message_not_found")


def not_in_conversation(message_id: str) -> NotFound:
    return NotFound(f"There is no message {message_id!r} in this conversation.", code="message_not_found")


class Role(StrEnum):
    USER = "user"
    ASSISTANT = "assistant"


class Status(StrEnum):
    """How far a message has come; all but `STREAMING` are for good."""

    STREAMING = "streaming"
    COMPLETE = "complete"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens, as the provider counts them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            total_tokens=self.total_tokens + other.total_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What went wrong: `code` for programs, `message` for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingPart:
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallPart:
    """A tool call and, once it is there, its outcome: `success` is None until then.

    `later`: it was asked for after outcomes of earlier ones, and so began another round. That is stored for the
    model's sake and told to nobody else: two are the same without it.
    """

    id: str
    name: str
    arguments: Mapping[str, Json]
    result: Json = None
    success: bool | None = None
    error: Problem | None = None
    duration_ms: int | None = None
    later: bool = field(default=False, compare=False)


Part: TypeAlias = TextPart | ThinkingPart | ToolCallPart


def text_of(parts: Sequence[Part]) -> str:
    """All text of the parts, joined; thinking and tool calls are not text."""
    return "".join(part.text for part in parts if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation. `model` is the one that answered; None on a user's message."""

    id: str
    conversation_id: str
    role: Role
    parts: tuple[Part, ...]
    status: Status
    model: str | None = None
    usage: Usage | None = None
    error: Problem | None = None
    created_at: datetime

    @property
    def content(self) -> str:
        return text_of(self.parts)


def empty_answer(message_id: str, conversation_id: str, created_at: datetime) -> Message:
    """Give an answer of which nothing is written yet."""
    return Message(
        id=message_id,
        conversation_id=conversation_id,
        role=Role.ASSISTANT,
        parts=(),
        status=Status.STREAMING,
        created_at=created_at,
    )


def content_faults(content: str) -> tuple[Fault, ...]:
    """Check what a user sends: text of 1 to `CONTENT_LIMIT` characters, no U+0000, no unpaired surrogate."""
    fault = text_fault("content", content, 1, CONTENT_LIMIT)
    return () if fault is None else (fault,)
