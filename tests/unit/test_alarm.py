"""A deadline for many awaits in a row."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from luxx.adapters.alarm import Alarm


@asynccontextmanager
async def alarm_set() -> AsyncIterator[tuple[Alarm, asyncio.AbstractEventLoop]]:
    loop = asyncio.get_running_loop()
    alarm = Alarm(loop)
    try:
        yield alarm, loop
    finally:
        alarm.close()


async def test_an_await_that_takes_longer_is_over() -> None:
    async with alarm_set() as (alarm, loop):
        began = loop.time()
        with pytest.raises(TimeoutError), alarm.at(began + 0.05):
            await asyncio.Event().wait()
        assert loop.time() >= began + 0.05
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def test_each_await_has_the_deadline_that_it_was_given() -> None:
    """The timer of the first, long deadline must not hide a shorter one, nor ring for a longer one."""
    async with alarm_set() as (alarm, loop):
        with alarm.at(loop.time() + 30):
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError), alarm.at(loop.time() + 0.03):
            await asyncio.Event().wait()
        with alarm.at(loop.time() + 0.03):
            await asyncio.sleep(0)
        with alarm.at(loop.time() + 30):
            await asyncio.sleep(0.06)
        with pytest.raises(TimeoutError), alarm.at(loop.time() + 0.03):
            await asyncio.Event().wait()


async def test_it_does_not_ring_between_awaits() -> None:
    async with alarm_set() as (alarm, loop):
        with alarm.at(loop.time() + 0.01):
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        with alarm.at(loop.time() + 5):
            await asyncio.sleep(0)


async def test_a_cancel_from_elsewhere_stays_a_cancel() -> None:
    async with alarm_set() as (alarm, loop):

        async def waiting() -> None:
            with alarm.at(loop.time() + 30):
                await asyncio.Event().wait()

        task = asyncio.create_task(waiting())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_cancel_that_comes_with_the_ring_wins() -> None:
    """Whoever cancelled the task must see it end, though the deadline passed in the same moment."""
    async with alarm_set() as (alarm, loop):

        async def waiting() -> None:
            with alarm.at(loop.time() + 0.02):
                await asyncio.Event().wait()

        task = asyncio.create_task(waiting())
        await asyncio.sleep(0)
        loop.call_at(loop.time() + 0.02, task.cancel)
        loop.call_at(loop.time() + 0.001, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_what_is_awaited_gives_its_own_errors() -> None:
    async with alarm_set() as (alarm, loop):

        async def failing() -> None:
            await asyncio.sleep(0)
            raise OSError("mine")

        with pytest.raises(OSError, match="mine"), alarm.at(loop.time() + 5):
            await failing()


async def test_only_a_task_can_be_bounded() -> None:
    loop = asyncio.get_running_loop()
    alarm = Alarm(loop)
    heard: list[str] = []

    def outside() -> None:
        try:
            with alarm.at(loop.time() + 5):
                pass
        except RuntimeError as error:
            heard.append(str(error))

    loop.call_soon(outside)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert heard == ["An alarm bounds what a task awaits: use it in one."]
