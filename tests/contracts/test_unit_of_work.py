import pytest
from tests.support.databases import OpenDatabase

from luxx.adapters.database import Database
from luxx.adapters.memory import MemoryStorage
from luxx.testing.contracts.unit_of_work import UnitOfWorkContract


class TestMemory(UnitOfWorkContract):
    @pytest.fixture
    def storage(self) -> MemoryStorage:
        return MemoryStorage()


class TestSQLite(UnitOfWorkContract):
    @pytest.fixture
    async def storage(self, open_database: OpenDatabase, sqlite_url: str) -> Database:
        return await open_database(sqlite_url)


class TestPostgres(UnitOfWorkContract):
    @pytest.fixture
    async def storage(self, open_database: OpenDatabase, postgres_url: str) -> Database:
        return await open_database(postgres_url)
