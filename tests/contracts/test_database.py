"""What a database does beside the contracts: its schema, its plans, and what it makes of faults."""

import asyncio
import random
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from tests.support.databases import OpenDatabase

from luxx.adapters.database import Database, SchemaState, migrate
from luxx.adapters.database.connection import Driver
from luxx.adapters.database.notices import Notices
from luxx.adapters.database.pace import Pace
from luxx.adapters.database.schema import metadata
from luxx.adapters.database.statements import Statement
from luxx.adapters.database.turn_log import DatabaseTurnLog
from luxx.adapters.system import utc_now
from luxx.application.observer import Unobserved
from luxx.application.ports import IdempotencyKey, Lease, LeaseLost, LoggedEvent
from luxx.domain.errors import Conflict, NotFound, StorageUnavailable
from luxx.domain.message import Status, TextPart
from luxx.domain.turn import Done, Step, Text, Thinking, fold
from luxx.domain.user import Session
from luxx.testing.contracts.storage_samples import (
    EXPIRED,
    LONG,
    PATIENCE,
    begun,
    following,
    moment,
    new_conversation,
    new_turn,
    running_turn,
    started,
    stored_conversation,
    stored_user,
)
from luxx.testing.postgres import ThrowawayPostgres, system_binaries, wheel_binaries


@pytest.fixture(params=["sqlite", "postgres"])
async def database(request: pytest.FixtureRequest, open_database: OpenDatabase) -> Database:
    return await open_database(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def on_postgres(open_database: OpenDatabase, postgres_url: str) -> Database:
    return await open_database(postgres_url)


@pytest.fixture
def own_postgres() -> Any:
    """A server that a test may stop."""
    if not (system_binaries() or wheel_binaries()):
        pytest.skip("there are no Postgres binaries")
    with ThrowawayPostgres(binaries=system_binaries() or wheel_binaries()) as server:
        yield server


async def _ask(database: Database, text: str, *, writes: bool = False) -> list[Any]:
    return list(await database.driver.fetch(Statement(sa.text(text)), {}, writes=writes))


# --- schema -----------------------------------------------------------------------------------------


async def test_the_migrations_make_the_schema_that_the_code_uses(database: Database) -> None:
    def differences(connection: sa.Connection) -> list[Any]:
        def differ(_context: Any, _found: Any, _wanted: Any, found: Any, wanted: Any) -> bool:
            # To Postgres a VARCHAR without a length is TEXT.
            spelt = [kind.compile(connection.dialect).replace("VARCHAR", "TEXT") for kind in (found, wanted)]
            return bool(spelt[0] != spelt[1])

        def here(table: Any, *_: Any) -> bool:
            return bool(table.info.get("only_on", connection.dialect.name) == connection.dialect.name)

        options = {"compare_type": differ, "compare_server_default": True, "include_object": here}
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, metadata))

    assert await database.run_sync(differences) == []


async def test_a_database_is_missing_then_current_and_stale_for_another_version(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'new.db'}")
    assert await database.schema_state() is SchemaState.MISSING
    await database.upgrade()
    assert await database.schema_state() is SchemaState.CURRENT
    await database.upgrade()
    await _ask(database, "UPDATE alembic_version SET version_num = '0000'", writes=True)
    assert await database.schema_state() is SchemaState.STALE
    assert "luxx db upgrade" in (await database.missing() or "")
    await database.close()


def test_the_newest_revision_is_the_end_of_the_migrations() -> None:
    scripts = Path(migrate.__file__).with_name("migrations")
    assert [migrate.newest_revision()] == ScriptDirectory(str(scripts)).get_heads()


