"""`luxx serve` in one process."""

import asyncio
import functools
import gc
import importlib.util
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import uvicorn
from uvicorn.lifespan.on import LifespanOn

from luxx.application.supervisor import TurnSupervisor
from luxx.container import Container
from luxx.domain.errors import LuxxError
from luxx.entrypoints.cli.allocator import give_back, one_arena
from luxx.entrypoints.cli.workers import FREE_THE_PORT, Address, say_where
from luxx.entrypoints.http.app import create_app
from luxx.entrypoints.http.unreadable import EnvelopedHttp
from luxx.settings import Settings

CLOSING_SECONDS: Final = 5
"""How long streams may take to send their end after the last answer has ended."""

UNREAD_TIMES: Final = 5
"""A client that takes nothing of an answer is hung up on after so many times the seconds it has for a request."""

_log = logging.getLogger("luxx")


class DrainingServer(uvicorn.Server):
    """Goes on answering while the turns of this process end: SIGTERM must not cut a stream.

    On the first signal new sends are refused and running turns get `grace` seconds; then it stops.
    A second signal stops it at once. `listening` is told where it listens, once it does. A client that
    takes nothing of its answer for `unread` seconds is hung up on.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        supervisor: TurnSupervisor,
        *,
        grace: float,
        unread: float,
        listening: Callable[[Address], None],
    ) -> None:
        super().__init__(config)
        self._unread: Final = unread
        self._supervisor: Final = supervisor
        self._grace: Final = grace
        self._listening: Final = listening
        self._signalled = False
        self._draining: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        told = logging.getLogger("uvicorn.error")
        told.addFilter(self._is_news)
        try:
            await super().serve(sockets)
        finally:
            if not self.server_state.tasks:  # else they are cut off when the loop is closed
                told.removeFilter(self._is_news)

    def _is_news(self, record: logging.LogRecord) -> bool:
        """Tell whether a line of uvicorn's is for the log: at the end no traceback for each reader that is cut off."""
        cut_off = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
        return not (cut_off and self.should_exit)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        # What is there by now stays: looking through all of it again and again cost a tenth of a stream.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)
        try:
            await super().startup(sockets)
        except SystemExit:
            if not self.lifespan.should_exit:  # else it was not about listening, of which uvicorn has told the reason
                _log.error("%s", FREE_THE_PORT)
            raise
        for server in self.servers:
            for listening in server.sockets:
                _hang_up_on_who_reads_nothing(listening.fileno(), self._unread)
                self._listening(listening.getsockname())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        # uvicorn would note the signal and raise it again at its end: the exit status would not be 0.
        if self._loop is None or self._signalled:
            self.stop(at_once=self._signalled)
            return
        self._signalled = True
        # A signal comes between any two steps of the loop: what it starts is started by the loop.
        self._loop.call_soon_threadsafe(self.drain, signal.Signals(sig).name)

    def drain(self, why: str, *, grace: float | None = None) -> None:
        """Take no new messages, and stop when the answers under way have ended or had their time; in the loop only.

        A second call can only shorten that time.
        """
        grace = self._grace if grace is None else grace
        _log.info("%s: no new messages; answers under way get %g s", why, grace)
        self._draining.add(asyncio.create_task(self._drain(grace)))

    def stop(self, *, at_once: bool) -> None:
        """Stop without waiting for answers under way; `at_once` leaves nothing time to end in order."""
        self.should_exit = True
        self.force_exit = at_once

    async def _drain(self, grace: float) -> None:
        await self._supervisor.drain(grace=grace)
        self.should_exit = True


def _hang_up_on_who_reads_nothing(listening: int, seconds: float) -> None:
    """Let the kernel end connections from this socket whose peer has taken nothing for so long (RFC 5482, tcp(7)).

    Who is connected inherits it, while an answer is written and after it was closed. Only Linux has it.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        with socket.socket(fileno=os.dup(listening)) as ours:
            if ours.family in {socket.AF_INET, socket.AF_INET6}:
                ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Give what makes the fastest event loop there is here; None for Python's own."""
    return _uvloop if importlib.util.find_spec("uvloop") is not None else None


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415  # not on every platform

    return uvloop.new_event_loop()


async def serve(settings: Settings, *, host: str, port: int) -> int:
    """Serve in this process until a signal; gives the exit status."""
    return await status_of(server_of(Container(settings=settings), host=host, port=port))


class _ToldLifespan(LifespanOn):
    """Says in a sentence why a start or an end failed, where there is one; a traceback is for our own faults."""

    async def send(self, message: Any) -> None:
        if message["type"] in {"lifespan.startup.failed", "lifespan.shutdown.failed"}:
            # The framework sends this while it handles what was raised.
            error = sys.exc_info()[1]
            while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            if isinstance(error, LuxxError):
                message = message | {"message": error.to_operator()}
            elif isinstance(error, OSError):
                message = message | {"message": str(error)}
            elif isinstance(error, asyncio.CancelledError):
                message = message | {"message": ""}  # who stops it at once has asked for that
        await super().send(message)


async def status_of(server: DrainingServer, sockets: list[socket.socket] | None = None) -> int:
    """Serve until the server stops; gives the exit status."""
    one_arena()
    giving_back = asyncio.create_task(give_back())
    try:
        await server.serve(sockets)
    except SystemExit:
        return 1  # uvicorn has a status of its own for a start that failed, and the log has the reason
    finally:
        giving_back.cancel()
    return 0 if server.started else 1


def server_of(
    container: Container, *, host: str, port: int, listening: Callable[[Address], None] = say_where
) -> DrainingServer:
    """Make the server of a container, not started yet. Only inside an event loop."""
    config = uvicorn.Config(
        create_app(container),
        host=host,
        port=port,
        http=functools.partial(EnvelopedHttp, seconds=container.settings().request_seconds),  # type: ignore[arg-type]  # called as a class is
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # who may say where a request comes from is a setting of ours
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )
    config.load()
    config.lifespan_class = _ToldLifespan
    settings = container.settings()
    return DrainingServer(
        config,
        container.supervisor(),
        grace=settings.grace_seconds,
        unread=UNREAD_TIMES * settings.request_seconds,
        listening=listening,
    )
