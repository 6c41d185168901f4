"""A model provider on loopback that does as it is told, down to the byte.

In a test it plays answers and tells what it was asked:

    async with ScriptedUpstream() as upstream:
        upstream.play(saying("Hello", " there"))
        model = OpenAIChatModel(OpenAISettings(base_url=upstream.url))
        ...
        assert upstream.requests[0].json["model"] == "glm-5"
        await upstream.until_open(0)

As a program (`python -m luxx.testing.upstream [--host 127.0.0.1] [--port 0] [--delay 0] [--words 0]`) it
prints its base URL on a line of its own and answers until it is stopped. `GET /stats` gives
`{"requests": n, "open_requests": n}`.

With nothing left to play, it answers from the prompt: `echo` gives the text, so that whoever sent the
prompt knows what should come back. Words in double brackets in the last user message steer it; they are
no part of the text. N counts words, S is in seconds; where N is left out it is 0.

    [[words:N]]            N words, those of the prompt again and again, each with its number
    [[delay:S]]            a pause before each word
    [[think:N]]            N words of thinking first
    [[tool:NAME {JSON}]]   ask for a tool first (several: together); the text follows in the next round
    [[flaky:N]]            the first N requests with this very message get a 503, the next ones the answer
    [[status:CODE]]        nothing but this status; [[status:429:S]] sends Retry-After
    [[html]]               a web page with status 200
    [[mute]]               not even a response head, until the client leaves
    [[stall:N]]            silence after N words, until the client leaves
    [[reset:N]]            a TCP reset after N words
    [[truncate:N]]         the connection closed in the middle of a chunk after N words
    [[end:N]]              a clean end after N words, without finish_reason and [DONE]
    [[garbage:N]]          malformed JSON after N words
    [[error:N]]            an error object after N words
    [[line:N]]             a line without an end after N words
    [[endless]]            words without an end
    [[drip:S]]             one byte at a time, S seconds apart
"""

import argparse
import asyncio
import contextlib
import json
import re
import socket
import struct
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