def test_a_service_whose_schema_is_current_does_without_the_migrations_library(sqlite_url: str) -> None:
    """It costs a third of a second at each start, and a tenth of the memory."""
    code = (
        "import asyncio, sys\n"
        "from luxx.adapters.database import Database\n"
        f"database = Database({sqlite_url!r})\n"
        "asyncio.run(database.upgrade())\n"
        "print('alembic' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


async def test_processes_that_start_together_migrate_once(postgres: ThrowawayPostgres) -> None:
    url = postgres.url(postgres.create_database())
    databases = [Database(url) for _ in range(4)]
    await asyncio.gather(*(database.upgrade() for database in databases))
    assert await databases[0].schema_state() is SchemaState.CURRENT
    for database in databases:
        await database.close()


@pytest.mark.parametrize("url", ["", "luxx.db", "sqlite://", "sqlite:///", "sqlite:///:memory:", "mysql://x/y"])
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="sqlite:///"):
        Database(url)


async def test_the_usual_spellings_of_a_postgres_url_are_understood(postgres_url: str) -> None:
    for scheme in ("postgres", "postgresql", "postgresql+asyncpg"):
        database = Database(postgres_url.replace("postgresql", scheme, 1))
        assert await database.schema_state() is SchemaState.CURRENT
        await database.close()


# --- what a turn begins with ------------------------------------------------------------------------


async def _waiting_for_a_lock(database: Database) -> None:
    if not database.postgres:
        return  # whoever writes there stands in a queue before anything is read
    asked = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(PATIENCE):
        while not await _ask(database, asked):  # noqa: ASYNC110 - the server sends no event when somebody waits
            await asyncio.sleep(0.005)


_TURNS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"key": IdempotencyKey(key="k", fingerprint="f")},
    {"at_most": 5},
)


@pytest.mark.parametrize("changes", _TURNS, ids=["plain", "keyed", "limited"])
async def test_a_turn_that_waited_begins_with_what_was_committed_meanwhile(
    database: Database, changes: dict[str, Any]
) -> None:
    ada = await stored_user(database)
    conversation = await stored_conversation(database, ada)
    first = new_turn(conversation, text="to be deleted")
    lease = await begun(database, first)
    answer = replace(first.answer, status=Status.COMPLETE)
    await database.log.end(lease, Done(message=answer), answer)
    second = replace(new_turn(conversation), **changes)
    async with database.new_unit() as unit:
        await unit.messages.delete(ada.id, first.user_message.id)
        await unit.conversations.update(replace(conversation, system_prompt="Be brief."))
        waiting = asyncio.create_task(started(database, second))
        await _waiting_for_a_lock(database)
        await unit.commit()
    found = await waiting
    assert found.conversation.system_prompt == "Be brief."
    assert found.history == [answer, second.user_message]


@pytest.mark.parametrize("changes", _TURNS, ids=["plain", "keyed", "limited"])
async def test_a_turn_that_waited_is_told_the_answer_that_ended_meanwhile(
    on_postgres: Database, changes: dict[str, Any]
) -> None:
    """The statement that begins it sees what was there when it came, and the answer was still being written then."""
    ada = await stored_user(on_postgres)
    first, lease = await running_turn(on_postgres, ada)
    answer = replace(first.answer, parts=(TextPart(text="At last."),), status=Status.COMPLETE)
    async with on_postgres.new_unit() as unit:
        conversation = await unit.conversations.hold(ada.id, first.conversation_id)
        second = replace(new_turn(conversation), **changes)
        waiting = asyncio.create_task(started(on_postgres, second))
        await _waiting_for_a_lock(on_postgres)
        await on_postgres.log.end(lease, Done(message=answer), answer)
    assert (await waiting).history == [first.user_message, answer, second.user_message]


# --- kept counts ------------------------------------------------------------------------------------


