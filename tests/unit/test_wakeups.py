"""Waiting again and again on one timer of the loop's."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from luxx.adapters.wakeups import Wakeups

PATIENCE = 5.0


async def cancelled(waiting: Coroutine[Any, Any, bool]) -> None:
    """Let it begin to wait, and cancel it."""
    task = asyncio.create_task(waiting)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_wait_ends_by_its_own_time_though_the_one_before_had_longer() -> None:
    with Wakeups().watch("msg_1") as wakeup:
        await cancelled(wakeup.wait(PATIENCE))
        async with asyncio.timeout(PATIENCE / 2):
            assert not await wakeup.wait(0.001)


async def test_a_wait_is_not_cut_short_by_the_time_of_the_one_before() -> None:
    wakeups = Wakeups()
    with wakeups.watch("msg_1") as wakeup, wakeups.watch("msg_2") as clock:
        await cancelled(wakeup.wait(0.01))
        waiting = asyncio.create_task(wakeup.wait(PATIENCE))
        assert not await clock.wait(0.03)
        assert not waiting.done()
        wakeups.wake(["msg_1"])
        assert await waiting


async def test_a_wake_up_is_told_once_whenever_it_came() -> None:
    wakeups = Wakeups()
    with wakeups.watch("msg_1") as wakeup:
        wakeups.wake(["msg_1"])
        wakeups.wake(["msg_1"])
        assert await wakeup.wait(PATIENCE)
        assert not await wakeup.wait(0.001)
        waiting = asyncio.create_task(wakeup.wait(PATIENCE))
        await asyncio.sleep(0)
        wakeups.wake_all()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await wakeup.wait(PATIENCE), "a cancelled wait keeps its wake-up"
