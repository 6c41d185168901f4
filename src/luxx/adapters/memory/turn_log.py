"""The turn log in memory: an event is committed as soon as it is appended."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from luxx.adapters.memory.tables import Tables
from luxx.adapters.wakeups import LocalWakeup, Wakeups
from luxx.application.ports import ABSURD_LEASE, Lease, LeaseLost, LoggedEvent, Renewal
from luxx.domain.message import Message
from luxx.domain.turn import End, Step, TurnEvent

if TYPE_CHECKING:
    from luxx.adapters.memory.storage import MemoryStorage


class MemoryTurnLog:
    """Satisfies `luxx.application.ports.TurnLog` over a `MemoryStorage`."""

    def __init__(self, storage: "MemoryStorage") -> None:
        self._storage = storage
        self.wakeups: Final = Wakeups()

    async def append(self, lease: Lease, step: Step) -> None:
        _append(self._storage.committed, lease, step)
        self.wakeups.wake((lease.message_id,))

    async def ready(self, lease: Lease) -> None:
        """Return: what was appended is committed."""

    async def end(self, lease: Lease, end: End, answer: Message) -> None:
        async with self._storage.writing:
            tables = self._storage.committed.draft()
            _append(tables, lease, end)
            tables.messages[answer.id] = answer
            tables.end_turn(lease.message_id, self._storage.clock())
            self._storage.publish(tables)
        self.wakeups.wake((lease.message_id,))

    async def read(
        self,
        message_id: str,
        *,
        after: int = 0,
        limit: int = 256,
        afresh: bool = False,  # noqa: ARG002  # nothing is stored elsewhere
    ) -> Sequence[LoggedEvent]:
        return self._storage.committed.events.get(message_id, [])[after : after + limit]

    def watch(self, message_id: str) -> AbstractContextManager[LocalWakeup]:
        return self.wakeups.watch(message_id)

    async def renew(self, holder: str, message_ids: Collection[str], lease_for: timedelta) -> Renewal:
        async with self._storage.writing:
            tables = self._storage.committed.draft()
            until = self._storage.clock() + lease_for
            rows = (tables.turns.get(message_id) for message_id in message_ids)
            held = [row for row in rows if row is not None and row.running and row.holder == holder]
            for row in held:
                tables.turns[row.message_id] = replace(row, lease_until=until)
            self._storage.publish(tables)
        return Renewal(
            held=frozenset(row.message_id for row in held),
            to_cancel=frozenset(row.message_id for row in held if row.cancel_requested),
        )

    async def take_expired(self, holder: str, lease_for: timedelta, *, limit: int = 32) -> Sequence[Lease]:
        async with self._storage.writing:
            tables = self._storage.committed.draft()
            now = self._storage.clock()
            absurd = now + max(2 * lease_for, ABSURD_LEASE)
            running = (row for row in tables.turns.values() if row.running)
            expired = [row for row in running if row.lease_until <= now or row.lease_until > absurd]
            expired.sort(key=lambda row: row.lease_until)
            taken = [
                replace(row, holder=holder, fence=row.fence + 1, lease_until=now + lease_for) for row in expired[:limit]
            ]
            tables.turns.update((row.message_id, row) for row in taken)
            self._storage.publish(tables)
        return [
            Lease(
                message_id=row.message_id,
                conversation_id=row.conversation_id,
                owner=row.owner,
                holder=row.holder,
                fence=row.fence,
                seq=len(tables.events[row.message_id]),
            )
            for row in taken
        ]

    async def announce_cancel(self, message_id: str) -> None:
        self.wakeups.cancel(message_id)

    def on_cancel(self, listener: Callable[[str], None]) -> None:
        self.wakeups.on_cancel(listener)

    async def forget(self, *, ended_before: datetime, keys_made_before: datetime) -> int:
        async with self._storage.writing:
            tables = self._storage.committed.draft()
            forgotten = [
                row.message_id
                for row in tables.turns.values()
                if row.ended_at is not None and row.ended_at < ended_before and row.message_id in tables.events
            ]
            for message_id in forgotten:
                del tables.events[message_id]
            tables.keys = {name: kept for name, kept in tables.keys.items() if kept.created_at >= keys_made_before}
            tables.sessions = {
                name: kept for name, kept in tables.sessions.items() if kept.expires_at >= keys_made_before
            }
            self._storage.publish(tables)
        return len(forgotten)


def _append(tables: Tables, lease: Lease, event: TurnEvent) -> None:
    row = tables.turns.get(lease.message_id)
    if row is None or not row.running or row.fence != lease.fence:
        raise LeaseLost(lease.message_id)
    events = tables.events[lease.message_id]
    events.append(LoggedEvent(len(events) + 1, event))
