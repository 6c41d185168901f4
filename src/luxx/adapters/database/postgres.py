"""Postgres, through asyncpg."""

import asyncio
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from luxx.adapters.database.connection import undisturbed
from luxx.adapters.database.errors import NotUnique, unavailable
from luxx.adapters.database.pool import Pool
from luxx.adapters.database.statements import Parameters, Row, Script, Statement

_Result = TypeVar("_Result")

_CONNECT_SECONDS: Final = 10.0
_QUERY_SECONDS: Final = 10.0
_UPKEEP_SECONDS: Final = 4.0
"""For commits of the log and heartbeats: a second try, on a new connection, fits into a lease of 15 s."""
_UPGRADE_LOCK: Final = "8s"
"""How long an upgrade waits for a table, while all others wait behind it."""
_CLOSE_SECONDS: Final = 2.0
_UPKEEP_SIZE: Final = 2

# SQLSTATE classes and codes (Postgres, appendix A) by which the server says "not now": connections,
# resources, operator intervention, rolled back for another's sake, a session that idled too long, a
# standby that takes no writes, a lock not to be had, tables that nobody has made yet.
_NOT_NOW: Final = ("08", "53", "57", "58", "40", "25P03", "25006", "55P03", "42P01")

_BEGIN: Final = "BEGIN"
# Several statements that see one state: READ COMMITTED would look anew for each.
_BEGIN_READING: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


def _passing(error: Exception) -> bool:
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return True  # somebody changed the tables; asked again, it is prepared again
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate
        return isinstance(state, str) and state.startswith(_NOT_NOW)
    # A value that cannot be sent is a fault of the value; all else is a connection that broke.
    return not isinstance(error, ValueError)


_ASK_THE_NEXT: Final = (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)
"""What one host says, or does not, where the next may say something else."""
_RAISED: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


def _told(error: Exception) -> Exception:
    if isinstance(error, asyncpg.UniqueViolationError):
        return NotUnique(error.constraint_name)
    return unavailable(error) if _passing(error) else error


@contextmanager
def translated() -> Iterator[None]:
    """Raise `StorageUnavailable` for what has to do with reaching the database, and the rest as it is."""
    try:
        yield
    except _RAISED as error:
        raise _told(error) from error


def _limits(seconds: float | None) -> dict[str, str]:
    """Let the server give up first: what it still did for a connection that was dropped would be done for nobody."""
    if seconds is None:
        # Said, because a role may have a limit of its own.
        return {"statement_timeout": "0", "lock_timeout": _UPGRADE_LOCK}
    return {"statement_timeout": f"{seconds * 900:.0f}ms", "lock_timeout": f"{min(8.0, seconds * 0.75) * 1000:.0f}ms"}


def _each_host(dsn: str) -> Sequence[str]:
    """Give a URL for each host of one that names several."""
    parts = urlsplit(dsn)
    login, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return (dsn,)
    return [urlunsplit(parts._replace(netloc=f"{login}{at}{host}")) for host in hosts.split(",")]


async def open_connection(dsn: str, *, command_timeout: float | None) -> Any:
    """Open a connection of asyncpg's, which belongs to the caller; raises `StorageUnavailable`."""
    failed: list[Exception] = []
    # The driver has one deadline for all hosts: behind one that says nothing it would not come to the next.
    hosts = _each_host(dsn)
    for host in hosts:
        try:
            return await asyncpg.connect(
                host,
                timeout=_CONNECT_SECONDS / len(hosts),
                command_timeout=command_timeout,
                server_settings={
                    "application_name": "luxx",
                    **_limits(command_timeout),
                    # A process that was stopped in mid-transaction must not keep its row locks: whoever
                    # takes its turns over would pass them by for as long as it hangs.
                    "idle_in_transaction_session_timeout": "4s",
                    "tcp_keepalives_idle": "15",
                    "tcp_keepalives_interval": "5",
                    "tcp_keepalives_count": "3",
                },
            )
        except _ASK_THE_NEXT as error:
            failed.append(error)
        except (*_RAISED, UnicodeError) as error:
            raise unavailable(error) from error  # a UnicodeError is about the host's name
    # Why one cannot be reached tells more than that another is no primary.
    told = min(failed, key=lambda error: isinstance(error, asyncpg.InternalClientError))
    raise unavailable(told) from told


class _Session:
    """A connection in the pool."""

    __slots__ = ("_loop", "_pool", "inner", "opened_at")

    def __init__(self, inner: Any, pool: "Pool[_Session]") -> None:
        self.inner = inner
        self._pool = pool
        self.opened_at = time.monotonic()
        self._loop = asyncio.get_running_loop()

    def usable(self) -> bool:
        return self._is_here() and not (self.inner.is_closed() or self.inner.is_in_transaction())

    def _is_here(self) -> bool:
        return self._loop is asyncio.get_running_loop()

    def discard(self) -> None:
        with suppress(RuntimeError):  # of a loop that is closed: the socket goes with what is left of it
            self.inner.terminate()

    def fell_silent(self) -> None:
        """Let go of it where no answer came in time, and of those that lie idle: they lead to the same silence."""
        self.inner.terminate()
        self._pool.discard_idle()

    async def close(self) -> None:
        if not self._is_here():
            self.discard()
            return
        with suppress(*_RAISED, asyncio.TimeoutError):
            await self.inner.close(timeout=_CLOSE_SECONDS)


