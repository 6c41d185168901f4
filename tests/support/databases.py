"""Storage to test with: a Postgres server for the session, a database for each test."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from luxx.adapters.database import Database
from luxx.adapters.database.statements import Statement
from luxx.adapters.memory import MemoryStorage
from luxx.testing.postgres import NoPostgres, ThrowawayPostgres

OpenDatabase = Callable[[str], Awaitable[Database]]


def _migrate(url: str) -> None:
    async def upgrade() -> None:
        database = Database(url)
        await database.upgrade()
        await database.close()

    # In a thread, because a loop may be running here.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, upgrade()).result()


@pytest.fixture(scope="session")
def postgres() -> Iterator[ThrowawayPostgres]:
    """Run a server for all tests that want one."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(ThrowawayPostgres())
        except NoPostgres as error:
            pytest.skip(str(error))
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres: ThrowawayPostgres) -> str:
    """Name a migrated database, to be copied."""
    name = postgres.create_database()
    _migrate(postgres.url(name))
    return name


@pytest.fixture
def postgres_url(postgres: ThrowawayPostgres, postgres_template: str) -> str:
    """Give the URL of a migrated database on Postgres that nobody else uses."""
    return postgres.url(postgres.create_database(template=postgres_template))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a migrated database file, to be copied."""
    path = tmp_path_factory.mktemp("template") / "luxx.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """Give the URL of a migrated database in a file that nobody else uses."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}"


@pytest.fixture
async def open_database() -> AsyncIterator[OpenDatabase]:
    """Open databases, and close them after the test."""
    async with AsyncExitStack() as stack:

        async def open_one(url: str) -> Database:
            database = Database(url, pool_size=5)
            stack.push_async_callback(database.close)
            await database.open()
            return database

        yield open_one


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def any_storage(
    request: pytest.FixtureRequest, open_database: OpenDatabase
) -> AsyncIterator[MemoryStorage | Database]:
    """Run the test on every storage there is."""
    if request.param == "memory":
        yield MemoryStorage()
    else:
        yield await open_database(request.getfixturevalue(f"{request.param}_url"))


async def ask(database: Database, text: str, *, writes: bool = False) -> list[Any]:
    """Ask a database in words of SQL."""
    return list(await database.driver.fetch(Statement(sa.text(text)), {}, writes=writes))
