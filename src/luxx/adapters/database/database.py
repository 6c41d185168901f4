"""A database of either kind: connections, units of work, the turn log, the schema."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from types import TracebackType
from typing import Any, Final, Self

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from luxx.adapters.database import migrate
from luxx.adapters.database.connection import Connection, lent, undisturbed
from luxx.adapters.database.errors import translated, unavailable
from luxx.adapters.database.migrate import SchemaState
from luxx.adapters.database.repositories import (
    DatabaseApiKeys,
    DatabaseConversations,
    DatabaseMessages,
    DatabasePasswordTries,
    DatabaseSessions,
    DatabaseTurns,
    DatabaseUsers,
)
from luxx.adapters.database.turn_log import DatabaseTurnLog
from luxx.adapters.system import utc_now
from luxx.application.observer import UNOBSERVED, Observer
from luxx.application.ports import Clock, Lease
from luxx.domain.errors import StorageUnavailable
from luxx.domain.turn import Started

_CONNECT_SECONDS: Final = 10.0
_QUERY_SECONDS: Final = 20.0
_POOL_SECONDS: Final = 10.0
_BUSY_SECONDS: Final = 10.0


class Database:
    """Storage in SQLite (`sqlite:///relative/path`, `sqlite:////absolute/path`) or Postgres (`postgresql://…`).

    A Postgres URL is read as libpq reads it (`sslmode`, `host=/socket/directory` …). `pool_size` is
    how many connections are open at most, besides one that writes on SQLite and three on Postgres:
    one that listens, and two that are kept for the log and its leases. `patience` is for how many
    seconds a turn's writer bears a database that is away.

    `open` reaches for nothing, so that a process can start before its database;
    `schema_state` tells whether the database is there and fit for use.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        patience: float = 20.0,
        clock: Clock = utc_now,
        observer: Observer = UNOBSERVED,
    ) -> None:
        scheme, separator, rest = url.partition("://")
        self.postgres: Final = scheme.partition("+")[0] in {"postgresql", "postgres"}
        self.clock: Final = clock
        # SQLite takes one writer at a time: to queue here is cheaper, and fairer, than to spin in its
        # busy handler, which stays for other processes. Postgres locks rows.
        self._writing: asyncio.Lock | AbstractAsyncContextManager[None] = nullcontext()
        if self.postgres and separator:
            self._dsn = f"postgresql://{rest}"
            self._writers = create_async_engine(
                "postgresql+asyncpg://",
                async_creator=self._connect,
                pool_size=pool_size,
                max_overflow=0,
                pool_timeout=_POOL_SECONDS,
                pool_recycle=1800,
                pool_use_lifo=True,
                hide_parameters=True,  # what a statement carries is nobody's to read in an error
            )
            # Requests must not keep the log waiting: a lease that is renewed too late is lost.
            self._upkeep = create_async_engine(
                "postgresql+asyncpg://",
                async_creator=self._connect,
                pool_size=2,
                max_overflow=0,
                pool_timeout=_POOL_SECONDS,
                pool_recycle=1800,
                pool_use_lifo=True,
                hide_parameters=True,
            )
            # Several statements that see one state: READ COMMITTED would look anew for each.
            self._readers = self._writers.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            self._queries = self._writers.execution_options(isolation_level="AUTOCOMMIT")
        elif scheme.partition("+")[0] == "sqlite" and rest.startswith("/") and rest.strip("/") not in {"", ":memory:"}:
            path = rest[1:]
            self._writing = asyncio.Lock()
            self._writers = _sqlite(path, pool_size=1, begin="BEGIN IMMEDIATE")
            self._readers = _sqlite(path, pool_size=pool_size, begin="BEGIN", pragmas=("query_only=ON",))
            self._queries = self._readers
            self._upkeep = self._writers
        else:
            raise ValueError(
                "The database URL must begin with sqlite:/// and the path of a file, or with postgresql://. "
                "For storage in memory use luxx.adapters.memory."
            )
        self.log: Final = DatabaseTurnLog(self, clock=clock, patience=patience, observer=observer)

    async def open(self) -> None:
        """Start the log's writer and, on Postgres, its listener."""
        self.log.start()

    async def close(self) -> None:
        """Commit what the log has gathered, as far as the database is there, and close all connections."""
        await self.log.close()
        await self._readers.dispose()
        await self._writers.dispose()
        await self._upkeep.dispose()

    @property
    def connections_in_use(self) -> int:
        """The number of pooled connections that are lent now."""
        engines = {engine.sync_engine.pool for engine in (self._readers, self._writers)}
        return sum(pool.checkedout() for pool in engines if isinstance(pool, sa.QueuePool))

    def new_unit(self, *, read_only: bool = False) -> "DatabaseUnit":
        return DatabaseUnit(self, read_only=read_only)

    async def schema_state(self) -> SchemaState:
        """Compare the schema with the one this version needs; raises `StorageUnavailable`."""
        async with self.query() as connection:
            return await connection.run_sync(migrate.schema_state)

    async def missing(self) -> str | None:
        """See `Storage.missing`."""
        try:
            state = await self.schema_state()
        except StorageUnavailable as error:
            return str(error)
        match state:
            case SchemaState.CURRENT:
                return None
            case SchemaState.MISSING:
                return "The database has no schema yet: run `luxx db upgrade`."
            case SchemaState.STALE:
                return (
                    "The database's schema is of another version: run `luxx db upgrade` of the newest version in use."
                )

    async def upgrade(self) -> None:
        """Bring the schema up to date. Several processes may do so at once."""
        if await self.schema_state() is SchemaState.CURRENT:
            return
        if not self.postgres:
            async with self.transaction() as connection:
                await connection.run_sync(migrate.upgrade)
                await connection.commit()
            return
        # No limit to how long a statement may take: tables may be large.
        engine = create_async_engine("postgresql+asyncpg://", async_creator=self.listening, poolclass=sa.NullPool)
        try:
            with translated():
                async with engine.begin() as migrating:
                    await migrating.run_sync(migrate.upgrade)
        finally:
            await engine.dispose()

    # --- connections --------------------------------------------------------------------------------

    @asynccontextmanager
    async def transaction(self, *, read_only: bool = False, upkeep: bool = False) -> AsyncIterator[Connection]:
        """Lend a connection for one transaction, which is rolled back unless the caller commits.

        `upkeep` is for what must not queue behind requests: the log's writer and the leases.
        """
        with translated():
            if read_only:
                async with lent(self._readers) as connection:
                    yield connection
            else:
                async with self._writing, lent(self._upkeep if upkeep else self._writers) as connection:
                    yield connection

    @asynccontextmanager
    async def query(self) -> AsyncIterator[Connection]:
        """Lend a connection for single statements that write no row."""
        with translated():
            async with lent(self._queries) as connection:
                yield connection

    async def listening(self) -> Any:
        """Open a Postgres connection of asyncpg's that belongs to the caller."""
        return await self._connect(command_timeout=None)

    async def _connect(self, *, command_timeout: float | None = _QUERY_SECONDS) -> Any:
        import asyncpg  # noqa: PLC0415 - an installation for SQLite has no such driver

        try:
            return await asyncpg.connect(
                self._dsn,
                timeout=_CONNECT_SECONDS,
                command_timeout=command_timeout,
                server_settings={
                    "application_name": "luxx",
                    # A process that was stopped in mid-transaction must not keep its row locks: whoever
                    # takes its turns over would pass them by for as long as it hangs.
                    "idle_in_transaction_session_timeout": "10s",
                    "lock_timeout": "15s",
                    "tcp_keepalives_idle": "15",
                    "tcp_keepalives_interval": "5",
                    "tcp_keepalives_count": "3",
                },
            )
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise unavailable() from error


