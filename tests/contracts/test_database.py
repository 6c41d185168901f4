"""What a database makes of faults, beside the contracts: connections that break, answers that are lost."""

import asyncio
import gc
import random
import socket
import sqlite3
import time
import weakref
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from tests.support.databases import OpenDatabase, ask

from luxx.adapters.database import Database
from luxx.adapters.database import postgres as postgres_driver
from luxx.adapters.database.connection import Driver
from luxx.adapters.database.errors import unavailable
from luxx.adapters.database.notices import Notices
from luxx.adapters.database.statements import Script, Statement
from luxx.adapters.database.turn_log import DatabaseTurnLog
from luxx.adapters.system import utc_now
from luxx.application.letting_go import forget_frames
from luxx.application.ports import Lease
from luxx.domain.errors import StorageUnavailable
from luxx.domain.message import Status
from luxx.domain.turn import Done, Text, fold
from luxx.testing.contracts.storage_samples import (
    EXPIRED,
    LONG,
    PATIENCE,
    following,
    leased,
    moment,
    new_turn,
    running_turn,
    stored_conversation,
    stored_user,
)
from luxx.testing.postgres import ThrowawayPostgres, system_binaries, wheel_binaries


async def test_no_connection_is_held_between_appends(open_database: OpenDatabase, postgres_url: str) -> None:
    database = await open_database(postgres_url)
    ada = await stored_user(database)
    running = [await running_turn(database, ada) for _ in range(30)]
    readers = [asyncio.create_task(anext(following(database.log, lease.message_id, after=1))) for _, lease in running]
    for _, lease in running:
        await database.log.append(lease, Text(delta="x"))
    await asyncio.gather(*readers)
    assert database.connections_in_use == 0


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_database_that_was_closed_may_be_opened_in_another_event_loop(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """As a program does that keeps it in a module and is started twice in one process."""
    database = Database(request.getfixturevalue(f"{kind}_url"), pool_size=2)

    async def use(name: str) -> None:
        await database.open()
        try:
            ada = await stored_user(database, name)
            async with asyncio.timeout(PATIENCE):
                turns = await asyncio.gather(*(running_turn(database, ada) for _ in range(10)))
                for turn, lease in turns:
                    await database.log.append(lease, Text(delta="x"))
                    answer = replace(turn.answer, status=Status.COMPLETE)
                    await database.log.end(lease, Done(message=answer), answer)
        finally:
            await database.close()

    for name in ("ada", "bob", "cyd"):
        asyncio.run(use(name))


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


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://nobody@127.0.0.1:1/none", "ConnectionRefusedError: "),
        (f"postgresql://nobody@{'a' * 64}.example/none", "UnicodeError: "),
        ("postgresql://nobody@127.0.0.1:1/none?sslmode=odd", "ClientConfigurationError: "),
        ("{postgres}/postgres?target_session_attrs=standby", "TargetServerAttributeNotMatched: None of the hosts"),
        ("{postgres}/none", 'InvalidCatalogNameError: database "none" does not exist'),
        ("sqlite:///{here}/absent/luxx.db", "OperationalError: unable to open database file"),
    ],
)
async def test_the_operator_is_told_why_a_database_cannot_be_reached_and_nobody_else(
    open_database: OpenDatabase, postgres: ThrowawayPostgres, tmp_path: Path, url: str, reason: str
) -> None:
    server = postgres.url().rpartition("/")[0]
    database = await open_database(url.format(postgres=server, here=tmp_path))
    with pytest.raises(StorageUnavailable) as caught:
        await database.check()
    assert reason in caught.value.to_operator()
    for said in (str(caught.value), await database.missing()):
        assert said == "The database cannot be reached now. Try again in a moment."


