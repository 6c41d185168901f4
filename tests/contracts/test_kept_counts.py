"""Totals that are kept and not counted, and what is forgotten with the logs."""

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

import pytest
import sqlalchemy as sa
from tests.support.databases import ask

from luxx.adapters.database import Database
from luxx.adapters.database.schema import idempotency_keys
from luxx.adapters.database.statements import Statement
from luxx.domain.errors import Conflict, NotFound
from luxx.domain.user import Session, User
from luxx.testing.contracts.storage_samples import (
    leased,
    moment,
    new_conversation,
    new_turn,
    stored_conversation,
    stored_user,
)


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
    assert await ask(database, _WRONG_COUNTS) == []
    assert await ask(database, _UNKEPT_COUNTS) == []
    assert await ask(database, "SELECT id FROM conversations WHERE message_count <> (" + _REAL_SIZE + ")") == []


_REAL_SIZE: Final = "SELECT count(*) FROM messages WHERE conversation_id = conversations.id"
_WRONG_COUNTS: Final = """
    SELECT * FROM conversation_counts AS kept WHERE total <> (
        SELECT count(*) FROM conversations
        WHERE user_id = kept.user_id AND (kept.scope = '' OR project_id = kept.scope)
    )
"""
_UNKEPT_COUNTS: Final = """
    SELECT user_id, project_id FROM conversations WHERE NOT EXISTS (
        SELECT 1 FROM conversation_counts AS kept
        WHERE kept.user_id = conversations.user_id AND kept.scope = coalesce(conversations.project_id, '')
    )
"""


async def test_a_project_that_has_no_conversation_left_leaves_no_count(database: Database) -> None:
    """Else every project that there ever was would have a row for ever."""
    ada = await stored_user(database)
    gone, moved, other = [await stored_conversation(database, ada, project_id=name) for name in ("p", "q", "q")]
    async with database.new_unit() as unit:
        await unit.conversations.delete(ada.id, gone.id)
        await unit.conversations.update(replace(moved, project_id="r"))
        await unit.commit()
    kept = "SELECT scope, total FROM conversation_counts ORDER BY scope"
    assert [tuple(row) for row in await ask(database, kept)] == [("", 2), ("q", 1), ("r", 1)]
    async with database.new_unit() as unit:
        for one in (moved, other):
            await unit.conversations.delete(ada.id, one.id)
        await unit.commit()
    assert await ask(database, kept) == []


async def test_the_migration_counts_what_is_there(database: Database) -> None:
    ada, bob = await stored_user(database), await stored_user(database, "bob")
    for owner, project_id in ((ada, None), (ada, "p"), (ada, "p"), (ada, "q"), (bob, "p")):
        await leased(database, new_turn(await stored_conversation(database, owner, project_id=project_id)))
    await stored_conversation(database, ada)
    await ask(database, "DROP INDEX ix_sessions_expires_at", writes=True)
    await ask(database, "DROP TABLE IF EXISTS recent_events", writes=True)
    await ask(database, "DROP TABLE conversation_counts", writes=True)
    await ask(database, "ALTER TABLE conversations DROP COLUMN message_count", writes=True)
    await ask(database, "UPDATE alembic_version SET version_num = '0004'", writes=True)
    await database.close()
    await database.upgrade()
    found = await ask(database, "SELECT user_id, scope, total FROM conversation_counts ORDER BY user_id, scope")
    assert [tuple(row) for row in found] == [
        (ada.id, "", 5),
        (ada.id, "p", 2),
        (ada.id, "q", 1),
        (bob.id, "", 1),
        (bob.id, "p", 1),
    ]
    assert await ask(database, "SELECT id FROM conversations WHERE message_count <> (" + _REAL_SIZE + ")") == []


async def test_old_sessions_are_forgotten_with_the_logs(database: Database) -> None:
    ada = await stored_user(database)
    async with database.new_unit() as unit:
        for number in range(3):
            await unit.sessions.add(
                Session(id=f"sess_{number}", user_id=ada.id, created_at=moment(), expires_at=moment(number))
            )
        await unit.commit()
    await database.log.forget(ended_before=moment(), keys_made_before=moment(1))
    assert [tuple(row) for row in await ask(database, "SELECT id FROM sessions ORDER BY id")] == [
        ("sess_1",),
        ("sess_2",),
    ]


async def test_old_keys_are_forgotten_some_at_a_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once they would keep SQLite's one writer for seconds, and on Postgres never be done in time."""
    ada, bob = await stored_user(database), await stored_user(database, "bob")
    for owner, made, count in ((ada, moment(), 1100), (bob, moment(), 3), (bob, moment(2), 4)):
        await _keep_keys(database, owner, made, count)
    left, fetch = [], database.driver.fetch

    async def counting(*arguments: Any, **options: Any) -> Any:
        rows = await fetch(*arguments, **options)
        ((count,),) = await fetch(_KEYS_LEFT, {})
        left.append(count)
        return rows

    monkeypatch.setattr(database.driver, "fetch", counting)
    await database.log.forget(ended_before=moment(), keys_made_before=moment(1))
    assert left[-1] == 4
    assert max(before - after for before, after in pairwise([1107, *left])) <= 500


async def test_keys_that_another_process_forgets_are_left_to_it(on_postgres: Database) -> None:
    ada = await stored_user(on_postgres)
    await _keep_keys(on_postgres, ada, moment(), 3)
    connection = await on_postgres.own_connection()
    try:
        await connection.execute("BEGIN; DELETE FROM idempotency_keys WHERE key LIKE '% 1'")
        async with asyncio.timeout(5):
            await on_postgres.log.forget(ended_before=moment(), keys_made_before=moment(1))
        assert await ask(on_postgres, "SELECT count(*) FROM idempotency_keys") == [(1,)]
    finally:
        connection.terminate()


_KEYS_LEFT: Final = Statement(sa.text("SELECT count(*) FROM idempotency_keys"))


async def _keep_keys(database: Database, owner: User, made: datetime, count: int) -> None:
    rows = [
        {
            "user_id": owner.id,
            "key": f"{made.second} {number}",
            "fingerprint": "f",
            "message_id": "msg",
            "created_at": made,
        }
        for number in range(count)
    ]

    def keep(connection: sa.Connection) -> None:
        connection.execute(sa.insert(idempotency_keys), rows)

    await database.run_sync(keep)
