"""A deadline for many awaits in a row, at next to no cost for each."""

import asyncio
from types import TracebackType
from typing import Self


class Alarm:
    """Bound one await after another: `with alarm.at(loop_time): await …` raises `TimeoutError` once it is over.

    What `asyncio.timeout_at` does for one await. A stream awaits thousands of times, and its deadline
    moves each time: here the loop's timer stays, and is set anew only when it rings too early.
    One task at a time may use it. `close` it in the end.
    """

    __slots__ = ("_cancels", "_deadline", "_loop", "_rang", "_task", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._deadline = 0.0
        self._cancels = 0
        self._rang = False

    def at(self, deadline: float) -> Self:
        """Set the deadline of the next `with`, in the loop's time."""
        self._deadline = deadline
        return self

    def __enter__(self) -> None:
        task = asyncio.current_task(self._loop)
        if task is None:
            raise RuntimeError("An alarm bounds what a task awaits: use it in one.")
        self._task = task
        self._cancels = task.cancelling()
        if self._timer is None or self._timer.when() > self._deadline:
            self._set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._rang and task is not None:
            self._rang = False
            if task.uncancel() <= self._cancels and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self) -> None:
        self.close()
        self._timer = self._loop.call_at(self._deadline, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._task is None:
            return
        if self._loop.time() < self._deadline:
            self._set()
        else:
            self._rang = True
            self._task.cancel()
