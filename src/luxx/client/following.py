"""The reading of one answer over however many connections, without the connections.

Told what came of each connection, it says which request to make next, and gives every event once. The
rules are those of docs/streaming.md.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import httpx

from luxx.adapters import wire
from luxx.client import calls
from luxx.client.calls import Request, connection_lost, hopeless, may_pass
from luxx.client.errors import (
    UNREADABLE,
    ConnectionLost,
    Headers,
    LuxxClientError,
    UnreadableAnswer,
    ended_with,
    refusal,
)
from luxx.client.patience import Patience, Tries
from luxx.client.results import Done, Failed, Started, StreamEvent, Text, Thinking, ToolCalled, ToolReturned
from luxx.domain.message import Message

EVENT_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of one event, at most."""
SILENCE_SECONDS: Final = 1.0
"""A comment that comes sooner is the greeting of something between, and says nothing of the answer."""
ID_DIGITS: Final = 18
"""A longer number is no id: none of Luxx's will ever be."""


class Frame(NamedTuple):
    """One event as it came: `id` is None where it had none. A comment has neither name nor data."""

    id: int | None
    name: str
    data: bytes


class Frames:
    """Turns bytes into frames, however they are cut (WHATWG HTML, 9.2; lines end in LF).

    Unlike there, an id belongs to its own event only: an event without one is no part of the answer.
    What is unfinished at the end is no event. Raises `UnreadableAnswer` for what no Luxx sends: a line, or
    an event's data, of more than `limit` bytes.
    """

    def __init__(self, *, limit: int = EVENT_LIMIT) -> None:
        self._limit: Final = limit
        self._line: list[bytes] = []
        self._size = 0
        self._clear()

    def _clear(self) -> None:
        self._id: int | None = None
        self._name, self._data = "", b""

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """Take the next bytes and give the frames that they complete."""
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            line = b"".join((*self._line, piece)).removesuffix(b"\r")
            self._line.clear()
            self._size = 0
            if (frame := self._take(line)) is not None:
                yield frame
        if rest:
            self._size += len(rest)
            self._bound(self._size)
            self._line.append(rest)

    def _take(self, line: bytes) -> Frame | None:
        if not line:
            frame = Frame(self._id, self._name, self._data) if self._data else None
            self._clear()
            return frame
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match field:
            case b"":
                return Frame(None, "", b"")
            case b"id":
                self._id = int(value) if value.isdigit() and len(value) <= ID_DIGITS else None
            case b"event":
                self._name = value.decode(errors="replace")
            case b"data":
                self._data += value
                self._bound(len(self._data))
        return None

    def _bound(self, size: int) -> None:
        if size > self._limit:
            raise UnreadableAnswer(f"An event has more than {self._limit} bytes.", status=200)


