"""Turn logs that do what a database may do at a bad moment, over one that does not."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from luxx.application.ports import Lease, LoggedEvent
from luxx.domain.errors import StorageUnavailable
from luxx.domain.message import Message
from luxx.domain.turn import End, Step


class OverLog:
    """Passes everything on to another log."""

    def __init__(self, log: Any) -> None:
        self.log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)


class FullLog(OverLog):
    """Has no room, until `room` is set; `waiting` tells that somebody waits for it."""

    def __init__(self, log: Any) -> None:
        super().__init__(log)
        self.room, self.waiting = asyncio.Event(), asyncio.Event()

    async def append(self, lease: Lease, step: Step) -> None:
        if not self.room.is_set():
            self.waiting.set()
            await self.room.wait()
        await self.log.append(lease, step)


class BusyLog(OverLog):
    """Is ready for nobody until `free` is set; counts in `asked` how often it was asked."""

    def __init__(self, log: Any) -> None:
        super().__init__(log)
        self.free = asyncio.Event()
        self.asked = 0

    async def ready(self, lease: Lease) -> None:  # noqa: ARG002  # the port's word
        self.asked += 1
        await self.free.wait()


class UnendingLog(OverLog):
    """Raises the given errors when turns are to be ended, before it ends any."""

    def __init__(self, log: Any, *errors: Exception) -> None:
        super().__init__(log)
        self.errors = list(errors or (StorageUnavailable("The database is away."),))

    async def end(self, lease: Lease, end: End, answer: Message) -> None:
        if self.errors:
            raise self.errors.pop(0)
        await self.log.end(lease, end, answer)


class LateLog(OverLog):
    """Awaits `meanwhile`, once, between finding nothing new and saying so."""

    def __init__(self, log: Any) -> None:
        super().__init__(log)
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    async def read(self, message_id: str, **how: Any) -> Sequence[LoggedEvent]:
        found: Sequence[LoggedEvent] = await self.log.read(message_id, **how)
        if not found and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        return found
