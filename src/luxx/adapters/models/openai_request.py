"""What OpenAI's chat completions are asked: one request, in the wording that its provider takes."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import msgspec

from luxx.adapters.models.openai_wire import Seal, mended
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
_seals: Final = msgspec.json.Decoder(Seal)

_UNDECLARED: Final = re.compile(rb"`tools=`|toolconfig|must (define tools|include tool definition)")
"""How providers say that they take earlier calls only beside tools: LiteLLM, Bedrock, Anthropic, Databricks."""

_NO_SYSTEM: Final = re.compile(rb"system role (is )?not supported|not support .?system")

_UNKNOWN: Final = re.compile(rb"unsupported|unrecognized|unknown|forbidden|not (support|permitted|allowed)")

_NO_TEMPERATURE: Final = re.compile(rb"temperature.{0,60}\b(deprecated|only)\b")
_BOUNDS: Final = re.compile(rb"temperature.{0,80}\b(between|range|from|less than|greater than|at (least|most))\b")
"""It can be chosen, but not so: whoever chose it has to know, and others choose otherwise."""

_NO_TEMPERATURE_THINKING: Final = re.compile(rb"temperature.{0,60}\bthinking is enabled")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How a model is asked, where providers differ so much that what one needs another refuses.

    `unthinking`: where no thinking is wanted, that is said. `usage`: its tokens are asked for
    (`stream_options`). `completion_tokens`: the limit is called `max_completion_tokens`. `temperature`: it can
    be chosen; models that reason often have one of their own, `temperature_thinking`: or while they think.
    `system`: there are messages of that role, else the user says it first. `in_turns`: neighbours of one role are one
    message. `one_call`: calls of one round are told one after the other. `declared`: earlier calls are told
    only with tools, so where none is offered, those that were called are declared; `choice`: beside them it is
    said that none is to be called (`tool_choice`). `reasoning`: all that the model said goes back with its
    thinking, or a blank where that is told no more, as of earlier turns; or nothing does; None leaves it to the style.
    """

    unthinking: bool = True
    usage: bool = True
    completion_tokens: bool = False
    temperature: bool = True
    temperature_thinking: bool = True
    system: bool = True
    in_turns: bool = False
    one_call: bool = False
    declared: bool = False
    choice: bool = True
    reasoning: bool | None = None

    def after(self, refusal: bytes, *, only_roles: bool = False) -> "Wording":
        """Give the wording that a provider asks for in its refusal; the same, where that is about something else.

        `only_roles`: it calls it a failure of its own, as templates do of messages in an order that they do not take,
        and gateways of what the provider behind them refuses.
        """
        said = refusal.lower()
        undeclared = _UNDECLARED.search(said) is not None
        no_system = _NO_SYSTEM.search(said) is not None
        templated = replace(
            self,
            system=self.system and not no_system,
            in_turns=self.in_turns or no_system or (b"alternat" in said and b"assistant" in said),
            one_call=self.one_call or b"single tool-call" in said,
            declared=self.declared or undeclared,
            # Some gateways leave the tools out where none is to be called, and are refused themselves.
            choice=self.choice and not (self.declared and (undeclared or b"tool_choice" in said)),
        )
        if only_roles:
            return templated
        while_thinking = _NO_TEMPERATURE_THINKING.search(said) is not None
        bounded = _BOUNDS.search(said) is not None
        own_temperature = (not bounded and _NO_TEMPERATURE.search(said) is not None) or (
            b"temperature" in said and (b"unsupported" in said or b"not support" in said)
        )
        about_reasoning = b"reasoning_content" in said
        reasoning = self.reasoning
        if about_reasoning and reasoning is None:
            reasoning = _UNKNOWN.search(said) is None
        return replace(
            templated,
            reasoning=reasoning,
            unthinking=self.unthinking and (b"thinking" not in said or while_thinking or about_reasoning),
            usage=self.usage and b"stream_options" not in said,
            completion_tokens=self.completion_tokens or b"max_completion_tokens" in said,
            temperature=self.temperature and (while_thinking or not own_temperature),
            temperature_thinking=self.temperature_thinking and not while_thinking,
        )


USUAL: Final = Wording()


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
    if tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": dict(tool.parameters),
                },
            }
            for tool in tools
        ]
    if tools and not request.tools and wording.choice:
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


def _worded(entries: tuple[Entry, ...], wording: Wording) -> tuple[Entry, ...]:
    if not wording.system:
        entries = tuple(UserEntry(text=one.text) if isinstance(one, SystemEntry) else one for one in entries)
    if wording.one_call:
        entries = tuple(_one_by_one(entries))
    if wording.in_turns:
        entries = tuple(_in_turns(entries))
    return entries


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
                message["tool_calls"] = [_call(call, offered) for call in calls]
                if reasoning := _seal(calls[0]).reasoning_details:
                    message["reasoning_details"] = reasoning
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
