"""The turn log in a database: group commit, fences, and wake-ups after each commit."""

import asyncio
import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from luxx.adapters.database.connection import Driver
from luxx.adapters.database.notices import Notices
from luxx.adapters.database.pace import Pace
from luxx.adapters.database.recent import put_away
from luxx.adapters.database.schema import Duration, idempotency_keys, recent_events, sessions, turn_events, turns
from luxx.adapters.database.statements import Script, Statement
from luxx.adapters.database.tails import Tails
from luxx.adapters.database.turn_commit import among, commit_at_once, commit_on_sqlite, lost_of, notify
from luxx.adapters.database.turn_writing import Share, Writing
from luxx.adapters.database.turns import lease_end, now_on
from luxx.adapters.wakeups import LocalWakeup, Wakeups
from luxx.adapters.wire import decode_event, encode_event
from luxx.application.observer import UNOBSERVED, Observer, Observers
from luxx.application.ports import ABSURD_LEASE, Clock, Lease, LeaseLost, LoggedEvent, Renewal
from luxx.domain.errors import InternalError, StorageUnavailable
from luxx.domain.message import Message
from luxx.domain.turn import End, Started, Step, Text, Thinking, merged

_logger = logging.getLogger(__name__)

_VOID_LIMIT: Final = 4096
_FORGET_AT_ONCE: Final = 500
_OVERHEAD: Final = 100
"""What a step weighs besides its text, in characters."""
_HANGING: Final = 1.0
"""After so many seconds of a commit nobody waits for the next."""
_RECENT_LIMIT: Final = 2048
"""So many recent events are put with their turns' others (SQLite); until then a reader looks through them all."""


