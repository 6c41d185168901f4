"""A client that believes nothing: it reads a stream and holds every event to the contract of `docs/streaming.md`."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import httpx

ENDS: Final = frozenset({"done", "error"})
DELTAS: Final = frozenset({"text", "thinking"})


class ContractBroken(AssertionError):
    """What was read is against the contract; the text says what was expected and what came."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it came; `id` is None on an error that is not part of the log."""

    id: int | None
    name: str
    data: Any


async def read_events(response: httpx.Response) -> AsyncIterator[Event | None]:
    """Read a stream's events as they come; None is a comment, a sign of life.

    What a broken connection leaves unfinished is not given (WHATWG HTML, 9.2.6). Raises
    `httpx.TransportError` where the connection breaks, and `ContractBroken` for what is no such stream.
    """
    kind = response.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "text/event-stream":
        raise ContractBroken(f"the stream is {kind or 'of no type'}, not text/event-stream")
    identity: int | None = None
    name, data = "", ""
    async for line in response.aiter_lines():
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield Event(identity, name, _decoded(data))
            identity, name, data = None, "", ""
        elif not field:
            yield None
        elif field == "id":
            identity = _number(value)
        elif field == "event":
            name = value
        elif field == "data":
            if data:
                raise ContractBroken(f"{name} {identity} has more than one line of data")
            data = value


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ContractBroken(f"an event has the id {text!r}")
    return int(text)


def _decoded(data: str) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise ContractBroken(f"the data of an event is no JSON: {_shown(data)}") from None


class Following:
    """What one reader has seen of one answer, over however many connections.

    Whoever resumes `after` the end is given the end again, under the id that was asked for.

    `take` raises `ContractBroken` as soon as something is wrong. `last` is what belongs into
    `Last-Event-ID`.
    """

    def __init__(self, *, after: int = 0) -> None:
        self.last = after
        self.first: Final = after
        self.message_id: str | None = None
        self.events: list[Event] = []
        self._parts: Final[list[dict[str, Any]]] = []

    @property
    def text(self) -> str:
        """All text seen, joined."""
        return "".join(event.data["delta"] for event in self.events if event.name == "text")

    @property
    def end(self) -> Event | None:
        """The terminal event, once it has come."""
        return self.events[-1] if self.events and self.events[-1].name in ENDS else None

    def take(self, event: Event) -> None:
        """Take the next event of the log."""
        try:
            self._take(event)
        except (KeyError, TypeError):
            raise ContractBroken(
                f"{event.name} {event.id} lacks what it must have: {_shown(str(event.data))}"
            ) from None

    def _take(self, event: Event) -> None:
        if (end := self.end) is not None:
            raise ContractBroken(f"{event.name} {event.id} came after the end, {end.name} {end.id}")
        again = not self.events and self.first > 0 and event.name in ENDS and event.id == self.first
        if event.id != self.last + 1 and not again:
            raise ContractBroken(f"{event.name} has the id {event.id}; the last one was {self.last}")
        if (event.name == "start") != (event.id == 1):
            raise ContractBroken(f"{event.name} has the id {event.id}")
        self.last = event.id or 0
        self.events.append(event)
        if event.name == "start":
            self.message_id = event.data["message_id"]
        self._fold(event)
        if event.name == "done" and self.first == 0:
            self._check_whole(event.data["message"])

    def _fold(self, event: Event) -> None:
        """Join the event to the parts of the message; what a resumed reader lacks the beginning of is left out."""
        data = event.data
        if event.name in DELTAS:
            if not data["delta"]:
                return
            if not self._parts or self._parts[-1]["type"] != event.name:
                self._parts.append({"type": event.name, "text": ""})
            self._parts[-1]["text"] += data["delta"]
        elif event.name == "tool_call":
            call = {name: data[name] for name in ("id", "name", "arguments")}
            outcome = dict.fromkeys(("result", "success", "error", "duration_ms"))
            self._parts.append({"type": "tool_call"} | call | outcome)
        elif event.name == "tool_result":
            for part in self._parts:
                if part["type"] == "tool_call" and part["id"] == data["id"]:
                    part.update({name: data[name] for name in ("result", "success", "error", "duration_ms")})

    def _check_whole(self, message: Any) -> None:
        if message["content"] != self.text:
            raise ContractBroken(f"the text joined is {_shown(self.text)}, the message's {_shown(message['content'])}")
        if message["parts"] != self._parts:
            raise ContractBroken(f"the events joined are {self._parts}, the message's parts {message['parts']}")
        if message["id"] != self.message_id:
            raise ContractBroken(f"done is about {message['id']}, start was about {self.message_id}")

    async def read(self, response: httpx.Response, *, at_most: int | None = None) -> bool:
        """Read until the end of the answer, or `at_most` events; tells whether the end has come.

        Ends also where an error without an id says that the service lost its storage for now: resume.
        Raises `ContractBroken`, also for a stream that is whole and has no end, and
        `httpx.TransportError` where the connection breaks.
        """
        taken = 0
        async for event in read_events(response):
            if event is None:
                continue
            if event.id is None and event.name == "error" and self.end is None:
                return False
            self.take(event)
            taken += 1
            if at_most is not None and taken >= at_most:
                return self.end is not None
        if self.end is None:
            raise ContractBroken(f"the stream closed without an end; its last event was {self.last}")
        return True


def _shown(text: str) -> str:
    return repr(text) if len(text) < 80 else f"{text[:40]!r}…{text[-30:]!r} ({len(text)} characters)"
