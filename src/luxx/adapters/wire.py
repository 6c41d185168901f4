"""The JSON forms of domain objects, in one place: what HTTP clients get is what the log stores."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType

from luxx.domain.message import Json, Message, Part, Problem, Role, Status, TextPart, ThinkingPart, ToolCallPart, Usage
from luxx.domain.turn import (
    Done,
    Failed,
    Started,
    Text,
    Thinking,
    ToolCalled,
    ToolReturned,
    TurnEvent,
)


class ProblemJson(Struct, frozen=True):
    code: str
    message: str


class UsageJson(Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TextPartJson(Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class ThinkingPartJson(Struct, frozen=True, tag_field="type", tag="thinking"):
    text: str


class ToolCallPartJson(Struct, frozen=True, tag_field="type", tag="tool_call"):
    """`success` is null until the outcome is there."""

    id: str
    name: str
    arguments: dict[str, Any]
    result: Any
    success: bool | None
    error: ProblemJson | None
    duration_ms: int | None


PartJson: TypeAlias = TextPartJson | ThinkingPartJson | ToolCallPartJson


class MessageJson(Struct, frozen=True):
    id: str
    conversation_id: str
    role: Literal["user", "assistant"]
    content: str
    parts: list[PartJson]
    status: Literal["complete", "streaming", "cancelled", "interrupted", "failed"]
    model: str | None
    usage: UsageJson | None
    error: ProblemJson | None
    created_at: datetime


def problem_json(problem: Problem | None) -> ProblemJson | None:
    return None if problem is None else ProblemJson(problem.code, problem.message)


def problem_of(json: ProblemJson | None) -> Problem | None:
    return None if json is None else Problem(code=json.code, message=json.message)


def part_json(part: Part) -> PartJson:
    match part:
        case TextPart(text=text):
            return TextPartJson(text)
        case ThinkingPart(text=text):
            return ThinkingPartJson(text)
        case ToolCallPart():
            return ToolCallPartJson(
                id=part.id,
                name=part.name,
                arguments=dict(part.arguments),
                result=part.result,
                success=part.success,
                error=problem_json(part.error),
                duration_ms=part.duration_ms,
            )


def part_of(json: PartJson) -> Part:
    match json:
        case TextPartJson(text=text):
            return TextPart(text=text)
        case ThinkingPartJson(text=text):
            return ThinkingPart(text=text)
        case ToolCallPartJson():
            return ToolCallPart(
                id=json.id,
                name=json.name,
                arguments=json.arguments,
                result=json.result,
                success=json.success,
                error=problem_of(json.error),
                duration_ms=json.duration_ms,
            )


def usage_json(usage: Usage | None) -> UsageJson | None:
    return None if usage is None else UsageJson(usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)


def usage_of(json: UsageJson | None) -> Usage | None:
    if json is None:
        return None
    return Usage(
        prompt_tokens=json.prompt_tokens, completion_tokens=json.completion_tokens, total_tokens=json.total_tokens
    )


def message_json(message: Message) -> MessageJson:
    return MessageJson(
        id=message.id,
        conversation_id=message.conversation_id,
        role=message.role.value,
        content=message.content,
        parts=[part_json(part) for part in message.parts],
        status=message.status.value,
        model=message.model,
        usage=usage_json(message.usage),
        error=problem_json(message.error),
        created_at=message.created_at,
    )


def message_of(json: MessageJson) -> Message:
    return Message(
        id=json.id,
        conversation_id=json.conversation_id,
        role=Role(json.role),
        parts=tuple(part_of(part) for part in json.parts),
        status=Status(json.status),
        model=json.model,
        usage=usage_of(json.usage),
        error=problem_of(json.error),
        created_at=json.created_at,
    )
