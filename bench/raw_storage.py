"""What the storage allows: the statements of lists, messages and streams, on the bare drivers."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final, cast

import asyncpg
import msgspec

from luxx.adapters.security.jwt import JwtCodec
from luxx.adapters.system import utc_now

POOL: Final = 10
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_SESSION: Final = """
SELECT s.id AS session_id, s.user_id, s.created_at, s.expires_at, s.revoked_at,
       u.id, u.username, u.email, u.password_hash, u.role, u.is_active, u.created_at AS joined_at
FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.id = $1
"""
_PAGE: Final = """
SELECT (SELECT total FROM conversation_counts WHERE user_id = $1 AND scope = '') AS total,
       id, user_id, project_id, title, model, system_prompt, temperature, max_tokens, thinking_enabled, tools,
       created_at, updated_at
FROM conversations WHERE user_id = $1 ORDER BY updated_at DESC, id DESC LIMIT $2 OFFSET $3
"""

_APPEND: Final = """
WITH place AS (
  UPDATE conversations SET next_position = next_position + 2, message_count = message_count + 2, updated_at = $3
  WHERE id = $1 AND user_id = $2 RETURNING next_position, model
), stored AS (
  INSERT INTO messages (id, conversation_id, position, role, parts, status, created_at)
  SELECT $4, $1, next_position - 2, 'user', $6, 'complete', $3 FROM place
  UNION ALL
  SELECT $5, $1, next_position - 1, 'assistant', '[]', 'streaming', $3 FROM place
), begun AS (
  INSERT INTO turns (message_id, conversation_id, user_id, user_message_id, running, holder, fence, lease_until,
                     cancel_requested, last_seq, log_kept, started_at)
  SELECT $5, $1, $2, $4, true, 'bench', 1, $3 + interval '15 seconds', false, 1, true, $3 FROM place
), told AS (
  INSERT INTO turn_events (message_id, seq, name, data) SELECT $5, 1, 'start', $7 FROM place
)
SELECT model FROM place
"""
_APPEND_SQLITE: Final = (
    """
    UPDATE conversations SET next_position = next_position + 2, message_count = message_count + 2, updated_at = :now
    WHERE id = :id AND user_id = :owner RETURNING model
    """,
    """
    INSERT INTO messages (id, conversation_id, position, role, parts, status, created_at)
    SELECT :question, id, next_position - 2, 'user', :parts, 'complete', :now FROM conversations WHERE id = :id
    UNION ALL
    SELECT :answer, id, next_position - 1, 'assistant', '[]', 'streaming', :now FROM conversations WHERE id = :id
    """,
    """
    INSERT INTO turns (message_id, conversation_id, user_id, user_message_id, running, holder, fence, lease_until,
                       cancel_requested, last_seq, log_kept, started_at)
    VALUES (:answer, :id, :owner, :question, 1, 'bench', 1, :now + 15000000, 0, 1, 1, :now)
    """,
    "INSERT INTO turn_events (message_id, seq, name, data) VALUES (:answer, 1, 'start', :started)",
)


# A step is an event and how far the turn is; the end is that, and the answer as it is kept.
_STEP: Final = """
WITH good AS (
  UPDATE turns SET last_seq = $2 WHERE message_id = $1 AND fence = 1 AND running RETURNING message_id
)
INSERT INTO turn_events (message_id, seq, name, data) SELECT message_id, $2, $3, $4 FROM good
"""
_END: Final = """
WITH good AS (
  UPDATE turns SET last_seq = $2, running = false, ended_at = now()
  WHERE message_id = $1 AND fence = 1 AND running RETURNING message_id
), told AS (
  INSERT INTO turn_events (message_id, seq, name, data) SELECT message_id, $2, $3, $4 FROM good
)
UPDATE messages SET parts = $5, status = 'complete' WHERE id = (SELECT message_id FROM good)
"""
_STEP_SQLITE: Final = (
    "UPDATE turns SET last_seq = :seq WHERE message_id = :answer AND fence = 1 AND running",
    "INSERT INTO turn_events (message_id, seq, name, data) VALUES (:answer, :seq, :name, :data)",
)
_END_SQLITE: Final = (
    *_STEP_SQLITE,
    "UPDATE turns SET running = 0, ended_at = :now WHERE message_id = :answer",
    "UPDATE messages SET parts = :parts, status = 'complete' WHERE id = :answer",
)


class Item(msgspec.Struct):
    id: str
    user_id: int
    project_id: str | None
    title: str
    model: str
    system_prompt: str | None
    temperature: float
    max_tokens: int
    thinking_enabled: bool
    tools: msgspec.Raw | None
    created_at: datetime
    updated_at: datetime


_TOOLS: Final = Item.__struct_fields__.index("tools")


class Page(msgspec.Struct):
    items: list[Item]
    total: int
    page: int
    page_size: int


class Listed(msgspec.Struct):
    success: bool
    data: Page


class AppendBody(msgspec.Struct):
    user_id: int
    conversation_id: str
    content: str


class New(msgspec.Struct):
    """The two messages of a turn, and what is stored of the first one and told first."""

    question: str
    answer: str
    parts: str
    started: str


class Event(msgspec.Struct):
    """One event of an answer; the last one says what the whole answer's parts are."""

    answer: str
    seq: int
    name: str
    data: str
    parts: str | None = None


