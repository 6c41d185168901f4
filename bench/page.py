"""Plays the web page of Open WebUI: a message is sent over HTTP, its answer is stored there and comes by websocket.

The page keeps one socket.io session (Engine.IO 4 over RFC 6455) and signs in on it. It names that session
when it sends a message, so the answer runs as a task of the server, is written into the chat, and reaches
the session as events. Kept as light as `bench.load`: frames are taken apart while they come, everything
else is looked at once the stream has ended.
"""

import asyncio
import base64
import os
import time
import uuid
from typing import Any, Final, cast

import msgspec

from bench.answers import MARK, Answer
from bench.figures import Histogram
from bench.load import Caller, Faulty, Format, Job, request, text_fault

_TEXT: Final = 0x1
_CLOSE: Final = 0x8
_PING: Final = 0x9
_PONG: Final = 0xA
_CONNECT_SECONDS: Final = 30.0
_STAY_SECONDS: Final = 1.0
_DELTA: Final = b'"response.output_text.delta"'
_DONE: Final = b'"done":true'


# --- websocket frames (RFC 6455, 5.2) -------------------------------------------------------------------


def frame(opcode: int, payload: bytes) -> bytes:
    """Make a whole frame as a client sends it: masked."""
    mask = os.urandom(4)
    if len(payload) < 126:
        head = bytes([0x80 | opcode, 0x80 | len(payload)])
    elif len(payload) < 1 << 16:
        head = bytes([0x80 | opcode, 0x80 | 126]) + len(payload).to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, 0x80 | 127]) + len(payload).to_bytes(8, "big")
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