class PostgresConnection:
    """Satisfies `luxx.adapters.database.connection.Connection`."""

    __slots__ = ("_begin", "_pool", "_session", "begun")

    def __init__(self, pool: Pool[_Session], session: _Session, begin: str) -> None:
        self._pool = pool
        self._session: _Session | None = session
        self._begin = begin
        self.begun = False

    async def fetch(self, statement: Statement, parameters: Parameters, *, alone: bool = False) -> Sequence[Row]:
        compiled = statement.on(postgres=True)
        arguments = compiled.arguments(parameters)
        inner = self._lent().inner if alone else await self._started()  # alone it is a transaction by itself
        rows: Sequence[Row] = await _answered(self._lent(), inner.fetch(compiled.text, *arguments))
        return compiled.decoded(rows)

    async def run(self, script: Script[_Result], *, last: bool = False) -> _Result:
        result = await self._play(script)
        if last:
            await self.commit()
        return result

    async def _play(self, script: Script[_Result]) -> _Result:
        rows: Sequence[Row] | None = None
        while True:
            try:
                # The first send must be of None, and gives the first statement.
                statement, parameters = script.send(rows)  # type: ignore[arg-type]
            except StopIteration as end:
                result: _Result = end.value
                return result
            if isinstance(parameters, Sequence):
                await self._many(statement, parameters)
                rows = ()
            else:
                rows = await self.fetch(statement, parameters)

    async def commit(self) -> None:
        if not self.begun:
            return
        session = self._lent()
        await _answered(session, session.inner.execute("COMMIT"))

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        try:
            if not session.inner.is_closed() and session.inner.is_in_transaction():
                with suppress(*_RAISED):  # the transaction is lost anyway, and the session is not lent again
                    await undisturbed(session.inner.execute("ROLLBACK"))
        finally:
            self._pool.give(session)

    def _lent(self) -> _Session:
        if self._session is None:
            raise RuntimeError("This connection was given back.")
        return self._session

    async def _started(self) -> Any:
        session = self._lent()
        if not self.begun:
            self.begun = True
            await _answered(session, session.inner.execute(self._begin))
        return session.inner

    async def _many(self, statement: Statement, each: Sequence[Parameters]) -> None:
        compiled = statement.on(postgres=True)
        inner = await self._started()
        await _answered(self._lent(), inner.executemany(compiled.text, list(map(compiled.arguments, each))))


async def _answered(session: _Session, asked: Awaitable[_Result]) -> _Result:
    """Wait for the answer to what a connection was asked, and drop the connection where none comes in time.

    What it was asked may still be done: a late BEGIN would put the next one's statements into a
    transaction that nobody commits. One that takes no writes is dropped as well: it may lead to what
    became a standby, and the next one to what was made the primary instead.
    """

    async def in_time() -> _Result:
        try:
            return await asked
        except TimeoutError:
            session.fell_silent()  # here: whoever was cancelled meanwhile is not told of it
            raise
        except asyncpg.ReadOnlySQLTransactionError:
            session.inner.terminate()
            raise

    try:
        return await undisturbed(in_time())
    except _RAISED as error:
        if type(error) is asyncpg.InterfaceError and not session.inner.is_closed():
            # A fault of the program's, which no waiting mends.
            raise RuntimeError("Two tasks use one unit of work at once: open one for each.") from error
        raise _told(error) from error


async def _read(session: _Session, asked: Awaitable[_Result]) -> _Result:
    """Wait for what was asked for by a read, which may be cancelled; drop the connection where it was not answered."""
    try:
        return await asked
    except asyncio.CancelledError:
        session.discard()  # the driver would keep the next one waiting until the server was told
        raise
    except _RAISED as error:
        if isinstance(error, TimeoutError):
            session.fell_silent()
        raise _told(error) from error


class Postgres:
    """Satisfies `luxx.adapters.database.connection.Driver`: a pool for requests, and one for the log and its leases.

    An answer is waited for so many `seconds`, by the log and its leases `upkeep_seconds`; then the connection is
    dropped, and `StorageUnavailable` raised.
    """

    postgres: Final = True

    def __init__(
        self, dsn: str, *, pool_size: int, seconds: float = _QUERY_SECONDS, upkeep_seconds: float = _UPKEEP_SECONDS
    ) -> None:
        async def for_requests() -> _Session:
            return _Session(await open_connection(dsn, command_timeout=seconds), self._requests)

        async def for_upkeep() -> _Session:
            return _Session(await open_connection(dsn, command_timeout=upkeep_seconds), self._upkeep)

        self._requests = Pool(for_requests, size=pool_size)
        # Requests must not keep the log waiting: a lease that is renewed too late is lost.
        self._upkeep = Pool(for_upkeep, size=_UPKEEP_SIZE)

    @property
    def lent(self) -> int:
        return self._requests.lent

    async def connect(self, *, read_only: bool = False, upkeep: bool = False) -> PostgresConnection:
        pool = self._upkeep if upkeep else self._requests
        return PostgresConnection(pool, await pool.take(), _BEGIN_READING if read_only else _BEGIN)

    async def fetch(
        self, statement: Statement, parameters: Parameters, *, writes: bool = False, upkeep: bool = False
    ) -> Sequence[Row]:
        compiled = statement.on(postgres=True)
        arguments = compiled.arguments(parameters)
        pool = self._upkeep if upkeep else self._requests
        session = await pool.take()
        fetched = session.inner.fetch(compiled.text, *arguments)
        rows: Sequence[Row]
        try:
            if writes:
                rows = await _answered(session, fetched)
            else:
                rows = await _read(session, fetched)
        finally:
            pool.give(session)
        return compiled.decoded(rows)

    async def run(self, script: Script[_Result], *, upkeep: bool = False) -> _Result:
        connection = await self.connect(upkeep=upkeep)
        try:
            return await connection.run(script, last=True)
        finally:
            await connection.close()

    async def close(self) -> None:
        await self._requests.close()
        await self._upkeep.close()
