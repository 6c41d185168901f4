"""Wake-ups within one process: who watches a turn, and who listens for cancels."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class LocalWakeup:
    """A watch on a turn; satisfies `luxx.application.ports.Wakeup`. One task at a time may wait.

    A reader waits thousands of times: one timer of the loop's serves all its waits, and is set anew only
    when it rings too early.
    """

    __slots__ = ("_deadline", "_loop", "_timer", "_waiter", "_woken")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._woken = False

    def wake(self) -> None:
        self._woken = True
        self._release()

    async def wait(self, seconds: float) -> bool:
        if not self._woken:
            self._deadline = self._loop.time() + seconds
            if self._timer is None or self._timer.when() > self._deadline:
                self._set()
            self._waiter = self._loop.create_future()
            await self._waiter
        # Taken only here, where nothing awaits any more: a cancelled wait keeps its wake-up.
        woken, self._woken = self._woken, False
        return woken

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _release(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _set(self) -> None:
        self.close()
        self._timer = self._loop.call_at(self._deadline, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._loop.time() < self._deadline:
            self._set()
        else:
            self._release()


class Wakeups:
    """The watches and the cancel listeners of one process."""

    __slots__ = ("_listeners", "_watches")

    def __init__(self) -> None:
        self._watches: dict[str, set[LocalWakeup]] = {}
        self._listeners: list[Callable[[str], None]] = []

    @contextmanager
    def watch(self, message_id: str) -> Iterator[LocalWakeup]:
        wakeup = LocalWakeup()
        watches = self._watches.setdefault(message_id, set())
        watches.add(wakeup)
        try:
            yield wakeup
        finally:
            wakeup.close()
            watches.discard(wakeup)
            if not watches and self._watches.get(message_id) is watches:
                del self._watches[message_id]

    def wake(self, message_ids: Iterable[str]) -> None:
        for message_id in message_ids:
            for wakeup in self._watches.get(message_id, ()):
                wakeup.wake()

    def wake_all(self) -> None:
        self.wake(tuple(self._watches))

    def on_cancel(self, listener: Callable[[str], None]) -> None:
        self._listeners.append(listener)

    def cancel(self, message_id: str) -> None:
        for listener in self._listeners:
            listener(message_id)
