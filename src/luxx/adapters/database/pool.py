"""Connections that are kept open, lent and given back."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar

from luxx.adapters.database.errors import unavailable

_WAIT_SECONDS: Final = 10.0
_RECYCLE_SECONDS: Final = 1800.0


class Pooled(Protocol):
    """What a pool keeps."""

    @property
    def opened_at(self) -> float: ...

    def usable(self) -> bool:
        """Tell whether it can be lent again."""
        ...

    def discard(self) -> None:
        """Let go of it at once."""
        ...

    async def close(self) -> None:
        """End it in order."""
        ...


_Kept = TypeVar("_Kept", bound=Pooled)


class Pool(Generic[_Kept]):
    """Lend at most `size`; the one given back last is lent first, so that no more stay open than are used.

    `take` waits ten seconds at most for one, in order; then it raises `StorageUnavailable`. One older than half an
    hour is not lent again. Closed, it may be used in another loop.
    """

    def __init__(self, open_one: Callable[[], Awaitable[_Kept]], *, size: int) -> None:
        self._open_one = open_one
        self._size: Final = size
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle: list[_Kept] = []
        self._closed_at = float("-inf")
        self.lent = 0

    def _here(self) -> None:
        # A semaphore belongs to the loop in which somebody first waited for it; what was lent there is gone with it.
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._places = loop, asyncio.Semaphore(self._size)

    async def take(self) -> _Kept:
        self._here()
        if self._places.locked():
            try:
                async with asyncio.timeout(_WAIT_SECONDS):
                    await self._places.acquire()
            except TimeoutError:
                raise unavailable(TimeoutError("all connections of the pool are in use")) from None
        else:
            await self._places.acquire()
        try:
            one = self._kept() or await self._open_one()
        except BaseException:  # a cancel too: the place is another's
            self._places.release()
            raise
        self.lent += 1
        return one

    def _kept(self) -> _Kept | None:
        while self._idle:
            one = self._idle.pop()
            if one.usable() and time.monotonic() - one.opened_at < _RECYCLE_SECONDS:
                return one
            one.discard()
        return None

    def give(self, one: _Kept) -> None:
        """Take back what was lent."""
        self.lent -= 1
        if one.usable() and one.opened_at > self._closed_at:
            self._idle.append(one)
        else:
            one.discard()
        self._places.release()

    def discard_idle(self) -> None:
        """Let go of those that nobody uses now."""
        idle, self._idle = self._idle, []
        for one in idle:
            one.discard()

    async def close(self) -> None:
        """Close all, those that are lent as they come back; more may be taken afterwards."""
        self._closed_at = time.monotonic()
        idle, self._idle = self._idle, []
        for one in idle:
            await one.close()