_CONTROL: Final = re.compile(r"\[\[(\w+)(?::((?:(?!\]\]).)*))?\]\]", re.DOTALL)
_REASONS: Final = {200: "OK", 301: "Moved Permanently", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found"}
_END_CHUNK: Final = b"0\r\n\r\n"
_HEAD_LIMIT: Final = 1 << 16


# --- what an answer is made of ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes onto the connection as they are, outside of the framing of the body."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """A pause: so many seconds, or until the event is set."""

    until: float | asyncio.Event


@dataclass(frozen=True, slots=True)
class Stall:
    """Silence until the client leaves."""


@dataclass(frozen=True, slots=True)
class Reset:
    """A TCP reset; nothing follows."""


@dataclass(frozen=True, slots=True)
class Close:
    """An end of the connection without the end of the body; nothing follows."""


@dataclass(frozen=True, slots=True)
class Endless:
    """The same bytes again and again, until the client leaves."""

    data: bytes


Step: TypeAlias = bytes | Raw | Wait | Stall | Reset | Close | Endless
"""One step of an answer; plain bytes are a piece of the body, written at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What to send for one request: a head, then the steps. `head=False` leaves all bytes to `Raw`.

    `drip_s` sends the body byte by byte with such pauses.
    """

    steps: tuple[Step, ...] = ()
    status: int = 200
    content_type: str | None = "text/event-stream"
    headers: Mapping[str, str] = field(default_factory=dict)
    head: bool = True
    drip_s: float | None = None


def event(data: Any) -> bytes:
    """Give one event of the stream: `data` as JSON, or as it is if it is a string."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


DONE: Final = event("[DONE]")


def delta(**fields: Any) -> bytes:
    """Give a chunk with this delta: `content=`, `reasoning_content=`, `tool_calls=` …"""
    return event(
        {
            "id": "c",
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": fields, "finish_reason": None}],
        }
    )


def finish(reason: str = "stop") -> bytes:
    """Give the chunk that ends an answer."""
    return event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})


def usage(prompt: int, completion: int) -> bytes:
    """Give the chunk that counts the tokens."""
    figures = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return event({"choices": [], "usage": figures})


def call(name: str, arguments: str = "{}", *, index: int = 0, call_id: str | None = None) -> bytes:
    """Give a chunk with a whole tool call; `arguments` is the JSON text."""
    call_id = f"call_{index + 1}" if call_id is None else call_id
    function = {"name": name, "arguments": arguments}
    return delta(tool_calls=[{"index": index, "id": call_id, "type": "function", "function": function}])


def saying(*texts: str, thinking: str = "", reason: str = "stop") -> Reply:
    """Give a whole answer of these texts, with a usage of 7 and the number of texts."""
    thought = [delta(role="assistant", reasoning_content=thinking)] if thinking else []
    spoken = (delta(content=text) for text in texts)
    return Reply(steps=(*thought, *spoken, finish(reason), usage(7, len(texts)), DONE))


def asking(*calls: tuple[str, str]) -> Reply:
    """Give a whole answer that asks for tools, by name and JSON text of the arguments."""
    chunks = (call(name, arguments, index=index) for index, (name, arguments) in enumerate(calls))
    return Reply(steps=(*chunks, finish("tool_calls"), usage(7, len(calls)), DONE))


def failing(status: int, *, retry_after: str | None = None, body: bytes = b'{"error": {"message": "no"}}') -> Reply:
    """Give an answer that is nothing but an error status."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return Reply(status=status, headers=headers, content_type="application/json", steps=(body,))


# --- answers from the prompt ------------------------------------------------------------------------


def words_of(prompt: str, count: int = 0) -> list[str]:
    """Give the words that are answered to a prompt, each but the last with the space after it."""
    words = _CONTROL.sub(" ", prompt).split() or ["nothing"]
    if count:
        words = [f"{words[number % len(words)]}-{number + 1}" for number in range(count)]
    return [word + " " for word in words[:-1]] + words[-1:]


def echo(prompt: str) -> str:
    """Give the whole text that is answered to a prompt, were there no faults."""
    counts = [value for name, value in _CONTROL.findall(prompt) if name == "words"]
    return "".join(words_of(prompt, int(counts[-1]) if counts else 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as it came. `json` is its body, `headers` have lower-case names."""

    method: str
    path: str
    headers: Mapping[str, str]
    json: Any

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The transcript that was sent."""
        return list(self.json.get("messages", ())) if isinstance(self.json, dict) else []

    @property
    def prompt(self) -> str:
        """The last user message."""
        return next((str(m.get("content", "")) for m in reversed(self.messages) if m.get("role") == "user"), "")

    @property
    def answers_tools(self) -> bool:
        """Tell whether the results of tools were sent after the last user message."""
        return bool(self.messages) and self.messages[-1].get("role") == "tool"


class Echo:
    """The replies to prompts that nobody scripted, as the module's docstring tells."""

    def __init__(self, *, delay_s: float = 0.0, words: int = 0) -> None:
        self._delay_s = delay_s
        self._words = words
        self._seen: Counter[str] = Counter()

    def __call__(self, asked: Asked) -> Reply:
        controls = _CONTROL.findall(asked.prompt)
        named = dict(controls)
        self._seen[asked.prompt] += 1
        if "flaky" in named and self._seen[asked.prompt] <= int(named["flaky"] or 1):
            return failing(503)
        if "status" in named:
            status, _, retry_after = named["status"].partition(":")
            return failing(int(status), retry_after=retry_after or None)
        if "html" in named:
            return Reply(content_type="text/html", steps=(b"<!doctype html><title>Hello</title>",))
        if "mute" in named:
            return Reply(head=False, steps=(Stall(),))
        calls = [value for name, value in controls if name == "tool"]
        if calls and not asked.answers_tools:
            return asking(*((name, arguments or "{}") for name, _, arguments in (c.partition(" ") for c in calls)))
        drip_s = float(named["drip"] or 0.01) if "drip" in named else None
        return Reply(steps=self._steps(asked.prompt, named), drip_s=drip_s)

    def _steps(self, prompt: str, named: Mapping[str, str]) -> tuple[Step, ...]:
        pause = float(named["delay"]) if "delay" in named else self._delay_s
        words = words_of(prompt, int(named["words"]) if "words" in named else self._words)
        thoughts = words_of(prompt, int(named["think"])) if "think" in named else []
        said = [delta(content=word) for word in words]
        ends: dict[str, tuple[Step, ...]] = {
            "stall": (Stall(),),
            "reset": (Reset(),),
            "truncate": (Raw(b"400\r\ndata: {"), Close()),
            "end": (),
            "garbage": (b'data: {"choices": [{"del\n\n', finish(), DONE),
            "error": (event({"error": {"message": "the provider's own words", "type": "server_error"}}),),
            "line": (b"data: ", Endless(b"x" * 65_536)),
        }
        last: tuple[Step, ...] = (finish(), usage(len(prompt.split()), len(words)), DONE)
        for name, end in ends.items():
            if name in named:
                said, last = said[: int(named[name] or 0)], end
        if "endless" in named:
            last = (Endless(delta(content="on and on ")),)
        chunks = [*(delta(reasoning_content=thought) for thought in thoughts), *said]
        spaced = [step for chunk in chunks for step in ((Wait(pause), chunk) if pause else (chunk,))]
        return (*spaced, *last)


# --- the server -------------------------------------------------------------------------------------


class ScriptedUpstream:
    """An OpenAI-compatible server on loopback; an async context manager that listens while it is open.

    `play` queues replies, one for each request; after them `otherwise` answers. `requests` holds what
    was asked, in order; `open_requests` counts the requests that are still being answered.
    """

    def __init__(
        self, *replies: Reply, otherwise: Callable[[Asked], Reply] | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._replies = deque(replies)
        self._otherwise = otherwise or Echo()
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.requests: list[Asked] = []
        self.open_requests = 0
        self.connections = 0

    @property
    def url(self) -> str:
        """The base URL, without a slash at the end."""
        return f"http://{self._host}:{self._port}/v1"

    def play(self, *replies: Reply) -> None:
        """Queue replies to the next requests."""
        self._replies.extend(replies)

    async def until_open(self, count: int, *, within_s: float = 5.0) -> None:
        """Wait until exactly `count` requests are being answered; raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while self.open_requests != count:
                await self._changed.wait()

    async def until_asked(self, count: int, *, within_s: float = 5.0) -> None:
        """Wait until `count` requests have come; raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while len(self.requests) < count:
                await self._changed.wait()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, self._host, self._port, limit=1 << 20)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _notice(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:  # pragma: no cover
            raise RuntimeError("a connection without a task")
        self._connections.add(task)
        self.connections += 1
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        except asyncio.CancelledError:
            # Only `__aexit__` cancels, and it waits; the streams' own callback would call this a fault.
            pass
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        asked = await _read_request(reader)
        if asked is None:
            return False
        if asked.method == "GET":
            return await self._get(asked, writer)
        self.requests.append(asked)
        reply = self._replies.popleft() if self._replies else self._otherwise(asked)
        self.open_requests += 1
        self._notice()
        # A client that leaves ends the reply at once, whatever it is waiting for.
        playing = asyncio.create_task(_play(reply, writer))
        leaving = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait({playing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            return playing.done() and not leaving.done() and playing.result()
        finally:
            playing.cancel()
            leaving.cancel()
            await asyncio.gather(playing, leaving, return_exceptions=True)
            self.open_requests -= 1
            self._notice()

    async def _get(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        stats = {"requests": len(self.requests), "open_requests": self.open_requests}
        models = {"object": "list", "data": [{"id": "scripted", "object": "model"}]}
        body = json.dumps(stats if asked.path == "/stats" else models).encode()
        return await _play(Reply(content_type="application/json", steps=(body,)), writer)


async def _read_request(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    if len(head) > _HEAD_LIMIT:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method=method, path=path, headers=headers, json=json.loads(body) if body else None)


async def _play(reply: Reply, writer: asyncio.StreamWriter) -> bool:
    """Send a reply; tells whether the connection can be used again."""
    if reply.head:
        headers = dict(reply.headers)
        if reply.content_type is not None:
            headers["Content-Type"] = reply.content_type
        headers["Transfer-Encoding"] = "chunked"
        lines = [f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Scripted')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    async for data in _bytes_of(reply):
        if data is None:
            _reset(writer)
            return False
        writer.write(data)
        await writer.drain()
    if any(isinstance(step, Close) for step in reply.steps) or not reply.head:
        return False
    writer.write(_END_CHUNK)
    await writer.drain()
    return True


async def _bytes_of(reply: Reply) -> AsyncIterator[bytes | None]:
    """Give what goes onto the connection; None is a reset."""
    for step in reply.steps:
        if isinstance(step, bytes):
            async for data in _dripping(step, reply.drip_s):
                yield data
        elif isinstance(step, Raw):
            yield step.data
        elif isinstance(step, Endless):
            while True:
                yield _framed(step.data)
                await asyncio.sleep(0)
        elif isinstance(step, Reset):
            yield None
            return
        elif isinstance(step, Close):
            return
        else:
            await _paused(step)


async def _dripping(data: bytes, drip_s: float | None) -> AsyncIterator[bytes]:
    if drip_s is None:
        yield _framed(data)
        return
    for place in range(len(data)):
        await asyncio.sleep(drip_s)
        yield _framed(data[place : place + 1])


async def _paused(step: Wait | Stall) -> None:
    if isinstance(step, Stall):
        await asyncio.get_running_loop().create_future()
    elif isinstance(step.until, asyncio.Event):
        await step.until.wait()
    else:
        await asyncio.sleep(step.until)


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _reset(writer: asyncio.StreamWriter) -> None:
    # With no time to linger, closing throws away what is unsent and sends a reset.
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _serve(host: str, port: int, otherwise: Callable[[Asked], Reply]) -> None:
    async with ScriptedUpstream(otherwise=otherwise, host=host, port=port) as upstream:
        print(upstream.url, flush=True)  # noqa: T201 - the program's one line of output
        await asyncio.get_running_loop().create_future()


def main() -> None:
    """Run as a program; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m luxx.testing.upstream", description="A scripted model provider.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each word")
    parser.add_argument("--words", type=int, default=0, help="words in an answer; 0 gives those of the prompt")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(options.host, options.port, Echo(delay_s=options.delay, words=options.words)))


if __name__ == "__main__":
    main()
