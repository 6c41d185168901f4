"""The Messages API of Anthropic as a `ChatModel`: requests out, named events of a stream back."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from luxx.adapters.models.sse import EventStreamReader, EventTooLong
from luxx.application import (
    AssistantEntry,
    Entry,
    ModelEnd,
    ModelEvent,
    ModelRequest,
    ModelText,
    ModelThinking,
    ModelToolCall,
    SystemEntry,
    ToolEntry,
    UserEntry,
)
from luxx.domain.errors import ModelError, ModelRateLimited, ModelRejected, ModelTimeout, ModelUnavailable
from luxx.domain.message import Usage
from luxx.domain.tool import ToolCall

VERSION: Final = "2023-06-01"
EVENT_BYTES: Final = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesSettings:
    """Where the provider is, and how long it may take, in seconds.

    `base_url` is the root above `/messages`. `idle_s` is for each wait for bytes, `total_s` for the whole answer.
    """

    base_url: str
    api_key: str = field(repr=False)
    connect_s: float = 10.0
    idle_s: float = 60.0
    total_s: float = 600.0


class MessagesChatModel:
    """A `ChatModel`; one for the whole process. Close it with `aclose` when no answer runs any more."""

    def __init__(self, settings: MessagesSettings) -> None:
        self._settings = settings
        self._client = httpx.AsyncClient(
            headers={"x-api-key": settings.api_key, "anthropic-version": VERSION},
            timeout=httpx.Timeout(settings.idle_s, connect=settings.connect_s),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """See `ChatModel.stream`."""
        clock = asyncio.get_running_loop()
        deadline = clock.time() + self._settings.total_s
        reader, answer = EventStreamReader(limit=EVENT_BYTES), _Answer()
        url = f"{self._settings.base_url.rstrip('/')}/messages"
        try:
            # Leaving this block, however that comes about, closes the request at the provider.
            async with self._client.stream("POST", url, json=_body(request)) as response:
                if not response.is_success:
                    raise _refusal(response)
                async for slice_ in response.aiter_bytes():
                    for event in reader.feed(slice_):
                        for heard in answer.take(json.loads(event.data)):
                            yield heard
                    if answer.ended:
                        return
                    if clock.time() > deadline:
                        raise ModelTimeout(f"The model's answer took more than {self._settings.total_s:g} seconds.")
        except httpx.TimeoutException:
            raise ModelTimeout("The model is too slow: try again later.") from None
        except httpx.HTTPError:
            raise ModelUnavailable("The model cannot be reached, or broke off its answer.") from None
        except (EventTooLong, ValueError, KeyError, TypeError):
            raise ModelUnavailable("The model gave an answer that cannot be read: check its address.") from None
        raise ModelUnavailable("The model broke off its answer.")


def _refusal(response: httpx.Response) -> ModelError:
    """Tell a status without the provider's own words: they may quote the key, or the conversation."""
    status = response.status_code
    if status == httpx.codes.TOO_MANY_REQUESTS:
        asked = response.headers.get("retry-after", "")
        return ModelRateLimited("The model's provider asks for a pause.", retry_after=_seconds(asked))
    if status < httpx.codes.INTERNAL_SERVER_ERROR:
        return ModelRejected(f"The model's provider refused with status {status}: check key, model and parameters.")
    return ModelUnavailable(f"The model's provider failed with status {status}: try again later.")


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() else None


class _Answer:
    """Puts the events of one answer together."""

    def __init__(self) -> None:
        self.ended = False
        self._calls: dict[int, tuple[str, str, list[str]]] = {}
        self._prompt = 0
        self._completion = 0
        self._reason = "stop"

    def take(self, event: Mapping[str, Any]) -> Iterator[ModelEvent]:
        """Give what an event tells; raises `ModelUnavailable`, `KeyError` or `TypeError` for what is none."""
        match event["type"]:
            case "message_start":
                self._prompt = int(event["message"]["usage"]["input_tokens"])
            case "content_block_start" if event["content_block"]["type"] == "tool_use":
                block = event["content_block"]
                self._calls[event["index"]] = (block["id"], block["name"], [])
            case "content_block_delta":
                yield from self._delta(event["index"], event["delta"])
            case "content_block_stop" if event["index"] in self._calls:
                yield ModelToolCall(_call(*self._calls.pop(event["index"])))
            case "message_delta":
                self._reason = event["delta"].get("stop_reason") or self._reason
                self._completion = int(event["usage"]["output_tokens"])
            case "message_stop":
                self.ended = True
                yield ModelEnd(self._reason, self._usage())
            case "error":
                raise ModelUnavailable("The model failed in the middle of its answer: try again later.")
            case _:
                pass  # a ping, or something newer than this adapter

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=self._prompt,
            completion_tokens=self._completion,
            total_tokens=self._prompt + self._completion,
        )

    def _delta(self, index: int, delta: Mapping[str, Any]) -> Iterator[ModelEvent]:
        match delta["type"]:
            case "text_delta" if delta["text"]:
                yield ModelText(delta["text"])
            case "thinking_delta" if delta["thinking"]:
                yield ModelThinking(delta["thinking"])
            case "input_json_delta":
                self._calls[index][2].append(delta["partial_json"])
            case _:
                pass


def _call(identity: str, name: str, pieces: list[str]) -> ToolCall:
    text = "".join(pieces)
    try:
        arguments = json.loads(text or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        return ToolCall(id=identity, name=name, arguments=None, malformed=text)
    return ToolCall(id=identity, name=name, arguments=arguments)


# --- the request ------------------------------------------------------------------------------------


def _body(request: ModelRequest) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "temperature": min(request.temperature, 1.0),  # this provider's scale ends there
        "stream": True,
        "messages": _messages(request.entries),
    }
    if system := "\n\n".join(entry.text for entry in request.entries if isinstance(entry, SystemEntry)):
        body["system"] = system
    if request.tools:
        body["tools"] = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}
            for tool in request.tools
        ]
    return body


def _messages(entries: tuple[Entry, ...]) -> list[dict[str, Any]]:
    """Give the transcript; what one side says in a row is one message, the results of tools are the user's."""
    messages: list[dict[str, Any]] = []
    for entry in entries:
        role, blocks = _said(entry)
        if not blocks:
            continue
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        else:
            messages.append({"role": role, "content": blocks})
    return messages


def _said(entry: Entry) -> tuple[str, list[dict[str, Any]]]:
    match entry:
        case UserEntry(text=text):
            return "user", [{"type": "text", "text": text}]
        case ToolEntry(call_id=call_id, text=text):
            return "user", [{"type": "tool_result", "tool_use_id": call_id, "content": text}]
        case AssistantEntry(text=text, calls=calls):
            spoken = [{"type": "text", "text": text}] if text.strip() else []
            asked = [
                {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments or {}} for call in calls
            ]
            return "assistant", [*spoken, *asked]
        case SystemEntry():
            return "system", []  # it has a place of its own
