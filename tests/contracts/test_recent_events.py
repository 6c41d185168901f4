"""The latest events on SQLite, which lie together until they are put with their turns' others."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from typing import Any, Final

import pytest
from tests.support.databases import OpenDatabase, ask

from luxx.adapters.database import Database
from luxx.adapters.database.connection import Driver
from luxx.adapters.system import utc_now
from luxx.application.ports import Lease, LeaseLost, LoggedEvent
from luxx.domain.turn import Done, Step, Text, Thinking
from luxx.testing.contracts.storage_samples import (
    EXPIRED,
    LONG,
    following,
    moment,
    running_turn,
    stored_user,
)

_SHORT: Final = Text(delta="short ")
_LONG_STEP: Final = Thinking(delta="long " * 1000)


async def _where(database: Database, lease: Lease) -> tuple[list[int], list[int]]:
    """Give which events of a turn lie among the recent ones, and which with the turn's others."""
    recent, others = [
        [seq for (seq,) in await ask(database, f"SELECT seq FROM {table} WHERE message_id = '{lease.message_id}'")]
        for table in ("recent_events", "turn_events")
    ]
    return recent, others


async def _write(database: Database, lease: Lease, steps: Sequence[Step], *, upto: int) -> None:
    """Append steps, of which no two are merged, and wait for their commit."""
    for step in steps:
        await database.log.append(lease, step)
    await anext(following(database.log, lease.message_id, after=upto - 1))


async def _read_elsewhere(url: str, lease: Lease) -> list[LoggedEvent]:
    """Read a turn in pages of three, as another process would."""
    other = Database(url)
    found: list[LoggedEvent] = []
    try:
        while page := await other.log.read(lease.message_id, after=len(found), limit=3):
            found += page
    finally:
        await other.close()
    return found


async def test_events_are_read_in_order_wherever_they_lie(on_sqlite: Database, sqlite_url: str) -> None:
    ada = await stored_user(on_sqlite)
    _, lease = await running_turn(on_sqlite, ada)
    steps: list[Step] = [_SHORT, _LONG_STEP] * 4
    await _write(on_sqlite, lease, steps, upto=9)
    assert await _where(on_sqlite, lease) == ([2, 4, 6, 8], [1, 3, 5, 7, 9])
    found = await _read_elsewhere(sqlite_url, lease)
    assert [logged.seq for logged in found] == list(range(1, 10))
    assert [logged.event for logged in found][1:] == steps


async def test_recent_events_are_put_with_their_turns_others_when_there_are_many(
    on_sqlite: Database, sqlite_url: str
) -> None:
    ada = await stored_user(on_sqlite)
    _, first = await running_turn(on_sqlite, ada)
    _, second = await running_turn(on_sqlite, ada)
    steps: list[Step] = [_SHORT, Thinking(delta="hm ")] * 1100
    await _write(on_sqlite, first, steps, upto=2201)
    assert len((await _where(on_sqlite, first))[0]) == 2200
    await _write(on_sqlite, second, [_SHORT], upto=2)
    await on_sqlite.close()  # which waits for it
    await on_sqlite.open()
    for lease, upto in ((first, 2201), (second, 2)):
        assert await _where(on_sqlite, lease) == ([], list(range(1, upto + 1)))
    await _write(on_sqlite, second, [_SHORT], upto=3)
    assert await _where(on_sqlite, second) == ([3], [1, 2])
    other = Database(sqlite_url)
    assert [logged.event for logged in await other.log.read(first.message_id, limit=3000)][1:] == steps
    await other.close()
    assert [logged.event for logged in await _read_elsewhere(sqlite_url, second)][1:] == [_SHORT, _SHORT]


async def test_recent_events_go_with_their_turn_and_with_its_log(on_sqlite: Database) -> None:
    ada = await stored_user(on_sqlite)
    ended, deleted, running = [await running_turn(on_sqlite, ada) for _ in range(3)]
    for turn, lease in (ended, deleted, running):
        await _write(on_sqlite, lease, [_SHORT], upto=2)
        assert (await _where(on_sqlite, lease))[0] == [2]
        if turn is ended[0]:
            await on_sqlite.log.end(lease, Done(message=turn.answer), turn.answer)
    async with on_sqlite.new_unit() as unit:
        await unit.conversations.delete(ada.id, deleted[0].conversation_id)
        await unit.commit()
    assert await _where(on_sqlite, deleted[1]) == ([], [])
    await on_sqlite.log.forget(ended_before=utc_now() + timedelta(hours=1), keys_made_before=moment())
    assert await _where(on_sqlite, ended[1]) == ([], [])
    recent, others = await _where(on_sqlite, running[1])
    assert sorted(recent + others) == [1, 2]


