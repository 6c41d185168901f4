"""How the steps of many turns come into one commit, and how turns are let on before it."""

import asyncio
from typing import Any

import pytest
from tests.support.databases import OpenDatabase

from luxx.adapters.database import Database
from luxx.adapters.database.connection import Driver
from luxx.adapters.database.pace import Pace
from luxx.adapters.database.statements import Statement
from luxx.adapters.database.turn_log import DatabaseTurnLog
from luxx.application.observer import Unobserved
from luxx.application.ports import Lease
from luxx.domain.errors import StorageUnavailable
from luxx.domain.turn import Text
from luxx.testing.contracts.storage_samples import (
    PATIENCE,
    following,
    moment,
    running_turn,
    stored_user,
)
from luxx.testing.postgres import ThrowawayPostgres


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_fifty_turns_share_their_commits(kind: str, request: pytest.FixtureRequest) -> None:
    class Counts(Unobserved):
        commits = 0

        def committed(self, **_measured: object) -> None:
            self.commits += 1

    counts = Counts()
    database = Database(request.getfixturevalue(f"{kind}_url"), observer=counts)
    await database.open()
    ada = await stored_user(database)
    leases = [(await running_turn(database, ada))[1] for _ in range(50)]
    for _ in range(20):
        for lease in leases:
            await database.log.append(lease, Text(delta="x"))
        await asyncio.sleep(0)
    for lease in leases:
        reader = following(database.log, lease.message_id, after=1)
        arrived = ""
        while len(arrived) < 20:
            event = (await anext(reader)).event
            assert isinstance(event, Text)
            arrived += event.delta
        await reader.aclose()
    assert counts.commits < 20
    await database.close()


async def test_a_step_after_silence_is_committed_at_once_and_those_of_many_turns_together(database: Database) -> None:
    batches: asyncio.Queue[int] = asyncio.Queue()

    class Batches(Unobserved):
        def committed(self, *, turns: int, events: int, seconds: float) -> None:  # noqa: ARG002 - the port's
            batches.put_nowait(turns)

    ada = await stored_user(database)
    first, second, third = [(await running_turn(database, ada))[1] for _ in range(3)]
    log = DatabaseTurnLog(
        database.driver, database.own_connection, clock=moment, pace=Pace(gather=0.5, limit=0.5), observer=Batches()
    )
    log.start()
    async with asyncio.timeout(PATIENCE):
        await log.append(first, Text(delta="x"))
        assert await batches.get() == 1
        await log.append(second, Text(delta="x"))
        await asyncio.sleep(0.1)  # a part of the pause before the next commit
        await log.append(third, Text(delta="x"))
        assert await batches.get() == 2
    await log.close()


async def test_how_long_commits_take_is_told_to_the_pace(database: Database) -> None:
    _, lease = await running_turn(database, await stored_user(database))
    pace = Pace(limit=60.0)
    log = DatabaseTurnLog(database.driver, database.own_connection, clock=moment, pace=pace)
    log.start()
    async with asyncio.timeout(PATIENCE):
        await log.append(lease, Text(delta="x"))
        await log.close()
    assert pace.apart(1_000_000) < 60.0


async def test_an_observer_that_fails_does_not_stop_the_writer(database: Database) -> None:
    class Fails(Unobserved):
        def committed(self, **_: Any) -> None:
            raise OSError

    _, lease = await running_turn(database, await stored_user(database))
    log = DatabaseTurnLog(database.driver, database.own_connection, clock=moment, observer=Fails())
    log.start()
    reader = following(log, lease.message_id)
    await anext(reader)
    for word in ("one", "two"):
        await log.append(lease, Text(delta=word))
        assert (await anext(reader)).event == Text(delta=word)
    await reader.aclose()
    await log.close()


async def test_what_a_turn_adds_when_it_is_let_on_is_committed_with_what_it_waited_with(database: Database) -> None:
    ada = await stored_user(database)
    leases = [(await running_turn(database, ada))[1] for _ in range(2)]
    log = DatabaseTurnLog(database.driver, database.own_connection, clock=moment, pace=Pace(gather=0.05, limit=0.05))
    log.start()

    async def write(lease: Lease) -> None:
        for number in range(5):
            await log.append(lease, Text(delta=f"{number}"))
            await log.ready(lease)

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*map(write, leases))
    await log.close()
    for lease in leases:
        events = [logged.event for logged in await log.read(lease.message_id, after=1)]
        assert [event.delta for event in events if isinstance(event, Text)] == ["01234"]


