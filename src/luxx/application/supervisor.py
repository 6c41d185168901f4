"""The turns of this process: start, keep alive, stop, drain; and end what other processes left behind."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from luxx.application.follow_turn import parts_so_far
from luxx.application.ports import Begun, Clock, Lease, LeaseLost, NewUnit, TurnLog, UnitOfWork
from luxx.application.run_turn import RunTurn, Stop, interrupted
from luxx.domain.errors import Damaged, NotFound, Overloaded, StorageUnavailable
from luxx.domain.message import Message, Status, empty_answer
from luxx.domain.turn import Done, End, Failed

LEASE: Final = timedelta(seconds=15)
KEEP_KEYS: Final = timedelta(hours=24)
"""How long a repeat of an idempotency key finds the first outcome, at least."""
_ONCE: Final = "A Chat, a Container and its TurnSupervisor are entered once: make a new one."
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Task:
    owner: int
    task: asyncio.Task[None]
    stop: asyncio.Future[Stop]


class TurnSupervisor:
    """Runs turns as tasks of this process; use it as an async context manager around all sending.

    While it is entered, a heartbeat (15 in the time of a lease) renews the leases of its turns and
    looks for cancels. A task of its own (3 times in the time of a lease) renews them once more, takes
    over turns whose process died and stores them as interrupted, and has logs forgotten that ended
    `keep_log` ago; however many these are, neither waits for it. Leaving it ends what still runs as interrupted.

    `holder` names this process among all that share the storage: it must be unique. A dead process's
    turns end at most 4/3 of `lease_for` later; 5/3 where storage was away meanwhile, because those
    that live get time to renew before anything is taken over.
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
        keep_log: timedelta = timedelta(hours=24),
        forget_every: timedelta = timedelta(minutes=10),
        max_turns: int = 10_000,
    ) -> None:
        self.holder: Final = holder
        self.lease_for: Final = lease_for
        self._run_turn: Final = run_turn
        self._new_unit: Final = new_unit
        self._log: Final = log
        self._clock: Final = clock
        self._beat_seconds: Final = lease_for.total_seconds() / 15
        self._reap_seconds: Final = lease_for.total_seconds() / 3
        self._keep_log: Final = keep_log
        self._forget_seconds: Final = forget_every.total_seconds()
        self._max_turns: Final = max_turns
        self._tasks: Final[dict[str, _Task]] = {}
        self._accepting = 0
        self._entering = False
        self._draining = False
        self._out_of_time = False
        self._changed: Final = asyncio.Event()
        self._well_since = 0.0
        self._beaten = 0.0
        self._upkeep: tuple[asyncio.Task[None], ...] = ()
        self._forgetting: asyncio.Task[bool] | None = None
        self._failing: Final[dict[str, type[Exception]]] = {}
        log.on_cancel(self._cancel_announced)

    @contextmanager
    def entering(self) -> Iterator[None]:
        """Put around the opening of all that is entered with it, before anything is opened that may be in use.

        Raises RuntimeError where it was entered before, or somebody else is at it.
        """
        self._check_new()
        if self._entering:
            raise RuntimeError(_ONCE)
        self._entering = True
        try:
            yield
        finally:
            self._entering = False

    def _check_new(self) -> None:
        if self._upkeep:
            raise RuntimeError(_ONCE)

    async def __aenter__(self) -> Self:
        self._check_new()
        self._well_since = self._beaten = time.monotonic()
        self._upkeep = (
            asyncio.create_task(self._beat(), name="luxx heartbeat"),
            asyncio.create_task(self._tidy(), name="luxx reaper"),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.drain(grace=0)
        finally:  # who leaves in a hurry must not be outlived by a heartbeat
            tasks = self._upkeep if self._forgetting is None else (*self._upkeep, self._forgetting)
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    @property
    def running(self) -> int:
        """The number of turns that run in this process."""
        return len(self._tasks)

    @property
    def draining(self) -> bool:
        """Whether new turns are refused because the process is about to end."""
        return self._draining

    def owner_of(self, message_id: str) -> int | None:
        """Tell whose turn this is; None unless it runs in this process."""
        running = self._tasks.get(message_id)
        return None if running is None else running.owner

    def drained(self) -> bool:
        """Tell whether the process is about to end and runs no turn any more."""
        return self._draining and not self._tasks and not self._accepting

    @contextmanager
    def accepting(self) -> Iterator[None]:
        """Hold the door while a turn is begun; raises `Overloaded` when draining or full, RuntimeError outside."""
        if not self._upkeep:
            # Its lease would run out under it: nothing renews it.
            raise RuntimeError("Nothing is sent outside of `async with`: enter the Chat, or its TurnSupervisor, first.")
        if self._draining:
            raise Overloaded("This process is stopping and takes no more messages: send again, to another one.")
        if len(self._tasks) + self._accepting >= self._max_turns:
            raise Overloaded("Too many answers are being written now: send again a little later.")
        self._accepting += 1
        try:
            yield
        finally:
            self._accepting -= 1
            self._changed.set()

    def start(self, begun: Begun, *, tools_enabled: bool) -> None:
        """Run a turn that has begun as a task."""
        lease = begun.lease
        stop: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(
            self._run_turn(begun, tools_enabled=tools_enabled, stop=stop), name=f"luxx turn {lease.message_id}"
        )
        self._tasks[lease.message_id] = _Task(lease.owner, task, stop)
        task.add_done_callback(lambda done: self._finished(lease.message_id, done))
        if self._out_of_time:
            # Its acceptance was under way when the others were stopped.
            stop.set_result(Stop.INTERRUPTED)

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
            self._out_of_time = True
            for message_id in list(self._tasks):
                self.stop(message_id, Stop.INTERRUPTED)
            await self._empty()

    async def _empty(self) -> None:
        while self._tasks or self._accepting:
            self._changed.clear()
            await self._changed.wait()

    async def _beat(self) -> None:
        while True:
            renewed = await self._attempt(self._renew(), "a heartbeat")
            now = time.monotonic()
            # Late by so much, this process was stopped or the storage slow: others may have been as well.
            if not renewed or now - self._beaten > self._reap_seconds:
                self._well_since = now
            if renewed:
                self._beaten = now
            await asyncio.sleep(self._beat_seconds)

    async def _tidy(self) -> None:
        forgotten = float("-inf")
        while True:
            await asyncio.sleep(self._reap_seconds)
            now = time.monotonic()
            if now - self._well_since < self._reap_seconds or now - self._beaten > self._reap_seconds:
                continue  # storage was away: others live as this process does, and could not renew either
            # A clock that jumped, or a machine that slept, must not cost this process's own turns.
            renewed = await self._attempt(self._renew(), "a heartbeat")
            if not renewed or not await self._attempt(self.reap(), "looking for dead turns"):
                continue
            if now - forgotten >= self._forget_seconds and (self._forgetting is None or self._forgetting.done()):
                forgotten = now
                # After days away there are millions of rows to forget: the next dead turn must not wait for that.
                work = self._attempt(self._forget(), "forgetting logs")
                self._forgetting = asyncio.create_task(work, name="luxx forgetting")

    async def _forget(self) -> None:
        now = self._clock()
        await self._log.forget(ended_before=now - self._keep_log, keys_made_before=now - max(self._keep_log, KEEP_KEYS))

    async def _attempt(self, work: Awaitable[object], what: str) -> bool:
        try:
            await work
        except StorageUnavailable as error:
            _log.warning("no luck with %s: %s", what, error.to_operator())
            return False
        except Exception as error:  # noqa: BLE001  # a task that stops here would lose every turn of this process
            # What stays damaged until somebody mends it would fill the log, a traceback each second.
            if self._failing.get(what) is type(error):
                _log.error("%s failed again: %s", what, type(error).__name__)
            else:
                _log.exception("%s failed", what)
            self._failing[what] = type(error)
            return False
        self._failing.pop(what, None)
        return True

    async def _renew(self) -> None:
        ours = list(self._tasks)
        renewal = await self._log.renew(self.holder, ours, self.lease_for)
        for message_id in renewal.to_cancel:
            self.stop(message_id, Stop.CANCELLED)
        # A turn that is just ending is no longer held either; its task is left to find its way out.
        lost = [one for one in ours if one not in renewal.held and one in self._tasks]
        if lost:
            await asyncio.wait({self._tasks[one].task for one in lost}, timeout=self._beat_seconds)
            for message_id in lost:
                self.stop(message_id, Stop.LOST)

    async def reap(self) -> int:
        """Take over turns whose lease ran out and store them as interrupted; gives their number."""
        reaped = 0
        # Under a name of its own: the heartbeat must not keep alive what could not be buried.
        while leases := await self._log.take_expired(f"{self.holder}/reaper", self.lease_for, limit=16):
            reaped += sum(await asyncio.gather(*map(self._bury, leases)))
        return reaped

    async def _bury(self, lease: Lease) -> bool:
        try:
            await self._interrupt(lease)
        except (LeaseLost, NotFound):
            _log.info("the turn %s was ended or deleted by somebody else", lease.message_id)
        except StorageUnavailable as error:
            _log.warning("the turn %s is left for later: %s", lease.message_id, error.to_operator())
        except Exception:  # noqa: BLE001  # whatever is wrong with one turn, the others are to be ended
            _log.exception("the turn %s could not be ended", lease.message_id)
        else:
            _log.warning("the turn %s was interrupted: its process is gone", lease.message_id)
            return True
        return False

    async def _interrupt(self, lease: Lease) -> None:
        async with self._new_unit(read_only=True) as unit:
            stored = await self._begun_answer(unit, lease)
            conversation = await unit.conversations.get(lease.owner, lease.conversation_id)
            turn = await unit.turns.get(lease.owner, lease.message_id)
        problem = interrupted()
        answer = replace(
            stored,
            parts=await parts_so_far(self._log, lease.message_id),
            status=Status.INTERRUPTED,
            model=conversation.model,
            error=problem,
        )
        end: End = Failed(code=problem.code, message=problem.message, message_id=lease.message_id)
        if turn is not None and turn.cancel_requested:
            # Its process died before it could: what was asked for is done all the same.
            answer = replace(answer, status=Status.CANCELLED, error=None)
            end = Done(message=answer)
        await self._log.end(lease, end, answer)

    async def _begun_answer(self, unit: UnitOfWork, lease: Lease) -> Message:
        try:
            return await unit.messages.get(lease.owner, lease.message_id)
        except Damaged as error:
            # All that it says is in the log: left running, its turn would take the conversation for ever.
            _log.error("a dead turn's answer is written anew: %s", error.to_operator())
            return empty_answer(lease.message_id, lease.conversation_id, self._clock())
