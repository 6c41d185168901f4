"""A TCP proxy on loopback that does what networks do at their worst, on a seed.

    async with FaultProxy("127.0.0.1", port, faults=Faults(reset=0.1), seed=7) as proxy:
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy.port}")

Each connection draws its faults when it comes; `pass_through`, `Faults()` and `cut` change things while it runs.
"""

import asyncio
import contextlib
import random
import socket
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

_PIECE: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often a connection suffers from what; chances are from 0 to 1, and a connection may draw several.

    `reset` is a TCP reset, `truncate` a clean end in the wrong place, `stall` a pause of `stall_s`
    seconds, each after some bytes of the answers (at most `within`); `slice_` gives writes of a few
    bytes, `latency` a pause of at most `latency_s` seconds before each piece.
    """

    reset: float = 0.0
    truncate: float = 0.0
    stall: float = 0.0
    slice_: float = 0.0
    latency: float = 0.0
    within: int = 4096
    stall_s: float = 1.0
    latency_s: float = 0.02


NONE: Final = Faults()


@dataclass(slots=True, kw_only=True)
class Fate:
    """What one connection has drawn; places are counts of bytes, None where it was spared."""

    reset_at: int | None = None
    truncate_at: int | None = None
    stall_at: int | None = None
    stall_s: float = 0.0
    sliced: bool = False
    latency_s: float = 0.0


class FaultProxy:
    """Forward connections to `host` and `port`, which may be changed at any time; an async context manager.

    `drawn` counts the connections that drew a fault that cuts or stalls them, or were cut by `cut`.
    """

    def __init__(self, host: str, port: int, *, faults: Faults = NONE, seed: int = 0) -> None:
        self.target_host = host
        self.target_port = port
        self.faults = faults
        self.port = 0
        self.drawn = 0
        self.connections = 0
        self._random: Final = random.Random(seed)  # noqa: S311 - faults are to be repeatable, not secret
        self._server: asyncio.Server | None = None
        self._open: Final[dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]]] = {}

    @property
    def url(self) -> str:
        """The root that clients of an HTTP server behind it use."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def cut(self) -> int:
        """Reset all connections that are open now; gives their number."""
        writers = list(self._open.values())
        for pair in writers:
            for writer in pair:
                _reset(writer)
        self.drawn += len(writers)
        return len(writers)

    def fate(self) -> Fate:
        """Draw the faults of the next connection."""
        faults, draw = self.faults, self._random
        # Always the same number of draws: what one connection suffers does not depend on another's luck.
        chances = [draw.random() for _ in range(5)]
        places = [draw.randrange(1, max(faults.within, 2)) for _ in range(3)]
        return Fate(
            reset_at=places[0] if chances[0] < faults.reset else None,
            truncate_at=places[1] if chances[1] < faults.truncate else None,
            stall_at=places[2] if chances[2] < faults.stall else None,
            stall_s=faults.stall_s,
            sliced=chances[3] < faults.slice_,
            latency_s=faults.latency_s if chances[4] < faults.latency else 0.0,
        )

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        self._open[task] = (writer,)
        fate = self.fate()
        try:
            there, onward = await asyncio.open_connection(self.target_host, self.target_port)
            self._open[task] = (writer, onward)
            await self._forward(fate, reader, writer, there, onward)
        except OSError:
            _reset(writer)
        except asyncio.CancelledError:
            # Only `__aexit__` cancels, and it waits; the streams' own callback would call this a fault.
            for each in self._open[task]:
                each.transport.abort()
        finally:
            del self._open[task]

    async def _forward(
        self,
        fate: Fate,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there: asyncio.StreamReader,
        onward: asyncio.StreamWriter,
    ) -> None:
        asking = asyncio.create_task(_pump(reader, onward, Fate()))
        answering = asyncio.create_task(_pump(there, writer, fate))
        try:
            await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
            # HTTP does not half-close: whichever side ends first ends both.
            if answering.done() and answering.result():
                self.drawn += 1
        finally:
            for task in (asking, answering):
                task.cancel()
            await asyncio.gather(asking, answering, return_exceptions=True)
            for each in (writer, onward):
                each.close()
                try:
                    async with asyncio.timeout(1):
                        await each.wait_closed()
                except TimeoutError:
                    each.transport.abort()  # its reader does not read
                except OSError:
                    pass


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fate: Fate) -> bool:
    """Carry bytes one way until an end; tells whether a fault ended it."""
    draw = random.Random(fate.reset_at or fate.stall_at or 1)  # noqa: S311 - as above
    carried = 0
    try:
        while data := await reader.read(_PIECE):
            if fate.latency_s:
                await asyncio.sleep(draw.random() * fate.latency_s)
            for piece in _sliced(data, draw) if fate.sliced else (data,):
                end = carried + len(piece)
                if fate.stall_at is not None and carried <= fate.stall_at < end:
                    await asyncio.sleep(fate.stall_s)
                for place, reset in ((fate.reset_at, True), (fate.truncate_at, False)):
                    if place is not None and carried <= place < end:
                        writer.write(piece[: place - carried])
                        await writer.drain()
                        if reset:
                            _reset(writer)
                        return True
                writer.write(piece)
                await writer.drain()
                carried = end
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        pass  # either side is gone: that is an end too
    return False


def _sliced(data: bytes, draw: random.Random) -> list[bytes]:
    # Large answers are sliced at their beginning only: the point is the odd borders, not the time.
    pieces: list[bytes] = []
    place = 0
    while place < len(data) and len(pieces) < 64:
        size = draw.randrange(1, 8)
        pieces.append(data[place : place + size])
        place += size
    return [*pieces, data[place:]] if place < len(data) else pieces


def _reset(writer: asyncio.StreamWriter) -> None:
    # With no time to linger, closing throws away what is unsent and sends a reset.
    opened = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
