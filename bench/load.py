"""A light client: it counts, and it believes nothing.

While a wave of streams runs, a read costs two searches in its bytes; every stream is kept and held
to what the model must have said once all have ended. A stream that is not whole is a fault, and a
wave with faults is no measurement.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast

import msgspec

from bench.answers import MARK, Answer
from bench.figures import Histogram

_WELL: Final = b"HTTP/1.1 200 "
_LAST: Final = b"0\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_STALL_SECONDS: Final = 60.0
_ACCEPT_SECONDS: Final = 0.01
"""How long the other side gets to accept connections before anything is asked."""


class Faulty(Exception):
    """A run measured nothing, because something was not answered as it must be; the text says what."""


class Address(msgspec.Struct, frozen=True):
    """Where something listens on this machine."""

    port: int
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


class Format(msgspec.Struct, frozen=True):
    """How a stream looks: `fault` tells what is wrong with a whole body, `behind` begins what follows the tokens."""

    name: str
    fault: Callable[[bytes, Answer], str | None]
    behind: bytes | None = None


class Job(msgspec.Struct, frozen=True):
    """One stream to ask for: the request's bytes, sent `delay` seconds after the wave began."""

    address: Address
    request: bytes
    answer: Answer
    format: Format
    delay: float = 0.0

    async def open(self, first: Histogram, gaps: Histogram) -> "Open":
        """Connect; nothing is asked yet."""
        _, stream = await asyncio.get_running_loop().create_connection(
            lambda: Stream(self, first, gaps), self.address.host, self.address.port
        )
        return stream


class Open(Protocol):
    """A stream that is connected."""

    @property
    def job(self) -> Job: ...

    @property
    def ended(self) -> asyncio.Future[float]:
        """When the last of it had come, whole or not."""

    def send(self) -> None:
        """Ask; the clock runs from here."""

    def fault(self) -> str | None:
        """Tell what is wrong with it, once it has ended."""

    def close(self) -> None:
        """Let go of the connection, whatever still comes."""


class Wave(msgspec.Struct):
    """Streams that ran together. Times are in seconds; `gaps` are between reads with new tokens in one stream.

    `wall` is from the first request to the last end; `cpu` is what this client itself used.
    """

    streams: int
    tokens: int
    wall: float
    cpu: float
    first: Histogram
    gaps: Histogram


