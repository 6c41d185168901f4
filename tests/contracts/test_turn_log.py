import pytest
from tests.support.databases import OpenDatabase

from luxx.adapters.database import Database
from luxx.adapters.memory import MemoryStorage
from luxx.testing.contracts.turn_log import SharedTurnLogContract, TurnLogContract


class TestMemory(TurnLogContract):
    @pytest.fixture
    def storage(self) -> MemoryStorage:
        return MemoryStorage()


class TestSQLite(SharedTurnLogContract):
    @pytest.fixture
    async def storage(self, open_database: OpenDatabase, sqlite_url: str) -> Database:
        return await open_database(sqlite_url)

    @pytest.fixture
    async def second(self, open_database: OpenDatabase, sqlite_url: str) -> Database:
        return await open_database(sqlite_url)


class TestPostgres(SharedTurnLogContract):
    @pytest.fixture
    async def storage(self, open_database: OpenDatabase, postgres_url: str) -> Database:
        return await open_database(postgres_url)

    @pytest.fixture
    async def second(self, open_database: OpenDatabase, postgres_url: str) -> Database:
        return await open_database(postgres_url)
