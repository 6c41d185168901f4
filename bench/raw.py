"""What the storage and the server allow: handlers on the bare driver, in the server that Luxx runs in.

`python -m bench raw --port 9001 --database postgresql://… --secret …`. They do the same work for the same
answer and nothing besides: no checks of what is sent, no errors to tell, no layers.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Final, cast

import asyncpg
import msgspec
import uvicorn
from litestar import Litestar, Request, Response, get, post
from litestar.params import Parameter

from luxx.adapters.database import Database
from luxx.adapters.security.jwt import JwtCodec
from luxx.adapters.system import SortableIds, utc_now
from luxx.adapters.telemetry.logs import LogObserver, configure
from luxx.adapters.telemetry.prometheus import PrometheusMetrics
from luxx.application.ports import Begun
from luxx.application.send_message import SendMessage
from luxx.application.supervisor import LEASE, TurnSupervisor
from luxx.entrypoints.http.observed import ObservedLitestar
from luxx.settings import Settings

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
  WHERE id = $1 AND user_id = $2 RETURNING next_position
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
SELECT next_position FROM place
"""
_APPEND_SQLITE: Final = (
    """
    UPDATE conversations SET next_position = next_position + 2, message_count = message_count + 2, updated_at = :now
    WHERE id = :id AND user_id = :owner
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


class Appended(msgspec.Struct):
    message_id: str


class AppendBody(msgspec.Struct):
    user_id: int
    conversation_id: str
    content: str


def _item(row: asyncpg.Record) -> Item:
    values = list(row)[1:]
    if values[_TOOLS] is not None:
        values[_TOOLS] = msgspec.Raw(values[_TOOLS].encode())
    return Item(*values)


class Parked:
    """Stands where the supervisor does, and starts nothing: what is measured ends with the commit."""

    holder = "bench"
    lease_for = LEASE

    @contextmanager
    def accepting(self) -> Any:
        yield

    def start(self, begun: Begun, *, tools_enabled: bool) -> None:
        """Leave it at that."""


_encode: Final = msgspec.json.Encoder().encode
_read_append: Final = msgspec.json.Decoder(AppendBody).decode


def _json(content: object) -> Response[bytes]:
    return Response(_encode(content), media_type="application/json")


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

    async def append(self, body: AppendBody, question: str, answer: str) -> None:
        parts, started = _texts(body, question, answer)
        position = await self._pools["pool"].fetchval(
            _APPEND, body.conversation_id, body.user_id, utc_now(), question, answer, parts, started
        )
        if position is None:
            raise LookupError(body.conversation_id)


class Sqlite:
    """One thread that writes, as the fastest do."""

    def __init__(self, path: str) -> None:
        self._path: Final = path
        self._thread: Final = ThreadPoolExecutor(1)
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        self._connection = await self._in_thread(self._open)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    async def close(self) -> None:
        assert self._connection is not None
        await self._in_thread(self._connection.close)
        self._thread.shutdown()

    async def _in_thread(self, work: Callable[..., Any], *arguments: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def append(self, body: AppendBody, question: str, answer: str) -> None:
        parts, started = _texts(body, question, answer)
        given = {
            "now": (utc_now() - _EPOCH) // (datetime.resolution),
            "id": body.conversation_id,
            "owner": body.user_id,
            "question": question,
            "answer": answer,
            "parts": parts,
            "started": started,
        }
        await self._in_thread(self._append, given)

    def _append(self, given: dict[str, object]) -> None:
        assert self._connection is not None
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _APPEND_SQLITE:
                self._connection.execute(statement, given)
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


def _texts(body: AppendBody, question: str, answer: str) -> tuple[str, str]:
    parts = [{"type": "text", "text": body.content}]
    user_message = {
        "id": question,
        "conversation_id": body.conversation_id,
        "role": "user",
        "content": body.content,
        "parts": parts,
        "status": "complete",
        "model": None,
        "usage": None,
        "error": None,
        "created_at": utc_now(),
    }
    return _encode(parts).decode(), _encode({"user_message": user_message, "message_id": answer}).decode()


def app(url: str, secret: str) -> Litestar:
    """Make the handlers: the bare ones, and Luxx's own accepting of a message beside them."""
    database = Database(url, pool_size=POOL)
    postgres = Postgres(url, secret) if database.postgres else None
    raw: Postgres | Sqlite = postgres or Sqlite(url.removeprefix("sqlite:///"))
    new_id = SortableIds()
    send = SendMessage(
        new_unit=database.new_unit,
        clock=utc_now,
        new_id=new_id,
        supervisor=cast("TurnSupervisor", Parked()),
        history=0,  # the bare handler reads none either
    )

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        await raw.open()
        await database.open()
        yield
        await database.close()
        await raw.close()

    @get("/health")
    async def health() -> str:
        return "ok"

    @get("/list/{how:str}")
    async def listed(how: str, authorization: Annotated[str, Parameter(header="Authorization")]) -> Response[bytes]:
        assert postgres is not None
        return _json(await postgres.page(how, authorization.removeprefix("Bearer ")))

    @post("/append/raw", status_code=200)
    async def append_raw(request: Request[Any, Any, Any]) -> Response[bytes]:
        body = _read_append(await request.body())
        answer = new_id("msg")
        await raw.append(body, new_id("msg"), answer)
        return _json(Appended(answer))

    @post("/append/luxx", status_code=200)
    async def append_luxx(request: Request[Any, Any, Any]) -> Response[bytes]:
        body = _read_append(await request.body())
        return _json(
            Appended(await send(user_id=body.user_id, conversation_id=body.conversation_id, content=body.content))
        )

    served = ObservedLitestar([health, listed, append_raw, append_luxx], lifespan=[lifespan], openapi_config=None)
    # The same server: it tells of every request in a line of the log and in its metrics, whatever handles it.
    served.request_observers = (LogObserver(), PrometheusMetrics())
    return served


def serve(port: int, url: str, secret: str) -> None:
    """Answer until a signal."""
    configure(style=Settings().log_format, level=Settings().log_level)
    uvicorn.run(
        app(url, secret),
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
    )
