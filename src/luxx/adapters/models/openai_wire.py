"""Chat completions on the wire: the chunks of an answer, put together.

Written to what compatible servers do rather than to one provider's page: unknown and null fields are
read over, and tool calls may come in any fragments.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec
from msgspec import Struct

from luxx.application.ports import (
    AssistantEntry,
    ModelEvent,
    ModelRequest,
    ModelText,
    ModelThinking,
    ModelToolCall,
)
from luxx.domain.message import Usage
from luxx.domain.tool import ToolCall

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_HIGH_SURROGATES: Final = ("\ud800", "\udbff")
_REPLACEMENT: Final = "\ufffd"
_LARGEST: Final = 1 << 53
"""Figures above are none that a provider means: not every reader of JSON has them exactly (RFC 8259, 6)."""


class FunctionFragment(Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class CallFragment(Struct, gc=False):
    """A piece of a call. Gemini signs its calls in `extra_content`, and refuses them without it."""

    index: int | float | None = None
    id: str | None = None
    function: FunctionFragment | None = None
    extra_content: Any = None


class Delta(Struct, gc=False):
    """A piece of an answer, or all of it: `message` of an unstreamed answer has the same fields.

    `reasoning_details` is what OpenRouter wants back of a round with calls, `thinking_blocks` what LiteLLM does; what
    of it can be read comes beside it.
    """

    content: str | list[dict[str, Any]] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: Any = None
    thinking_blocks: Any = None
    refusal: str | None = None
    tool_calls: list[CallFragment] | None = None


class Choice(Struct, gc=False):
    index: int | float | None = None
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None


class UsageFigures(Struct, gc=False):
    prompt_tokens: int | float | None = None
    completion_tokens: int | float | None = None
    total_tokens: int | float | None = None


class Chunk(Struct, gc=False):
    """One event of a stream. An error comes as `error`, or as the whole object (`object: "error"`)."""

    choices: list[Choice] | None = None
    usage: UsageFigures | None = None
    error: Any = None
    object: str | None = None
    code: Any = None
    message: Any = None
    type: Any = None


_chunks: Final = msgspec.json.Decoder(Chunk)
_arguments: Final = msgspec.json.Decoder(dict[str, Any])


def chunk_of(data: bytes) -> Chunk:
    """Read one chunk; raises ValueError or RecursionError where it is none.

    Halves of surrogate pairs, which have no UTF-8, stay in the texts as they are; `Texts` joins them.
    """
    try:
        return _chunks.decode(data)
    except msgspec.ValidationError:
        return msgspec.convert(_with_texts(json.loads(data)), Chunk)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.convert(json.loads(data.decode(errors="replace")), Chunk)


def _with_texts(chunk: Any) -> Any:
    """Put text where a server has a number: Cloudflare for a piece that looks like one, NVIDIA for the id of a call."""
    for choice in _objects(chunk.get("choices") if isinstance(chunk, dict) else None):
        for said in _objects([choice.get("delta"), choice.get("message")]):
            for name in ("content", "reasoning_content", "reasoning"):
                _make_text(said, name)
            for call in _objects(said.get("tool_calls")):
                _make_text(call, "id")
    return chunk


def _objects(items: Any) -> list[dict[str, Any]]:
    return [one for one in items if isinstance(one, dict)] if isinstance(items, list) else []


def _make_text(holder: dict[str, Any], name: str) -> None:
    if isinstance(holder.get(name), int | float):
        holder[name] = json.dumps(holder[name])


def mended(text: str) -> str:
    """Join the surrogate pairs in `text`, and put U+FFFD for halves without their other half."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class Texts:
    """A run of deltas; a surrogate half at the end of one is kept for the next."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = ""

    def take(self, delta: str) -> str:
        """Give what of the text so far can be given; U+0000, which no store takes, becomes U+FFFD."""
        if not self._half and delta.isascii():
            return delta.replace("\0", _REPLACEMENT)
        text = self._half + delta
        self._half = ""
        if text and _HIGH_SURROGATES[0] <= text[-1] <= _HIGH_SURROGATES[1]:
            self._half = text[-1]
            text = text[:-1]
        return mended(text).replace("\0", _REPLACEMENT)

    def rest(self) -> str:
        """Give what the last delta left."""
        half, self._half = self._half, ""
        return _REPLACEMENT if half else ""


class _CallInParts:
    """A tool call that is still coming."""

    __slots__ = ("arguments", "extra_content", "id", "name")

    def __init__(self) -> None:
        self.extra_content: Any = None
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []

    def whole(self) -> bool:
        """Tell whether the arguments so far are a JSON object: nothing can be added to one."""
        if not self.arguments or not self.arguments[-1].rstrip().endswith("}"):
            return False
        return _object("".join(self.arguments)) is not None


class CallAssembler:
    """Put tool calls together from their fragments.

    A fragment belongs to the call with its `index`; without one, to the call with its id, else to the
    latest. Ids may come late, again or never; names in pieces or again with each fragment; arguments in
    pieces or as an object. Servers that give all calls the same index are understood as well: a fragment
    that names a function after a call has all its arguments begins another call.
    """

    __slots__ = ("_calls", "_known", "_latest", "_places", "_taken")

    def __init__(self, *, tools: Sequence[str] = (), taken: Sequence[str] = ()) -> None:
        """`tools` are the names on offer; `taken` are ids of earlier rounds, which are not given again."""
        self._known = frozenset(tools)
        self._taken = set(taken)
        self._calls: list[_CallInParts] = []
        self._places: dict[int, _CallInParts] = {}
        self._latest: _CallInParts | None = None

    def add(self, fragment: CallFragment) -> None:
        function = fragment.function or FunctionFragment()
        place = fragment.index
        index = int(place) if place is not None and abs(place) <= _LARGEST else None
        call = self._owner(index, fragment.id or "", function)
        if call is None:
            call = _CallInParts()
            self._calls.append(call)
        if index is not None:
            self._places[index] = call
        self._latest = call
        if fragment.id and not call.id:
            call.id = fragment.id
        if fragment.extra_content:
            call.extra_content = fragment.extra_content
        if function.name:
            call.name = self._joined_name(call.name, function.name)
        if isinstance(function.arguments, dict):
            call.arguments = [json.dumps(function.arguments)]
        elif function.arguments:
            call.arguments.append(function.arguments)

    def _owner(self, index: int | None, call_id: str, function: FunctionFragment) -> _CallInParts | None:
        """Give the call that a fragment belongs to; None where it begins one."""
        call = self._latest if index is None else self._places.get(index)
        if index is None and call_id:
            call = next((known for known in self._calls if known.id == call_id), call)
        if call is None or not function.name or not call.name or (call_id and call_id == call.id):
            return call
        if call_id and call.id:
            begins = index is None or not call.arguments or call.whole()
        else:
            begins = bool(function.arguments) and call.whole()
        return None if begins else call

    def _joined_name(self, name: str, more: str) -> str:
        if name == more and name in self._known:
            return name
        if any(known.startswith(name + more) for known in self._known):
            return name + more
        if more.startswith(name):
            return more
        return name if name in self._known else name + more

    def finish(
        self, reasoning: Sequence[Mapping[str, Any]] = (), thinking: Sequence[Mapping[str, Any]] = ()
    ) -> list[ToolCall]:
        """Give all calls, in the order in which they began, each with an id of its own.

        `reasoning` and `thinking` are what belongs to all of them; the first one carries it.
        """
        calls = []
        ids: dict[str, str] = {}
        for number, call in enumerate(self._calls, start=1):
            call_id = mended(call.id)
            if not call_id or call_id in self._taken:
                call_id = self._free_id(call_id or f"call_{number}")
            self._taken.add(call_id)
            ids.setdefault(call.id, call_id)
            text = mended("".join(call.arguments))
            if text.startswith("{}{"):
                text = text[2:]  # gateways to Claude begin with its empty input
            # Small models say null where a tool takes nothing.
            arguments = {} if text.strip() in {"", "null"} else _object(text)
            malformed = "" if arguments is not None else text.replace("\0", _REPLACEMENT)
            calls.append(
                ToolCall(
                    id=call_id,
                    name=mended(call.name).replace("\0", _REPLACEMENT),
                    arguments=arguments,
                    malformed=malformed,
                    seal=_sealed({"extra_content": call.extra_content}),
                )
            )
        if calls and (reasoning or thinking):
            # Some of it belongs to one call, and names it by the provider's id.
            told = [{**one, "id": ids[name]} if (name := str(one.get("id"))) in ids else one for one in reasoning]
            extra = self._calls[0].extra_content
            first = {"extra_content": extra, "reasoning_details": told, "thinking_blocks": thinking}
            calls[0] = replace(calls[0], seal=_sealed(first))
        self._calls = []
        return calls

    def _free_id(self, wanted: str) -> str:
        number = 2
        free = wanted
        while free in self._taken:
            free = f"{wanted}_{number}"
            number += 1
        return free


class Seal(Struct):
    """What is sent back with a call as it was, and beside all calls of its round; empty where there is nothing."""

    extra_content: msgspec.Raw = msgspec.Raw()
    reasoning_details: msgspec.Raw = msgspec.Raw()
    thinking_blocks: msgspec.Raw = msgspec.Raw()


def _sealed(parts: Mapping[str, Any]) -> str:
    held = {name: part for name, part in parts.items() if part}
    try:
        return mended(json.dumps(held, ensure_ascii=False, allow_nan=False)) if held else ""
    except (ValueError, RecursionError):
        return ""


def _whole(pieces: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Put reasoning together that came in pieces: a signature is one of the whole. What is encrypted came whole."""
    runs: list[list[Mapping[str, Any]]] = []
    for piece in pieces:
        last = runs[-1][-1] if runs else {}
        # The index alone does not tell: in a stream it may be 0 for all.
        goes_on = piece.get("type") in ("reasoning.text", "reasoning.summary") and not last.get("signature")
        if goes_on and all(piece.get(key) == last.get(key) for key in ("type", "index")):
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return [_joined(run) for run in runs]


