"""Times in bounded memory, and figures over several rounds."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

_FLOOR: Final = 1e-6
_GROWTH: Final = math.log(1.01)
_BUCKETS: Final = 2100


class Histogram:
    """Durations in seconds, counted in buckets that grow by 1 %: from a microsecond to twenty minutes."""

    __slots__ = ("_counts", "count", "largest")

    def __init__(self, seconds: Iterable[float] = ()) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.largest = 0.0
        for one in seconds:
            self.add(one)

    def add(self, seconds: float) -> None:
        place = int(math.log(seconds / _FLOOR) / _GROWTH) + 1 if seconds > _FLOOR else 0
        self._counts[min(place, _BUCKETS - 1)] += 1
        self.count += 1
        self.largest = max(self.largest, seconds)

    def percentile(self, percent: float) -> float:
        """Give the duration that `percent` of all do not exceed (nearest rank), within 1 %; NaN where there is none."""
        if not self.count:
            return math.nan
        rank = max(1, math.ceil(self.count * percent / 100))
        if rank == self.count:
            return self.largest
        seen = 0
        for place, number in enumerate(self._counts):
            seen += number
            if seen >= rank:
                return min(_FLOOR * math.exp(_GROWTH * place), self.largest)
        raise AssertionError("more counted than kept")


class Spread(msgspec.Struct, frozen=True):
    """What several rounds gave for one figure."""

    median: float
    low: float
    high: float
    rounds: list[float]


def spread(rounds: Sequence[float]) -> Spread:
    """Give median, lowest and highest; raises ValueError for no rounds at all."""
    if not rounds:
        raise ValueError("there is no round to take the median of")
    return Spread(median=statistics.median(rounds), low=min(rounds), high=max(rounds), rounds=list(rounds))


def ratios(those: Sequence[float], to: Sequence[float]) -> Spread:
    """Compare round by round: what ran one after the other shares the machine's mood."""
    return spread([one / other if other else math.nan for one, other in zip(those, to, strict=True)])
