"""Many rows in a migrated database, made by the database itself."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Final

import asyncpg
import msgspec

USERS: Final = 1000
MANY_SHARE: Final = 10
"""One conversation in so many belongs to the user who has many."""
LONG: Final = 10_000
SHORT: Final = 200
BEGIN: Final = 1_767_225_600
"""The first moment of 2026, in seconds since 1970."""


class Rows(msgspec.Struct, frozen=True):
    """What was asked for: `rows` conversations in all; `many` and `few` are ids of users who have signed up.

    `few` has as many as anybody (at least 20), and two conversations of `long` and `short` messages.
    """

    rows: int
    many: int
    few: int
    long: str = "conv_longlonglonglonglonglong"
    short: str = "conv_shortshortshortshortsho"


_PARTS: Final = """[{"type":"text","text":"A message of some length, as people write them to each other."}]"""


def _statements(wanted: Rows, *, postgres: bool) -> list[str]:
    """Write SQL that both understand, apart from series, times and padding."""

    def series(count: int) -> str:
        if postgres:
            return f"(SELECT generate_series(0, {count - 1}) AS n) AS numbers"
        return (
            f"(WITH RECURSIVE counted(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counted WHERE n < {count - 1})"
            " SELECT n FROM counted) AS numbers"
        )

    def moment(seconds: str) -> str:
        if postgres:
            return f"to_timestamp({BEGIN} + {seconds})"
        return f"({BEGIN} + {seconds}) * 1000000"

    def text(value: str) -> str:
        return f"({value})::text" if postgres else f"CAST({value} AS TEXT)"

    true, false = ("true", "false") if postgres else ("1", "0")
    padded = "lpad(n::text, 26, '0')" if postgres else "printf('%026d', n)"
    # A prime step spreads neighbours in time over all users, and makes no two moments alike.
    at = moment("(n::bigint * 7919 % 10000019)" if postgres else "(n * 7919 % 10000019)")
    owner = (
        f"CASE WHEN n < 20 THEN {wanted.few} WHEN n % {MANY_SHARE} = 0 THEN {wanted.many}"
        f" WHEN n % {USERS} = 1 THEN {wanted.few} ELSE 1000000 + n % {USERS - 2} END"
    )
    columns = (
        "id, user_id, title, model, temperature, max_tokens, thinking_enabled, created_at, updated_at, next_position"
    )
    name = text("n")
    defaults = f"'fast-10', 1.0, 65536, {false}"
    statements = [
        f"""
        INSERT INTO users (id, username, username_key, email, email_key, password_hash, role, is_active, created_at)
        SELECT 1000000 + n, {name} || 'u', {name} || 'u', {name} || '@u', {name} || '@u', '', 'user', {true},
               {moment("0")}
        FROM {series(USERS - 2)}
        """,
        f"""
        INSERT INTO conversations ({columns})
        SELECT 'conv_' || {padded}, {owner}, 'Conversation ' || {name}, {defaults}, {at}, {at}, 1
        FROM {series(wanted.rows)}
        """,
    ]
    for identity, count in ((wanted.long, LONG), (wanted.short, SHORT)):
        role = "CASE WHEN n % 2 = 0 THEN 'user' ELSE 'assistant' END"
        statements += [
            f"""
            INSERT INTO conversations ({columns}, message_count)
            VALUES ('{identity}', {wanted.few}, 'Talk', {defaults}, {moment("0")}, {moment("0")}, {count + 1}, {count})
            """,
            f"""
            INSERT INTO messages (id, conversation_id, position, role, parts, status, created_at)
            SELECT 'msg_' || substr('{identity}', 6, 6) || {padded}, '{identity}', n + 1, {role}, '{_PARTS}',
                   'complete', {moment("n")}
            FROM {series(count)}
            """,
        ]
    # What the service keeps as rows come and go.
    statements += [
        "DELETE FROM conversation_counts",
        """
        INSERT INTO conversation_counts (user_id, scope, total)
        SELECT user_id, '', count(*) FROM conversations GROUP BY user_id
        """,
    ]
    statements += [
        "DELETE FROM conversation_counts",
        """
        INSERT INTO conversation_counts (user_id, scope, total)
        SELECT user_id, '', count(*) FROM conversations GROUP BY user_id
        """,
    ]
    return statements


async def fill_postgres(url: str, wanted: Rows) -> None:
    """Add the rows, and the statistics that a database of their age has."""
    connection = await asyncpg.connect(url)
    try:
        for statement in _statements(wanted, postgres=True):
            await connection.execute(statement)
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()


async def fill_sqlite(path: Path, wanted: Rows) -> None:
    """Add the rows to the file of a service that runs, and the statistics."""
    await asyncio.to_thread(_fill_sqlite, path, wanted)


def _fill_sqlite(path: Path, wanted: Rows) -> None:
    connection = sqlite3.connect(path, isolation_level=None, timeout=60)
    try:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _statements(wanted, postgres=False):
            connection.execute(statement)
        connection.execute("COMMIT")
        connection.execute("ANALYZE")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