async def test_kept_counts_are_what_the_database_counts(database: Database) -> None:
    """After writers that come at once, are undone, and delete whole conversations with their messages."""
    owners = [await stored_user(database, name) for name in ("ada", "bob")]
    dice = random.Random(3)
    stored = [await stored_conversation(database, dice.choice(owners), project_id=dice.choice("pq")) for _ in range(8)]

    async def disturb() -> None:
        one = dice.choice(stored)
        with suppress(NotFound, Conflict):
            async with database.new_unit() as unit:
                match dice.randrange(5):
                    case 0:
                        await unit.conversations.add(new_conversation(dice.choice(owners), project_id="p"))
                    case 1:
                        await unit.conversations.update(replace(one, project_id=dice.choice(("p", "q", None))))
                    case 2:
                        await unit.conversations.delete(one.user_id, one.id)
                    case 3:
                        begun_turn = await unit.turns.begin(new_turn(one))
                        assert begun_turn.lease.owner == one.user_id
                        return
                    case _:
                        for message in await unit.messages.newest(one.user_id, one.id, limit=1):
                            await unit.messages.delete(one.user_id, message.id)
                await unit.commit()

    await asyncio.gather(*(disturb() for _ in range(60)))
    assert await _ask(database, _WRONG_COUNTS) == []
    assert await _ask(database, "SELECT id FROM conversations WHERE message_count <> (" + _REAL_SIZE + ")") == []


_REAL_SIZE: Final = "SELECT count(*) FROM messages WHERE conversation_id = conversations.id"
_WRONG_COUNTS: Final = """
    SELECT * FROM conversation_counts AS kept WHERE total <> (
        SELECT count(*) FROM conversations
        WHERE user_id = kept.user_id AND (kept.scope = '' OR project_id = kept.scope)
    )
"""


async def test_the_migration_counts_what_is_there(database: Database) -> None:
    ada, bob = await stored_user(database), await stored_user(database, "bob")
    for owner, project_id in ((ada, None), (ada, "p"), (ada, "p"), (ada, "q"), (bob, "p")):
        await begun(database, new_turn(await stored_conversation(database, owner, project_id=project_id)))
    await stored_conversation(database, ada)
    await _ask(database, "DROP INDEX ix_sessions_expires_at", writes=True)
    await _ask(database, "DROP TABLE IF EXISTS recent_events", writes=True)
    await _ask(database, "DROP TABLE conversation_counts", writes=True)
    await _ask(database, "ALTER TABLE conversations DROP COLUMN message_count", writes=True)
    await _ask(database, "UPDATE alembic_version SET version_num = '0004'", writes=True)
    await database.close()
    await database.upgrade()
    found = await _ask(database, "SELECT user_id, scope, total FROM conversation_counts ORDER BY user_id, scope")
    assert [tuple(row) for row in found] == [
        (ada.id, "", 5),
        (ada.id, "p", 2),
        (ada.id, "q", 1),
        (bob.id, "", 1),
        (bob.id, "p", 1),
    ]
    assert await _ask(database, "SELECT id FROM conversations WHERE message_count <> (" + _REAL_SIZE + ")") == []


async def test_old_sessions_are_forgotten_with_the_logs(database: Database) -> None:
    ada = await stored_user(database)
    async with database.new_unit() as unit:
        for number in range(3):
            await unit.sessions.add(
                Session(id=f"sess_{number}", user_id=ada.id, created_at=moment(), expires_at=moment(number))
            )
        await unit.commit()
    await database.log.forget(ended_before=moment(), keys_made_before=moment(1))
    assert [tuple(row) for row in await _ask(database, "SELECT id FROM sessions ORDER BY id")] == [
        ("sess_1",),
        ("sess_2",),
    ]


# --- recent events on SQLite ------------------------------------------------------------------------


_SHORT: Final = Text(delta="short ")
_LONG_STEP: Final = Thinking(delta="long " * 1000)


@pytest.fixture
async def on_sqlite(open_database: OpenDatabase, sqlite_url: str) -> Database:
    return await open_database(sqlite_url)


