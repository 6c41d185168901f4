"""The latest events of turns that this process writes, so that its own readers need no query."""

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from luxx.application.ports import LoggedEvent

_KEPT_AFTER_END: Final = 10.0
"""For so many seconds those who still follow find the last events here."""
_EACH: Final = 1024 * 1024
"""Bytes of one turn that is read from as it is written, at most; of long ones the table has the rest."""
_TAIL: Final = 600
_EVENT: Final = 400
"""What a tail takes besides its events, and an event besides its text, in bytes."""
_DELTAS: Final = frozenset({"text", "thinking"})


def _held(logged: LoggedEvent) -> int:
    """Give about how many bytes an event takes, which is twice that at most: with its text decoded and encoded.

    Beyond ASCII a character takes up to four bytes, and Python keeps a second copy in UTF-8; what
    is no delta was decoded into many small objects.
    """
    if logged.encoded is None:
        return _EVENT
    name, data = logged.encoded
    return _EVENT + len(data) * (2 if name in _DELTAS and data.isascii() else 8)


@dataclass(slots=True)
class _Tail:
    events: list[LoggedEvent] = field(default_factory=list)
    size: int = _TAIL
    ended: bool = False
    confirmed: float = 0.0

    def trim(self) -> None:
        """Drop the oldest half of the room, so that trimming costs little per event."""
        if self.size <= _EACH:
            return
        dropped = 0
        while self.size > _EACH // 2 and dropped < len(self.events) - 1:
            self.size -= _held(self.events[dropped])
            dropped += 1
        del self.events[:dropped]


class Tails:
    """Committed events only, each turn's without gaps up to its last; bounded in all, to `total` bytes.

    A tail speaks for the log for `fresh` seconds after a commit or heartbeat; then the table is
    asked, in case another process took the turn over and nobody told.
    """

    def __init__(self, clock: Callable[[], float], *, fresh: float, total: int = 32 * 1024 * 1024) -> None:
        self._clock = clock
        self._fresh = fresh
        self._total = total
        self._size = 0
        self._tails: OrderedDict[str, _Tail] = OrderedDict()
        self._ended: deque[tuple[float, str]] = deque()

    def add(self, message_id: str, events: Sequence[LoggedEvent], *, ended: bool) -> None:
        """Add what was just committed; what does not continue the tail replaces it."""
        now = self._clock()
        tail = self._tails.get(message_id)
        if tail is None or tail.events[-1].seq + 1 != events[0].seq:
            self.drop((message_id,))
            tail = self._tails[message_id] = _Tail()
            self._size += tail.size
        self._size -= tail.size
        tail.events += events
        tail.size += sum(map(_held, events))
        tail.ended = ended
        tail.confirmed = now
        tail.trim()
        self._size += tail.size
        self._tails.move_to_end(message_id)
        if ended:
            self._ended.append((now + _KEPT_AFTER_END, message_id))
        while self._ended and self._ended[0][0] <= now:
            self.drop((self._ended.popleft()[1],))
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
