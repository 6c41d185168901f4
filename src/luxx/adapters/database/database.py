"""A database of either kind: units of work, the turn log, the schema."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import sqlalchemy as sa

from luxx.adapters.database import migrate
from luxx.adapters.database.accounts import DatabaseApiKeys, DatabaseSessions, DatabaseUsers
from luxx.adapters.database.connection import Connection, Driver, OneRead, Reading, for_reading, undisturbed
from luxx.adapters.database.conversations import DatabaseConversations
from luxx.adapters.database.errors import unavailable
from luxx.adapters.database.messages import DatabaseMessages
from luxx.adapters.database.migrate import SchemaState
from luxx.adapters.database.password_tries import DatabasePasswordTries
from luxx.adapters.database.sqlite import SQLite, connect
from luxx.adapters.database.turn_log import DatabaseTurnLog
from luxx.adapters.database.turns import DatabaseTurns
from luxx.adapters.system import utc_now
from luxx.application.observer import UNOBSERVED, Observer
from luxx.application.ports import Clock
from luxx.domain.errors import StorageUnavailable
from luxx.extras import needs

_Result = TypeVar("_Result")

_UPGRADE: Final = "run `luxx db upgrade` for a service, or `await database.upgrade()` in a program that embeds Luxx"
_NEWER: Final = (
    "The database's schema is of a newer version than this one: run that version, or go back to a copy of the "
    "database from before its upgrade."
)


class Database:
    """Storage in SQLite (`sqlite:///relative/path`, `sqlite:////absolute/path`) or Postgres (`postgresql://…`).

    A Postgres URL is read as libpq reads it (`sslmode`, `host=/socket/directory` …). `pool_size` is
    how many connections are open at most, besides one that writes on SQLite and three on Postgres:
    one that listens, and two that are kept for the log and its leases. `patience` is for how many
    seconds a turn's writer bears a database that is away.

    `open` reaches for nothing, so that a process can start before its database;
    `schema_state` tells whether the database is there and fit for use. One that was closed may be
    opened again, in another event loop too.
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
        self.driver: Driver
        if self.postgres and separator:
            with needs("A postgresql:// URL", "the extra `postgres`"):
                from luxx.adapters.database.postgres import Postgres  # noqa: PLC0415 - SQLite alone brings no such driver

            self._place = f"postgresql://{rest}"
            self.driver = Postgres(self._place, pool_size=pool_size)
        elif scheme.partition("+")[0] == "sqlite" and rest.startswith("/") and rest.strip("/") not in {"", ":memory:"}:
            self._place = rest[1:]
            self.driver = SQLite(self._place, pool_size=pool_size)
        else:
            raise ValueError(
                "The database URL must begin with sqlite:/// and the path of a file, or with postgresql://. "
                "For storage in memory use luxx.adapters.memory."
            )
        self.log: Final = DatabaseTurnLog(
            self.driver, self.own_connection, clock=clock, patience=patience, observer=observer
        )

    async def open(self) -> None:
        """Start the log's writer and, on Postgres, its listener."""
        self.log.start()

    async def close(self) -> None:
        """Commit what the log has gathered, as far as the database is there, and close all connections."""
        await self.log.close()
        await self.driver.close()

    @property
    def connections_in_use(self) -> int:
        """The number of pooled connections that are lent now."""
        return self.driver.lent

    def new_unit(self, *, read_only: bool = False, once: bool = False) -> "DatabaseUnit":
        return DatabaseUnit(self, read_only=read_only, once=once)

    async def own_connection(self) -> Any:
        """Open a Postgres connection of asyncpg's that belongs to the caller."""
        from luxx.adapters.database.postgres import open_connection  # noqa: PLC0415 - see `__init__`

        return await open_connection(self._place, command_timeout=None)

    # --- schema -------------------------------------------------------------------------------------

    async def schema_state(self) -> SchemaState:
        """Compare the schema with the one this version needs; raises `StorageUnavailable`."""
        if self._to_be_made():
            return SchemaState.MISSING
        try:
            ((there,),) = await self.driver.fetch(migrate.HAS_VERSION, {})
            rows = await self.driver.fetch(migrate.VERSIONS, {}) if there else ()
        except sqlite3.DatabaseError as error:
            raise unavailable(error) from error  # the file is none of SQLite's, or is damaged
        return migrate.schema_state(version for (version,) in rows)

    def _to_be_made(self) -> bool:
        """Tell whether there is no file of SQLite's where one can be made."""
        place = Path(self._place)
        return not self.postgres and place.parent.is_dir() and not place.exists()

    async def missing(self) -> str | None:
        """See `Storage.missing`."""
        try:
            await self.check()
        except StorageUnavailable as error:
            return str(error)
        return None

    async def check(self) -> None:
        """Raise `StorageUnavailable` where `missing` tells something, with the reason that no client is told."""
        match await self.schema_state():
            case SchemaState.CURRENT:
                return
            case SchemaState.MISSING:
                raise StorageUnavailable(f"The database has no schema yet: {_UPGRADE}.")
            case SchemaState.STALE:
                raise StorageUnavailable(f"The database's schema is of an older version: {_UPGRADE}.")
            case SchemaState.NEWER:
                raise StorageUnavailable(_NEWER)

    async def upgrade(self) -> None:
        """Bring the schema up to date. Several processes may do so at once. Raises `StorageUnavailable`."""
        if not self.postgres and not (above := Path(self._place).parent).is_dir():
            raise StorageUnavailable(f"There is no directory {above} for the database: make it, or name another file.")
        match await self.schema_state():
            case SchemaState.CURRENT:
                return
            case SchemaState.NEWER:
                raise StorageUnavailable(_NEWER)  # there is no way back
        await self.run_sync(migrate.upgrade)

    async def run_sync(self, work: Callable[[sa.Connection], _Result]) -> _Result:
        """Run `work` in a writing transaction on a connection of SQLAlchemy's: for the schema, not for requests."""
        if self.postgres:
            return await self._on_postgres(work)
        return await self._on_sqlite(work)

    async def _on_postgres(self, work: Callable[[sa.Connection], _Result]) -> _Result:
        # No limit to how long a statement may take: tables may be large.
        from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - brings the ORM: for this alone

        from luxx.adapters.database.postgres import translated  # noqa: PLC0415 - as above

        engine = create_async_engine("postgresql+asyncpg://", async_creator=self.own_connection, poolclass=sa.NullPool)
        try:
            with translated():
                async with engine.begin() as connection:
                    return await connection.run_sync(work)
        except sa.exc.DBAPIError as error:
            # SQLAlchemy's has the whole statement in it, and what wraps the driver's own.
            raise unavailable(error.orig and (error.orig.__cause__ or error.orig)) from error
        finally:
            await engine.dispose()

    async def _on_sqlite(self, work: Callable[[sa.Connection], _Result]) -> _Result:
        engine = sa.create_engine("sqlite://", creator=lambda: connect(self._place, make=True), poolclass=sa.NullPool)

        def start(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        def whole() -> _Result:
            with engine.begin() as connection:
                return work(connection)

        sa.event.listen(engine, "begin", start)
        try:
            return await undisturbed(asyncio.to_thread(whole))
        except (sa.exc.OperationalError, sqlite3.OperationalError) as error:
            raise unavailable(error.orig if isinstance(error, sa.exc.DBAPIError) else error) from error


class DatabaseUnit:
    """One transaction on a `Database`; usable once."""

    def __init__(self, database: Database, *, read_only: bool, once: bool) -> None:
        self._database = database
        self._read_only = read_only or once
        self._once = once
        self._lent: Connection | None = None
        self._open = False
        self._gone: list[str] = []

    async def __aenter__(self) -> Self:
        driver = self._database.driver
        if self._once:
            self._lent = Reading(OneRead(driver), postgres=driver.postgres)
        elif self._read_only:
            self._lent = Reading(await driver.connect(read_only=True), postgres=driver.postgres)
        else:
            self._lent = await driver.connect()
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        if self._lent is not None:
            await self._lent.close()

    async def commit(self) -> None:
        connection = self._connection
        self._end()
        await undisturbed(self._commit(connection))

    async def _commit(self, connection: Connection) -> None:
        try:
            await connection.commit()
        finally:
            await connection.close()
        if self._gone:
            self._database.log.gone(self._gone)

    def _end(self) -> None:
        if self._read_only:
            raise for_reading()
        self._open = False

    @property
    def _connection(self) -> Connection:
        if self._lent is None or not self._open:
            raise RuntimeError("This unit of work is not open: use it inside `async with`, before its commit.")
        return self._lent

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
        return DatabaseConversations(self._connection, self._gone.extend, self._database.postgres)

    @property
    def messages(self) -> DatabaseMessages:
        return DatabaseMessages(self._connection, self._gone.extend)

    @property
    def turns(self) -> DatabaseTurns:
        database = self._database
        return DatabaseTurns(self._connection, database.driver, database.clock, self._end, database.log.began)