async def _where(database: Database, lease: Lease) -> tuple[list[int], list[int]]:
    """Give which events of a turn lie among the recent ones, and which with the turn's others."""
    recent, others = [
        [seq for (seq,) in await _ask(database, f"SELECT seq FROM {table} WHERE message_id = '{lease.message_id}'")]
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
    ((count,),) = await _ask(database, "SELECT count(*) FROM recent_events")
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
    driver = on_sqlite.driver
    on_sqlite.driver = failing = _PutsNothingAway(driver)
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
    on_sqlite.driver = driver
    await on_sqlite.open()
    await _write(on_sqlite, lease, many, upto=6192)
    await _write(on_sqlite, lease, [_SHORT], upto=6193)
    await on_sqlite.close()
    assert await _where(on_sqlite, lease) == ([], list(range(1, 6194)))


async def test_a_turn_of_the_schema_before_is_gone_on_with(on_sqlite: Database, sqlite_url: str) -> None:
    ada = await stored_user(on_sqlite)
    _, old = await running_turn(on_sqlite, ada, lease_for=EXPIRED)
    await _write(on_sqlite, old, [_LONG_STEP], upto=2)
    await _ask(on_sqlite, "DROP TABLE recent_events", writes=True)
    await _ask(on_sqlite, "UPDATE alembic_version SET version_num = '0005'", writes=True)
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


# --- connections ------------------------------------------------------------------------------------


async def test_no_connection_is_held_between_appends(open_database: OpenDatabase, postgres_url: str) -> None:
    database = await open_database(postgres_url)
    ada = await stored_user(database)
    running = [await running_turn(database, ada) for _ in range(30)]
    readers = [asyncio.create_task(anext(following(database.log, lease.message_id, after=1))) for _, lease in running]
    for _, lease in running:
        await database.log.append(lease, Text(delta="x"))
    await asyncio.gather(*readers)
    assert database.connections_in_use == 0


async def test_an_unreachable_database_is_said_to_be_so(open_database: OpenDatabase, tmp_path: Path) -> None:
    for url in ("postgresql://nobody@127.0.0.1:1/none", f"sqlite:///{tmp_path / 'absent' / 'luxx.db'}"):
        database = await open_database(url)
        with pytest.raises(StorageUnavailable):
            await database.schema_state()
        assert "cannot be reached" in (await database.missing() or "")
        for read_only in (True, False):
            with pytest.raises(StorageUnavailable):
                async with database.new_unit(read_only=read_only) as unit:
                    await unit.users.get(1)


async def test_a_database_that_was_never_migrated_is_said_to_be_unavailable(
    postgres: ThrowawayPostgres, open_database: OpenDatabase, tmp_path: Path
) -> None:
    for url in (postgres.url(postgres.create_database()), f"sqlite:///{tmp_path / 'new.db'}"):
        database = await open_database(url)
        with pytest.raises(StorageUnavailable):
            async with database.new_unit(read_only=True) as unit:
                await unit.users.get(1)


async def test_what_gathered_is_committed_on_closing(database: Database) -> None:
    ada = await stored_user(database)
    _, lease = await running_turn(database, ada)
    await database.log.append(lease, Text(delta="last words"))
    await database.close()
    assert [logged.event for logged in await database.log.read(lease.message_id)][1:] == [Text(delta="last words")]
    await database.close()


# --- faults -----------------------------------------------------------------------------------------


async def test_a_step_that_no_database_can_hold_harms_no_other_turn(database: Database) -> None:
    ada = await stored_user(database)
    _, bad = await running_turn(database, ada)
    turn, good = await running_turn(database, ada)
    await database.log.append(bad, Text(delta="\ud800"))
    answer = turn.answer
    with pytest.raises(Exception, match="could not be stored"):
        await database.log.end(bad, Done(message=answer), answer)
    await database.log.append(good, Text(delta="fine"))
    await database.log.end(good, Done(message=answer), answer)
    assert len(await database.log.read(good.message_id)) == 3
    assert len(await database.log.read(bad.message_id)) == 1


async def test_readers_elsewhere_are_woken_again_after_the_listener_was_killed(
    postgres: ThrowawayPostgres, open_database: OpenDatabase, postgres_url: str
) -> None:
    writer, reader = await open_database(postgres_url), await open_database(postgres_url)
    ada = await stored_user(writer)
    turn, lease = await running_turn(writer, ada)
    assert reader.log._notices is not None
    listening = reader.log._notices.listening
    await asyncio.wait_for(listening.wait(), PATIENCE)
    events = following(reader.log, lease.message_id)
    await anext(events)
    for number in range(3):
        killed = await postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND (query LIKE 'LISTEN%' OR query = 'SELECT 1')",
            database=postgres_url.rpartition("/")[2],
        )
        assert killed
        await writer.log.append(lease, Text(delta=f"{number} "))
        assert (await anext(events)).event == Text(delta=f"{number} ")
        await asyncio.wait_for(listening.wait(), PATIENCE)
    # And the notices themselves are back: this wake-up crosses without any poll.
    with reader.log.watch(lease.message_id) as wakeup:
        while await wakeup.wait(0.05):
            pass
        await writer.log.append(lease, Text(delta="end"))
        assert await wakeup.wait(PATIENCE)
    answer = turn.answer
    await writer.log.end(lease, Done(message=answer), answer)
    assert [logged.seq async for logged in events] == [5, 6]


