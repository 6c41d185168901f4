"""Read `text/event-stream` from bytes as they come (WHATWG HTML, "Server-sent events")."""

from collections.abc import Iterator
from typing import Final, NamedTuple

_BOM: Final = b"\xef\xbb\xbf"


class ServerEvent(NamedTuple):
    """One event: its type (`b""` where none was named) and its data lines, joined by line feeds."""

    type: bytes
    data: bytes


class EventTooLong(ValueError):
    """A line, or the lines of one event together, are longer than allowed."""


class EventStreamReader:
    """Turn slices of bytes into events, however the slices are cut.

    Lines end in LF, CR or CRLF. Comments, `id` and `retry` are read over. An event is given once the
    empty line after it has come; what is unfinished at the end of the stream is no event. Memory is
    bounded: `limit` is the most bytes of one line and of one event.
    """

    __slots__ = ("_at_start", "_data", "_event_size", "_limit", "_line", "_line_size", "_skip_lf", "_type")

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._at_start = True
        self._skip_lf = False
        self._line: list[bytes] = []
        self._line_size = 0
        self._data: list[bytes] = []
        self._event_size = 0
        self._type = b""

    def feed(self, slice_: bytes) -> Iterator[ServerEvent]:
        """Take the next bytes and give the events that they complete, one by one.

        Read it to its end before the next slice. Raises `EventTooLong` when it comes to such a line.
        """
        if self._is_plain(slice_):
            self._at_start = self._skip_lf = False
            for event in slice_[:-2].split(b"\n\n"):
                if event.startswith(b"data: ") and b"\n" not in event:
                    yield ServerEvent(b"", event[6:])
                else:
                    yield from self._feed(event + b"\n\n")
        else:
            yield from self._feed(slice_)

    def _is_plain(self, slice_: bytes) -> bool:
        """Tell whether a slice holds whole events as most servers write them, and nothing is left from before."""
        return (
            slice_.startswith(b"data: ")
            and slice_.endswith(b"\n\n")
            and b"\r" not in slice_
            and len(slice_) <= self._limit
            and not (self._line or self._data or self._type)
        )

    def _feed(self, slice_: bytes) -> Iterator[ServerEvent]:
        if self._skip_lf and slice_:
            slice_ = slice_.removeprefix(b"\n")
            self._skip_lf = False
        if b"\r" in slice_:
            self._skip_lf = slice_.endswith(b"\r")
            slice_ = slice_.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *ended, rest = slice_.split(b"\n")
        for piece in ended:
            self._hold(piece)
            line = b"".join(self._line)
            self._line.clear()
            self._line_size = 0
            event = self._take(line)
            if event is not None:
                yield event
        if rest:
            self._hold(rest)

    def _hold(self, piece: bytes) -> None:
        self._line_size += len(piece)
        if self._line_size > self._limit:
            raise EventTooLong(f"a line of more than {self._limit} bytes")
        self._line.append(piece)

    def _take(self, line: bytes) -> ServerEvent | None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            event = ServerEvent(self._type, b"\n".join(self._data)) if self._data else None
            self._data = []
            self._event_size = 0
            self._type = b""
            return event
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._event_size += len(value) + 1
            if self._event_size > self._limit:
                raise EventTooLong(f"an event of more than {self._limit} bytes")
            self._data.append(value)
        elif field == b"event":
            self._type = value
        return None
