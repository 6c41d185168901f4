"""Storage in the memory of one process: for tests, trials and embedding. Nothing outlives the process."""

from luxx.adapters.memory.storage import MemoryStorage
from luxx.adapters.memory.turn_log import MemoryTurnLog

__all__ = ["MemoryStorage", "MemoryTurnLog"]
