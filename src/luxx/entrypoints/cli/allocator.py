"""How this process takes memory from the C library."""

import ctypes
import sys
from typing import Final

_M_ARENA_MAX: Final = -8


def one_arena() -> None:
    """Let all threads take memory from one place (mallopt(3), M_ARENA_MAX); nothing happens where that is not glibc.

    What a thread reads from SQLite the event loop sends and gives back. In arenas of the threads' own that
    leaves holes: readers who stall took four times what is held for them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
