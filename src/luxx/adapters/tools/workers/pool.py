"""A pool of warm worker processes, each of which runs one job at a time and can be killed."""

import asyncio
import math
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, ParamSpec, TypeVar

import msgspec

from luxx.adapters.children import ended
from luxx.adapters.tools.places import places_here
from luxx.adapters.tools.workers.child import LENGTH
from luxx.application.places import Places
from luxx.domain.errors import ToolBroken, ToolRefused, ToolTimeout

P = ParamSpec("P")
T = TypeVar("T")

MEMORY_BYTES: Final = 768 * 2**20
"""Address space of one worker, of which an interpreter with DuckDB maps 0.15 GiB before it does anything."""
RESULT_BYTES: Final = 2 * 2**20
ORDER_BYTES: Final = 16 * 2**20
JOBS_A_WORKER: Final = 1_000
PEAK_KIB: Final = 300 * 1024
"""A worker that ever used more is replaced, so that what it holds on to is given back."""

_BOOT: Final = (
    "import sys; sys.path[:] = {path!r}; from luxx.adapters.tools.workers.child import main; "
    "main({parent}, {memory}, {result})"
)


class _Worker:
    """One child process. `ask` runs in one task at a time; `kill` may come from any."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._jobs = 0
        self.spent = False

    @classmethod
    async def start(cls, *, memory_bytes: int, result_bytes: int) -> "_Worker":
        boot = _BOOT.format(path=sys.path, parent=os.getpid(), memory=memory_bytes, result=result_bytes)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-X",
            "utf8",
            "-c",
            boot,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
        )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def ask(self, order: bytes, limit: int) -> Any:
        """Send a job and read the outcome; raises `EOFError` where the child ends instead."""
        writer, reader = self._process.stdin, self._process.stdout
        assert writer is not None and reader is not None  # noqa: S101, PT018 - both are pipes
        try:
            writer.write(LENGTH.pack(len(order)) + order)
            await writer.drain()
            (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
            if length > limit + 4096:
                raise EOFError
            outcome = msgspec.json.decode(await reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.DecodeError) as error:
            raise EOFError from error
        except RecursionError as error:
            raise ToolRefused("the result is nested too deeply; ask for something flatter") from error
        self._jobs += 1
        self.spent = self._jobs >= JOBS_A_WORKER or outcome.get("peak", 0) > PEAK_KIB
        return outcome

    async def kill(self) -> int:
        """End the child and all that it may have started, wait until it is gone, and give its exit status."""
        with suppress(ProcessLookupError):
            if self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)
        return await ended(self._process)

    async def status(self) -> int:
        """Give the exit status of a child that has closed its pipe, or soon will be dead."""
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await self._process.wait()
        return await self.kill()


class WorkerPool:
    """Runs functions in child processes with bounded memory and time; never more than `size` at once.

    Children start at first use and stay warm. One that dies, is killed or grew large is replaced at the
    next call. A child has an empty environment, its own session, no file to write, and ends with its parent.
    """

    def __init__(
        self, *, size: int | None = None, memory_bytes: int = MEMORY_BYTES, result_bytes: int = RESULT_BYTES
    ) -> None:
        self._memory_bytes = memory_bytes
        self._result_bytes = result_bytes
        self._places = Places(size or places_here())
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._closed = False

    async def run(self, seconds: float, function: Callable[P, T], *arguments: P.args, **_: P.kwargs) -> T:
        """Run `function(*arguments)` in a child and give what it returns; both have to be JSON values.

        `function` is one of a module's own, found by its name there. Waiting for a free worker does not
        count towards `seconds`. Raises `ToolTimeout` after `seconds` of work; `ToolRefused` for what
        the function refuses, for too much memory and for what is nested too deeply; `ToolBroken` where
        it fails. Cancelling kills the child, and returns when it is gone.
        """
        job = f"{function.__module__}:{function.__qualname__}"
        try:
            order = msgspec.json.encode({"job": job, "arguments": arguments, "seconds": seconds})
        except RecursionError as error:
            raise ToolRefused("the arguments are nested too deeply; try something flatter") from error
        if len(order) > ORDER_BYTES:
            raise ToolRefused(f"the arguments are too large ({len(order)} bytes, at most {ORDER_BYTES})")
        async with self._places.one():
            outcome = await self._asked(order, seconds)
        match outcome:
            case {"result": result}:
                return result  # type: ignore[no-any-return]  # it is the function's own, through JSON
            case {"refused": reason}:
                raise ToolRefused(reason)
            case {"timeout": reason}:
                raise ToolTimeout(reason)
            case _:
                raise ToolBroken(str(outcome.get("broken", "the tool failed")))

    async def _asked(self, order: bytes, seconds: float) -> Any:
        worker = await self._worker()
        self._busy.add(worker)
        try:
            async with asyncio.timeout(seconds):
                outcome = await worker.ask(order, self._result_bytes)
        except TimeoutError as error:
            await self._end(worker)
            raise ToolTimeout(f"this took more than {seconds:g} seconds; try something smaller") from error
        except EOFError as error:
            raise _death(await worker.status(), seconds) from error
        except BaseException:
            # A cancelled call must not leave its child running.
            await self._end(worker)
            raise
        finally:
            self._busy.discard(worker)
        if worker.spent or self._closed:
            await self._end(worker)
        else:
            self._idle.append(worker)
        return outcome

    async def _worker(self) -> _Worker:
        if self._closed:
            raise ToolBroken("the service is shutting down")
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                return worker
        start = asyncio.ensure_future(_Worker.start(memory_bytes=self._memory_bytes, result_bytes=self._result_bytes))
        try:
            return await asyncio.shield(start)
        except OSError as error:
            raise ToolBroken(f"no worker process could be started ({error.strerror})") from error
        except asyncio.CancelledError:
            # The child may exist already; without its handle nobody would ever end it.
            await self._end(await start)
            raise

    async def _end(self, worker: _Worker) -> None:
        await asyncio.shield(worker.kill())

    @property
    def processes(self) -> frozenset[int]:
        """The process ids of the children that are alive, warm or at work."""
        return frozenset(worker.pid for worker in (*self._idle, *self._busy) if worker.alive)

    @property
    def at_work(self) -> frozenset[int]:
        """The process ids of the children that run a job now."""
        return frozenset(worker.pid for worker in self._busy if worker.alive)

    async def aclose(self) -> None:
        """End all children; calls that are under way fail."""
        self._closed = True
        workers = (*self._idle, *self._busy)
        self._idle.clear()
        await asyncio.gather(*(worker.kill() for worker in workers))


def _death(status: int, seconds: float) -> Exception:
    """Say what it means that a child ended before it answered."""
    if status == -signal.SIGXCPU:
        return ToolTimeout(f"this took more than {math.ceil(seconds)} seconds of processor time; try something smaller")
    if -status in {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS}:
        return ToolRefused("this needs more memory than a tool may use; try it with less data")
    return ToolBroken("the process that ran this tool ended unexpectedly; try again")
