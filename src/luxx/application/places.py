"""Places for what runs at once, of which nobody takes all."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import TypeAlias

from luxx.application.tools import acting_for

Whose: TypeAlias = int | str | None
"""A user, or an address that requests come from; None is nobody."""


class Places:
    """Lets `total` calls run at once; those of one user (`acting_for`) take all but one of them at most.

    Who waits for a place gets it before those who have more, whoever came first: a user with many slow calls
    holds up the own ones. Calls that are nobody's are bounded by the total alone. `whose` names somebody else
    than the user for whom a tool runs.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._taken: Counter[Whose] = Counter()
        self._free = total
        self._came = count()
        self._waiting: dict[Whose, deque[tuple[int, asyncio.Future[None]]]] = {}
        """For each user the calls that wait, in the order in which all came: thousands cost no more than one."""

    @asynccontextmanager
    async def one(self, whose: Whose = None) -> AsyncIterator[None]:
        """Wait for a place, and hold it."""
        give_back = await self.take(whose)
        try:
            yield
        finally:
            give_back()

    async def take(self, whose: Whose = None) -> Callable[[], None]:
        """Wait for a place; what this gives is called once to give it back."""
        user = acting_for.get() if whose is None else whose
        if self._free and self._may_have_more(user):
            self._take(user)
        else:
            await self._wait(user)
        return partial(self._give, user)

    def _may_have_more(self, user: Whose) -> bool:
        return self._taken[user] < (self._total if user is None else max(1, self._total - 1))

    async def _wait(self, user: Whose) -> None:
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append((next(self._came), place))
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                self._give(user)  # it came at the same moment
            raise

    def _take(self, user: Whose) -> None:
        self._taken[user] += 1
        self._free -= 1

    def _give(self, user: Whose) -> None:
        self._taken[user] -= 1
        if not self._taken[user]:
            del self._taken[user]
        self._free += 1
        while self._free and (able := [one for one in self._waiting if self._may_have_more(one)]):
            first = min(able, key=lambda one: (self._taken[one], self._waiting[one][0][0]))
            _, place = self._waiting[first].popleft()
            if not self._waiting[first]:
                del self._waiting[first]
            if not place.cancelled():
                self._take(first)
                place.set_result(None)