def _leave_an_orphan(url: str) -> None:
    """Leave a recent event without a turn, as whoever deletes turns in the shell of SQLite does."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as shell, shell:  # keeps no foreign keys
        shell.execute("INSERT INTO recent_events (message_id, seq, name, data) VALUES ('gone', 2, 'text', '{}')")


async def _recent(database: Database) -> int:
    ((count,),) = await ask(database, "SELECT count(*) FROM recent_events")
    return int(count)


async def test_a_recent_event_whose_turn_is_gone_goes_and_the_others_are_put_away(
    on_sqlite: Database, sqlite_url: str
) -> None:
    ada = await stored_user(on_sqlite)
    deleted, _ = await running_turn(on_sqlite, ada)
    _, lease = await running_turn(on_sqlite, ada)
    steps: list[Step] = [_SHORT, Thinking(delta="hm ")] * 1100
    _leave_an_orphan(sqlite_url)
    await _write(on_sqlite, lease, steps, upto=2201)
    await _write(on_sqlite, lease, [_SHORT], upto=2202)
    await on_sqlite.close()
    await on_sqlite.open()
    assert await _recent(on_sqlite) == 0
    assert await _where(on_sqlite, lease) == ([], list(range(1, 2203)))
    _leave_an_orphan(sqlite_url)
    async with on_sqlite.new_unit() as unit:
        await unit.conversations.delete(ada.id, deleted.conversation_id)
        await unit.commit()
    assert await _recent(on_sqlite) == 0
    turn, ended = await running_turn(on_sqlite, ada)
    await on_sqlite.log.end(ended, Done(message=turn.answer), turn.answer)
    _leave_an_orphan(sqlite_url)
    await on_sqlite.log.forget(ended_before=utc_now() + timedelta(hours=1), keys_made_before=moment())
    assert await _recent(on_sqlite) == 0


class _PutsNothingAway:
    """A driver that cannot put recent events away; counts the tries."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.tries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    async def run(self, script: Any, *, upkeep: bool = False) -> Any:
        if script.__name__ == "put_away":
            self.tries += 1
            raise sqlite3.IntegrityError("of whatever kind")
        return await self._driver.run(script, upkeep=upkeep)


async def test_recent_events_that_cannot_be_put_away_are_tried_again_after_as_many_more(
    on_sqlite: Database, caplog: pytest.LogCaptureFixture
) -> None:
    _, lease = await running_turn(on_sqlite, await stored_user(on_sqlite))
    on_sqlite.log._driver = failing = _PutsNothingAway(on_sqlite.driver)
    many: list[Step] = [_SHORT, Thinking(delta="hm ")] * 1030
    await _write(on_sqlite, lease, many, upto=2061)
    for upto in range(2062, 2072):
        await _write(on_sqlite, lease, [_SHORT], upto=upto)
    assert failing.tries == 1
    await _write(on_sqlite, lease, many, upto=4131)
    await _write(on_sqlite, lease, [_SHORT], upto=4132)
    await on_sqlite.close()
    assert failing.tries == 2
    assert [record.getMessage() for record in caplog.records] == [
        "Recent events could not be put with their turns' others; this is tried again when there are more."
    ] * 2
    on_sqlite.log._driver = on_sqlite.driver
    await on_sqlite.open()
    await _write(on_sqlite, lease, many, upto=6192)
    await _write(on_sqlite, lease, [_SHORT], upto=6193)
    await on_sqlite.close()
    assert await _where(on_sqlite, lease) == ([], list(range(1, 6194)))


async def test_a_turn_of_the_schema_before_is_gone_on_with(on_sqlite: Database, sqlite_url: str) -> None:
    ada = await stored_user(on_sqlite)
    _, old = await running_turn(on_sqlite, ada, lease_for=EXPIRED)
    await _write(on_sqlite, old, [_LONG_STEP], upto=2)
    await ask(on_sqlite, "DROP TABLE recent_events", writes=True)
    await ask(on_sqlite, "UPDATE alembic_version SET version_num = '0005'", writes=True)
    await on_sqlite.close()
    await on_sqlite.upgrade()
    await on_sqlite.open()
    (lease,) = await on_sqlite.log.take_expired("other", LONG)
    await _write(on_sqlite, lease, [_SHORT], upto=3)
    assert await _where(on_sqlite, lease) == ([3], [1, 2])
    assert [logged.event for logged in await _read_elsewhere(sqlite_url, lease)][1:] == [_LONG_STEP, _SHORT]


async def test_a_commit_stores_the_turns_that_are_held_beside_one_taken_over_by_another_process(
    on_sqlite: Database, open_database: OpenDatabase, sqlite_url: str
) -> None:
    ada = await stored_user(on_sqlite)
    _, lost = await running_turn(on_sqlite, ada, lease_for=EXPIRED)
    held = [(await running_turn(on_sqlite, ada))[1] for _ in range(2)]
    leases = [held[0], lost, held[1]]
    for lease in leases:
        await on_sqlite.log.append(lease, _SHORT)
    await anext(following(on_sqlite.log, lost.message_id, after=1))
    other = await open_database(sqlite_url)
    (taken,) = await other.log.take_expired("other", LONG)
    for lease in leases:
        await on_sqlite.log.append(lease, _SHORT)  # with no pause between: one commit has them all
    for lease in held:
        await anext(following(on_sqlite.log, lease.message_id, after=2))
    assert [logged.seq for logged in await other.log.read(lost.message_id)] == [1, 2]
    with pytest.raises(LeaseLost):
        await on_sqlite.log.append(lost, _SHORT)
    await _write(other, taken, [_LONG_STEP], upto=3)
    assert [logged.event for logged in await _read_elsewhere(sqlite_url, taken)][1:] == [_SHORT, _LONG_STEP]
