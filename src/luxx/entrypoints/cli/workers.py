"""`luxx serve --workers`: several processes that take requests from the same sockets, and the one that keeps them."""

import asyncio
import logging
import os
import pickle
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from luxx.adapters.children import ended
from luxx.adapters.telemetry.prometheus import SHARED_DIRECTORY, forget_process
from luxx.settings import BadSettings, Settings

Address: TypeAlias = tuple[Any, ...]
"""Host and port first, as `socket.getsockname` gives it."""

DRAIN: Final = b"drain"
STOP: Final = b"stop"
"""What goes over a worker's standard input: as on a first signal, and as on a second."""

LIVED_SECONDS: Final = 10.0
"""A worker that lived so long is replaced at once; one that did not, after a pause."""
PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
CLOSING_SECONDS: Final = 40.0
"""How long a worker may take to stop, beyond the time that its answers get: where the database is away, most of it."""
STOP_SECONDS: Final = 5.0
"""How long a worker may take to stop at once."""

FREE_THE_PORT: Final = "stop what listens there, or give another --host or --port"

_BOOT: Final = "import sys; sys.path[:] = {path!r}; from luxx.entrypoints.cli.worker import main; sys.exit(main())"
_log = logging.getLogger("luxx.workers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a worker is given first, pickled, in hex: all settings, and the numbers of the open sockets to listen on."""

    settings: Settings
    sockets: tuple[int, ...]


def say_where(address: Address) -> None:
    """Log where the service listens."""
    host, port = address[:2]
    shown = f"[{host}]" if ":" in host else host
    logging.getLogger("luxx").info("Luxx listens on http://%s:%d", shown, port)


def check_workers(settings: Settings, count: int) -> None:
    """Raise `BadSettings` where several processes cannot work together."""
    if not settings.on_postgres:
        raise BadSettings(
            [f"--workers {count} needs Postgres: set LUXX_DATABASE_URL=postgresql://…; on SQLite one process serves"]
        )
    if os.name != "posix":
        raise BadSettings([f"--workers {count} needs a system that hands sockets on, as Linux and macOS do"])


async def serve_with_workers(settings: Settings, *, host: str, port: int, count: int) -> int:
    """Serve with `count` processes until a signal; gives the exit status.

    The first signal drains them all, the second stops them at once. One that ends unasked is replaced.
    1 where none can be started, 2 where that is because of its settings. Raises `OSError` where nobody
    can listen there.
    """
    loop = asyncio.get_running_loop()
    # It binds as a single process does and never listens: the sockets are for the workers.
    try:
        bound = await loop.create_server(asyncio.Protocol, host=host, port=port, start_serving=False)
    except OSError as error:
        raise OSError(f"nobody can listen on {host} port {port} ({error.strerror}): {FREE_THE_PORT}") from None
    with tempfile.TemporaryDirectory(prefix="luxx-metrics-", ignore_cleanup_errors=True) as directory:
        workers = _Workers(settings, bound, count=count, metrics=Path(directory))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, workers.stop, number.name)
        return await workers.serve()


class _Worker:
    """One process; its standard input is what it obeys, and what tells it that this process lives."""

    def __init__(self, process: Process) -> None:
        self._process: Final = process

    @classmethod
    async def start(cls, settings: Settings, sockets: Sequence[int], metrics: Path) -> "_Worker":
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _BOOT.format(path=sys.path)),
            stdin=PIPE,
            stdout=PIPE,
            env=os.environ | {SHARED_DIRECTORY: str(metrics)},
            pass_fds=sockets,
            # A group of its own: Ctrl-C is for this process, which then tells the workers.
            start_new_session=True,
        )
        worker = cls(process)
        worker.order(pickle.dumps(Start(settings=settings, sockets=tuple(sockets))).hex().encode())
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ready(self) -> bool:
        """Wait until it takes requests; False where it ends instead."""
        assert self._process.stdout is not None  # noqa: S101  # it is a pipe
        return bool(await self._process.stdout.readline())

    async def ended(self) -> int:
        """Wait for its end; gives the exit status, negative for a signal."""
        return await ended(self._process)

    def order(self, order: bytes) -> None:
        """Send a line, which is for a process that lives."""
        assert self._process.stdin is not None  # noqa: S101  # it is a pipe
        if self._process.returncode is None:
            self._process.stdin.write(order + b"\n")

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()


