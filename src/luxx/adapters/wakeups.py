"""Wake-ups within one process: who watches a turn, and who listens for cancels."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from luxx.adapters.alarm import Alarm


class LocalWakeup:
    """A watch on a turn; satisfies `luxx.application.ports.Wakeup`."""

    __slots__ = ("_alarm", "_event", "_loop")

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop)

    def wake(self) -> None:
        self._event.set()

    async def wait(self, seconds: float) -> bool:
        if not self._event.is_set():
            try:
                with self._alarm.at(self._loop.time() + seconds):
                    await self._event.wait()
            except TimeoutError:
                return False
        # Cleared only here, where nothing awaits any more: a cancelled wait keeps its wake-up.
        self._event.clear()
        return True

    def close(self) -> None:
        self._alarm.close()


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
