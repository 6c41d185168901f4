"""How often a user may ask: a bucket for each, in this process."""

from collections import OrderedDict
from typing import Final

from aiolimiter import AsyncLimiter

from luxx.domain.errors import RateLimited

USERS_LIMIT: Final = 50_000
"""Buckets kept, at most; that of whoever asked least recently goes first, and is full by then."""


class BucketRates:
    """`RequestRate` on aiolimiter: `requests` in `seconds`, all of them at once if need be; 0 is no limit."""

    def __init__(self, requests: int, *, seconds: float = 60.0) -> None:
        self._requests: Final = requests
        self._seconds: Final = seconds
        self._buckets: Final[OrderedDict[int, AsyncLimiter]] = OrderedDict()

    async def take(self, user_id: int) -> None:
        if not self._requests:
            return
        bucket = self._buckets.get(user_id)
        if bucket is None:
            bucket = self._buckets[user_id] = AsyncLimiter(self._requests, self._seconds)
            if len(self._buckets) > USERS_LIMIT:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(user_id)
        if not bucket.has_capacity():
            # Room for one request is made in this time, whatever is in the bucket.
            raise RateLimited("Too many requests: try again later.", retry_after=self._seconds / self._requests)
        await bucket.acquire()
