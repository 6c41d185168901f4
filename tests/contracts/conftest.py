"""Databases of both kinds, opened and closed for each test."""

from typing import Any

import pytest
from tests.support.databases import OpenDatabase

from luxx.adapters.database import Database
from luxx.testing.postgres import ThrowawayPostgres, system_binaries, wheel_binaries


@pytest.fixture(params=["sqlite", "postgres"])
async def database(request: pytest.FixtureRequest, open_database: OpenDatabase) -> Database:
    return await open_database(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def on_postgres(open_database: OpenDatabase, postgres_url: str) -> Database:
    return await open_database(postgres_url)


@pytest.fixture
def own_postgres() -> Any:
    """A server that a test may stop."""
    if not (system_binaries() or wheel_binaries()):
        pytest.skip("there are no Postgres binaries")
    with ThrowawayPostgres(binaries=system_binaries() or wheel_binaries()) as server:
        yield server


@pytest.fixture
async def on_sqlite(open_database: OpenDatabase, sqlite_url: str) -> Database:
    return await open_database(sqlite_url)
