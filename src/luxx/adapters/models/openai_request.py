"""What OpenAI's chat completions are asked: one request, in the wording that its provider takes."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from enum import StrEnum
from itertools import count
from typing import Any, Final

import msgspec

from luxx.adapters.models.openai_wire import Seal, mended
from luxx.adapters.models.openai_wording import USUAL, Wording
from luxx.application.ports import (
    AssistantEntry,
    Entry,
    ModelRequest,
    SystemEntry,
    ToolEntry,
    UserEntry,
)
from luxx.domain.tool import ToolCall, ToolSpec

_NO_NAME: Final = re.compile("[^a-zA-Z0-9_-]")
_NAME_LIMIT: Final = 64
_BOUNDS: Final = frozenset(
    {
        "$schema",
        "additionalProperties",
        "default",
        "examples",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "maxItems",
        "maxLength",
        "maximum",
        "minItems",
        "minLength",
        "minimum",
        "multipleOf",
        "pattern",
        "uniqueItems",
    }
)
"""What in a JSON Schema says how much of something there may be, or hints at it."""
_seals: Final = msgspec.json.Decoder(Seal)


class ThinkingStyle(StrEnum):
    """How a provider is asked to think.

    `GLM`: `thinking: {"type": "enabled" | "disabled"}`, and earlier thinking of the turn is sent back.
    `ENABLE_THINKING`: `enable_thinking: true | false`. `REASONING_EFFORT`: `reasoning_effort: "medium"`,
    left out where thinking is off. `NONE`: the provider is not told.
    """

    GLM = "glm"
    ENABLE_THINKING = "enable_thinking"
    REASONING_EFFORT = "reasoning_effort"
    NONE = "none"


def request_body(request: ModelRequest, style: ThinkingStyle, wording: Wording = USUAL) -> bytes:
    """Give the JSON body that asks for a streamed answer."""
    offered = frozenset(tool.name for tool in request.tools)
    entries = _worded(request.entries, wording)
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [_message(entry, style, wording, offered) for entry in entries],
        "stream": True,
        "max_completion_tokens" if wording.completion_tokens else "max_tokens": request.max_tokens,
    }
    if wording.temperature and (wording.temperature_thinking or not request.thinking_enabled):
        body["temperature"] = request.temperature
    if wording.usage:
        body["stream_options"] = {"include_usage": True}
    tools = request.tools or (tuple(_past_tools(entries)) if wording.declared else ())
    if tools and wording.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": dict(tool.parameters) if wording.bounds else _unbounded(tool.parameters),
                },
            }
            for tool in tools
        ]
        if not request.tools and wording.choice:
            body["tool_choice"] = "none"
    match style:
        case ThinkingStyle.GLM if request.thinking_enabled or wording.unthinking:
            body["thinking"] = {"type": "enabled" if request.thinking_enabled else "disabled"}
        case ThinkingStyle.ENABLE_THINKING if request.thinking_enabled or wording.unthinking:
            body["enable_thinking"] = request.thinking_enabled
        case ThinkingStyle.REASONING_EFFORT if request.thinking_enabled:
            body["reasoning_effort"] = "medium"
        case _:
            pass
    return msgspec.json.encode(body)


def _unbounded(schema: Any) -> Any:
    """Give a JSON Schema without what not every reader of one knows, or can keep to."""
    if not isinstance(schema, Mapping):
        return schema
    told: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _BOUNDS:
            continue
        if key in {"properties", "$defs"} and isinstance(value, Mapping):
            told[key] = {name: _unbounded(inner) for name, inner in value.items()}
        elif key in {"anyOf", "oneOf", "allOf"}:
            told[key] = [_unbounded(inner) for inner in value]
        else:
            told[key] = _unbounded(value)
    return told


def _worded(entries: tuple[Entry, ...], wording: Wording) -> tuple[Entry, ...]:
    if not wording.system:
        entries = tuple(UserEntry(text=one.text) if isinstance(one, SystemEntry) else one for one in entries)
    if not wording.blanks:
        entries = tuple(one for one in entries if not isinstance(one, AssistantEntry) or one.calls or one.text.strip())
    if wording.plain_ids:
        entries = tuple(_with_plain_ids(entries))
    if wording.one_call:
        entries = tuple(_one_by_one(entries))
    if wording.in_turns:
        entries = tuple(_in_turns(entries))
    return entries


def _with_plain_ids(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Number the calls: Mistral's ids have nine letters or digits, neither more nor less, and no other signs."""
    numbers = count(1)
    ids: dict[str, str] = {}
    for entry in entries:
        match entry:
            case AssistantEntry(calls=calls):
                ids.update((call.id, f"{next(numbers):09}") for call in calls)
                yield replace(entry, calls=tuple(replace(call, id=ids[call.id]) for call in calls))
            case ToolEntry(call_id=call_id):
                yield replace(entry, call_id=ids.get(call_id, call_id))
            case _:
                yield entry