async def test_a_cancel_is_announced_to_other_processes(open_database: OpenDatabase, postgres_url: str) -> None:
    here, there = await open_database(postgres_url), await open_database(postgres_url)
    heard: asyncio.Queue[str] = asyncio.Queue()
    there.log.on_cancel(heard.put_nowait)
    assert there.log._notices is not None
    await asyncio.wait_for(there.log._notices.listening.wait(), PATIENCE)
    await here.log.announce_cancel("msg_x")
    assert await asyncio.wait_for(heard.get(), PATIENCE) == "msg_x"


async def test_more_turns_than_fit_in_a_notice_still_wake_their_readers(
    open_database: OpenDatabase, postgres_url: str
) -> None:
    writer, reader = await open_database(postgres_url), await open_database(postgres_url)
    assert writer.log._notices is not None
    assert reader.log._notices is not None
    ids = [f"msg_{number:026}" for number in range(1000)]
    assert len(writer.log._notices.committed_payload(ids).encode()) < 8000
    await asyncio.wait_for(reader.log._notices.listening.wait(), PATIENCE)
    ada = await stored_user(writer)
    leases = [(await running_turn(writer, ada))[1] for _ in range(300)]
    with reader.log.watch(leases[-1].message_id) as wakeup:
        while await wakeup.wait(0.05):
            pass
        for lease in leases:
            await writer.log.append(lease, Text(delta="x"))
        assert await wakeup.wait(PATIENCE)


async def test_a_writer_waits_for_a_database_that_went_away_and_doubles_nothing(
    own_postgres: ThrowawayPostgres, open_database: OpenDatabase
) -> None:
    url = own_postgres.url(own_postgres.create_database())
    database = await open_database(url)
    await database.upgrade()
    ada = await stored_user(database)
    turn, lease = await running_turn(database, ada)
    steps = [Text(delta=f"{number} ") for number in range(60)]
    for number, step in enumerate(steps):
        if number == 20:
            await asyncio.to_thread(own_postgres.stop, crash=True)
        if number == 40:
            with pytest.raises(StorageUnavailable):
                await stored_conversation(database, ada)
            await asyncio.to_thread(own_postgres.start)
        await database.log.append(lease, step)
        await asyncio.sleep(0.001)
    answer = turn.answer
    await database.log.end(lease, Done(message=answer), answer)
    await database.close()
    again = await open_database(url)
    events = await again.log.read(lease.message_id)
    assert [logged.seq for logged in events] == list(range(1, len(events) + 1))
    assert fold(logged.event for logged in events).parts == fold(steps).parts


async def test_a_writer_that_waited_too_long_is_told_and_what_it_wrote_is_kept(
    own_postgres: ThrowawayPostgres,
) -> None:
    database = Database(own_postgres.url(own_postgres.create_database()), patience=0.2)
    await database.upgrade()
    await database.open()
    ada = await stored_user(database)
    turn, lease = await running_turn(database, ada)
    await asyncio.to_thread(own_postgres.stop)
    answer = turn.answer
    await database.log.append(lease, Text(delta="kept"))
    with pytest.raises(StorageUnavailable):
        await database.log.end(lease, Done(message=answer), answer)
    _, other = turn, Lease(message_id="msg_other", conversation_id="c", owner=1, holder="here", fence=1)

    async def flood() -> None:
        while True:
            await database.log.append(other, Text(delta="x" * 10_000))

    with pytest.raises(StorageUnavailable):
        await flood()
    await asyncio.to_thread(own_postgres.start)
    events = [logged.event async for logged in following(database.log, lease.message_id)]
    assert events[1:] == [Text(delta="kept"), Done(message=answer)]
    await database.close()


