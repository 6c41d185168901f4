"""A scripted OpenAI-compatible provider that costs next to nothing: `python -m bench upstream --port 9000`.

Bytes are made once for each model's name and written as they are. All streams of one pace share a
ticker; each has its own moment within the pause between tokens, as answers that begin when people
ask do. Ends with usage and `[DONE]`.
"""

import asyncio
import functools
import json
import re
from collections.abc import Sequence
from typing import Final, cast

import msgspec

from bench.answers import Answer, answer_of

_MODEL: Final = re.compile(rb'"model"\s*:\s*"([^"]{1,128})"')
_LENGTH: Final = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_WHOLE: Final = re.compile(rb'"stream"\s*:\s*true')
_SLICE: Final = 1 << 16
_MOMENTS: Final = 20
_PROMPT_TOKENS: Final = 12
_CREATED: Final = 1_700_000_000
_ID: Final = "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT"

_STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
MODELS: Final = ("paced-50x200", "paced-50x500", "fast-10", "fast-500", "fast-2000")
"""What the list of models shows; every name that `answer_of` reads is answered."""


class Script(msgspec.Struct, frozen=True):
    """A stream as it crosses the wire: `opening` at once, then `tokens` one by one, then `ending`."""

    opening: bytes
    tokens: Sequence[bytes]
    ending: bytes
    slices: Sequence[bytes]
    """Tokens and ending together, for who sends as fast as it can."""


def _framed(data: str) -> bytes:
    body = f"data: {data}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(body), body)


def _chunk(model: str, choices: list[object], **more: object) -> bytes:
    chunk = {
        "id": _ID,
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": model,
        "system_fingerprint": "fp_44709d6fcb",
        "choices": choices,
        **more,
    }
    return _framed(json.dumps(chunk, separators=(",", ":")))


def _choice(delta: dict[str, str], reason: str | None = None) -> list[object]:
    return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]


def _usage(answer: Answer) -> dict[str, int]:
    return {
        "prompt_tokens": _PROMPT_TOKENS,
        "completion_tokens": answer.tokens,
        "total_tokens": _PROMPT_TOKENS + answer.tokens,
    }


@functools.lru_cache(maxsize=8)
def script_of(model: str, answer: Answer) -> Script:
    """Make the bytes of an answer."""
    tokens = [_chunk(model, _choice({"content": answer.token(number)})) for number in range(answer.tokens)]
    ending = _chunk(model, _choice({}, "stop")) + _chunk(model, [], usage=_usage(answer)) + _framed("[DONE]")
    ending += b"0\r\n\r\n"
    whole = b"".join(tokens) + ending if answer.rate is None else b""
    return Script(
        opening=_STREAM_HEAD + _chunk(model, _choice({"role": "assistant", "content": ""})),
        tokens=tokens,
        ending=ending,
        slices=[whole[start : start + _SLICE] for start in range(0, len(whole), _SLICE)],
    )


def _json(status: str, content: object) -> bytes:
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _completion(model: str, answer: Answer) -> bytes:
    message = {"role": "assistant", "content": answer.text}
    return _json(
        "200 OK",
        {
            "id": _ID,
            "object": "chat.completion",
            "created": _CREATED,
            "model": model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": _usage(answer),
        },
    )


class Ticker:
    """Writes the next token of every stream of one pace."""

    def __init__(self, rate: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._step: Final = 1 / rate / _MOMENTS
        self._moments: Final[list[set[Provider]]] = [set() for _ in range(_MOMENTS)]
        self._next = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: "Provider") -> None:
        """Begin, at the moment that has the fewest streams."""
        moment = min(self._moments, key=len)
        moment.add(stream)
        stream.left = lambda: moment.discard(stream)
        if self._timer is None:
            self._due = self._loop.time() + self._step
            self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        # Behind its time it catches up: the pace is a promise. What is due within half a step is due now,
        # because timers count whole milliseconds: waiting for less would be a busy loop.
        now = self._loop.time()
        while self._due <= now + self._step / 2:
            for stream in list(self._moments[self._next]):
                stream.step()
            self._next = (self._next + 1) % _MOMENTS
            self._due += self._step
        pause = max(0.001, self._due - now)
        self._timer = self._loop.call_later(pause, self._tick) if any(self._moments) else None


class Provider(asyncio.Protocol):
    """One connection: one request after the other."""

    def __init__(self, tickers: dict[int, Ticker]) -> None:
        self._tickers: Final = tickers
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._script: Script | None = None
        self._sent = 0
        self._paused = False
        self._pushing = False
        self.left = _nothing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the protocol's signature
        self.left()
        self._transport, self._script, self._pushing = None, None, False

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._pushing:
            self._push()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._script is not None:
            return
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = _LENGTH.search(head)
        needed = int(length[1]) if length else 0
        if len(rest) < needed:
            return
        self._received = rest[needed:]
        self._answer(head, rest[:needed])

    def _answer(self, head: bytes, body: bytes) -> None:
        assert self._transport is not None
        path = head.split(b" ", 2)[1].partition(b"?")[0]
        if path.endswith(b"/models"):
            names = [{"id": name, "object": "model", "created": _CREATED, "owned_by": "bench"} for name in MODELS]
            self._transport.write(_json("200 OK", {"object": "list", "data": names}))
            return
        found = _MODEL.search(body)
        model = found[1].decode() if found else ""
        answer = answer_of(model) if path.endswith(b"/chat/completions") else None
        if answer is None:
            error = {"error": {"message": "There is no such model or path.", "type": "invalid_request_error"}}
            self._transport.write(_json("404 Not Found", error))
            return
        if not _WHOLE.search(body):
            self._transport.write(_completion(model, answer))
            return
        self._script, self._sent = script_of(model, answer), 0
        self._transport.write(self._script.opening)
        if answer.rate is None:
            self._pushing = True
            self._push()
            return
        if answer.rate not in self._tickers:
            self._tickers[answer.rate] = Ticker(answer.rate)
        self._tickers[answer.rate].add(self)

    def _push(self) -> None:
        while self._script is not None and self._transport is not None and not self._paused:
            self._transport.write(self._script.slices[self._sent])
            self._sent += 1
            if self._sent == len(self._script.slices):
                self._pushing = False
                self._finished()
                return

    def step(self) -> None:
        """Write the next token, and the end behind the last one."""
        if self._script is None or self._transport is None:
            return
        token = self._script.tokens[self._sent]
        self._sent += 1
        if self._sent < len(self._script.tokens):
            self._transport.write(token)
        else:
            self._transport.write(token + self._script.ending)
            self._finished()

    def _finished(self) -> None:
        self.left()
        self.left, self._script = _nothing, None
        if self._received:
            self.data_received(b"")


def _nothing() -> None:
    pass


async def serve(port: int) -> None:
    """Answer until cancelled; says where it listens."""
    tickers: dict[int, Ticker] = {}
    server = await asyncio.get_running_loop().create_server(lambda: Provider(tickers), "127.0.0.1", port, backlog=4096)
    print(f"the provider listens on http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    async with server:
        await server.serve_forever()
