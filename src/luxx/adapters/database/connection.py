"""What is run on a database of either kind, and on which every statement is finished, cancelled or not."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Protocol, TypeVar

from luxx.adapters.database.statements import Parameters, Row, Script, Statement

_Result = TypeVar("_Result")


async def undisturbed(work: Awaitable[_Result]) -> _Result:
    """Await `work` to its end; a cancel that came meanwhile is raised then.

    A statement left in mid-air costs its connection. On SQLite it costs more: the thread goes on,
    and may hold the only write lock until somebody collects it.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                continue
        if not task.cancelled():
            task.exception()  # looked at, so that nobody warns of it
        raise


class Reads(Protocol):
    """As much of a `Connection` as a unit needs that only reads."""

    @property
    def begun(self) -> bool:
        """Whether the transaction has begun."""
        ...

    async def fetch(self, statement: Statement, parameters: Parameters, *, alone: bool = False) -> Sequence[Row]:
        """Run one statement, and give its rows; if it is `alone` in the transaction, it is committed with it."""
        ...

    async def close(self) -> None:
        """Give the connection back; may be called again."""
        ...


class Connection(Reads, Protocol):
    """A connection lent for one transaction, which begins with the first statement.

    What is not committed is undone by `close`. Every method raises `StorageUnavailable` where the
    database cannot be reached.
    """

    async def run(self, script: Script[_Result], *, last: bool = False) -> _Result:
        """Run several statements; what the script raises is passed on. `last` commits, if it raises nothing."""
        ...

    async def commit(self) -> None: ...


class Driver(Protocol):
    """How one kind of database is reached. Every method raises `StorageUnavailable` where it cannot be.

    `upkeep` is for what must not queue behind requests: the log's writer and the leases.
    """

    @property
    def postgres(self) -> bool: ...

    @property
    def lent(self) -> int:
        """The number of connections that requests use now."""
        ...

    async def connect(self, *, read_only: bool = False, upkeep: bool = False) -> Connection:
        """Lend a connection for a transaction; reading ones see one state."""
        ...

    async def fetch(
        self, statement: Statement, parameters: Parameters, *, writes: bool = False, upkeep: bool = False
    ) -> Sequence[Row]:
        """Run one statement in a transaction of its own, without a word more to the database than that."""
        ...

    async def run(self, script: Script[_Result], *, upkeep: bool = False) -> _Result:
        """Run a script in a writing transaction of its own."""
        ...

    async def close(self) -> None:
        """Close all connections; more are opened if more is asked."""
        ...


def for_reading() -> RuntimeError:
    return RuntimeError("This unit of work is for reading: open one without read_only and once to change anything.")


class Reading:
    """A connection of a unit that reads: what writes is refused before the database is asked, by any database alike."""

    __slots__ = ("_inner", "_postgres")

    def __init__(self, inner: Reads, *, postgres: bool) -> None:
        self._inner = inner
        self._postgres = postgres

    @property
    def begun(self) -> bool:
        return self._inner.begun

    async def fetch(self, statement: Statement, parameters: Parameters, *, alone: bool = False) -> Sequence[Row]:
        if statement.on(postgres=self._postgres).writes:
            raise for_reading()
        return await self._inner.fetch(statement, parameters, alone=alone)

    async def run(self, script: Script[_Result], *, last: bool = False) -> _Result:  # noqa: ARG002 - its shape
        raise for_reading()  # what takes several statements writes

    async def commit(self) -> None:
        raise for_reading()

    async def close(self) -> None:
        await self._inner.close()


class OneRead:
    """A connection for a single statement that reads: none is lent before, and no transaction opened."""

    __slots__ = ("_driver", "_used")

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._used = False

    @property
    def begun(self) -> bool:
        return self._used

    async def fetch(self, statement: Statement, parameters: Parameters, *, alone: bool = False) -> Sequence[Row]:  # noqa: ARG002 - its shape
        if self._used:
            raise RuntimeError("This unit of work is for one read: open one with read_only=True for more.")
        self._used = True
        return await self._driver.fetch(statement, parameters)

    async def close(self) -> None:
        """Let nobody read any more; nothing is held."""
        self._used = True
