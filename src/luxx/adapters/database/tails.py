"""The latest events of turns that this process writes, so that its own readers need no query."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from luxx.application.ports import LoggedEvent


@dataclass(slots=True)
class _Tail:
    events: list[LoggedEvent] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    size: int = 0
    ended: bool = False
    confirmed: float = 0.0

    def trim(self, limit: int) -> None:
        """Drop the oldest half of the room, so that trimming costs little per event."""
        if self.size <= limit:
            return
        dropped = 0
        while self.size > limit // 2 and dropped < len(self.events) - 1:
            self.size -= self.sizes[dropped]
            dropped += 1
        del self.events[:dropped], self.sizes[:dropped]


class Tails:
    """Committed events only, each turn's without gaps up to its last; bounded in all, in characters.

    A tail speaks for the log for `fresh` seconds after a commit or heartbeat; then the table is
    asked, in case another process took the turn over and nobody told.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        fresh: float,
        each: int = 512 * 1024,
        total: int = 32 * 1024 * 1024,
    ) -> None:
        self._clock = clock
        self._fresh = fresh
        self._each = each
        self._total = total
        self._size = 0
        self._tails: OrderedDict[str, _Tail] = OrderedDict()

    def add(self, message_id: str, events: Sequence[LoggedEvent], sizes: Sequence[int], *, ended: bool) -> None:
        """Add what was just committed; what does not continue the tail replaces it."""
        tail = self._tails.get(message_id)
        if tail is None or tail.events[-1].seq + 1 != events[0].seq:
            self.drop((message_id,))
            tail = self._tails[message_id] = _Tail()
        self._size -= tail.size
        tail.events += events
        tail.sizes += sizes
        tail.size += sum(sizes)
        tail.ended = ended
        tail.confirmed = self._clock()
        tail.trim(self._each)
        self._size += tail.size
        self._tails.move_to_end(message_id)
        while self._size > self._total and len(self._tails) > 1:
            self.drop((next(iter(self._tails)),))

    def read(self, message_id: str, after: int, limit: int) -> Sequence[LoggedEvent] | None:
        """Give what follows `after`, or None where only the table can tell."""
        tail = self._tails.get(message_id)
        if tail is None or after + 1 < tail.events[0].seq:
            return None
        first = after + 1 - tail.events[0].seq
        found = tail.events[first : first + limit]
        if found or tail.ended or self._clock() - tail.confirmed < self._fresh:
            return found
        return None

    def confirm(self, held: Collection[str]) -> None:
        """Note that the leases of these turns were found in force."""
        for message_id in held:
            tail = self._tails.get(message_id)
            if tail is not None:
                tail.confirmed = self._clock()

    def drop(self, message_ids: Iterable[str]) -> None:
        for message_id in message_ids:
            tail = self._tails.pop(message_id, None)
            if tail is not None:
                self._size -= tail.size
