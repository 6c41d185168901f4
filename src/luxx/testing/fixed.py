"""Time and ids as a test decides."""

from datetime import UTC, datetime, timedelta
from typing import Final

START: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
DIGITS: Final = 12


class FixedClock:
    """A `Clock` that stands still until it is moved by hand.

    `now` can be set to any aware time, also an earlier one; it is kept in UTC. Raises `ValueError` for a time
    without its offset.
    """

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self._now

    @property
    def now(self) -> datetime:
        """The time that the clock shows."""
        return self._now

    @now.setter
    def now(self, now: datetime) -> None:
        if now.tzinfo is None:
            raise ValueError(f"{now.isoformat()} has no offset: give an aware time, such as datetime(…, tzinfo=UTC)")
        self._now = now.astimezone(UTC)

    def advance(self, by: float | timedelta) -> datetime:
        """Move forward by so many seconds, or by a timedelta; gives the new time."""
        self._now += by if isinstance(by, timedelta) else timedelta(seconds=by)
        return self._now


class CountingIds:
    """A `NewId` that counts: `conv_000000000001`, `msg_000000000002` …

    One count for all prefixes, so that no two ids are the same and later ones sort after earlier ones, as
    the port wants it. `last` is the number given last, 0 before the first.
    """

    def __init__(self) -> None:
        self.last = 0

    def __call__(self, prefix: str) -> str:
        self.last += 1
        return f"{prefix}_{self.last:0{DIGITS}d}"