class _Workers:
    """Keeps `count` workers alive until it is told to stop."""

    def __init__(
        self,
        settings: Settings,
        bound: asyncio.Server,
        *,
        count: int,
        metrics: Path,
    ) -> None:
        self._settings: Final = settings
        self._bound: Final = bound
        self._sockets: Final = tuple(bound.sockets)
        self._count: Final = count
        self._metrics: Final = metrics
        self._alive: Final[set[_Worker]] = set()
        self._serving = 0
        self._proven: Final = asyncio.Event()
        self._stopping: Final = asyncio.Event()
        self._status = 0

    async def serve(self) -> int:
        """Keep them until the end; gives the exit status."""
        await asyncio.gather(*(self._keep(number) for number in range(self._count)))
        return self._status

    def stop(self, why: str) -> None:
        """Let all workers finish what they are at; called again, do not."""
        loop = asyncio.get_running_loop()
        if self._stopping.is_set():
            _log.info("%s again: all workers stop at once", why)
            loop.call_later(STOP_SECONDS, self._kill)
            self._order(STOP)
            return
        _log.info("%s: all workers stop", why)
        loop.call_later(self._settings.grace_seconds + CLOSING_SECONDS, self._kill)
        self._end()

    def _end(self) -> None:
        self._stopping.set()
        self._proven.set()
        # The socket is closed for good when the last worker has closed it.
        self._bound.close()
        self._order(DRAIN)

    def _order(self, order: bytes) -> None:
        for worker in self._alive:
            worker.order(order)

    def _kill(self) -> None:
        for worker in self._alive:
            _log.error("worker %d does not stop, and is killed", worker.pid)
            worker.kill()

    async def _keep(self, number: int) -> None:
        """Run one worker after the other. The first shows whether any can be started, and tells why not alone."""
        if number > 0:
            await self._proven.wait()
        loop = asyncio.get_running_loop()
        pause = 0.0
        while not self._stopping.is_set():
            began = loop.time()
            served, status = await self._one()
            if self._stopping.is_set():
                self._status = self._status or (1 if status else 0)
                return
            if not served and not self._serving:
                _log.error("no worker can be started: the reason is above")
                self._status = 2 if status == 2 and not self._proven.is_set() else 1
                self._end()
                return
            lived = served and loop.time() - began >= LIVED_SECONDS
            pause = 0.0 if lived else min(max(2 * pause, PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            _log.warning("a worker ended with the status %d; another is started in %g s", status, pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()

    async def _one(self) -> tuple[bool, int]:
        """Run a worker to its end; tells whether it ever took requests, and its exit status."""
        try:
            worker = await _Worker.start(self._settings, [one.fileno() for one in self._sockets], self._metrics)
        except OSError as error:
            _log.error("no process can be started: %s", error.strerror)  # whence it comes is no news
            return False, 1
        self._alive.add(worker)
        if self._stopping.is_set():
            worker.order(DRAIN)
        ready = await worker.ready()
        if ready:
            self._joined(worker)
        status = await worker.ended()
        self._serving -= ready
        self._alive.discard(worker)
        forget_process(worker.pid, self._metrics)
        return ready, status

    def _joined(self, worker: _Worker) -> None:
        self._serving += 1
        _log.info("worker %d serves, %d of %d", worker.pid, self._serving, self._count)
        if not self._proven.is_set():
            self._proven.set()
            for one in self._sockets:
                say_where(one.getsockname())
