"""Waiting for what no event tells."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], *, patience: float = 10.0) -> None:
    """Wait until `condition()` is true; raises `TimeoutError` after `patience` seconds."""
    async with asyncio.timeout(patience):
        while not condition():  # noqa: ASYNC110 - another process makes it true, and sends no event
            await asyncio.sleep(0.001)
