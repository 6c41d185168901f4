"""A turn's events as Server-Sent Events (WHATWG HTML, 9.2)."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from luxx.adapters.wire import encode_event
from luxx.application.ports import LoggedEvent
from luxx.domain.errors import LuxxError
from luxx.domain.turn import Failed
from luxx.entrypoints.http.asgi import Receive, Scope, Send
from luxx.entrypoints.http.text import Language, error_text, problem_text

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_BREAKS: Final = re.compile("[\x85\u2028\u2029]")
_log = logging.getLogger(__name__)


def sse(logged: LoggedEvent, language: Language) -> str:
    """Write one event: `id`, `event` and one line of `data`, by whatever rule a client finds lines."""
    event = logged.event
    if isinstance(event, Failed):
        message = problem_text(event.code, event.message, language)
        event = Failed(code=event.code, message=message, message_id=event.message_id)
    name, data = encode_event(event)
    return _frame(name, data, f"id: {logged.seq}\n")


def _frame(name: str, data: str, identity: str = "") -> str:
    # Only LF and CR end a line here, but many clients split at whatever Unicode calls a line break.
    data = _BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", data)
    return f"{identity}event: {name}\ndata: {data}\n\n"


class EventStream:
    """An ASGI app that sends batches of events: what was read at once is written at once.

    After `heartbeat` seconds of silence it sends a comment line. The turn does not depend on it: when
    the client goes, only the reading ends.
    """

    def __init__(
        self,
        batches: AsyncGenerator[Sequence[LoggedEvent], None],
        *,
        message_id: str,
        language: Language,
        heartbeat: float,
    ) -> None:
        self._batches: Final = batches
        self._message_id: Final = message_id
        self._language: Final = language
        self._heartbeat: Final = heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        writing = _Writing(send)
        sending = asyncio.ensure_future(self._send_all(writing))
        leaving = asyncio.ensure_future(_gone(receive))
        beating = asyncio.ensure_future(_beat(writing, self._heartbeat))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving, beating):
                task.cancel()
            await asyncio.gather(sending, leaving, beating, return_exceptions=True)
        if not sending.cancelled() and (error := sending.exception()) is not None:
            raise error

    async def _send_all(self, writing: "_Writing") -> None:
        try:
            async with aclosing(self._batches) as batches:
                async for batch in batches:
                    await writing.write("".join([sse(logged, self._language) for logged in batch]).encode())
        except LuxxError as error:
            # The turn may go on; the reader cannot. No id: a resume starts behind the last event seen.
            _log.warning("a stream of %s broke off: %s", self._message_id, error)
            failure = Failed(code=error.code, message=error_text(error, self._language), message_id=self._message_id)
            await writing.write(_frame(*encode_event(failure)).encode())
        await writing.write(b"", more=False)


class _Writing:
    """The body of a response, written by one at a time."""

    __slots__ = ("_one", "_send", "since")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._one = asyncio.Lock()
        self.since = time.monotonic()
        """When something was written last."""

    async def write(self, body: bytes, *, more: bool = True) -> None:
        async with self._one:
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
            self.since = time.monotonic()


async def _beat(writing: _Writing, heartbeat: float) -> None:
    while True:
        silence = time.monotonic() - writing.since
        if silence < heartbeat:
            await asyncio.sleep(heartbeat - silence)
        else:  # where the client does not read, this waits as the events do
            await writing.write(b": heartbeat\n\n")


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
