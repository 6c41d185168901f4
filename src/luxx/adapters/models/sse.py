"""Read `text/event-stream` from bytes as they come (WHATWG HTML, "Server-sent events")."""

from typing import Final, NamedTuple

_BOM: Final = b"\xef\xbb\xbf"
_CR: Final = 0x0D


class ServerEvent(NamedTuple):
    """One event: its type (`b""` where none was named) and its data lines, joined by line feeds."""

    type: bytes
    data: bytes


class EventTooLong(ValueError):
    """A line, or the lines of one event together, are longer than allowed; `events` came whole before it."""

    def __init__(self, problem: str, events: list[ServerEvent]) -> None:
        super().__init__(problem)
        self.events = events


class EventStreamReader:
    """Turn slices of bytes into events, however the slices are cut.

    Lines end in LF, CR or CRLF. Comments, `id` and `retry` are read over. `error`, which no standard has
    but many a llama.cpp, is the data of an event of that type. An event is given once the empty line after
    it has come; what is unfinished at the end of the stream is no event. Memory is bounded: `limit` is the
    most bytes of one line and of one event.
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

    def feed(self, slice_: bytes) -> list[ServerEvent]:
        """Take the next bytes and give the events that they complete.

        Raises `EventTooLong`; nothing can be read after it.
        """
        events: list[ServerEvent] = []
        end = slice_.rfind(b"\n\n") + 2
        if end > 1 and not (self._data or self._type):
            if self._line:
                self._line.append(slice_)
                slice_ = b"".join(self._line)
                end += self._line_size
                self._line.clear()
                self._line_size = 0
            # Whole events as most servers write them are cut in one go; all else is read line by line.
            plain = slice_[:end]
            if plain.startswith(b"data: ") and _CR not in plain and end <= self._limit:
                datas = plain[6:-2].split(b"\n\ndata: ")
                if plain.count(b"\n") == 2 * len(datas):
                    self._at_start = self._skip_lf = False
                    events = [ServerEvent(b"", data) for data in datas]
                    slice_ = slice_[end:]
        if slice_:
            self._feed(slice_, events)
        return events

    def _feed(self, slice_: bytes, events: list[ServerEvent]) -> None:
        if self._skip_lf:
            slice_ = slice_.removeprefix(b"\n")
            self._skip_lf = False
        if _CR in slice_:
            self._skip_lf = slice_.endswith(b"\r")
            slice_ = slice_.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *ended, rest = slice_.split(b"\n")
        for piece in ended:
            self._hold(piece, events)
            line = b"".join(self._line)
            self._line.clear()
            self._line_size = 0
            self._take(line, events)
        if rest:
            self._hold(rest, events)

    def _hold(self, piece: bytes, events: list[ServerEvent]) -> None:
        self._line_size += len(piece)
        if self._line_size > self._limit:
            raise EventTooLong(f"a line of more than {self._limit} bytes", events)
        self._line.append(piece)

    def _take(self, line: bytes, events: list[ServerEvent]) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                events.append(ServerEvent(self._type, b"\n".join(self._data)))
            self._data = []
            self._event_size = 0
            self._type = b""
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._event_size += len(value) + 1
            if self._event_size > self._limit:
                raise EventTooLong(f"an event of more than {self._limit} bytes", events)
            self._data.append(value)
        elif field == b"event":
            self._type = value
        elif field == b"error":
            self._type = field
            self._take(b"data:" + value, events)
