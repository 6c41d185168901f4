"""When the log commits next."""

from typing import Final

_LONGEST_SHARE: Final = 1 / 3
"""Of the limit, that a commit counts for at most: where it takes longer, to commit more often would not help."""
_WEIGHT: Final = 1 / 8
"""Of the latest commit among all before it."""


class Pace:
    """How far apart commits begin: `gather` seconds for each turn that is being written, up to a limit.

    What comes just after a commit began waits for the next one, and until that is made: for about `limit` seconds,
    because what commits have taken of late is taken off. Where they take more than a third of it, for longer.
    """

    __slots__ = ("_gather", "_limit", "_takes")

    def __init__(self, *, gather: float = 0.001, limit: float = 0.045) -> None:
        self._gather = gather
        self._limit = limit
        self._takes = 0.0

    def apart(self, turns: int) -> float:
        """Give how many seconds after the last commit began the next one is to begin."""
        return min(self._gather * turns, self._limit - self._takes)

    def took(self, seconds: float) -> None:
        """Take note of how long a commit took, from when what it holds was gathered."""
        self._takes += (min(seconds, self._limit * _LONGEST_SHARE) - self._takes) * _WEIGHT