def frames(received: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Take whole frames of a server off the front; gives (opcode, payload) of each, and the rest.

    Raises ValueError for what was not agreed on: masks, compression, messages in parts.
    """
    found = []
    place = 0
    while len(received) - place >= 2:
        first, length = received[place], received[place + 1]
        if first & 0xF0 != 0x80 or length & 0x80 or not first & 0x0F:
            raise ValueError("a frame is masked, compressed or part of a message")
        start = place + 2
        if length >= 126:
            wide = 2 if length == 126 else 8
            if len(received) - start < wide:
                break
            length = int.from_bytes(received[start : start + wide], "big")
            start += wide
        if len(received) - start < length:
            break
        found.append((first & 0x0F, received[start : start + length]))
        place = start + length
    return found, received[place:]


# --- what the events say --------------------------------------------------------------------------------


class Told(msgspec.Struct, frozen=True):
    """What the events of one answer said: the text in its parts, and the text that stands at the end, if it ended."""

    deltas: str
    whole: str | None
    errors: list[str]


def told(payloads: list[bytes]) -> Told:
    """Read the events of one chat; raises ValueError where one is no JSON."""
    deltas: list[str] = []
    errors: list[str] = []
    whole = None
    for payload in payloads:
        if not payload.startswith(b'42["events",'):
            continue
        content: dict[str, Any] = msgspec.json.decode(payload[2:])[1]["data"]
        data = content.get("data") or {}
        if data.get("type") == "response.output_text.delta":
            deltas.append(data["delta"])
        elif content["type"] == "chat:message:error" or data.get("error"):
            errors.append(str(data.get("error")))
        elif content["type"] == "chat:completion" and data.get("done"):
            parts = [part for item in data.get("output") or () for part in item.get("content") or ()]
            whole = "".join(part["text"] for part in parts if part["type"] == "output_text")
    return Told(deltas="".join(deltas), whole=whole, errors=errors)


def page_fault(payloads: list[bytes], answer: Answer) -> str | None:
    """Hold the events to the answer: every token, and the end with the text as it is stored (without outer blanks)."""
    heard = told(payloads)
    if heard.errors:
        return f"it says {heard.errors[0]}"
    if heard.whole is None:
        return "it has no end"
    if heard.whole != answer.text.strip():
        return f"the text at its end has {len(heard.whole)} characters, of {len(answer.text)}"
    return text_fault(heard.deltas, answer)


def _no_body(_body: bytes, _answer: Answer) -> str | None:
    raise AssertionError("a page reads no body")


PAGE: Final = Format(name="open-webui page", fault=_no_body)


# --- the page -------------------------------------------------------------------------------------------


class PageJob(Job, frozen=True, kw_only=True):
    """One new chat of somebody who is signed in with `token`; `chats` takes the id of the chat that was made."""

    token: str
    chats: list[tuple[str, str]]
    """Token and chat, of all jobs together: whether an answer was stored is asked after the run."""

    async def open(self, first: Histogram, gaps: Histogram) -> "Page":
        """Connect and sign in: what a person waits for when the page is loaded, not when a message is sent."""
        page = Page(self, await Caller.at(self.address), first, gaps)
        try:
            await asyncio.get_running_loop().create_connection(lambda: page, self.address.host, self.address.port)
            async with asyncio.timeout(_CONNECT_SECONDS):
                page.session = await page.connected
        except (Faulty, OSError) as error:  # a TimeoutError is an OSError
            page.close()
            raise Faulty(f"the page was not let in: {error!r}") from error
        page.tell("user-join", {"auth": {"token": self.token}})
        return page


def message(job: PageJob, session: str) -> bytes:
    """Make the request with which the page sends the first message of a new chat."""
    question, reply = str(uuid.uuid4()), str(uuid.uuid4())
    text = "Count, please."
    body = {
        "stream": True,
        "model": job.answer.model,
        "messages": [{"role": "user", "content": text}],
        "params": {},
        "tool_servers": [],
        "features": {"voice": False, "image_generation": False, "code_interpreter": False, "web_search": False},
        "variables": {},
        "session_id": session,
        "id": reply,
        "parent_id": None,
        "user_message": {
            "id": question,
            "parentId": None,
            "childrenIds": [reply],
            "role": "user",
            "content": text,
            "timestamp": int(time.time()),
            "models": [job.answer.model],
        },
        "background_tasks": {},
    }
    return request("POST", "/api/chat/completions", token=job.token, body=body)


class Page(asyncio.Protocol):
    """The websocket of one page, on which its answer comes; a `Stream` as `bench.load.wave` takes it."""

    def __init__(self, job: PageJob, caller: Caller, first: Histogram, gaps: Histogram) -> None:
        loop = asyncio.get_running_loop()
        self.job: Final = job
        self.session = ""
        self.connected: Final[asyncio.Future[str]] = loop.create_future()
        self.ended: Final[asyncio.Future[float]] = loop.create_future()
        self._caller: Final = caller
        self._first: Final = first
        self._gaps: Final = gaps
        self._heard: list[bytes] = []
        self._rest = b""
        self._upgraded = False
        self._sent = 0.0
        self._last = 0.0
        self._sending: asyncio.Task[None] | None = None
        self._refused: str | None = None
        self._transport: asyncio.Transport | None = None

    # what goes out

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = connected = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        key = base64.b64encode(os.urandom(16)).decode()
        # A browser would offer compression, too; without it the server has less to do.
        connected.write(
            "GET /ws/socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def _say(self, text: bytes, opcode: int = _TEXT) -> None:
        assert self._transport is not None
        self._transport.write(frame(opcode, text))

    def tell(self, name: str, content: object) -> None:
        """Send an event."""
        self._say(b"42" + msgspec.json.encode([name, content]))

    def send(self) -> None:
        """Send the message; the clock runs from here."""
        sent = message(self.job, self.session)
        self._sent = time.perf_counter()
        self._sending = asyncio.get_running_loop().create_task(self._send(sent))

    async def _send(self, sent: bytes) -> None:
        try:
            chat = msgspec.json.decode(await self._caller.ask(sent))["chat_id"]
        except Faulty as error:
            self._refused = str(error)
            self._end()
        else:
            self.job.chats.append((self.job.token, chat))
            if not self.ended.done():
                self.tell("events:chat", {"chat_id": chat, "data": {"type": "join"}})
        finally:
            self._caller.close()

    # what comes in

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._rest += data
        if not self._upgraded:
            head, found, rest = self._rest.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                self._fail(f"the websocket was refused: {head.splitlines()[0].decode()}")
                return
            self._upgraded, self._rest = True, rest
        try:
            found_frames, self._rest = frames(self._rest)
        except ValueError as error:
            self._fail(str(error))
            return
        tokens = False
        for opcode, payload in found_frames:
            if opcode == _TEXT:
                tokens = self._take(payload, now) or tokens
            elif opcode == _PING:
                self._say(payload, _PONG)
            elif opcode == _CLOSE:
                self._fail("the server closed the websocket")
        if tokens:
            (self._gaps if self._last else self._first).add(now - (self._last or self._sent))
            self._last = now

    def _take(self, payload: bytes, now: float) -> bool:
        if payload == b"2":
            self._say(b"3")
        elif payload.startswith(b"0{"):
            self._say(b"40" + msgspec.json.encode({"token": self.job.token}))
        elif payload.startswith(b"40"):
            self.connected.set_result(msgspec.json.decode(payload[2:])["sid"])
        elif payload.startswith(b"42"):
            self._heard.append(payload)
            if _DELTA in payload:
                return MARK in payload
            if _DONE in payload and not self.ended.done():
                self.ended.set_result(now)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was lost: {exc!r}")

    def _fail(self, why: str) -> None:
        if not self.ended.done():
            self._refused = self._refused or why
        if not self.connected.done():
            self.connected.set_exception(Faulty(why))
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(time.perf_counter())

    def close(self) -> None:
        """Leave the page: at once, or a while after the answer has ended."""
        if self._sending is None:
            self._caller.close()
        elif not self._sending.done():
            self._sending.cancel()
        if self._transport is None:
            return
        if self.ended.done():
            # People stay when they have read: that they leave is no part of what an answer costs.
            asyncio.get_running_loop().call_later(_STAY_SECONDS, self._transport.close)
        else:
            self._transport.abort()

    def fault(self) -> str | None:
        """Tell what is wrong with the answer, once it has ended."""
        if self._refused is not None:
            return self._refused
        try:
            return page_fault(self._heard, self.job.answer)
        except ValueError as error:
            return f"it cannot be read: {error}"
