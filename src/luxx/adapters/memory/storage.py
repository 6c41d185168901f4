"""The committed state, and units of work upon it."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from luxx.adapters.memory.repositories import (
    MemoryApiKeys,
    MemoryConversations,
    MemoryMessages,
    MemoryPasswordTries,
    MemorySessions,
    MemoryTurns,
    MemoryUsers,
)
from luxx.adapters.memory.tables import Tables
from luxx.adapters.memory.turn_log import MemoryTurnLog
from luxx.adapters.system import utc_now
from luxx.application.ports import Clock


class MemoryStorage:
    """All data of one process. `new_unit` opens units of work, `log` is the turn log.

    Writing units run one after the other; reading units see what was committed when they began, and
    wait for nobody.
    """

    def __init__(self, *, clock: Clock = utc_now) -> None:
        self.clock: Final = clock
        self.writing: Final = asyncio.Lock()
        self.committed = Tables()
        self.log: Final = MemoryTurnLog(self)

    def new_unit(self, *, read_only: bool = False, once: bool = False) -> "MemoryUnit":
        return MemoryUnit(self, read_only=read_only, once=once)

    async def open(self) -> None:
        """Do nothing: memory is always open."""

    async def close(self) -> None:
        """Do nothing: the data goes with the object."""

    async def missing(self) -> str | None:
        return None

    def publish(self, tables: Tables) -> None:
        """Make `tables` the committed state; only for whoever holds `writing`."""
        before, self.committed = self.committed.events, tables
        self.log.wakeups.wake(before.keys() ^ tables.events.keys())


class MemoryUnit:
    """One transaction on a `MemoryStorage`; usable once."""

    def __init__(self, storage: MemoryStorage, *, read_only: bool, once: bool) -> None:
        self._storage = storage
        self._read_only = read_only or once
        self._reads_left = 1 if once else None
        self._open: Tables | None = None
        self._writes = False

    async def __aenter__(self) -> Self:
        if self._read_only:
            self._open = self._storage.committed.view()
        else:
            self._writes = await self._storage.writing.acquire()
            self._open = self._storage.committed.draft()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = None
        self._let_others_write()

    async def commit(self) -> None:
        tables = self._tables()
        self._end()
        self._publish(tables)

    def _publish(self, tables: Tables) -> None:
        self._storage.publish(tables)
        self._let_others_write()

    def _let_others_write(self) -> None:
        if self._writes:
            self._writes = False
            self._storage.writing.release()

    def _end(self) -> None:
        if self._read_only:
            raise RuntimeError(
                "This unit of work is for reading: open one without read_only and once to change anything."
            )
        self._open = None

    def _tables(self) -> Tables:
        if self._open is None:
            raise RuntimeError("This unit of work is not open: use it inside `async with`, before its commit.")
        return self._open

    @property
    def _reach(self) -> Callable[[], Tables]:
        self._tables()
        if self._reads_left is not None:
            self._reads_left -= 1
            if self._reads_left < 0:
                raise RuntimeError("This unit of work is for one read: open one with read_only=True for more.")
        return self._tables

    @property
    def users(self) -> MemoryUsers:
        return MemoryUsers(self._reach)

    @property
    def sessions(self) -> MemorySessions:
        return MemorySessions(self._reach)

    @property
    def api_keys(self) -> MemoryApiKeys:
        return MemoryApiKeys(self._reach)

    @property
    def tries(self) -> MemoryPasswordTries:
        return MemoryPasswordTries(self._reach)

    @property
    def conversations(self) -> MemoryConversations:
        return MemoryConversations(self._reach)

    @property
    def messages(self) -> MemoryMessages:
        return MemoryMessages(self._reach)

    @property
    def turns(self) -> MemoryTurns:
        return MemoryTurns(self._reach, self._storage.clock, self._publish, self._end)
