"""SQLite, through the standard library: connections live in threads of their own."""

import asyncio
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TypeAlias, TypeVar

from luxx.adapters.database.connection import undisturbed
from luxx.adapters.database.errors import NotUnique, unavailable
from luxx.adapters.database.pool import Pool
from luxx.adapters.database.statements import Parameters, Row, Script, Statement

_Result = TypeVar("_Result")

_BUSY_SECONDS: Final = 10.0

# WAL: readers and the writer do not wait for each other. FULL: a commit is on the disk before
# anybody is told. A killed process would lose nothing with NORMAL either, but a power cut
# would take back what readers have seen; commits in groups make the difference affordable.
_PRAGMAS: Final = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
_BEGIN: Final = "BEGIN IMMEDIATE"
_BEGIN_READING: Final = "BEGIN"

_NOT_NOW: Final = (sqlite3.OperationalError, sqlite3.InterfaceError)
"""Busy, full, not to be opened, tables that nobody has made yet."""


_NOT_UNIQUE: Final = (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)

_making: Final = threading.Lock()


def connect(
    path: str, *, pragmas: Sequence[str] = (), busy: float = _BUSY_SECONDS, make: bool = False
) -> sqlite3.Connection:
    """Open the database file, in which nothing is begun but by saying so; raises `sqlite3.Error`.

    A file that is not there is an error, or with `make` made for its owner alone; one that is there keeps its mode.
    For what another process has locked, it waits `busy` seconds.
    """
    if make:
        # SQLite would heed the umask alone, and gives -wal and -shm the mode of the database. What is there must not
        # even be opened: to close it again would take the locks from the other connections of this process.
        with _making, suppress(OSError):
            os.close(os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    place = f"{Path(path).absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(place, isolation_level=None, timeout=busy, check_same_thread=False, uri=True)
    try:
        for pragma in (*_PRAGMAS, *pragmas):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


_Work: TypeAlias = Callable[[sqlite3.Connection], Any]
_Task: TypeAlias = tuple[object, _Work, "asyncio.Future[Any]", asyncio.AbstractEventLoop, float]
"""For whom, what, who is told, in which loop, and when it was asked for."""


class _Worker:
    """A connection in its thread, which runs one piece of work after the other.

    Work is done for somebody: while a transaction is left open, what comes from others waits in order.
    """

    def __init__(self, path: str, pragmas: Sequence[str] = ()) -> None:
        self.opened_at: Final = time.monotonic()
        self.closed = False
        self._path = path
        self._pragmas = pragmas
        self._connection: sqlite3.Connection | None = None
        self._busy = _BUSY_SECONDS
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._live, name="luxx: sqlite", daemon=True)
        self._thread.start()

    @property
    def in_transaction(self) -> bool:
        return self._connection is not None and self._connection.in_transaction

    def usable(self) -> bool:
        return self._connection is not None and not (self.closed or self.in_transaction)

    def discard(self) -> None:
        self.closed = True
        self._tasks.put(None)

    async def close(self) -> None:
        self.discard()
        await asyncio.to_thread(self._thread.join)

    async def run(self, owner: object, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Run `work` in the thread, to its end; raises `StorageUnavailable`, or what it raises."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_Result] = loop.create_future()
        self._tasks.put((owner, work, done, loop, time.monotonic()))
        try:
            return await undisturbed(done)
        except _NOT_NOW as error:
            raise unavailable(error) from error
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode in _NOT_UNIQUE:
                raise NotUnique(*error.args) from error
            raise

    async def roll_back(self, owner: object) -> None:
        """Undo what `owner` left open."""
        await self.run(owner, self._roll_back)

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            connection.close()  # this undoes it too; the next task opens another
            self._connection = None

    def _live(self) -> None:
        holder: object = None
        waiting: deque[_Task] = deque()
        while True:
            task = waiting.popleft() if waiting and holder is None else self._tasks.get()
            if task is None:
                break
            if holder is not None and task[0] is not holder:
                waiting.append(task)
                continue
            self._do(task)
            holder = task[0] if self.in_transaction else None
            del task
        if self._connection is not None:
            self._connection.close()
        left: list[_Task | None] = [*waiting]
        while not self._tasks.empty():
            left.append(self._tasks.get())
        for task in left:
            if task is not None:
                _answer(task, None, sqlite3.OperationalError("the connection was closed"))

    def _do(self, task: _Task) -> None:
        result, error = None, None
        try:
            result = task[1](self._opened(task[4]))
        except BaseException as raised:  # noqa: BLE001 - whatever it is, who waits for it is told
            error = raised
        _answer(task, result, error)
        del task, error  # what was raised holds this frame: holding it in turn, both would stay

    def _opened(self, asked: float) -> sqlite3.Connection:
        """Give the connection for what was `asked` for then: who waited for the thread has waited for the lock, too.

        Else each would wait for it anew, behind all before it, for as long as another process keeps it.
        """
        waited = time.monotonic() - asked
        busy = _BUSY_SECONDS if waited < _BUSY_SECONDS / 10 else max(0.0, _BUSY_SECONDS - waited)
        if self._connection is None:
            self._connection = connect(self._path, pragmas=self._pragmas, busy=busy)
        elif busy != self._busy:
            self._connection.execute(f"PRAGMA busy_timeout={busy * 1000:.0f}")
        self._busy = busy
        return self._connection


def _answer(task: _Task, result: Any, error: BaseException | None) -> None:
    _, _, done, loop, _ = task
    with suppress(RuntimeError):  # that loop is closed, and nobody waits
        loop.call_soon_threadsafe(_tell, done, result, error)


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

    __slots__ = ("_begin", "_give", "_open", "_worker", "begun")

    def __init__(self, worker: _Worker, begin: str, give: Callable[[_Worker], None]) -> None:
        self._worker: _Worker | None = worker
        self._begin = begin
        self.begun = False
        self._open = False
        self._give = give

    async def fetch(self, statement: Statement, parameters: Parameters, *, alone: bool = False) -> Sequence[Row]:
        return await self._work(lambda connection: _fetch(connection, statement, parameters), last=alone)

    async def run(self, script: Script[_Result], *, last: bool = False) -> _Result:
        return await self._work(lambda connection: _play(connection, script), last=last)

    async def commit(self) -> None:
        if self._open and self._worker is not None:
            await self._worker.run(self, lambda connection: connection.execute("COMMIT"))
            self._open = False

    async def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        try:
            if self._open:
                await worker.roll_back(self)
        finally:
            self._give(worker)

    async def _work(self, work: Callable[[sqlite3.Connection], _Result], *, last: bool) -> _Result:
        if self._worker is None:
            raise RuntimeError("This connection was given back.")
        begin = None if self.begun else self._begin
        self.begun = self._open = True

        def whole(connection: sqlite3.Connection) -> _Result:
            if begin is not None:
                connection.execute(begin)
            result = work(connection)
            if last:
                connection.execute("COMMIT")
            return result

        result = await self._worker.run(self, whole)
        self._open = not last
        return result


class SQLite:
    """Satisfies `luxx.adapters.database.connection.Driver`: one connection writes, some read.

    SQLite takes one writer at a time: to queue for its thread is cheaper, and fairer, than to spin in
    its busy handler, which stays for other processes. What is run by `fetch` and `run` goes to the
    thread and back once, and not once for each statement.
    """

    postgres: Final = False

    def __init__(self, path: str, *, pool_size: int) -> None:
        async def open_reader() -> _Worker:
            # The file is in the memory of the system anyway: a cache for each reader holds it again.
            return _Worker(path, ("query_only=ON", "cache_size=-256"))

        self._path = path
        self._writing: _Worker | None = None
        self._writers = 0
        self._readers = Pool(open_reader, size=pool_size)

    @property
    def lent(self) -> int:
        return self._readers.lent + self._writers

    def _writer(self) -> _Worker:
        if self._writing is None or self._writing.closed:
            self._writing = _Worker(self._path)
        return self._writing

    def _written(self, _worker: _Worker) -> None:
        self._writers -= 1

    async def connect(self, *, read_only: bool = False, upkeep: bool = False) -> SQLiteConnection:  # noqa: ARG002 - there is but one writer
        if read_only:
            return SQLiteConnection(await self._readers.take(), _BEGIN_READING, self._readers.give)
        self._writers += 1
        return SQLiteConnection(self._writer(), _BEGIN, self._written)

    async def fetch(
        self,
        statement: Statement,
        parameters: Parameters,
        *,
        writes: bool = False,
        upkeep: bool = False,  # noqa: ARG002 - as above
    ) -> Sequence[Row]:
        if writes:
            return await self._writer().run(self, lambda connection: _fetch(connection, statement, parameters))
        worker = await self._readers.take()
        try:
            return await worker.run(self, lambda connection: _fetch(connection, statement, parameters))
        finally:
            self._readers.give(worker)

    async def run(self, script: Script[_Result], *, upkeep: bool = False) -> _Result:
        connection = await self.connect(upkeep=upkeep)
        try:
            return await connection.run(script, last=True)
        finally:
            await connection.close()

    async def close(self) -> None:
        await self._readers.close()
        if self._writing is not None and not self._writing.closed:
            await self._writing.close()
