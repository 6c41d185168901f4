"""The turns of this process: start, keep alive, stop, drain; and end what other processes left behind."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from luxx.application.messages import parts_so_far
from luxx.application.ports import Clock, Lease, LeaseLost, NewUnit, TurnLog
from luxx.application.run_turn import RunTurn, Stop, interrupted
from luxx.domain.errors import NotFound, Overloaded, StorageUnavailable
from luxx.domain.message import Status
from luxx.domain.turn import Failed

LEASE: Final = timedelta(seconds=15)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Task:
    task: asyncio.Task[None]
    stop: asyncio.Future[Stop]


class TurnSupervisor:
    """Runs turns as tasks of this process; use it as an async context manager around all sending.

    While it is entered, a heartbeat renews the leases of its turns, looks for cancels, takes over
    turns whose process died and stores them as interrupted, and forgets old logs. Leaving it ends
    what still runs as interrupted.

    `holder` names this process among all that share the storage: it must be unique. `beat` is in
    seconds; a dead process's turns end at most `lease_for` + `reap_every` beats later.
    """

    def __init__(
        self,
        *,
        run_turn: RunTurn,
        new_unit: NewUnit,
        log: TurnLog,
        clock: Clock,
        holder: str,
        lease_for: timedelta = LEASE,
        beat: float = 1.0,
        reap_every: int = 5,
        keep_log: timedelta = timedelta(hours=24),
        forget_every: int = 600,
        max_turns: int = 10_000,
    ) -> None:
        self.holder: Final = holder
        self.lease_for: Final = lease_for
        self._run_turn: Final = run_turn
        self._new_unit: Final = new_unit
        self._log: Final = log
        self._clock: Final = clock
        self._beat_seconds: Final = beat
        self._reap_every: Final = reap_every
        self._keep_log: Final = keep_log
        self._forget_every: Final = forget_every
        self._max_turns: Final = max_turns
        self._tasks: Final[dict[str, _Task]] = {}
        self._accepting = 0
        self._draining = False
        self._changed: Final = asyncio.Event()
        self._heart: asyncio.Task[None] | None = None
        log.on_cancel(self._cancel_announced)

    async def __aenter__(self) -> Self:
        self._heart = asyncio.create_task(self._beat(), name="luxx heartbeat")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.drain(grace=0)
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.wait({self._heart})

    @property
    def running(self) -> int:
        """The number of turns that run in this process."""
        return len(self._tasks)

    @property
    def draining(self) -> bool:
        """Whether new turns are refused because the process is about to end."""
        return self._draining

    @contextmanager
    def accepting(self) -> Iterator[None]:
        """Hold the door while a turn is begun; raises `Overloaded` when draining or full."""
        if self._draining:
            raise Overloaded("This server is about to stop: send again, to another one.")
        if len(self._tasks) + self._accepting >= self._max_turns:
            raise Overloaded("Too many answers are being written now: send again a little later.")
        self._accepting += 1
        try:
            yield
        finally:
            self._accepting -= 1
            self._changed.set()

    def start(self, lease: Lease, *, tools_enabled: bool) -> None:
        """Run the turn of this lease as a task."""
        stop: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(
            self._run_turn(lease, tools_enabled=tools_enabled, stop=stop), name=f"luxx turn {lease.message_id}"
        )
        self._tasks[lease.message_id] = _Task(task, stop)
        task.add_done_callback(lambda done: self._finished(lease.message_id, done))

    def _finished(self, message_id: str, task: asyncio.Task[None]) -> None:
        del self._tasks[message_id]
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the turn %s could not be ended", message_id, exc_info=error)

    def stop(self, message_id: str, reason: Stop) -> None:
        """Ask a turn of this process to end; does nothing for others."""
        running = self._tasks.get(message_id)
        if running is not None and not running.stop.done():
            running.stop.set_result(reason)

    def _cancel_announced(self, message_id: str) -> None:
        self.stop(message_id, Stop.CANCELLED)

    async def drain(self, *, grace: float) -> None:
        """Refuse new turns, wait `grace` seconds for those that run, then end the rest as interrupted."""
        self._draining = True
        try:
            async with asyncio.timeout(grace):
                await self._empty()
        except TimeoutError:
            for message_id in list(self._tasks):
                self.stop(message_id, Stop.INTERRUPTED)
            await self._empty()

    async def _empty(self) -> None:
        while self._tasks or self._accepting:
            self._changed.clear()
            await self._changed.wait()

    async def _beat(self) -> None:
        beats = 0
        while True:
            try:
                await self._renew()
                if beats % self._reap_every == 0:
                    await self.reap()
                if beats % self._forget_every == 0:
                    await self._log.forget(ended_before=self._clock() - self._keep_log)
            except StorageUnavailable:
                _log.warning("no heartbeat: the database cannot be reached")
            except Exception:  # noqa: BLE001  # a heart that stops would lose every turn of this process
                _log.exception("a heartbeat failed")
            beats += 1
            await asyncio.sleep(self._beat_seconds)

    async def _renew(self) -> None:
        ours = list(self._tasks)
        renewal = await self._log.renew(self.holder, self.lease_for)
        for message_id in ours:
            if message_id in renewal.to_cancel:
                self.stop(message_id, Stop.CANCELLED)
            elif message_id not in renewal.held:
                await self._check_lost(message_id)

    async def _check_lost(self, message_id: str) -> None:
        # A turn that is just ending is no longer held either; its task is left to find its way out.
        running = self._tasks.get(message_id)
        if running is not None:
            await asyncio.wait({running.task}, timeout=self._beat_seconds)
            self.stop(message_id, Stop.LOST)

    async def reap(self) -> int:
        """Take over turns whose lease ran out and store them as interrupted; gives their number."""
        reaped = 0
        while leases := await self._log.take_expired(self.holder, self.lease_for):
            for lease in leases:
                try:
                    await self._bury(lease)
                except (LeaseLost, NotFound):
                    _log.info("the turn %s was ended or deleted by somebody else", lease.message_id)
                else:
                    reaped += 1
        return reaped

    async def _bury(self, lease: Lease) -> None:
        async with self._new_unit(read_only=True) as unit:
            stored = await unit.messages.get(lease.owner, lease.message_id)
            conversation = await unit.conversations.get(lease.owner, lease.conversation_id)
        problem = interrupted()
        answer = replace(
            stored,
            parts=await parts_so_far(self._log, lease.message_id),
            status=Status.INTERRUPTED,
            model=conversation.model,
            error=problem,
        )
        end = Failed(code=problem.code, message=problem.message, message_id=lease.message_id)
        await self._log.end(lease, end, answer)
        _log.warning("the turn %s was interrupted: its process is gone", lease.message_id)
