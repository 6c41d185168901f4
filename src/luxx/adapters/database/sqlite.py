"""SQLite, through the standard library: connections live in threads of their own."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final, TypeAlias, TypeVar

from luxx.adapters.database.connection import undisturbed
from luxx.adapters.database.errors import unavailable
from luxx.adapters.database.pool import Pool
from luxx.adapters.database.statements import Parameters, Row, Script, Statement
from luxx.domain.errors import StorageUnavailable

_Result = TypeVar("_Result")

_BUSY_SECONDS: Final = 10.0
_POOL_SECONDS: Final = 10.0

# WAL: readers and the writer do not wait for each other. FULL: a commit is on the disk before
# anybody is told. A killed process would lose nothing with NORMAL either, but a power cut
# would take back what readers have seen; commits in groups make the difference affordable.
_PRAGMAS: Final = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
_BEGIN: Final = "BEGIN IMMEDIATE"
_BEGIN_READING: Final = "BEGIN"

_NOT_NOW: Final = (sqlite3.OperationalError, sqlite3.InterfaceError)
"""Busy, full, not to be opened, tables that nobody has made yet."""


def connect(path: str, *, pragmas: Sequence[str] = ()) -> sqlite3.Connection:
    """Open the database file, in which nothing is begun but by saying so; raises `sqlite3.Error`."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=False)
    try:
        for pragma in (*_PRAGMAS, *pragmas):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


_Work: TypeAlias = Callable[[sqlite3.Connection], Any]
_Task: TypeAlias = tuple[_Work, "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class _Worker:
    """A connection in its thread, which runs one piece of work after the other."""

    def __init__(self, path: str, pragmas: Sequence[str]) -> None:
        self.opened_at: Final = time.monotonic()
        self._path = path
        self._pragmas = pragmas
        self._connection: sqlite3.Connection | None = None
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._broken = False
        self._thread = threading.Thread(target=self._live, name="luxx: sqlite", daemon=True)
        self._thread.start()

    @property
    def in_transaction(self) -> bool:
        return self._connection is not None and self._connection.in_transaction

    def usable(self) -> bool:
        return self._connection is not None and not (self._broken or self.in_transaction)

    def discard(self) -> None:
        self._broken = True
        self._tasks.put(None)

    async def close(self) -> None:
        self.discard()
        await asyncio.to_thread(self._thread.join)

    async def run(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Run `work` in the thread, to its end; raises `StorageUnavailable`, or what it raises."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_Result] = loop.create_future()
        self._tasks.put((work, done, loop))
        try:
            return await undisturbed(done)
        except _NOT_NOW as error:
            raise unavailable() from error

    def _live(self) -> None:
        while (task := self._tasks.get()) is not None:
            work, done, loop = task
            result, error = None, None
            try:
                if self._connection is None:
                    self._connection = connect(self._path, pragmas=self._pragmas)
                result = work(self._connection)
            except BaseException as raised:  # noqa: BLE001 - whatever it is, who waits for it is told
                error = raised
            with suppress(RuntimeError):  # that loop is closed, and nobody waits
                loop.call_soon_threadsafe(_tell, done, result, error)
            del task, work, done, result, error
        if self._connection is not None:
            self._connection.close()


def _tell(done: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)


def _fetch(connection: sqlite3.Connection, statement: Statement, parameters: Parameters) -> Sequence[Row]:
    compiled = statement.on(postgres=False)
    return compiled.decoded(connection.execute(compiled.text, compiled.arguments(parameters)).fetchall())


def _play(connection: sqlite3.Connection, script: Script[_Result]) -> _Result:
    rows: Sequence[Row] | None = None
    while True:
        try:
            # The first send must be of None, and gives the first statement.
            statement, parameters = script.send(rows)  # type: ignore[arg-type]
        except StopIteration as end:
            result: _Result = end.value
            return result
        if isinstance(parameters, Sequence):
            compiled = statement.on(postgres=False)
            connection.executemany(compiled.text, [compiled.arguments(one) for one in parameters])
            rows = ()
        else:
            rows = _fetch(connection, statement, parameters)


class SQLiteConnection:
    """Satisfies `luxx.adapters.database.connection.Connection`."""

    __slots__ = ("_begin", "_pool", "_worker")

    def __init__(self, pool: Pool[_Worker], worker: _Worker, begin: str) -> None:
        self._pool = pool
        self._worker: _Worker | None = worker
        self._begin: str | None = begin

    @property
    def begun(self) -> bool:
        return self._begin is None

    async def fetch(self, statement: Statement, parameters: Parameters, *, alone: bool = False) -> Sequence[Row]:
        return await self._work(lambda connection: _fetch(connection, statement, parameters), last=alone)

    async def run(self, script: Script[_Result], *, last: bool = False) -> _Result:
        return await self._work(lambda connection: _play(connection, script), last=last)

    async def commit(self) -> None:
        if self.begun and self._worker is not None:
            await self._worker.run(lambda connection: connection.execute("COMMIT"))

    async def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            await undisturbed(self._put_back(worker))

    async def _put_back(self, worker: _Worker) -> None:
        try:
            if worker.in_transaction:
                with suppress(StorageUnavailable):  # not usable then, and not lent again
                    await worker.run(_roll_back)
        finally:
            self._pool.give(worker)

    async def _work(self, work: Callable[[sqlite3.Connection], _Result], *, last: bool) -> _Result:
        if self._worker is None:
            raise RuntimeError("This connection was given back.")
        begin, self._begin = self._begin, None

        def whole(connection: sqlite3.Connection) -> _Result:
            if begin is not None:
                connection.execute(begin)
            result = work(connection)
            if last:
                connection.execute("COMMIT")
            return result

        return await self._worker.run(whole)


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


class SQLite:
    """Satisfies `luxx.adapters.database.connection.Driver`: one connection writes, some read.

    SQLite takes one writer at a time: to queue for its connection is cheaper, and fairer, than to spin
    in its busy handler, which stays for other processes. What is run by `fetch` and `run` goes to the
    thread and back once, and not once for each statement.
    """

    postgres: Final = False

    def __init__(self, path: str, *, pool_size: int) -> None:
        async def open_writer() -> _Worker:
            return _Worker(path, ())

        async def open_reader() -> _Worker:
            return _Worker(path, ("query_only=ON",))

        self._writer = Pool(open_writer, size=1, seconds=None)
        self._readers = Pool(open_reader, size=pool_size, seconds=_POOL_SECONDS)

    @property
    def lent(self) -> int:
        return self._readers.lent + self._writer.lent

    async def connect(self, *, read_only: bool = False, upkeep: bool = False) -> SQLiteConnection:  # noqa: ARG002 - there is but one writer
        pool = self._readers if read_only else self._writer
        return SQLiteConnection(pool, await pool.take(), _BEGIN_READING if read_only else _BEGIN)

    async def fetch(
        self,
        statement: Statement,
        parameters: Parameters,
        *,
        writes: bool = False,
        upkeep: bool = False,  # noqa: ARG002
    ) -> Sequence[Row]:
        pool = self._writer if writes else self._readers
        worker = await pool.take()
        try:
            return await worker.run(lambda connection: _fetch(connection, statement, parameters))
        finally:
            pool.give(worker)

    async def run(self, script: Script[_Result], *, upkeep: bool = False) -> _Result:
        connection = await self.connect(upkeep=upkeep)
        try:
            return await connection.run(script, last=True)
        finally:
            await connection.close()

    async def close(self) -> None:
        await self._readers.close()
        await self._writer.close()