def _sqlite(path: str, *, pool_size: int, begin: str, pragmas: Sequence[str] = ()) -> AsyncEngine:
    async def connect() -> Any:
        import aiosqlite  # noqa: PLC0415 - an installation for Postgres has no such driver

        # Without an isolation level the driver begins nothing by itself: we say how.
        connection = aiosqlite.connect(path, isolation_level=None, timeout=_BUSY_SECONDS)
        thread = connection._thread  # noqa: SLF001 - the driver gives no other way to wait for it
        thread.daemon = True
        try:
            return await connection
        except sqlite3.Error:
            # Its thread is on its way out, and must not report to a loop that is closed by then.
            await asyncio.to_thread(thread.join)
            raise

    engine = create_async_engine(
        sa.URL.create("sqlite+aiosqlite", database=path),
        async_creator=connect,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=_POOL_SECONDS,
        pool_use_lifo=True,
        hide_parameters=True,
    )

    def prepare(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        # WAL: readers and the writer do not wait for each other. FULL: a commit is on the disk before
        # anybody is told. A killed process would lose nothing with NORMAL either, but a power cut
        # would take back what readers have seen; commits in groups make the difference affordable.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", *pragmas):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def start(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    sa.event.listen(engine.sync_engine, "connect", prepare)
    sa.event.listen(engine.sync_engine, "begin", start)
    return engine


class DatabaseUnit:
    """One transaction on a `Database`; usable once."""

    def __init__(self, database: Database, *, read_only: bool) -> None:
        self._database = database
        self._read_only = read_only
        self._transaction: AbstractAsyncContextManager[Connection] | None = None
        self._open: Connection | None = None
        self._began: list[tuple[Lease, Started]] = []
        self._gone: list[str] = []
        self._spoilt = False

    async def __aenter__(self) -> Self:
        self._transaction = self._database.transaction(read_only=self._read_only)
        self._open = await self._transaction.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = None
        if self._transaction is not None:
            await self._transaction.__aexit__(kind, error, trace)

    async def commit(self) -> None:
        if self._read_only:
            raise RuntimeError("A read-only unit of work cannot commit; open it with read_only=False.")
        if self._spoilt:
            raise RuntimeError("A turn was refused in this unit of work: it cannot commit. Open another.")
        connection = self._connection
        self._open = None
        await undisturbed(self._commit(connection))

    async def _commit(self, connection: Connection) -> None:
        await connection.commit()
        for lease, started in self._began:
            self._database.log.began(lease, started)
        if self._gone:
            self._database.log.gone(self._gone)

    @property
    def _connection(self) -> Connection:
        if self._open is None:
            raise RuntimeError("This unit of work is not open: use it inside `async with`, before its commit.")
        return self._open

    @property
    def users(self) -> DatabaseUsers:
        return DatabaseUsers(self._connection)

    @property
    def sessions(self) -> DatabaseSessions:
        return DatabaseSessions(self._connection)

    @property
    def api_keys(self) -> DatabaseApiKeys:
        return DatabaseApiKeys(self._connection)

    @property
    def tries(self) -> DatabasePasswordTries:
        return DatabasePasswordTries(self._connection)

    @property
    def conversations(self) -> DatabaseConversations:
        return DatabaseConversations(self._connection, self._gone.extend)

    @property
    def messages(self) -> DatabaseMessages:
        return DatabaseMessages(self._connection, self._gone.extend)

    @property
    def turns(self) -> DatabaseTurns:
        return DatabaseTurns(self._connection, self._database.clock(), self._note, self._spoil)

    def _note(self, lease: Lease, started: Started) -> None:
        self._began.append((lease, started))

    def _spoil(self) -> None:
        self._spoilt = True