class DatabaseTurnLog:
    """Satisfies `luxx.application.ports.TurnLog` on any driver; on Postgres, `listening` opens what hears others.

    `pace` tells how far apart commits begin: the steps of one turn are committed at once, those of many together,
    because a commit costs more than all that it stores. So does each read from a model and each write to a reader:
    turns that wait in `ready` are let on just before a commit.
    `room` is how much of a turn, in characters, may wait for a commit before `append` waits too.
    While the database is away commits are tried again and again; `append` and `end` raise
    `StorageUnavailable` once they have waited `patience` seconds. What was taken is stored
    nevertheless, as soon as the database is back and if the lease is still good.
    """

    def __init__(
        self,
        driver: Driver,
        listening: Callable[[], Awaitable[Any]],
        *,
        clock: Clock,
        room: int = 256 * 1024,
        patience: float = 20.0,
        pace: Pace | None = None,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._driver = driver
        self._pace = pace or Pace()
        self._observer = Observers(observer)  # what it raises must not stop the writer
        self._clock = clock
        self._room = room
        self._patience = patience
        self._turns: dict[str, Writing] = {}
        self._void: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._dirty: dict[str, Writing] = {}
        self._make_events()
        self._away = False
        """Whether there is no telling when the next commit will be."""
        self._letting_on = False
        self._waiting: list[tuple[Writing, asyncio.Future[None]]] = []
        # On Postgres other processes tell what they commit.
        self._tails = Tails(time.monotonic, fresh=5.0 if driver.postgres else 1.0)
        self._wakeups = Wakeups()
        self._notices: Notices | None = None
        if driver.postgres:
            self._notices = Notices(listening, committed=self._heard, cancelled=self._wakeups.cancel)
        self._tasks: list[asyncio.Task[None]] = []
        self._putting: asyncio.Task[None] | None = None
        self._put_away_at = _RECENT_LIMIT

    def _make_events(self) -> None:
        self._work, self._idle = asyncio.Event(), asyncio.Event()
        (self._work if self._dirty else self._idle).set()

    def start(self) -> None:
        if self._tasks:
            return  # two writers would write the same steps
        self._away = False
        self._make_events()  # those that there are may belong to the loop of an earlier start
        self._tasks.append(asyncio.create_task(self._write(), name="turn log: writer"))
        if self._notices is not None:
            self._tasks.append(asyncio.create_task(self._notices.listen(), name="turn log: notices"))

    async def close(self, *, seconds: float = 5.0) -> None:
        """Commit what has gathered, if that takes no longer than so many seconds, and stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        tasks, self._tasks = self._tasks, []
        self._read_on()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._putting is not None:
            await self._putting

    # --- writing ------------------------------------------------------------------------------------

    async def append(self, lease: Lease, step: Step) -> None:
        turn = self._writing(lease)
        if turn.weight >= self._room:
            await self._room_in(turn)
        if turn.end is not None:
            raise LeaseLost(lease.message_id)
        turn.pending.append(step)
        turn.weight += _weight(step)
        self._mark(turn)

    async def ready(self, lease: Lease) -> None:
        turn = self._turns.get(lease.message_id)
        if turn is None or not turn.pending or self._away:
            return
        if self._letting_on:
            turn.steps_at_once += 1
            if turn.drains:
                return
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, waiting))
        await waiting

    def _let_on(self) -> None:
        waiting, self._waiting = self._waiting, []
        for turn, one in waiting:
            if not one.done():
                turn.let_on()
                one.set_result(None)

    def _read_on(self) -> None:
        """Let nobody wait in `ready` until a commit was made: as much is read as there is room for."""
        self._away = True
        self._let_on()

    async def end(self, lease: Lease, end: End, answer: Message) -> None:
        turn = self._writing(lease)
        if turn.end is None:
            turn.end = (end, answer)
            self._mark(turn)
        await self._patiently(turn.settled)
        self._check(turn)

    def _writing(self, lease: Lease) -> Writing:
        turn = self._turns.get(lease.message_id)
        if turn is None or turn.lease.fence < lease.fence:
            if (lease.message_id, lease.fence) in self._void:
                raise LeaseLost(lease.message_id)
            if turn is not None:
                self._lose(turn)
            turn = self._turns[lease.message_id] = Writing(lease, lease.seq)
        elif turn.lease.fence > lease.fence:
            raise LeaseLost(lease.message_id)
        self._check(turn)
        return turn

    def _check(self, turn: Writing) -> None:
        if turn.failure is not None:
            raise InternalError("A step of the answer could not be stored.") from turn.failure
        if turn.void:
            raise LeaseLost(turn.lease.message_id)

    async def _room_in(self, turn: Writing) -> None:
        while turn.weight >= self._room:
            turn.room.clear()
            await self._patiently(turn.room)
            self._check(turn)

    async def _patiently(self, event: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await event.wait()
        except TimeoutError:
            if not event.is_set():  # in the last moment: who asks again would find the turn closed
                raise StorageUnavailable("The database has not been reached for a while. Try again later.") from None

    def _mark(self, turn: Writing) -> None:
        self._dirty[turn.lease.message_id] = turn
        self._idle.clear()
        self._work.set()

    def _close(self, turn: Writing) -> None:
        """Take a turn off the books: it ended, or its lease is void."""
        turn.pending.clear()
        turn.weight = 0
        turn.room.set()
        turn.settled.set()
        key = (turn.lease.message_id, turn.lease.fence)
        self._void[key] = None
        if len(self._void) > _VOID_LIMIT:
            self._void.popitem(last=False)
        for books in (self._turns, self._dirty):
            if books.get(turn.lease.message_id) is turn:
                del books[turn.lease.message_id]

    def _lose(self, turn: Writing) -> None:
        turn.void = True
        self._tails.drop((turn.lease.message_id,))
        self._close(turn)

    async def _write(self) -> None:
        began = float("-inf")
        while True:
            await self._work.wait()
            pause = began + self._pace.apart(len(self._turns)) - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            began = time.monotonic()
            if self._waiting:
                self._letting_on = True
                try:
                    self._let_on()
                    await asyncio.sleep(0)  # what they have to read is there: they append it at once
                finally:
                    self._letting_on = False
            self._work.clear()
            dirty, self._dirty = list(self._dirty.values()), {}
            shares = [share for share in map(self._take, dirty) if share is not None]
            if shares:
                await self._store(shares)
                self._pace.took(time.monotonic() - began)
            if self._waiting:
                self._work.set()  # what they waited with is taken: they read on at the next commit, made or not
            if not self._dirty:
                self._idle.set()

    def _take(self, turn: Writing) -> Share | None:
        events = merged(turn.pending)
        end, turn.pending, turn.weight = turn.end, [], 0
        turn.room.set()
        if end is not None:
            events.append(end[0])
        try:
            return Share(turn, events, list(map(encode_event, events)), end)
        except Exception as error:  # noqa: BLE001 - whatever one turn holds, the others go on
            self._fail(turn, error)
            return None

    def _fail(self, turn: Writing, error: Exception) -> None:
        _logger.error("An event of the turn %s cannot be stored.", turn.lease.message_id, exc_info=error)
        turn.failure = error
        self._close(turn)

    async def _store(self, shares: Sequence[Share], *, again: bool = False) -> None:
        """Commit, however long the database is away; a turn that cannot be stored is taken out of the rest."""
        pause = 0.02
        while True:
            began = time.monotonic()
            hanging = asyncio.get_running_loop().call_later(_HANGING, self._read_on)
            try:
                try:
                    lost = await self._commit(shares, again=again)
                finally:
                    hanging.cancel()
            except StorageUnavailable as away:
                _logger.warning("Events of %d turns wait for the database: %s", len(shares), away.reason or away)
                again = True
                self._read_on()
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
            except Exception as error:  # noqa: BLE001 - whatever one turn holds, the others go on
                if len(shares) == 1:
                    self._fail(shares[0].turn, error)
                    return
                for share in shares:
                    await self._store([share], again=again)
                return
            else:
                self._away = False
                self._settle(shares, lost)
                events = sum(len(share.events) for share in shares)
                self._observer.committed(turns=len(shares), events=events, seconds=time.monotonic() - began)
                return

    async def _commit(self, shares: Sequence[Share], *, again: bool) -> set[Writing]:
        """Store the shares of all turns whose lease is good, in one transaction; give the others' turns."""
        driver, now = self._driver, self._clock()
        if not driver.postgres:
            lost, recent = await driver.run(commit_on_sqlite(shares, now, again=again), upkeep=True)
            if recent >= self._put_away_at and (self._putting is None or self._putting.done()):
                self._putting = asyncio.create_task(self._put_away(recent), name="turn log: recent events")
            return lost
        ids = [share.turn.lease.message_id for share in shares]
        payload = "" if self._notices is None else self._notices.committed_payload(ids)
        statement, values = commit_at_once(shares, now=now, payload=payload)
        return lost_of(shares, await driver.fetch(statement, values, writes=True, upkeep=True), again=again)

    async def _put_away(self, recent: int) -> None:
        # Behind a commit and not within it: no token waits for this, unless the next commit comes at once.
        try:
            await self._driver.run(put_away(), upkeep=True)
        except Exception as error:  # they are read where they are: neither a turn nor closing fails
            _logger.warning(
                "Recent events could not be put with their turns' others; this is tried again when there are more.",
                exc_info=error,
            )
            self._put_away_at = recent + _RECENT_LIMIT
        else:
            self._put_away_at = _RECENT_LIMIT

    def _settle(self, shares: Sequence[Share], lost: set[Writing]) -> None:
        for share in shares:
            turn = share.turn
            message_id = turn.lease.message_id
            if turn in lost:
                self._lose(turn)
                continue
            first = turn.seq + 1
            turn.seq += len(share.events)
            logged = list(map(LoggedEvent, itertools.count(first), share.events, share.rows))
            if not turn.void:
                self._tails.add(message_id, logged, ended=share.end is not None)
            if share.end is not None:
                self._close(turn)
        self._wakeups.wake(share.turn.lease.message_id for share in shares)

    # --- reading ------------------------------------------------------------------------------------

    async def read(
        self, message_id: str, *, after: int = 0, limit: int = 256, afresh: bool = False
    ) -> Sequence[LoggedEvent]:
        found = None if afresh else self._tails.read(message_id, after, limit)
        if found is not None:
            return found
        rows = await self._driver.fetch(_READ, {"turn": message_id, "after": after, "limit": limit})
        return [LoggedEvent(seq, decode_event(name, data)) for seq, name, data in rows]

    def watch(self, message_id: str) -> AbstractContextManager[LocalWakeup]:
        return self._wakeups.watch(message_id)

    # --- what units of work and other processes tell ------------------------------------------------

    def began(self, lease: Lease, started: Started, encoded: tuple[str, str]) -> None:
        """Take note of a turn that was begun here, once that is committed."""
        self._tails.add(lease.message_id, [LoggedEvent(1, started, encoded)], ended=False)

    def gone(self, message_ids: Iterable[str]) -> None:
        """Take note of turns that were deleted here, once that is committed."""
        self._tails.drop(message_ids)
        self._wakeups.wake(message_ids)

    def _heard(self, message_ids: Sequence[str] | None) -> None:
        if message_ids is None:
            self._wakeups.wake_all()
        else:
            # Somebody else writes this turn now: what is in memory here is not the latest.
            self._tails.drop(message_ids)
            self._wakeups.wake(message_ids)

    # --- leases -------------------------------------------------------------------------------------

    async def renew(self, holder: str, message_ids: Collection[str], lease_for: timedelta) -> Renewal:
        named = (self._turns.get(message_id) for message_id in message_ids)
        before = [turn for turn in named if turn is not None and turn.lease.holder == holder]
        rows = await self._driver.fetch(
            _RENEW,
            {"turns": list(message_ids), "holder": holder, "now": self._clock(), "lease_for": lease_for},
            writes=True,
            upkeep=True,
        )
        held = frozenset(message_id for message_id, _ in rows)
        self._tails.confirm(held)
        for turn in before:
            # An end on its way may have been committed meanwhile; the writer tells what became of it.
            if turn.lease.message_id not in held and turn.end is None:
                self._lose(turn)
        return Renewal(held=held, to_cancel=frozenset(message_id for message_id, cancel in rows if cancel))

    async def take_expired(self, holder: str, lease_for: timedelta, *, limit: int = 32) -> Sequence[Lease]:
        rows = await self._driver.fetch(
            _TAKE_EXPIRED,
            {
                "holder": holder,
                "now": self._clock(),
                "lease_for": lease_for,
                "absurd": max(2 * lease_for, ABSURD_LEASE),
                "limit": limit,
            },
            writes=True,
            upkeep=True,
        )
        return [
            Lease(
                message_id=message_id, conversation_id=conversation_id, owner=owner, holder=holder, fence=fence, seq=seq
            )
            for message_id, conversation_id, owner, fence, seq in rows
        ]

    # --- cancels and forgetting ---------------------------------------------------------------------

    async def announce_cancel(self, message_id: str) -> None:
        self._wakeups.cancel(message_id)
        if self._notices is not None:
            await self._driver.fetch(_NOTIFY, {"payload": self._notices.cancelled_payload(message_id)})

    def on_cancel(self, listener: Callable[[str], None]) -> None:
        self._wakeups.on_cancel(listener)

    async def forget(self, *, ended_before: datetime, keys_made_before: datetime) -> int:
        total = 0
        # A bounded number at a time, so that nobody waits long for a lock.
        while ids := await self._driver.run(_forget(ended_before, postgres=self._driver.postgres)):
            self._tails.drop(ids)
            total += len(ids)
        for statement in (_FORGET_KEYS, _FORGET_SESSIONS):
            while await self._driver.fetch(statement, {"before": keys_made_before}, writes=True):
                pass
        return total


def _forget(ended_before: datetime, *, postgres: bool) -> Script[Sequence[str]]:
    rows = yield _ENDED, {"before": ended_before}
    ids = [message_id for (message_id,) in rows]
    if ids:
        if not postgres:
            yield from put_away()
        yield _DELETE_EVENTS, {"turns": ids}
        yield _LOG_GONE, {"turns": ids}
    return ids


def _weight(step: Step) -> int:
    if isinstance(step, Text | Thinking):
        return len(step.delta) + _OVERHEAD
    return len(encode_event(step)[1]) + _OVERHEAD


# --- statements -------------------------------------------------------------------------------------


def _read(postgres: bool) -> sa.Executable:
    limit = sa.bindparam("limit", type_=sa.BigInteger())

    def latest(table: sa.Table) -> sa.Select[Any]:
        the_turns = (table.c.message_id == sa.bindparam("turn"), table.c.seq > sa.bindparam("after"))
        return sa.select(table.c.seq, table.c.name, table.c.data).where(*the_turns).order_by(table.c.seq).limit(limit)

    if postgres:
        return latest(turn_events)
    # Each limited by itself: SQLite would sort all recent events of the turn before it takes the first ones.
    parts = [sa.select(latest(table).subquery()) for table in (turn_events, recent_events)]
    return sa.union_all(*parts).order_by("seq").limit(limit)


_READ: Final = Statement(_read)


def _renew(postgres: bool) -> sa.Executable:
    mine = (
        sa.select(turns.c.message_id)
        .where(among(turns.c.message_id, "turns", postgres), turns.c.holder == sa.bindparam("holder"), turns.c.running)
        .order_by(turns.c.message_id)
        .with_for_update()
        .cte("mine")
    )
    return (
        sa.update(turns)
        .where(turns.c.message_id.in_(sa.select(mine.c.message_id)))
        .values(lease_until=lease_end(postgres))
        .returning(turns.c.message_id, turns.c.cancel_requested)
    )


def _take_expired(postgres: bool) -> sa.Executable:
    now, absurd = now_on(postgres), sa.bindparam("absurd", type_=Duration())
    expired = (
        sa.select(turns.c.message_id)
        .where(turns.c.running, sa.or_(turns.c.lease_until <= now, turns.c.lease_until > now + absurd))
        .order_by(turns.c.lease_until)
        .limit(sa.bindparam("limit", type_=sa.BigInteger()))
        .with_for_update(skip_locked=True)
        .cte("expired")
    )
    return (
        sa.update(turns)
        .where(turns.c.message_id.in_(sa.select(expired.c.message_id)))
        .values(holder=sa.bindparam("holder"), fence=turns.c.fence + 1, lease_until=lease_end(postgres))
        .returning(turns.c.message_id, turns.c.conversation_id, turns.c.user_id, turns.c.fence, turns.c.last_seq)
    )


_NOTIFY: Final = Statement(sa.select(notify()))
_RENEW: Final = Statement(_renew)
_TAKE_EXPIRED: Final = Statement(_take_expired)
_ENDED: Final = Statement(
    sa.select(turns.c.message_id)
    .where(turns.c.log_kept, turns.c.ended_at < sa.bindparam("before"))
    .limit(_FORGET_AT_ONCE)
    .with_for_update(skip_locked=True)
)
_DELETE_EVENTS: Final = Statement(
    lambda postgres: sa.delete(turn_events).where(among(turn_events.c.message_id, "turns", postgres))
)
_LOG_GONE: Final = Statement(
    lambda postgres: sa.update(turns).where(among(turns.c.message_id, "turns", postgres)).values(log_kept=False)
)


def _some(table: sa.Table, when: sa.Column[Any]) -> Statement:
    """Delete a bounded number of rows that are older than the parameter `before`, and that nobody else deletes."""

    def delete(postgres: bool) -> sa.Executable:
        # SQLite would look at all of a user's rows for each of a key of two columns.
        key: list[Any] = list(table.primary_key) if postgres else [sa.literal_column("rowid")]
        old = sa.select(*key).select_from(table).where(when < sa.bindparam("before")).limit(_FORGET_AT_ONCE)
        return sa.delete(table).where(sa.tuple_(*key).in_(old.with_for_update(skip_locked=True))).returning(when)

    return Statement(delete)


_FORGET_SESSIONS: Final = _some(sessions, sessions.c.expires_at)
_FORGET_KEYS: Final = _some(idempotency_keys, idempotency_keys.c.created_at)