def _item(row: asyncpg.Record) -> Item:
    values = list(row)[1:]
    if values[_TOOLS] is not None:
        values[_TOOLS] = msgspec.Raw(values[_TOOLS].encode())
    return Item(*values)


encode: Final = msgspec.json.Encoder().encode


async def _nothing(connection: asyncpg.Connection) -> None:
    """Take the place of asyncpg's `RESET ALL` and the like, a round trip at each release."""


class Postgres:
    """Two pools: as asyncpg makes them, and one that resets nothing when a connection is given back."""

    def __init__(self, url: str, secret: str) -> None:
        self._url: Final = url
        self._tokens: Final = JwtCodec(secret)
        self._pools: dict[str, asyncpg.Pool] = {}

    async def open(self) -> None:
        self._pools["pool"] = await asyncpg.create_pool(self._url, min_size=POOL, max_size=POOL)
        self._pools["bare"] = await asyncpg.create_pool(self._url, min_size=POOL, max_size=POOL, reset=_nothing)

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.close()

    async def page(self, how: str, token: str) -> Listed:
        claims = self._tokens.decode(token, now=utc_now())
        async with self._pools[how].acquire() as connection:
            caller = await connection.fetchrow(_SESSION, claims.session_id)
            if caller is None or caller["revoked_at"] is not None or not caller["is_active"]:
                raise PermissionError
            rows = await connection.fetch(_PAGE, caller["user_id"], 20, 0)
        return Listed(True, Page([_item(row) for row in rows], rows[0]["total"] if rows else 0, 1, 20))

    async def append(self, body: AppendBody, new: New, *, how: str = "pool") -> str:
        """Store the question and the beginning of its answer; gives the conversation's model."""
        model: str | None = await self._pools[how].fetchval(
            _APPEND, body.conversation_id, body.user_id, utc_now(), new.question, new.answer, new.parts, new.started
        )
        if model is None:
            raise LookupError(body.conversation_id)
        return model

    async def owner(self, token: str) -> int:
        claims = self._tokens.decode(token, now=utc_now())
        caller = await self._pools["bare"].fetchrow(_SESSION, claims.session_id)
        if caller is None or caller["revoked_at"] is not None or not caller["is_active"]:
            raise PermissionError
        return cast("int", caller["user_id"])

    async def store(self, event: Event) -> None:
        given = (event.answer, event.seq, event.name, event.data)
        if event.parts is None:
            await self._pools["bare"].execute(_STEP, *given)
        else:
            await self._pools["bare"].execute(_END, *given, event.parts)


class Sqlite:
    """One thread that writes, as the fastest do, and one that reads."""

    def __init__(self, path: str, secret: str) -> None:
        self._path: Final = path
        self._tokens: Final = JwtCodec(secret)
        self._threads: Final = {"write": ThreadPoolExecutor(1), "read": ThreadPoolExecutor(1)}
        self._connections: dict[str, sqlite3.Connection] = {}

    async def open(self) -> None:
        for which in self._threads:
            self._connections[which] = await self._in_thread(which, self._open)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    async def close(self) -> None:
        for which, thread in self._threads.items():
            await self._in_thread(which, self._connections[which].close)
            thread.shutdown()

    async def _in_thread(self, which: str, work: Callable[..., Any], *arguments: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads[which], work, *arguments)

    async def append(self, body: AppendBody, new: New, *, how: str = "pool") -> str:  # noqa: ARG002 - as on Postgres
        given = {"now": _now(), "id": body.conversation_id, "owner": body.user_id, **msgspec.structs.asdict(new)}
        ((model,),) = await self._in_thread("write", self._write, _APPEND_SQLITE, given)
        return cast("str", model)

    async def owner(self, token: str) -> int:
        claims = self._tokens.decode(token, now=utc_now())
        return cast("int", await self._in_thread("read", self._owner, claims.session_id))

    def _owner(self, session_id: str) -> int:
        caller = self._connections["read"].execute(_SESSION.replace("$1", "?"), (session_id,)).fetchone()
        if caller is None or caller[4] is not None or not caller[10]:
            raise PermissionError
        return cast("int", caller[1])

    async def store(self, event: Event) -> None:
        statements = _STEP_SQLITE if event.parts is None else _END_SQLITE
        await self._in_thread("write", self._write, statements, {"now": _now(), **msgspec.structs.asdict(event)})

    def _write(self, statements: Sequence[str], given: dict[str, object]) -> Sequence[Any]:
        """Run them in one transaction; gives the rows of the first."""
        connection = self._connections["write"]
        connection.execute("BEGIN IMMEDIATE")
        try:
            rows, *_ = [connection.execute(statement, given).fetchall() for statement in statements]
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        return rows


def _now() -> int:
    return (utc_now() - _EPOCH) // datetime.resolution


def message(identity: str, body: AppendBody, role: str, content: str) -> dict[str, object]:
    return {
        "id": identity,
        "conversation_id": body.conversation_id,
        "role": role,
        "content": content,
        "parts": [{"type": "text", "text": content}],
        "status": "complete",
        "model": None,
        "usage": None,
        "error": None,
        "created_at": utc_now(),
    }


def new_turn(body: AppendBody, question: str, answer: str) -> New:
    user_message = message(question, body, "user", body.content)
    started = {"user_message": user_message, "message_id": answer}
    return New(question, answer, encode(user_message["parts"]).decode(), encode(started).decode())