class _LosesAnswers:
    """A driver whose connection breaks right behind a commit of the log's, so many times."""

    def __init__(self, driver: Driver, times: int) -> None:
        self._driver = driver
        self.left = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    async def fetch(self, statement: Statement, parameters: Any, *, writes: bool = False, upkeep: bool = False) -> Any:
        rows = await self._driver.fetch(statement, parameters, writes=writes, upkeep=upkeep)
        return self._lost(rows) if writes and upkeep else rows

    async def run(self, script: Any, *, upkeep: bool = False) -> Any:
        return self._lost(await self._driver.run(script, upkeep=upkeep))

    def _lost(self, rows: Any) -> Any:
        if self.left:
            self.left -= 1
            raise StorageUnavailable("the answer was lost")
        return rows


async def test_a_commit_whose_answer_was_lost_is_not_made_twice(database: Database) -> None:
    ada = await stored_user(database)
    turn, lease = await running_turn(database, ada)
    await database.log.append(lease, Text(delta="a"))
    await anext(following(database.log, lease.message_id, after=1))
    database.driver = losing = _LosesAnswers(database.driver, 2)
    await database.log.append(lease, Text(delta="b"))
    await anext(following(database.log, lease.message_id, after=2))
    answer = turn.answer
    await database.log.end(lease, Done(message=answer), answer)
    assert losing.left == 0
    # The second has nothing in memory.
    for log in (database.log, DatabaseTurnLog(database, clock=utc_now)):
        events = await log.read(lease.message_id)
        assert [logged.event for logged in events][1:] == [Text(delta="a"), Text(delta="b"), Done(message=answer)]
        assert [logged.seq for logged in events] == [1, 2, 3, 4]


async def test_a_writer_that_froze_within_a_commit_does_not_keep_its_turn_for_ever(on_postgres: Database) -> None:
    """The row lock of a stopped process hides its turns from whoever takes over; the server ends such a session."""
    ada = await stored_user(on_postgres)
    _, lease = await running_turn(on_postgres, ada, lease_for=EXPIRED)
    frozen = await on_postgres.driver.connect()
    await frozen.fetch(Statement(sa.text("SET idle_in_transaction_session_timeout = '200ms'")), {})
    await frozen.fetch(Statement(sa.text("SELECT 1 FROM turns FOR UPDATE")), {})
    taken = await on_postgres.log.take_expired("reaper", LONG)
    assert taken == []
    async with asyncio.timeout(PATIENCE):
        while not taken:
            await asyncio.sleep(0.05)
            taken = await on_postgres.log.take_expired("reaper", LONG)
    with pytest.raises(StorageUnavailable):
        await frozen.fetch(Statement(sa.text("SELECT 1")), {})
    await frozen.close()
    assert [found.message_id for found in taken] == [lease.message_id]
    assert [tuple(row) for row in await _ask(on_postgres, "SHOW idle_in_transaction_session_timeout")] == [("10s",)]


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
    log = DatabaseTurnLog(database, clock=moment, pace=Pace(gather=0.5, limit=0.5), observer=Batches())
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
    log = DatabaseTurnLog(database, clock=moment, pace=pace)
    log.start()
    async with asyncio.timeout(PATIENCE):
        await log.append(lease, Text(delta="x"))
        await log.close()
    assert pace.apart(1_000_000) < 60.0


