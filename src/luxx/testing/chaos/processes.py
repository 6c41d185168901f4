"""The service and its model provider as processes that can be killed, stopped and started again."""

import asyncio
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_LISTENS: Final = re.compile(rb"Luxx listens on http://127\.0\.0\.1:(\d+)")
_START_SECONDS: Final = 30.0


class NotStarted(Exception):
    """A process ended, or said nothing, instead of starting; the text holds its last words."""


class ServiceProcess:
    """`luxx serve` on a free port; an async context manager that kills what still runs at its end.

    `environ` holds the `LUXX_` settings, `arguments` what `serve` is told beside the port; the directory it
    runs in has no `.env`.
    """

    def __init__(self, environ: Mapping[str, str], *, directory: Path, arguments: Sequence[str] = ()) -> None:
        self.port = 0
        self.stopped = False
        self._environ = {name: text for name, text in os.environ.items() if not name.startswith("LUXX_")} | dict(
            environ
        )
        self._directory = directory
        self._arguments = tuple(arguments)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()
        self.lines: Final[deque[str]] = deque(maxlen=400)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running:
            await self.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def said(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.lines)

    async def start(self) -> None:
        """Start, and return once it listens; raises `NotStarted`."""
        self._listening.clear()
        self.stopped = False
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "luxx.entrypoints.cli", "serve", "--port", "0", *self._arguments),
            env=self._environ,
            cwd=self._directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # A group of its own: Ctrl-C is for whoever runs the test, who then stops the service.
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read(self._process))
        listening = asyncio.create_task(self._listening.wait())
        await asyncio.wait({listening, self._reading}, timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not listening.done():
            listening.cancel()
            if self._reading.done():
                # It is ending by itself: a signal now could lose its exit status.
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), 5)
            await self.kill()
            raise NotStarted(f"luxx serve did not start:\n{self.said}")

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            self.lines.append(line.decode(errors="replace").rstrip())
            if found := _LISTENS.search(line):
                self.port = int(found[1])
                self._listening.set()

    async def wait(self) -> int:
        """Wait for its end; gives the exit status, negative for a signal."""
        assert self._process is not None
        status = await self._process.wait()
        if self._reading is not None:
            await self._reading
        return status

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        await self.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended already is left alone."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
            if number in {signal.SIGSTOP, signal.SIGCONT}:
                self.stopped = number is signal.SIGSTOP


class UpstreamProcess:
    """`python -m luxx.testing.upstream` as a process of its own; an async context manager."""

    def __init__(self, *, delay: float) -> None:
        self._delay = delay
        self._process: asyncio.subprocess.Process | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "luxx.testing.upstream", "--delay", str(self._delay)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        found = re.search(rb":(\d+)/", line)
        if found is None:
            raise NotStarted("the scripted provider did not start")
        self.port = int(found[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