def request(method: str, path: str, *, token: str | None = None, body: object = None) -> bytes:
    """Make the bytes of a request on a connection that is kept."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Accept: */*", "Accept-Language: en"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", ""]).encode() + content


def completion_request(
    answer: Answer, *, model: str | None = None, token: str | None = None, path: str = "/v1/chat/completions"
) -> bytes:
    """Ask an OpenAI-compatible endpoint for a streamed answer; `model` where its name differs from the answer's."""
    body = {
        "model": model or answer.model,
        "messages": [{"role": "user", "content": "Count, please."}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return request("POST", path, token=token, body=body)


def luxx_request(conversation_id: str, token: str) -> bytes:
    """Send a message to Luxx and ask for the stream."""
    body = {"conversation_id": conversation_id, "content": "Count, please.", "tools_enabled": False}
    return request("POST", "/api/messages/stream", token=token, body=body)


# --- what a whole stream is ---------------------------------------------------------------------------


def unchunked(raw: bytes) -> bytes:
    """Take the chunks of a body apart (RFC 9112, 7.1); raises ValueError where they do not fit."""
    parts: list[bytes] = []
    place = 0
    while True:
        end = raw.index(b"\r\n", place)
        size = int(raw[place:end].partition(b";")[0], 16)
        place = end + 2 + size
        if raw[place : place + 2] != b"\r\n":
            raise ValueError("a chunk is not as long as it says")
        if size == 0:
            return b"".join(parts)
        parts.append(raw[end + 2 : place])
        place += 2


def text_fault(text: str, answer: Answer) -> str | None:
    """Tell where a text is not what the model said."""
    """Tell where a text is not the answer's."""
    if text == answer.text:
        return None
    same = next((at for at, (one, other) in enumerate(zip(text, answer.text, strict=False)) if one != other), None)
    where = f"of {len(answer.text)} characters it has {len(text)}" if same is None else f"it differs at {same}"
    return f"the text is not what the model said: {where}"


def openai_fault(body: bytes, answer: Answer) -> str | None:
    """Hold a stream of `chat.completion.chunk`s to the answer: every token, a reason to stop, `[DONE]`."""
    text: list[str] = []
    reasons: list[str] = []
    ended = False
    for line in body.replace(b"\r\n", b"\n").split(b"\n"):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if ended:
            return "something follows [DONE]"
        if data == b"[DONE]":
            ended = True
            continue
        chunk: dict[str, Any] = json.loads(data)
        for choice in chunk.get("choices") or ():
            text.append((choice.get("delta") or {}).get("content") or "")
            if choice.get("finish_reason"):
                reasons.append(choice["finish_reason"])
    if not ended:
        return "it ends without [DONE]"
    if reasons != ["stop"]:
        return f"its reasons to finish are {reasons}"
    return text_fault("".join(text), answer)


def luxx_fault(body: bytes, answer: Answer) -> str | None:
    """Hold a stream of Luxx to its contract and to the answer: ids, one start, one done, the text both ways."""
    text: list[str] = []
    names: list[bytes] = []
    stored = ""
    for block in body.split(b"\n\n")[:-1]:
        if block.startswith(b":"):
            continue
        identity, name, data = block.split(b"\n")
        names.append(name.removeprefix(b"event: "))
        if identity != b"id: %d" % len(names):
            return f"event {len(names)} has {identity!r}"
        content = json.loads(data.removeprefix(b"data: "))
        if names[-1] == b"text":
            text.append(content["delta"])
        elif names[-1] == b"done":
            stored = content["message"]["content"]
    if names[:1] != [b"start"] or names[-1:] != [b"done"] or set(names[1:-1]) - {b"text"}:
        return f"its events are {b', '.join(dict.fromkeys(names)).decode()}, and the last is {names[-1:]!r}"
    return text_fault("".join(text), answer) or text_fault(stored, answer)


OPENAI: Final = Format(name="openai", fault=openai_fault)
LUXX: Final = Format(name="luxx", fault=luxx_fault, behind=b"\nevent: done")


# --- streams ------------------------------------------------------------------------------------------


class Stream(asyncio.Protocol):
    """One stream: sends its request when told, notes when tokens come, keeps what came."""

    def __init__(self, job: Job, first: Histogram, gaps: Histogram) -> None:
        self.job: Final = job
        self.ended: Final[asyncio.Future[float]] = asyncio.get_running_loop().create_future()
        self._first: Final = first
        self._gaps: Final = gaps
        self._raw: list[bytes] = []
        self._head: bytes | None = None
        self._tail = b""
        self._sent = 0.0
        self._last = 0.0
        self._over = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def close(self) -> None:
        """Let go of the connection, whatever still comes."""
        if self._transport is not None:
            self._transport.abort()

    def send(self) -> None:
        """Ask; the clock runs from here."""
        assert self._transport is not None
        self._sent = time.perf_counter()
        self._transport.write(self.job.request)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the protocol's signature
        self._end(time.perf_counter())

    def _end(self, now: float) -> None:
        if not self.ended.done():
            self.ended.set_result(now)
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._head is None:
            # An end is looked for in the body only: a head may end in the same bytes.
            head, found, body = (self._tail + data).partition(b"\r\n\r\n")
            if not found:
                self._tail += data
                return
            self._head, self._tail, data = head, b"", body
        self._raw.append(data)
        if not self._head.startswith(_WELL):
            self._end(now)  # what was refused has no chunks to wait for
            return
        behind = self.job.format.behind
        place = -1 if self._over or behind is None else data.find(behind)
        if not self._over and (data.find(MARK, 0, place) if place >= 0 else data.find(MARK)) >= 0:
            (self._gaps if self._last else self._first).add(now - (self._last or self._sent))
            self._last = now
        self._over = self._over or place >= 0
        self._tail = data[-5:] if len(data) >= 5 else (self._tail + data)[-5:]
        if self._tail == _LAST:
            self._end(now)

    def fault(self) -> str | None:
        """Tell what is wrong with it, once it has ended."""
        if self._head is None:
            return "there was no answer"
        raw = b"".join(self._raw)
        if not self._head.startswith(_WELL):
            return f"it was refused: {self._head.splitlines()[0].decode()} {raw[:400].decode(errors='replace')}"
        try:
            return self.job.format.fault(unchunked(raw), self.job.answer)
        except ValueError as error:
            return f"it cannot be read: {error}"


async def wave(jobs: Sequence[Job], *, within: float = 600.0) -> Wave:
    """Run streams together, connected beforehand; raises `Faulty` where one is not whole or not there in time."""
    first, gaps = Histogram(), Histogram()
    streams: list[Open] = []
    try:
        for job in jobs:
            streams.append(await job.open(first, gaps))  # noqa: PERF401  # those that are open are closed below
        await asyncio.sleep(_ACCEPT_SECONDS)
        cpu, began = time.process_time(), time.perf_counter()
        for stream in streams:
            asyncio.get_running_loop().call_later(stream.job.delay, stream.send)
        done, late = await asyncio.wait([stream.ended for stream in streams], timeout=within)
        cpu = time.process_time() - cpu
    finally:
        for stream in streams:
            stream.close()
    if late:
        raise Faulty(f"{len(late)} of {len(jobs)} streams had no end after {within:g} s")
    wall = max(one.result() for one in done) - began
    for number, stream in enumerate(streams, 1):
        if (fault := stream.fault()) is not None:
            raise Faulty(f"stream {number} of {len(jobs)} ({stream.job.format.name}): {fault}")
    return Wave(
        streams=len(jobs),
        tokens=sum(job.answer.tokens for job in jobs),
        wall=wall,
        cpu=cpu,
        first=first,
        gaps=gaps,
    )


async def one_by_one(jobs: Sequence[Job]) -> Histogram:
    """Run streams one after the other on fresh connections; gives the times to their first token."""
    first = Histogram()
    for job in jobs:
        first.add((await wave([job])).first.percentile(50))
    return first


# --- requests -----------------------------------------------------------------------------------------


class Requests(msgspec.Struct):
    """Requests answered with success in `wall` seconds, and how long each took."""

    count: int
    wall: float
    cpu: float
    times: Histogram

    @property
    def rate(self) -> float:
        return self.count / self.wall


class Caller:
    """A kept connection that asks one thing after the other, and reads answers with a Content-Length."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader: Final = reader
        self._writer: Final = writer

    @classmethod
    async def at(cls, address: Address) -> "Caller":
        reader, writer = await asyncio.open_connection(address.host, address.port)
        return cls(reader, writer)

    async def ask(self, sent: bytes) -> bytes:
        """Give the body; raises `Faulty` where the status is not one of success."""
        self._writer.write(sent)
        try:
            async with asyncio.timeout(_STALL_SECONDS):
                head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
                _, found, rest = head.partition(b"\r\ncontent-length:")
                body = await self._reader.readexactly(int(rest.partition(b"\r\n")[0])) if found else b""
        except (asyncio.IncompleteReadError, OSError, TimeoutError) as error:
            raise Faulty(f"{sent.splitlines()[0].decode()} was not answered: {error!r}") from error
        if not head.startswith(b"http/1.1 2"):
            raise Faulty(f"{sent.splitlines()[0].decode()} was refused: {head.splitlines()[0].decode()} {body[:400]!r}")
        return body

    def close(self) -> None:
        self._writer.close()


class _Asking(asyncio.Protocol):
    """A kept connection that asks the next thing as soon as it was answered: as light as a `Stream`."""

    def __init__(self, sent: Callable[[], bytes | None], times: Histogram, ends_at: float) -> None:
        self.ended: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()
        self._sent: Final = sent
        self._times: Final = times
        self._ends_at: Final = ends_at
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._whole = 0
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        assert self._transport is not None
        self._received, self._whole = b"", 0
        self._began = time.perf_counter()
        one = self._sent() if self._began < self._ends_at else None
        if one is None:
            self._end(None)
        else:
            self._transport.write(one)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._whole:
            head, found, _ = self._received.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 2"):
                self._end(Faulty(f"a request was refused: {self._received[:600].decode(errors='replace')}"))
                return
            length = _LENGTH.search(head)
            self._whole = len(head) + 4 + (int(length[1]) if length else 0)
        if len(self._received) >= self._whole:
            self._times.add(time.perf_counter() - self._began)
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the protocol's signature
        self._end(Faulty("a connection was closed before the answer"))

    def _end(self, fault: Faulty | None) -> None:
        if not self.ended.done():
            if fault is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(fault)
        assert self._transport is not None
        self._transport.close()


async def closed_loop(
    address: Address, sent: Callable[[], bytes | None], *, connections: int, seconds: float
) -> Requests:
    """Ask on so many connections, each as soon as it was answered; ends early where `sent` gives None.

    Raises `Faulty` where one was not answered with success.
    """
    loop = asyncio.get_running_loop()
    times = Histogram()
    cpu, began = time.process_time(), time.perf_counter()
    asking = [
        (await loop.create_connection(lambda: _Asking(sent, times, began + seconds), address.host, address.port))[1]
        for _ in range(connections)
    ]
    try:
        async with asyncio.timeout(seconds + _STALL_SECONDS):
            await asyncio.gather(*(one.ended for one in asking))
    except TimeoutError as error:
        raise Faulty(f"requests were not answered within {_STALL_SECONDS:g} s") from error
    wall = time.perf_counter() - began
    return Requests(count=times.count, wall=wall, cpu=time.process_time() - cpu, times=times)


async def every(address: Address, sent: bytes, *, pause: float, seconds: float) -> Histogram:
    """Ask every `pause` seconds, whether or not the last answer is there; gives how long each took.

    Requests are due by the clock: where the service stalls, the wait counts for all that were due.
    """
    times = Histogram()
    free: list[Caller] = [await Caller.at(address) for _ in range(4)]
    began = time.perf_counter()

    async def ask(due: float) -> None:
        caller = free.pop() if free else await Caller.at(address)
        await caller.ask(sent)
        times.add(time.perf_counter() - due)
        free.append(caller)

    asking = []
    for number in range(round(seconds / pause)):
        due = began + number * pause
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        asking.append(asyncio.create_task(ask(due)))
    await asyncio.gather(*asking)
    for caller in free:
        caller.close()
    return times