async def test_what_a_turn_adds_when_it_is_let_on_is_committed_with_what_it_waited_with(database: Database) -> None:
    ada = await stored_user(database)
    leases = [(await running_turn(database, ada))[1] for _ in range(2)]
    log = DatabaseTurnLog(database, clock=moment, pace=Pace(gather=0.05, limit=0.05))
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

    log = DatabaseTurnLog(database, clock=moment, observer=Commits())
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
    unopened = DatabaseTurnLog(database, clock=moment)
    await unopened.append(lease, Text(delta="x"))
    waiting = asyncio.ensure_future(unopened.ready(lease))
    await asyncio.sleep(0)
    assert not waiting.done()
    await unopened.close(seconds=0)
    async with asyncio.timeout(PATIENCE):
        await waiting


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
    database.driver = hanging = _Hangs(database.driver)
    log = DatabaseTurnLog(database, clock=moment, room=2_000, patience=0.05)
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


async def test_a_lease_outlives_the_clock_of_its_process(postgres_url: str) -> None:
    """Replicas whose clocks disagree by an hour do not take each other's turns."""
    here = Database(postgres_url)
    ahead = Database(postgres_url, clock=lambda: moment() + timedelta(days=3650))
    await here.open()
    await ahead.open()
    ada = await stored_user(here)
    await begun(here, new_turn(await stored_conversation(here, ada), lease_for=LONG))
    assert await ahead.log.take_expired("ahead", LONG) == []
    await here.close()
    await ahead.close()


@pytest.mark.parametrize("binaries", [system_binaries(), wheel_binaries()], ids=["system", "wheel"])
def test_a_throwaway_server_runs_and_leaves_nothing_behind(binaries: Path | None) -> None:
    if binaries is None:
        pytest.skip("these binaries are not installed")
    with ThrowawayPostgres(binaries=binaries) as server:
        name = server.create_database()
        (row,) = asyncio.run(server.execute("SELECT current_database() AS name", database=name))
        assert row["name"] == name
        process, directory = server.process_id, server._directory
    assert process is not None
    assert not Path(f"/proc/{process}").exists()
    assert directory is not None
    assert not directory.exists()


async def test_units_cancelled_at_any_moment_leave_no_lock_and_no_connection_behind(database: Database) -> None:
    ada = await stored_user(database)
    conversation = await stored_conversation(database, ada)
    dice = random.Random(7)

    async def write() -> None:
        async with database.new_unit() as unit:
            await unit.conversations.update(replace(conversation, title=f"{dice.random()}"))
            await unit.messages.page(ada.id, conversation.id, limit=5)
            await unit.commit()

    for _ in range(40):
        tasks = [asyncio.create_task(write()) for _ in range(4)]
        await asyncio.sleep(dice.random() * 0.004)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(write() for _ in range(20)))
    assert database.connections_in_use == 0


async def test_requests_that_take_every_connection_keep_no_lease_and_no_commit_waiting(postgres_url: str) -> None:
    """A lease that is renewed too late is lost, and a turn that lives would be taken from its owner."""
    database = Database(postgres_url, pool_size=1)
    await database.open()
    try:
        turn, lease = await running_turn(database, await stored_user(database))
        async with database.new_unit(read_only=True) as unit:
            assert await unit.users.get(lease.owner) is not None  # the only connection for requests is taken
            async with asyncio.timeout(5):
                renewal = await database.log.renew(lease.holder, [lease.message_id], timedelta(seconds=30))
                answer = replace(turn.answer, status=Status.COMPLETE)
                await database.log.end(lease, Done(message=answer), answer)
    finally:
        await database.close()
    assert renewal.held == {lease.message_id}


async def test_the_listener_connects_again_whatever_broke_its_connection() -> None:
    tries = asyncio.Semaphore(0)

    async def connect() -> Any:
        tries.release()
        raise LookupError("no kind of error that a database driver is known for")

    notices = Notices(connect, committed=lambda _: None, cancelled=lambda _: None)
    listening = asyncio.ensure_future(notices.listen())
    async with asyncio.timeout(10):
        for _ in range(3):
            await tries.acquire()
    assert not listening.done()
    listening.cancel()
    await asyncio.wait({listening})
