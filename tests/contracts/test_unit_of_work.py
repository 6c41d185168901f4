import pytest

from luxx.adapters.memory import MemoryStorage
from luxx.testing.contracts.unit_of_work import UnitOfWorkContract


class TestMemory(UnitOfWorkContract):
    @pytest.fixture
    def storage(self) -> MemoryStorage:
        return MemoryStorage()
