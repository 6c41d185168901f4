"""Measure the list of conversations at growing numbers of rows, on SQLite and on a throw-away Postgres.

    .venv/bin/python scripts/list_speed.py [ROWS ...]

Rows belong to 1 000 users; one has a tenth of all. Prints medians in milliseconds, each of 30 calls taken in turn.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from luxx.adapters.database import Database
from luxx.adapters.database.schema import conversation_counts, conversations, users
from luxx.adapters.database.statements import Statement
from luxx.application.conversations import ListConversations
from luxx.testing.postgres import ThrowawayPostgres

USERS = 1000
LARGE, SMALL = 1, 2
CALLS = 30
CHUNK = 5000
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


async def fill(database: Database, rows: int) -> None:
    """Add `rows` conversations: every tenth to user 1, the others to the rest in turn."""
    await database.run_sync(lambda connection: _insert(connection, rows))
    # Outside a transaction, as VACUUM wants it.
    tidy = "VACUUM ANALYZE conversations" if database.postgres else "ANALYZE"
    await database.driver.fetch(Statement(sa.text(tidy)), {}, writes=True)


def _insert(connection: sa.Connection, rows: int) -> None:
    people = [
        {
            "id": number,
            "username": f"u{number}",
            "username_key": f"u{number}",
            "email": f"u{number}@example.com",
            "email_key": f"u{number}@example.com",
            "password_hash": "",
            "role": "user",
            "is_active": True,
            "created_at": BEGIN,
        }
        for number in range(1, USERS + 1)
    ]
    connection.execute(sa.insert(users), people)
    for start in range(0, rows, CHUNK):
        connection.execute(sa.insert(conversations), list(map(_row, range(start, min(start + CHUNK, rows)))))
    counted = sa.select(conversations.c.user_id, sa.literal(""), sa.func.count()).group_by(conversations.c.user_id)
    connection.execute(sa.insert(conversation_counts).from_select(["user_id", "scope", "total"], counted))


def _row(number: int) -> dict[str, object]:
    moment = BEGIN + timedelta(seconds=number * 7919 % 10_000_019)
    return {
        "id": f"conv_{number:026d}",
        "user_id": LARGE if number % 10 == 0 else SMALL + number % (USERS - 1),
        "project_id": None,
        "title": f"Conversation {number}",
        "model": "glm-5",
        "system_prompt": None,
        "temperature": 1.0,
        "max_tokens": 65536,
        "thinking_enabled": False,
        "tools": None,
        "created_at": moment,
        "updated_at": moment,
    }


async def measure(database: Database, rows: int) -> list[str]:
    listed = ListConversations(new_unit=database.new_unit)
    pages = rows // 10 // 20
    middle = await listed(user_id=LARGE, page=pages - 1)
    cases: dict[str, Callable[[], Awaitable[object]]] = {
        "a user with few, page 1": lambda: listed(user_id=SMALL),
        "a user with many, page 1": lambda: listed(user_id=LARGE),
        "the page in the middle, by number": lambda: listed(user_id=LARGE, page=pages // 2),
        "the last page, by number": lambda: listed(user_id=LARGE, page=pages),
        "the last page, by cursor": lambda: listed(user_id=LARGE, cursor=middle.next_cursor),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(CALLS):
        for name, call in cases.items():
            began = time.perf_counter()
            await call()
            times[name].append((time.perf_counter() - began) * 1000)
    return [f"{statistics.median(times[name]):.2f}" for name in cases]


async def on(database: Database, name: str, rows: int) -> None:
    await database.upgrade()
    await fill(database, rows)
    figures = await measure(database, rows)
    print(f"| {name} | {rows:,} | {' | '.join(figures)} |", flush=True)
    await database.close()


async def main() -> None:
    sizes = [int(word) for word in sys.argv[1:]] or [10_000, 1_000_000]
    print("| storage | rows | few, page 1 | many, page 1 | middle by number | last by number | last by cursor |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            await on(Database(f"sqlite:///{Path(folder) / 'list.db'}"), "SQLite", rows)
    with ThrowawayPostgres() as server:
        for rows in sizes:
            await on(Database(server.url(await asyncio.to_thread(server.create_database))), "Postgres", rows)


if __name__ == "__main__":
    asyncio.run(main())
