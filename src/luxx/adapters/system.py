"""The clock of this machine, and ids that sort by time."""

import secrets
import threading
import time
from datetime import UTC, datetime
from typing import Final

_DIGITS: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_LENGTH: Final = 26
_RANDOM_BITS: Final = 80


def utc_now() -> datetime:
    """Give the present time, aware and in UTC."""
    return datetime.now(UTC)


class SortableIds:
    """Make ids: the prefix, `_`, and 26 lower-case characters of Crockford's base 32.

    The characters write 48 bits of milliseconds since 1970 and 80 random bits, as a ULID does. The
    ids of one instance rise strictly, within a millisecond and when the clock steps back too; any
    thread may call.
    """

    __slots__ = ("_last", "_lock")

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def __call__(self, prefix: str) -> str:
        number = (time.time_ns() // 1_000_000 << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
        with self._lock:
            if number <= self._last:
                # A random stride, so that nobody guesses an id from its neighbour.
                number = self._last + 1 + secrets.randbits(_RANDOM_BITS - 16)
            self._last = number
        return f"{prefix}_{_base32(number)}"


def _base32(number: int) -> str:
    return "".join(_DIGITS[number >> shift & 31] for shift in range(5 * (_LENGTH - 1), -1, -5))
