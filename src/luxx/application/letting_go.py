"""Work of others that is to be stopped, and may take no notice of it: bare excepts in loops are common."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

_Result = TypeVar("_Result")

_spawned: Final[set[asyncio.Task[Any]]] = set()
"""What nobody may wait for any more: no event loop keeps a task alive."""


def spawn(work: Coroutine[Any, Any, _Result], *, name: str) -> asyncio.Task[_Result]:
    """Run work in a task that can be let go of: what it raises then is told to nobody."""
    task = asyncio.create_task(work, name=name)
    _spawned.add(task)
    task.add_done_callback(_ended)
    return task


async def let_go(task: asyncio.Task[Any], *, patience: float) -> bool:
    """Cancel a task and wait `patience` seconds for its end; gives whether that came. It may go on all the same."""
    task.cancel()
    await asyncio.wait({task}, timeout=patience)
    return task.done()


def forget_frames(failure: BaseException | None) -> None:
    """Let go of what the functions held that a failure passed through, once it is told: a history, a request, itself.

    Of what holds itself only the garbage collector lets go, which comes seldom in a service.
    """
    left, seen = [failure], set[int]()
    while left:
        error = left.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        error.__traceback__ = None
        left += [error.__cause__, error.__context__]
        if isinstance(error, BaseExceptionGroup):
            left += error.exceptions


def _ended(task: asyncio.Task[Any]) -> None:
    _spawned.discard(task)
    if not task.cancelled():
        task.exception()
