import pytest

from luxx.adapters.memory import MemoryStorage
from luxx.testing.contracts.turn_log import TurnLogContract


class TestMemory(TurnLogContract):
    @pytest.fixture
    def storage(self) -> MemoryStorage:
        return MemoryStorage()
