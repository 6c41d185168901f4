"""The JSON forms of domain objects, in one place: what HTTP clients get is what the log stores."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from luxx.domain.message import Message, Part, Problem, Role, Status, TextPart, ThinkingPart, ToolCallPart, Usage
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


class LaterCallJson(ToolCallPartJson, frozen=True):
    """A call that began another round, as it is stored."""

    later: bool = False


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
                later=isinstance(json, LaterCallJson) and json.later,
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


class StartData(Struct, frozen=True):
    user_message: MessageJson
    message_id: str


class DeltaData(Struct, frozen=True):
    delta: str


class ToolCallData(Struct, frozen=True):
    id: str
    name: str
    arguments: dict[str, Any]


class ToolResultData(Struct, frozen=True):
    id: str
    name: str
    success: bool
    result: Any
    error: ProblemJson | None
    duration_ms: int


class DoneData(Struct, frozen=True):
    message: MessageJson


class ErrorData(Struct, frozen=True):
    code: str
    message: str
    message_id: str


EventData: TypeAlias = StartData | DeltaData | ToolCallData | ToolResultData | DoneData | ErrorData

EVENTS: Final[Mapping[str, type[EventData]]] = {
    "start": StartData,
    "thinking": DeltaData,
    "text": DeltaData,
    "tool_call": ToolCallData,
    "tool_result": ToolResultData,
    "done": DoneData,
    "error": ErrorData,
}
"""The data of each event of a stream, by the event's name."""


def event_json(event: TurnEvent) -> tuple[str, EventData]:
    """Give an event's name and data."""
    match event:
        case Text(delta=delta):
            return "text", DeltaData(delta)
        case Thinking(delta=delta):
            return "thinking", DeltaData(delta)
        case ToolCalled():
            return "tool_call", ToolCallData(event.id, event.name, dict(event.arguments))
        case ToolReturned():
            return "tool_result", ToolResultData(
                id=event.id,
                name=event.name,
                success=event.success,
                result=event.result,
                error=problem_json(event.error),
                duration_ms=event.duration_ms,
            )
        case Started():
            return "start", StartData(message_json(event.user_message), event.message_id)
        case Done(message=message):
            return "done", DoneData(message_json(message))
        case Failed():
            return "error", ErrorData(event.code, event.message, event.message_id)


def event_of(name: str, data: EventData) -> TurnEvent:
    """Give the event back; `name` tells text from thinking."""
    match data:
        case DeltaData(delta=delta):
            return Text(delta=delta) if name == "text" else Thinking(delta=delta)
        case ToolCallData():
            return ToolCalled(id=data.id, name=data.name, arguments=data.arguments)
        case ToolResultData():
            return ToolReturned(
                id=data.id,
                name=data.name,
                success=data.success,
                result=data.result,
                error=problem_of(data.error),
                duration_ms=data.duration_ms,
            )
        case StartData():
            return Started(user_message=message_of(data.user_message), message_id=data.message_id)
        case DoneData():
            return Done(message=message_of(data.message))
        case ErrorData():
            return Failed(code=data.code, message=data.message, message_id=data.message_id)


_encoder: Final = msgspec.json.Encoder()
_part_decoder: Final = msgspec.json.Decoder(list[TextPartJson | ThinkingPartJson | LaterCallJson])
_usage_decoder: Final = msgspec.json.Decoder(UsageJson)
_problem_decoder: Final = msgspec.json.Decoder(ProblemJson)
EVENT_DECODERS: Final[Mapping[str, msgspec.json.Decoder[Any]]] = {
    name: msgspec.json.Decoder(data) for name, data in EVENTS.items()
}


def encode(value: Any) -> bytes:
    """Encode Structs and plain JSON values, compactly, as UTF-8 (RFC 8259); integers of any size."""
    return _encoder.encode(value)


def encode_parts(parts: Sequence[Part]) -> str:
    return encode([_stored(part) for part in parts]).decode()


def _stored(part: Part) -> PartJson:
    json = part_json(part)
    if isinstance(part, ToolCallPart) and part.later:
        return LaterCallJson(**msgspec.structs.asdict(json), later=True)
    return json


def decode_parts(text: str) -> tuple[Part, ...]:
    return tuple(part_of(part) for part in _part_decoder.decode(text))


def encode_usage(usage: Usage | None) -> str | None:
    return None if usage is None else encode(usage_json(usage)).decode()


def decode_usage(text: str | None) -> Usage | None:
    return None if text is None else usage_of(_usage_decoder.decode(text))


def encode_problem(problem: Problem | None) -> str | None:
    return None if problem is None else encode(problem_json(problem)).decode()


def decode_problem(text: str | None) -> Problem | None:
    return None if text is None else problem_of(_problem_decoder.decode(text))


def encode_event(event: TurnEvent) -> tuple[str, str]:
    """Give an event's name and its data as JSON text."""
    name, data = event_json(event)
    return name, encode(data).decode()


def decode_event(name: str, data: str) -> TurnEvent:
    return event_of(name, EVENT_DECODERS[name].decode(data))