def _joined(run: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    whole = {key: value for piece in run for key, value in piece.items() if value is not None}
    for key in ("text", "summary"):
        texts = [text for piece in run if isinstance(text := piece.get(key), str)]
        if texts:
            whole[key] = "".join(texts)
    return whole


def _signed(pieces: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Put thinking together that came in pieces, with the signature behind them; what is not signed is not taken back.

    What is redacted came whole. Newer LiteLLMs tell all of the text once more beside its signature.
    """
    blocks: list[Mapping[str, Any]] = []
    text = ""
    for piece in pieces:
        if piece.get("type") != "thinking":
            blocks.append(piece)
            continue
        said = str(piece.get("thinking") or "")
        if piece.get("signature"):
            blocks.append({**piece, "thinking": said if said.startswith(text) else text + said})
            text = ""
        else:
            text += said
    return blocks


def _object(text: str) -> dict[str, Any] | None:
    try:
        return _arguments.decode(text)
    except (ValueError, RecursionError):
        pass
    try:
        # What the strict reader refuses and a person would not: line breaks as they are, half a surrogate pair, and
        # an object packed in a string.
        read = json.loads(text, strict=False)
        if isinstance(read, str):
            read = json.loads(read, strict=False)
        return _arguments.decode(mended(json.dumps(read, ensure_ascii=False)))
    except (ValueError, RecursionError):
        return None


class AnswerReader:
    """Fold the chunks of one answer into model events."""

    __slots__ = (
        "_begun",
        "_blocks",
        "_calls",
        "_details",
        "_events",
        "_kind",
        "_messages",
        "_pieces",
        "_seen",
        "_text",
        "_thinking",
        "_thought",
        "_unreliable",
        "finish_reason",
        "usage",
    )

    def __init__(self, request: ModelRequest) -> None:
        earlier = [call.id for entry in request.entries if isinstance(entry, AssistantEntry) for call in entry.calls]
        self._calls = CallAssembler(tools=[tool.name for tool in request.tools], taken=earlier)
        self._details: list[Mapping[str, Any]] = []
        self._blocks: list[Mapping[str, Any]] = []
        self._text = Texts()
        self._thinking = Texts()
        self._kind: type[ModelText | ModelThinking] = ModelText
        self._pieces: list[str] = []
        self._events: list[ModelEvent] = []
        self._seen = False
        self._begun = False
        self._thought = False
        self._messages = False
        self._unreliable = False
        self.finish_reason: str | None = None
        self.usage: Usage | None = None

    def take(self, chunk: Chunk) -> None:
        """Take the deltas of a chunk; what is not one to read (other choices, null) brings nothing."""
        if chunk.usage is not None:
            self.usage = _usage(chunk.usage)
        for choice in chunk.choices or ():
            if choice.index:
                continue
            if choice.delta is not None:
                self._take_delta(choice.delta)
            elif choice.message is not None:
                self._take_message(choice.message)
            if choice.finish_reason:
                self.finish_reason = choice.finish_reason

    def _take_message(self, message: Delta) -> None:
        self._turn_to(self._kind)
        if not self._messages:
            # Some tell all of an answer once more behind its deltas; of some, only the thinking came in deltas.
            if self._begun:
                return
            if self._thought:
                message.reasoning_content = message.reasoning = None
            if self._details:
                message.reasoning_details = None
            if self._blocks:
                message.thinking_blocks = None
            self._messages = True
        for place, fragment in enumerate(message.tool_calls or ()):
            fragment.index = place
        self._take_delta(message)

    def _take_delta(self, delta: Delta) -> None:
        text = delta.content
        thought = delta.reasoning_content or delta.reasoning
        if text is not None and not isinstance(text, str):
            text, inner = _parts(text)
            thought = thought or inner
        text = text or delta.refusal
        if thought:
            if self._kind is not ModelThinking:
                self._turn_to(ModelThinking)
            self._pieces.append(thought)
        if text:
            if self._kind is not ModelText:
                self._turn_to(ModelText)
            self._pieces.append(text)
        if delta.reasoning_details or delta.thinking_blocks:
            self._details.extend(_objects(delta.reasoning_details))
            self._blocks.extend(_objects(delta.thinking_blocks))
        if delta.tool_calls:
            self._seen = self._begun = True
            for fragment in delta.tool_calls:
                self._calls.add(fragment)
        if self.finish_reason is not None and (text or thought or delta.tool_calls):
            self._unreliable = True

    def _turn_to(self, kind: type[ModelText | ModelThinking]) -> None:
        """Make one event of the run of deltas so far, and begin another."""
        if self._pieces:
            self._begun = self._begun or self._kind is ModelText
            self._thought = self._thought or self._kind is ModelThinking
            texts = self._text if self._kind is ModelText else self._thinking
            text = texts.take(self._pieces[0] if len(self._pieces) == 1 else "".join(self._pieces))
            self._pieces.clear()
            if text:
                self._events.append(self._kind(text))
        self._kind = kind

    def told(self) -> list[ModelEvent]:
        """Give what the chunks since the last time say; what came together is told at once."""
        self._turn_to(self._kind)
        events, self._events = self._events, []
        return events

    @property
    def finished(self) -> bool:
        """Whether a reason to finish was given by a provider that does not give one with every chunk."""
        return self.finish_reason is not None and not self._unreliable

    def progressed(self) -> bool:
        """Tell whether a tool call has gone on since this was last asked: it shows in no event yet."""
        seen, self._seen = self._seen, False
        return seen

    def finish(self) -> list[ModelEvent]:
        """Give what was held back until the end."""
        events = self.told()
        if thinking := self._thinking.rest():
            events.append(ModelThinking(thinking))
        if text := self._text.rest():
            events.append(ModelText(text))
        events.extend(ModelToolCall(call) for call in self._calls.finish(_whole(self._details), _signed(self._blocks)))
        return events


def _parts(content: list[dict[str, Any]]) -> tuple[str, str]:
    """Give the text and the thinking of a `content` that is a list of typed parts, as some servers send it."""
    texts = [part["text"] for part in content if isinstance(part.get("text"), str)]
    thoughts = []
    for part in content:
        inner = part.get("thinking")
        if isinstance(inner, str):
            thoughts.append(inner)
        elif isinstance(inner, list):
            texts_inside = (one.get("text") for one in inner if isinstance(one, Mapping))
            thoughts.extend(text for text in texts_inside if isinstance(text, str))
    return "".join(texts), "".join(thoughts)


def _usage(figures: UsageFigures) -> Usage:
    prompt = _count(figures.prompt_tokens)
    completion = _count(figures.completion_tokens)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=_count(figures.total_tokens) or prompt + completion,
    )


def _count(figure: float | None) -> int:
    return int(figure) if figure is not None and 0 < figure <= _LARGEST else 0
