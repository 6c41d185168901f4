"""A turn's events as Server-Sent Events (WHATWG HTML, 9.2)."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final

from luxx.extras import needs

with needs("luxx.entrypoints.http.event_stream", "the extra `client`"):
    from luxx.adapters.wire import encode_event
    from luxx.application.ports import LoggedEvent
    from luxx.domain.errors import LuxxError
    from luxx.domain.fields import on_one_line
    from luxx.domain.turn import Failed
    from luxx.entrypoints.http.asgi import Receive, Scope, Send
    from luxx.entrypoints.http.text import Language, error_text, problem_text

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_log = logging.getLogger(__name__)


def sse(logged: LoggedEvent, language: Language) -> str:
    """Write one event: `id`, `event` and one line of `data`, by whatever rule a client finds lines."""
    event = logged.event
    if isinstance(event, Failed):
        message = problem_text(event.code, event.message, language)
        name, data = encode_event(Failed(code=event.code, message=message, message_id=event.message_id))
    else:
        name, data = logged.encoded or encode_event(event)
    return f"id: {logged.seq}\n{_frame(name, data)}"


def _frame(name: str, data: str) -> str:
    # Only LF and CR end a line here, but many clients split at whatever Unicode calls a line break.
    if not data.isascii():
        data = on_one_line(data)
    return f"event: {name}\ndata: {data}\n\n"


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
        if scope.get("method") == "HEAD":
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        body = _Body(send, self._heartbeat)
        # In a task of its own: each of its many wake-ups would pass through the whole of server and framework here.
        sending = asyncio.create_task(self._send_all(body))
        leaving = asyncio.create_task(_until_gone(receive, sending))
        try:
            await asyncio.wait([sending])
        finally:
            tasks = [sending, leaving, *body.close()]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            # Asked for where this is cancelled, too: else it would be told as an error that nobody looked at.
            failure = None if sending.cancelled() else sending.exception()
        if failure is not None:
            raise failure

    async def _send_all(self, body: "_Body") -> None:
        try:
            async with aclosing(self._batches) as batches:
                async for batch in batches:
                    await body.write("".join([sse(logged, self._language) for logged in batch]).encode())
        except LuxxError as error:
            # The turn may go on; the reader cannot. No id: a resume starts behind the last event seen.
            _log.warning("a stream of %s broke off: %s", self._message_id, error)
            failure = Failed(code=error.code, message=error_text(error, self._language), message_id=self._message_id)
            await body.write(_frame(*encode_event(failure)).encode())
        await body.write(b"", more=False)


class _Body:
    """The body of a response, written by one at a time; comments fill its silence."""

    __slots__ = ("_beating", "_heartbeat", "_loop", "_one", "_send", "_since", "_timer")

    def __init__(self, send: Send, heartbeat: float) -> None:
        self._send = send
        self._heartbeat = heartbeat
        self._one = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        """When something was written last."""
        self._beating: asyncio.Task[None] | None = None
        # A task for what most streams never need would be a good part of opening one.
        self._timer = self._loop.call_later(heartbeat, self._begin_beating)

    async def write(self, body: bytes, *, more: bool = True) -> None:
        async with self._one:
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
            self._since = self._loop.time()

    def _begin_beating(self) -> None:
        self._beating = self._loop.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            silence = self._loop.time() - self._since
            if silence < self._heartbeat:
                await asyncio.sleep(self._heartbeat - silence)
            else:  # where the client does not read, this waits as the events do
                await self.write(b": heartbeat\n\n")

    def close(self) -> Sequence[asyncio.Task[None]]:
        """Begin no comment any more; gives what may be writing one."""
        self._timer.cancel()
        # Not kept: each would keep the other, and with them the connection, until the garbage collector comes.
        beating, self._beating = self._beating, None
        return () if beating is None else (beating,)


async def _until_gone(receive: Receive, reading: asyncio.Task[Any]) -> None:
    """End what a client reads once it has gone."""
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    except Exception:  # noqa: BLE001  # a client that cannot be heard any more is as good as gone
        _log.debug("a client cannot be heard", exc_info=True)
    reading.cancel()