class Following:
    """One answer, followed until its end.

    Ask `request` for what to send, tell `opened`, `feed`, `closed`, `refused` and `lost` what came;
    each pause that they give is in seconds, and goes before the next `request`. All of them raise
    `LuxxApiError`, `UnreadableAnswer` or `ConnectionLost` where it makes no sense to go on.
    """

    def __init__(
        self,
        patience: Patience,
        *,
        sending: Request | None = None,
        message_id: str | None = None,
        after: int = 0,
        reached: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Either `sending`, the request that sends the message, or the `message_id` of an answer, is given.

        `reached` is as in `Exchange`.
        """
        if sending is None and message_id is None:
            raise TypeError("the id of an answer must be a string, not None: has `Started` come?")
        self._clock: Final = clock
        self._reached = reached
        self._opened_at = 0.0
        self.message_id = message_id
        self.request_id: str | None = None
        self.end: Done | Failed | None = None
        self.idempotency_key: Final = None if sending is None else sending.headers["Idempotency-Key"]
        self.after: Final = after
        self._sending: Final = sending
        self._last = after
        self._whole = after == 0
        self._tries: Final = Tries(patience, clock=clock)
        self._frames = Frames()
        self._trouble: LuxxClientError | None = None
        # What was given, and how much of it a service that tells the answer anew will give again.
        self._given = {"text": 0, "thinking": 0}
        self._again = {"text": 0, "thinking": 0}
        self._called: set[str] = set()
        self._returned: set[str] = set()

    @property
    def hung_up(self) -> bool:
        """Whether nothing more is to be read from this connection."""
        return self.end is not None or self._trouble is not None

    def request(self) -> Request:
        """Give the request of the next connection."""
        self._frames = Frames()
        self._trouble = None
        self._again = {"text": 0, "thinking": 0}
        if self.message_id is None:
            assert self._sending is not None  # noqa: S101  # one of the two is given
            return self._sending
        return calls.resume(self.message_id, after=self._last)

    def opened(self, headers: Headers) -> None:
        """Take the head of an answer with the status 200."""
        self._reached = True
        self.request_id = headers.get("x-request-id")
        self._opened_at = self._clock()
        if not headers.get("content-type", "").startswith("text/event-stream"):
            raise UnreadableAnswer("The answer is no event stream: is something between here and Luxx?", status=200)

    def refused(self, status: int, headers: Headers, body: bytes) -> float:
        """Take a whole answer with another status; gives the pause."""
        error = refusal(status, headers, body)
        if not may_pass(error):
            raise error
        return self._tries.pause_after(error)

    def lost(self, error: httpx.RequestError) -> float:
        """Take note that the connection broke, or never was; gives the pause."""
        failure = connection_lost(error, self._tries)
        if hopeless(error, reached=self._reached):
            raise failure from error
        return self._tries.pause_after(failure)

    def closed(self) -> float:
        """Take note that the connection is closed, by whichever side; gives the pause, 0 at the answer's end."""
        if self.end is not None:
            return 0.0
        trouble = self._trouble or ConnectionLost("The stream ended before the answer did.")
        return self._tries.pause_after(trouble)

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        """Take the next bytes and give the events that they complete, each once. Read it to its end."""
        for frame in self._frames.feed(chunk):
            if not frame.name and not frame.data:
                if self._clock() - self._opened_at >= SILENCE_SECONDS:
                    self._tries.progressed()  # a heartbeat: the answer is being written
                continue
            if (event := self._take(frame)) is not None:
                yield event
            if self.hung_up:
                return

    def _take(self, frame: Frame) -> StreamEvent | None:
        if frame.id is None:
            if frame.name == "error":
                self._trouble = self._told_trouble(frame.data)
            return None
        name, data = frame.name, self._decoded(frame)
        self._check_message(data)
        if isinstance(data, wire.StartData) and self._last > 0:
            return self._told_anew(frame.id, data)
        ends = isinstance(data, wire.DoneData | wire.ErrorData)
        if frame.id <= self._last and not (ends and frame.id == self._last):
            return None
        if frame.id > self._last + 1:
            self._trouble = ConnectionLost(f"The stream went from the event {self._last} to {frame.id}.")
            return None
        self._last = frame.id
        event = None if data is None else self._event(frame.id, name, data)
        if event is not None:
            self._tries.progressed()
        return event

    def _told_trouble(self, told: bytes) -> LuxxClientError:
        """Read an error that is not the answer's end, but the trouble of this server, or of something before it."""
        try:
            data = wire.EVENT_DECODERS["error"].decode(told)
        except UNREADABLE:
            return ConnectionLost("The stream broke off with an error that is none of Luxx's.")
        return ended_with(data.code, data.message, request_id=self.request_id)

    def _check_message(self, data: wire.EventData | None) -> None:
        match data:
            case wire.StartData(message_id=told) | wire.ErrorData(message_id=told):
                pass
            case wire.DoneData(message=message):
                told = message.id
            case _:
                return
        if self.message_id not in {None, told}:
            raise UnreadableAnswer(f"The stream of {self.message_id} tells {told}, another answer.", status=200)

    def _decoded(self, frame: Frame) -> wire.EventData | None:
        decoder = wire.EVENT_DECODERS.get(frame.name)
        if decoder is None:
            return None  # of a newer service
        try:
            data: wire.EventData = decoder.decode(frame.data)
        except UNREADABLE as fault:
            text = f"The event {frame.id}, {frame.name}, cannot be read: {fault}"
            raise UnreadableAnswer(text, status=200) from fault
        return data

    def _told_anew(self, id_: int, data: wire.StartData) -> Started | None:
        """Go on where the log is gone: the service tells the stored answer from its beginning, in pieces of its own.

        Who was given all from the beginning is given the rest; anyone else begins again, and sees it by `Started`.
        """
        self._last = id_
        if self._whole:
            self._again = dict(self._given)
            return None
        self._whole = True
        self._given = {"text": 0, "thinking": 0}
        self._called.clear()
        self._returned.clear()
        return self._started(id_, data)

    def _started(self, id_: int, data: wire.StartData) -> Started:
        self.message_id = data.message_id
        return Started(id=id_, user_message=wire.message_of(data.user_message), message_id=data.message_id)

    def _event(self, id_: int, name: str, data: wire.EventData) -> StreamEvent | None:
        match data:
            case wire.DeltaData(delta=delta):
                return self._delta(id_, name, delta)
            case wire.ToolCallData():
                if data.id in self._called:
                    return None
                self._called.add(data.id)
                return ToolCalled(id=id_, call_id=data.id, name=data.name, arguments=data.arguments)
            case wire.ToolResultData():
                if data.id in self._returned:
                    return None
                self._returned.add(data.id)
                return ToolReturned(
                    id=id_,
                    call_id=data.id,
                    name=data.name,
                    success=data.success,
                    result=data.result,
                    error=wire.problem_of(data.error),
                    duration_ms=data.duration_ms,
                )
            case wire.StartData():
                return self._started(id_, data)
            case wire.DoneData(message=message):
                self.end = Done(id=id_, message=wire.message_of(message))
            case wire.ErrorData():
                self.end = Failed(id=id_, code=data.code, message=data.message, message_id=data.message_id)
        return self.end

    def _delta(self, id_: int, name: str, delta: str) -> Text | Thinking | None:
        known = min(self._again[name], len(delta))
        self._again[name] -= known
        self._given[name] += len(delta) - known
        if known == len(delta):
            return None
        kind = Text if name == "text" else Thinking
        return kind(id=id_, delta=delta[known:])


def answer_of(end: Done | Failed | None, *, request_id: str | None) -> Message:
    """Give the message of an end; raises the `LuxxApiError` that a failed answer ended with."""
    match end:
        case Done(message=message):
            return message
        case Failed():
            raise ended_with(end.code, end.message, request_id=request_id)
        case None:
            raise ConnectionLost("The stream was closed before the answer's end.")