def _past_tools(entries: Iterable[Entry]) -> Iterator[ToolSpec]:
    """Give what was called as tools of which nothing but the name is known any more."""
    called = (call.name for entry in entries if isinstance(entry, AssistantEntry) for call in entry.calls)
    for name in dict.fromkeys(_name(one, frozenset()) for one in called):
        yield ToolSpec(
            name=name,
            description="Not on offer now: answer without it.",
            category="",
            parameters={"type": "object", "properties": {}},
        )


def _one_by_one(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Let each result follow its own call: some templates refuse more than one call in a message."""
    waiting: dict[str, ToolCall] = {}
    for entry in entries:
        match entry:
            case AssistantEntry(calls=(first, _, *_)):
                waiting = {call.id: call for call in entry.calls[1:]}
                yield replace(entry, calls=(first,))
            case ToolEntry(call_id=call_id) if call_id in waiting:
                yield AssistantEntry(calls=(waiting.pop(call_id),))
                yield entry
            case _:
                yield entry


def _in_turns(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Begin with a question, and join neighbours of one role: many templates refuse what does not alternate.

    A question stands alone after an answer that failed or was cancelled before its first word, an answer
    where its question was deleted, or is too old to be told.
    """
    last: Entry | None = None
    for entry in entries:
        match last, entry:
            case None | SystemEntry(), AssistantEntry() | ToolEntry():
                pass
            case UserEntry(), UserEntry():
                last = UserEntry(text=f"{last.text}\n\n{entry.text}")
            case AssistantEntry(calls=()), AssistantEntry(calls=()):
                thinking = "\n\n".join(filter(None, (last.thinking, entry.thinking)))
                last = AssistantEntry(text=f"{last.text}\n\n{entry.text}", thinking=thinking)
            case _:
                if last is not None:
                    yield last
                last = entry
    if last is not None:
        yield last


def _message(entry: Entry, style: ThinkingStyle, wording: Wording, offered: frozenset[str]) -> dict[str, Any]:
    match entry:
        case SystemEntry(text=text):
            return {"role": "system", "content": mended(text)}
        case UserEntry(text=text):
            return {"role": "user", "content": mended(text)}
        case ToolEntry(call_id=call_id, text=text):
            return {"role": "tool", "tool_call_id": call_id, "content": mended(text)}
        case AssistantEntry(text=text, thinking=thinking, calls=calls):
            message: dict[str, Any] = {"role": "assistant", "content": mended(text)}
            usual = bool(thinking) and style is ThinkingStyle.GLM
            if usual if wording.reasoning is None else wording.reasoning:
                # DeepSeek takes an empty one for none.
                message["reasoning_content"] = mended(thinking) or " "
            if calls:
                if not (wording.blanks or text.strip()):
                    message["content"] = None
                message["tool_calls"] = [_call(call, offered) for call in calls]
                seal = _seal(calls[0])
                if seal.reasoning_details:
                    message["reasoning_details"] = seal.reasoning_details
                if seal.thinking_blocks:
                    message["thinking_blocks"] = seal.thinking_blocks
            return message


def _call(call: ToolCall, offered: frozenset[str]) -> dict[str, Any]:
    function = {"name": _name(call.name, offered), "arguments": _sent(call)}
    told: dict[str, Any] = {"id": call.id, "type": "function", "function": function}
    if extra := _seal(call).extra_content:
        told["extra_content"] = extra
    return told


def _seal(call: ToolCall) -> Seal:
    return _seals.decode(call.seal) if call.seal else Seal()


def _name(name: str, offered: frozenset[str]) -> str:
    # Models call tools that there are not, by names that strict servers refuse in a transcript.
    return name if name in offered else _NO_NAME.sub("_", name)[:_NAME_LIMIT] or "_"


def _sent(call: ToolCall) -> str:
    if call.arguments is not None:
        return mended(json.dumps(dict(call.arguments), ensure_ascii=False))
    try:
        msgspec.json.decode(call.malformed)
    except (ValueError, RecursionError):
        # Strict servers refuse a transcript whose arguments are no JSON.
        return "{}"
    return mended(call.malformed)
