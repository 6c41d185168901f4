"""Places for calls of tools: a user with many slow calls holds up the own ones."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.support.until import until

from luxx.application.places import Places
from luxx.application.tools import acting_for

ADA, BOB, CYD = 1, 2, 3


@contextmanager
def acting(user: int | None) -> Iterator[None]:
    before = acting_for.set(user)
    yield
    acting_for.reset(before)


class Calls:
    """Calls that hold a place until they are let go of."""

    def __init__(self, total: int) -> None:
        self.places = Places(total)
        self.running: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def begin(self, user: int | None, *names: str) -> list[str]:
        """Begin calls of a user's; gives those of them that run at once."""
        with acting(user):
            for name in names:
                self._ends[name] = asyncio.Event()
                self.tasks[name] = asyncio.create_task(self._call(name))
        await asyncio.sleep(0)
        return [name for name in names if name in self.running]

    async def end(self, name: str) -> set[str]:
        """End one; gives those that run then and did not before."""
        before = set(self.running)
        self._ends[name].set()
        await self.tasks[name]
        await asyncio.sleep(0)
        return set(self.running) - before

    async def _call(self, name: str) -> None:
        async with self.places.one():
            self.running.append(name)
            try:
                await self._ends[name].wait()
            finally:
                self.running.remove(name)


async def test_one_user_leaves_a_place_to_the_others() -> None:
    calls = Calls(3)
    assert await calls.begin(ADA, "a1", "a2", "a3") == ["a1", "a2"]
    assert await calls.begin(BOB, "b1", "b2") == ["b1"]
    assert await calls.end("b1") == {"b2"}
    assert await calls.end("a1") == {"a3"}


async def test_a_place_goes_to_who_has_the_fewest_and_then_to_who_came_first() -> None:
    calls = Calls(3)
    await calls.begin(ADA, "a1", "a2", "a3")
    await calls.begin(BOB, "b1", "b2")
    await calls.begin(CYD, "c1", "c2")
    assert await calls.end("a1") == {"c1"}
    assert await calls.end("a2") == {"a3"}
    assert await calls.end("a3") == {"b2"}


async def test_among_equals_a_place_goes_to_who_came_first_whoever_has_waited_before() -> None:
    calls = Calls(3)
    await calls.begin(ADA, "a1", "a2", "a3")
    await calls.begin(BOB, "b1", "b2")
    await calls.begin(ADA, "a4")
    assert await calls.end("a1") == {"a3"}
    assert await calls.end("a2") == {"b2"}


@pytest.mark.parametrize("user", [None, ADA])
async def test_where_there_is_one_place_everybody_has_it_in_turn(user: int | None) -> None:
    calls = Calls(1)
    assert await calls.begin(user, "1", "2") == ["1"]
    assert await calls.end("1") == {"2"}


async def test_calls_that_are_nobodys_take_all_places() -> None:
    calls = Calls(3)
    assert await calls.begin(None, "1", "2", "3", "4") == ["1", "2", "3"]
    assert await calls.end("1") == {"4"}


async def test_who_is_cancelled_while_waiting_takes_no_place() -> None:
    calls = Calls(2)
    await calls.begin(ADA, "a1", "a2", "a3")
    calls.tasks["a2"].cancel()
    assert await calls.end("a1") == {"a3"}
    await until(calls.tasks["a2"].done)


async def test_a_place_that_comes_as_its_call_is_cancelled_goes_on_to_the_next() -> None:
    calls = Calls(2)
    await calls.begin(ADA, "a1", "a2", "a3")
    running = calls.places.one()
    with acting(BOB):
        await running.__aenter__()
        calls.tasks["a1"].cancel()
        await asyncio.sleep(0)  # its place is given to a2 now, which has not run yet
        calls.tasks["a2"].cancel()
        await until(lambda: "a3" in calls.running)
        await running.__aexit__(None, None, None)
    assert calls.tasks["a2"].cancelled()


async def test_what_it_costs_to_give_a_place_does_not_grow_with_the_calls_that_wait() -> None:
    calls = Calls(3)
    await calls.begin(ADA, *map(str, range(1000)))
    worked = 0

    def count(*_: object) -> None:
        nonlocal worked
        worked += 1

    sys.setprofile(count)
    try:
        began = await calls.end("0")
    finally:
        sys.setprofile(None)
    assert began == {"2"}
    assert worked < 300, worked
