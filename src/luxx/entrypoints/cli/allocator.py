"""How this process takes memory from the C library, and gives it back."""

import asyncio
import ctypes
import sys
from collections.abc import Callable
from typing import Any, Final

_M_ARENA_MAX: Final = -8
EVERY_SECONDS: Final = 2.0


def _of_glibc(name: str) -> Callable[..., Any] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def one_arena() -> None:
    """Let all threads take memory from one place (mallopt(3), M_ARENA_MAX); nothing happens where that is not glibc.

    What a thread reads from SQLite the event loop sends and gives back. In arenas of the threads' own that
    leaves holes: readers who stall took four times what is held for them.
    """
    if (mallopt := _of_glibc("mallopt")) is not None:
        mallopt(_M_ARENA_MAX, 1)


async def give_back(every: float = EVERY_SECONDS) -> None:
    """Give unused memory to the system, now and then until cancelled (malloc_trim(3)); ends where that is not glibc.

    glibc keeps as much as the largest block that was ever freed, which is a password's hash: the first login would
    leave a process a quarter larger. To give each hash's memory back as it is freed would make all hashes slower.
    """
    if (malloc_trim := _of_glibc("malloc_trim")) is not None:
        while True:
            await asyncio.sleep(every)
            await asyncio.to_thread(malloc_trim, 0)
