"""Stopping work of others, which may take no notice of it: bare excepts in loops are common."""

import asyncio
from typing import Any, Final

_strays: Final[set[asyncio.Future[Any]]] = set()
"""What was left to itself: no event loop keeps a task alive."""


async def let_go(work: asyncio.Future[Any], *, patience: float) -> bool:
    """Cancel work and wait `patience` seconds for its end; gives whether that came.

    What goes on all the same is left to itself, and what it raises is told to nobody.
    """
    _strays.add(work)
    work.add_done_callback(_ended)
    work.cancel()
    await asyncio.wait({work}, timeout=patience)
    return work.done()


def _ended(work: asyncio.Future[Any]) -> None:
    _strays.discard(work)
    if not work.cancelled():
        work.exception()
