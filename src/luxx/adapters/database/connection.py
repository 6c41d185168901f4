"""Connections on which every statement is finished, cancelled or not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_Result = TypeVar("_Result")


async def undisturbed(work: Awaitable[_Result]) -> _Result:
    """Await `work` to its end; a cancel that came meanwhile is raised then.

    A statement left in mid-air costs its connection. On SQLite it costs more: the thread goes on,
    and may hold the only write lock until somebody collects it.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                continue
        if not task.cancelled():
            task.exception()  # looked at, so that nobody warns of it
        raise


class Connection:
    """A connection lent for one transaction."""

    __slots__ = ("_inner",)

    def __init__(self, inner: AsyncConnection) -> None:
        self._inner = inner

    @property
    def postgres(self) -> bool:
        return self._inner.dialect.name == "postgresql"

    async def execute(
        self, statement: sa.Executable, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> sa.CursorResult[*tuple[Any, ...]]:
        return await undisturbed(self._inner.execute(statement, parameters))

    async def scalar(self, statement: sa.Executable) -> Any:
        """Give the first column of the first row, or None."""
        return await undisturbed(self._inner.scalar(statement))

    async def run_sync(self, work: Callable[[sa.Connection], _Result]) -> _Result:
        return await undisturbed(self._inner.run_sync(work))

    async def commit(self) -> None:
        await undisturbed(self._inner.commit())


@asynccontextmanager
async def lent(engine: AsyncEngine) -> AsyncIterator[Connection]:
    """Lend a connection of `engine`; what is not committed is rolled back when it comes back."""
    inner = engine.connect()
    try:
        await undisturbed(inner.start())
        yield Connection(inner)
    finally:
        # Cancelled while it was being opened, it may be open by now.
        if inner.sync_connection is not None:
            await undisturbed(inner.close())
