"""Places for calls of tools that run at once, of which nobody takes all."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from luxx.application.tools import acting_for


def places_here() -> int:
    """Give how many processes may work at once on this machine: one for each core, up to four, and one more."""
    return max(2, min(4, os.cpu_count() or 2)) + 1


class Places:
    """Lets `total` calls run at once; those of one user (`acting_for`) take all but one of them at most.

    Who waits for a place gets it before those who have more, whoever came first: a user with many slow calls
    holds up the own ones. Calls that are nobody's are bounded by the total alone.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._taken: Counter[int | None] = Counter()
        self._waiting: list[tuple[int | None, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait for a place, and hold it."""
        user = acting_for.get()
        if self._free_for(user):
            self._taken[user] += 1
        else:
            await self._wait(user)
        try:
            yield
        finally:
            self._give(user)

    def _free_for(self, user: int | None) -> bool:
        own = self._total if user is None else max(1, self._total - 1)
        return self._taken.total() < self._total and self._taken[user] < own

    async def _wait(self, user: int | None) -> None:
        place = asyncio.get_running_loop().create_future()
        self._waiting.append((user, place))
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._waiting.remove((user, place))
            else:
                self._give(user)  # it came at the same moment
            raise

    def _give(self, user: int | None) -> None:
        self._taken[user] -= 1
        if not self._taken[user]:
            del self._taken[user]
        while able := [one for one in self._waiting if not one[1].done() and self._free_for(one[0])]:
            first = min(able, key=lambda one: self._taken[one[0]])
            self._waiting.remove(first)
            self._taken[first[0]] += 1
            first[1].set_result(None)