async def test_a_host_that_says_nothing_does_not_keep_the_next_one_from_being_asked(
    open_database: OpenDatabase, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a primary's machine is gone, and a standby was promoted."""
    monkeypatch.setattr(postgres_driver, "_CONNECT_SECONDS", 1.0)
    login, _, rest = postgres_url.rpartition("@")
    here, _, name = rest.rpartition("/")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        silent = f"127.0.0.1:{mute.getsockname()[1]}"
        for hosts in (f"{silent},{here}", f"127.0.0.1:1,{here}", f"{here},{silent}"):
            database = await open_database(f"{login}@{hosts}/{name}?target_session_attrs=read-write")
            assert await database.missing() is None
        database = await open_database(f"{login}@{silent},{here}/{name}?target_session_attrs=standby")
        with pytest.raises(StorageUnavailable) as caught:
            await database.check()
        assert caught.value.reason == "TimeoutError"


async def test_who_may_not_make_tables_is_told_so(open_database: OpenDatabase, postgres: ThrowawayPostgres) -> None:
    """As Postgres 15 and newer keep everybody from the schema `public` whom the database does not belong to."""
    name = postgres.create_database()
    await postgres.execute(f'CREATE ROLE "{name}" LOGIN')
    database = await open_database(postgres.url(name).replace("postgres@", f"{name}@"))
    with pytest.raises(StorageUnavailable) as caught:
        await database.upgrade()
    assert caught.value.reason == "InsufficientPrivilegeError: permission denied for schema public"


@pytest.mark.parametrize("upkeep", [False, True], ids=["for requests", "for upkeep"])
async def test_after_a_failover_nothing_is_written_to_where_only_reading_is(
    open_database: OpenDatabase, postgres: ThrowawayPostgres, upkeep: bool
) -> None:
    """A connection to what is a standby now, as a name led there a moment too long, is not kept for half an hour."""
    name = postgres.create_database()
    database = await open_database(postgres.url(name))
    await database.upgrade()
    await database.close()
    await postgres.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    write = Statement(sa.text("DELETE FROM idempotency_keys"))

    async def as_script() -> object:
        return await database.driver.run(_run_one(write), upkeep=upkeep)

    async def alone() -> object:
        return await database.driver.fetch(write, {}, writes=True, upkeep=upkeep)

    for attempt in (as_script, alone):
        with pytest.raises(StorageUnavailable, match="cannot be reached"):
            await attempt()
    await postgres.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    for attempt in (as_script, alone):
        await attempt()


def _run_one(statement: Statement) -> Script[None]:
    yield statement, {}


async def test_a_database_that_was_never_migrated_is_said_to_be_unavailable(
    postgres: ThrowawayPostgres, open_database: OpenDatabase, tmp_path: Path
) -> None:
    for url in (postgres.url(postgres.create_database()), f"sqlite:///{tmp_path / 'new.db'}"):
        database = await open_database(url)
        with pytest.raises(StorageUnavailable):
            async with database.new_unit(read_only=True) as unit:
                await unit.users.get(1)


async def test_two_tasks_that_use_one_unit_at_once_are_told_so_and_not_that_the_database_is_away(
    on_postgres: Database,
) -> None:
    ada = await stored_user(on_postgres)
    for read_only in (True, False):
        async with on_postgres.new_unit(read_only=read_only) as unit:
            asked = unit.users.get(ada.id), unit.users.get(ada.id)
            found, refused = await asyncio.gather(*asked, return_exceptions=True)
            assert found == ada
            assert isinstance(refused, RuntimeError)
            assert "one unit of work at once" in str(refused)
            assert await unit.users.get(ada.id) == ada
    assert on_postgres.connections_in_use == 0


async def test_what_gathered_is_committed_on_closing(database: Database) -> None:
    ada = await stored_user(database)
    _, lease = await running_turn(database, ada)
    await database.log.append(lease, Text(delta="last words"))
    await database.close()
    assert [logged.event for logged in await database.log.read(lease.message_id)][1:] == [Text(delta="last words")]
    await database.close()


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
    for _ in range(2):  # as whoever does not give up asks again
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

    def __init__(self, driver: Driver, times: int, *, why: StorageUnavailable | None = None) -> None:
        self._driver = driver
        self._why = why or StorageUnavailable("the answer was lost")
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
            raise self._why
        return rows


async def test_a_commit_whose_answer_was_lost_is_not_made_twice(database: Database) -> None:
    ada = await stored_user(database)
    turn, lease = await running_turn(database, ada)
    await database.log.append(lease, Text(delta="a"))
    await anext(following(database.log, lease.message_id, after=1))
    database.log._driver = losing = _LosesAnswers(database.driver, 2)
    await database.log.append(lease, Text(delta="b"))
    await anext(following(database.log, lease.message_id, after=2))
    answer = turn.answer
    await database.log.end(lease, Done(message=answer), answer)
    assert losing.left == 0
    # The second has nothing in memory.
    for log in (database.log, DatabaseTurnLog(database.driver, database.own_connection, clock=utc_now)):
        events = await log.read(lease.message_id)
        assert [logged.event for logged in events][1:] == [Text(delta="a"), Text(delta="b"), Done(message=answer)]
        assert [logged.seq for logged in events] == [1, 2, 3, 4]


async def test_the_log_says_why_events_wait_for_the_database(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A deadline that has passed has no words of its own."""
    _, lease = await running_turn(database, await stored_user(database))
    database.log._driver = _LosesAnswers(database.driver, 1, why=unavailable(TimeoutError()))
    await database.log.append(lease, Text(delta="a"))
    await anext(following(database.log, lease.message_id, after=1))
    assert "Events of 1 turns wait for the database: TimeoutError" in caplog.text


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
    assert [tuple(row) for row in await ask(on_postgres, "SHOW idle_in_transaction_session_timeout")] == [("4s",)]


async def test_a_lease_outlives_the_clock_of_its_process(postgres_url: str) -> None:
    """Replicas whose clocks disagree by an hour do not take each other's turns."""
    here = Database(postgres_url)
    ahead = Database(postgres_url, clock=lambda: moment() + timedelta(days=3650))
    await here.open()
    await ahead.open()
    ada = await stored_user(here)
    await leased(here, new_turn(await stored_conversation(here, ada), lease_for=LONG))
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


async def test_the_listener_does_not_wait_for_ever_to_be_told_that_it_listens() -> None:
    """The network fell silent between connecting and the answer to LISTEN."""
    tries = asyncio.Semaphore(0)

    class Silent:
        def add_termination_listener(self, _: object) -> None:
            pass

        async def add_listener(self, *_: object) -> None:
            tries.release()
            await asyncio.Event().wait()

        def terminate(self) -> None:
            pass

    async def connect() -> Any:
        return Silent()

    notices = Notices(connect, committed=lambda _: None, cancelled=lambda _: None, answer_seconds=0.01)
    listening = asyncio.ensure_future(notices.listen())
    async with asyncio.timeout(10):
        for _ in range(2):
            await tries.acquire()
    listening.cancel()
    await asyncio.wait({listening})


class Raised(Exception):
    pass


def _raising() -> Script[None]:
    raise Raised
    yield  # type: ignore[unreachable]  # it is a script by this


def _nothing() -> Script[None]:
    yield from ()


async def _told(driver: Driver) -> weakref.ref[Raised]:
    try:
        await driver.run(_raising())
    except Raised as error:
        forget_frames(error)
        return weakref.ref(error)
    pytest.fail("nothing was raised")


async def test_what_a_script_raised_is_gone_once_its_frames_are_let_go(database: Database) -> None:
    """The garbage collector comes seldom in a service: a thread that held it would keep all that it passed through."""
    gc.collect()
    gc.disable()
    try:
        told = await _told(database.driver)
        await database.driver.run(_nothing())  # the thread is done with what it told
        assert told() is None
    finally:
        gc.enable()


async def test_who_waits_behind_others_for_a_locked_file_waits_no_longer_than_they(
    on_sqlite: Database, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a shell that somebody left in mid-transaction: the last of many would wait for each before it, too."""
    monkeypatch.setattr("luxx.adapters.database.sqlite._BUSY_SECONDS", 1.0)
    many = range(30)
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(PATIENCE):
            outcomes = await asyncio.gather(*(on_sqlite.driver.run(_nothing()) for _ in many), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StorageUnavailable}
        waiting = [asyncio.create_task(on_sqlite.driver.run(_nothing())) for _ in many]
        other.execute("ROLLBACK")
        await asyncio.gather(*waiting)


async def test_after_who_has_waited_the_next_waits_for_a_locked_file_as_long_as_any(
    on_sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("luxx.adapters.database.sqlite.time", SimpleNamespace(monotonic=lambda: now))
    async with on_sqlite.new_unit() as unit:
        await unit.sessions.revoke("sess_none", moment())
        behind = asyncio.create_task(ask(on_sqlite, "PRAGMA busy_timeout", writes=True))
        await asyncio.sleep(0)
        now += 4
    assert await behind == [(6000,)]
    assert await ask(on_sqlite, "PRAGMA busy_timeout", writes=True) == [(10_000,)]
