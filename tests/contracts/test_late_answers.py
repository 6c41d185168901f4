"""Postgres that stops answering for a while, and goes on: its processes are stopped and continued."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa

from luxx.adapters.database import Database
from luxx.adapters.database.connection import Connection
from luxx.adapters.database.postgres import Postgres
from luxx.adapters.database.statements import Statement
from luxx.domain.errors import StorageUnavailable
from luxx.testing.contracts.storage_samples import stored_user
from luxx.testing.postgres import ThrowawayPostgres

ONE = Statement(sa.text("SELECT 1"))
PROCESS = Statement(sa.text("SELECT pg_backend_pid()"))
RENAME = Statement(sa.text("UPDATE users SET email = email || 'x' RETURNING email"))


@pytest.fixture
async def driver(on_postgres: Database, postgres_url: str) -> AsyncIterator[Postgres]:
    """Give a driver of little patience, with one connection for requests, beside a database with a user in it."""
    await stored_user(on_postgres)
    driver = Postgres(postgres_url, pool_size=1, seconds=0.2, upkeep_seconds=0.2)
    yield driver
    await driver.close()


async def _address(on_postgres: Database) -> str:
    ((email,),) = await on_postgres.driver.fetch(Statement(sa.text("SELECT email FROM users")), {})
    return str(email)


async def _process(driver: Any, **how: Any) -> int:
    ((process,),) = await driver.fetch(PROCESS, {}, **how)
    return int(process)


async def _nothing(_: Connection) -> None:
    pass


async def _one(connection: Connection) -> None:
    await connection.fetch(ONE, {})


async def _commit(connection: Connection) -> None:
    await connection.commit()


@pytest.mark.parametrize(
    ("before", "late"), [(_nothing, _one), (_one, _one), (_one, _commit)], ids=["begin", "statement", "commit"]
)
async def test_what_is_answered_late_is_said_to_be_and_touches_nobody_elses_transaction(
    driver: Postgres, on_postgres: Database, before: Any, late: Any
) -> None:
    """A BEGIN that comes late would take the next one's statement into a transaction that nobody commits."""
    process = await _process(driver)
    address = await _address(on_postgres)
    connection = await driver.connect()
    await before(connection)
    os.kill(process, signal.SIGSTOP)
    try:
        with pytest.raises(StorageUnavailable):
            await late(connection)
        await connection.close()
        with suppress(StorageUnavailable):  # its turn to be late, where the connection was kept
            await driver.fetch(RENAME, {}, writes=True)
    finally:
        os.kill(process, signal.SIGCONT)
    ((told,),) = await driver.fetch(RENAME, {}, writes=True)
    assert told == await _address(on_postgres)
    assert len(told) == len(address) + 2, "each change was stored, and once"


@pytest.mark.parametrize("writes", [False, True], ids=["read", "write"])
async def test_behind_one_connection_that_fell_silent_nobody_waits_for_the_others_that_lay_idle(
    postgres_url: str, writes: bool
) -> None:
    """As after a failover from a machine that is gone: nothing tells of those that lead there."""
    driver = Postgres(postgres_url, pool_size=3, seconds=0.2, upkeep_seconds=0.2)
    lent = [await driver.connect() for _ in range(3)]
    processes = [int((await connection.fetch(PROCESS, {}))[0][0]) for connection in lent]
    for connection in lent:
        await connection.commit()
        await connection.close()
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        with pytest.raises(StorageUnavailable):
            await driver.fetch(ONE, {}, writes=writes)
        assert await _process(driver) not in processes
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)
        await driver.close()


async def test_a_request_that_was_given_up_leaves_no_late_transaction_to_the_next_one(
    driver: Postgres, on_postgres: Database
) -> None:
    """Whoever is cancelled while a BEGIN is late does not see it time out."""
    process = await _process(driver)
    address = await _address(on_postgres)
    connection = await driver.connect()
    os.kill(process, signal.SIGSTOP)
    try:
        late = asyncio.create_task(_one(connection))
        await asyncio.sleep(0.05)
        late.cancel()
        await asyncio.wait({late})
        await connection.close()
        writing = asyncio.create_task(driver.fetch(RENAME, {}, writes=True))
        await asyncio.sleep(0.05)
    finally:
        os.kill(process, signal.SIGCONT)
    ((told,),) = await writing
    assert told == await _address(on_postgres) == address + "x"


async def test_the_server_gives_up_before_the_connection_is_dropped(
    driver: Postgres, postgres: ThrowawayPostgres
) -> None:
    """What it still did would be done for nobody, and beside the connections that are counted."""
    for _ in range(3):
        with pytest.raises(StorageUnavailable):
            await driver.fetch(Statement(sa.text("SELECT pg_sleep(60)")), {})
    asleep = "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"
    assert list(await postgres.execute(asleep)) == []


async def test_a_heartbeat_finds_a_connection_that_answers_at_its_second_try(driver: Postgres) -> None:
    """The connections that are kept were forgotten by the network; a new one would be answered."""
    one, other = await driver.connect(upkeep=True), await driver.connect(upkeep=True)
    processes = [await _process(one), await _process(other)]
    await one.close()
    await other.close()
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        with pytest.raises(StorageUnavailable):
            await driver.fetch(ONE, {}, upkeep=True)
        assert await _process(driver, upkeep=True) not in processes
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)