async def test_a_turn_whose_steps_came_slowly_is_let_on_when_they_come_at_once(database: Database) -> None:
    """It is let on for one step then, adds it, and waits again: with that taken, nothing else wakes the writer."""
    _, lease = await running_turn(database, await stored_user(database))
    reader = following(database.log, lease.message_id, after=1)
    async with asyncio.timeout(PATIENCE):
        for _ in range(3):
            await database.log.append(lease, Text(delta="x"))
            await database.log.ready(lease)
            await anext(reader)
        for _ in range(5):
            await database.log.append(lease, Text(delta="x"))
            await database.log.ready(lease)
    await reader.aclose()


async def test_a_model_that_gives_its_words_one_by_one_does_not_fall_behind(database: Database) -> None:
    """Those that are there at once are taken together, however many, and not one for each commit."""
    _, lease = await running_turn(database, await stored_user(database))
    commits: list[int] = []

    class Commits(Unobserved):
        def committed(self, *, turns: int, events: int, seconds: float) -> None:  # noqa: ARG002 - the port's
            commits.append(events)

    log = DatabaseTurnLog(database.driver, database.own_connection, clock=moment, observer=Commits())
    log.start()
    async with asyncio.timeout(PATIENCE):
        for _ in range(5_000):
            await log.append(lease, Text(delta="x"))
            await log.ready(lease)
    await log.close()
    events = [logged.event for logged in await log.read(lease.message_id, after=1)]
    assert "".join(event.delta for event in events if isinstance(event, Text)) == "x" * 5_000
    assert len(commits) < 20


async def test_a_turn_is_let_on_where_the_database_is_away_and_where_the_log_is_closed(
    own_postgres: ThrowawayPostgres, open_database: OpenDatabase
) -> None:
    database = await open_database(own_postgres.url(own_postgres.create_database()))
    await database.upgrade()
    ada = await stored_user(database)
    _, lease = await running_turn(database, ada)
    await asyncio.to_thread(own_postgres.stop)
    async with asyncio.timeout(PATIENCE):
        for _ in range(3):
            await database.log.append(lease, Text(delta="x"))
            await database.log.ready(lease)
    unopened = DatabaseTurnLog(database.driver, database.own_connection, clock=moment)
    await unopened.append(lease, Text(delta="x"))
    waiting = asyncio.ensure_future(unopened.ready(lease))
    await asyncio.sleep(0)
    assert not waiting.done()
    await unopened.close(seconds=0)
    async with asyncio.timeout(PATIENCE):
        await waiting
    await asyncio.to_thread(own_postgres.start)
    await database.log.close(seconds=PATIENCE)
    steps = [logged.event for logged in await database.log.read(lease.message_id, after=1)]
    assert "".join(step.delta for step in steps if isinstance(step, Text)) == "xxx"


class _Hangs:
    """A driver whose commits are not answered until it is let go."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.let_go = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    async def fetch(self, statement: Statement, parameters: Any, *, writes: bool = False, upkeep: bool = False) -> Any:
        if writes and upkeep:
            await self.let_go.wait()
        return await self._driver.fetch(statement, parameters, writes=writes, upkeep=upkeep)

    async def run(self, script: Any, *, upkeep: bool = False) -> Any:
        await self.let_go.wait()
        return await self._driver.run(script, upkeep=upkeep)


async def test_while_a_commit_hangs_a_turn_reads_on_until_there_is_no_room_and_nothing_is_lost(
    database: Database,
) -> None:
    _, lease = await running_turn(database, await stored_user(database))
    hanging = _Hangs(database.driver)
    log = DatabaseTurnLog(hanging, database.own_connection, clock=moment, room=2_000, patience=0.05)
    log.start()
    given = ""

    async def write() -> None:
        nonlocal given
        while True:
            await log.append(lease, Text(delta=f"{len(given)} "))
            given += f"{len(given)} "
            await log.ready(lease)

    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StorageUnavailable):
            await write()
        assert given
        hanging.let_go.set()
        await anext(following(log, lease.message_id, after=2))
        await log.append(lease, Text(delta="last"))
        await log.ready(lease)  # waits again
    await log.close()
    events = [logged.event for logged in await log.read(lease.message_id, after=1)]
    assert "".join(event.delta for event in events if isinstance(event, Text)) == given + "last"
