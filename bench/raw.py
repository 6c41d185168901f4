"""What the storage and the server allow: handlers on the bare driver, in the server that Luxx runs in.

`python -m bench raw --port 9001 --database postgresql://… --upstream http://…`. They do the same work for the same
answer and nothing besides: no checks of what is sent, no errors to tell, no layers.
"""

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any, Final, cast

import msgspec
import uvicorn
from litestar import Litestar, Request, Response, get, post
from litestar.params import Parameter
from litestar.types import ASGIApp

from bench.raw_storage import POOL, AppendBody, Event, New, Postgres, Sqlite, encode, message, new_turn
from luxx.adapters.database import Database
from luxx.adapters.models.connections import Connections, Endpoint
from luxx.adapters.system import SortableIds, utc_now
from luxx.adapters.telemetry.logs import LogObserver, configure
from luxx.adapters.telemetry.prometheus import PrometheusMetrics
from luxx.application.ports import Begun
from luxx.application.send_message import SendMessage
from luxx.application.supervisor import LEASE, TurnSupervisor
from luxx.entrypoints.http.observed import ObservedLitestar
from luxx.settings import Settings


class Appended(msgspec.Struct):
    message_id: str


class SendBody(msgspec.Struct):
    conversation_id: str
    content: str


class Delta(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    delta: Delta


class Chunk(msgspec.Struct):
    choices: list[Choice]


class Parked:
    """Stands where the supervisor does, and starts nothing: what is measured ends with the commit."""

    holder = "bench"
    lease_for = LEASE

    @contextmanager
    def accepting(self) -> Any:
        yield

    def start(self, begun: Begun, *, tools_enabled: bool) -> None:
        """Leave it at that."""


_read_append: Final = msgspec.json.Decoder(AppendBody).decode
_read_send: Final = msgspec.json.Decoder(SendBody).decode
_read_chunk: Final = msgspec.json.Decoder(Chunk).decode


def _json(content: object) -> Response[bytes]:
    return Response(encode(content), media_type="application/json")


class RawStream:
    """An ASGI app that asks the provider, stores what came at once in one transaction, and sends it then.

    No turn's storing waits for another's: this is the shortest way to a first token, and not the cheapest to many.
    """

    def __init__(self, raw: Postgres | Sqlite, provider: Connections, body: AppendBody, new: New, model: str) -> None:
        self._raw: Final = raw
        self._provider: Final = provider
        self._body: Final = body
        self._new: Final = new
        self._model: Final = model
        self._seq = 1

    async def __call__(self, scope: object, receive: object, send: Callable[[Any], Awaitable[None]]) -> None:  # noqa: ARG002 - ASGI's
        question = {"role": "user", "content": self._body.content}
        asked = {
            "model": self._model,
            "messages": [question],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        response = await self._provider.post(encode(asked))
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": _sse(1, "start", self._new.started), "more_body": True})
        whole, rest = "", b""
        while slice_ := await response.read():
            *events, rest = (rest + slice_).split(b"\n\n")
            text = "".join(map(_text, events))
            if text:
                whole += text
                told = await self._told("text", {"delta": text})
                await send({"type": "http.response.body", "body": told, "more_body": True})
        response.close()
        answer = message(self._new.answer, self._body, "assistant", whole)
        parts = encode(answer["parts"]).decode()
        done = await self._told("done", {"message": answer}, parts=parts)
        await send({"type": "http.response.body", "body": done, "more_body": False})

    async def _told(self, name: str, content: object, *, parts: str | None = None) -> bytes:
        """Store the next event; gives it as it is sent."""
        self._seq += 1
        data = encode(content).decode()
        await self._raw.store(Event(self._new.answer, self._seq, name, data, parts))
        return _sse(self._seq, name, data)


def _sse(seq: int, name: str, data: str) -> bytes:
    return f"id: {seq}\nevent: {name}\ndata: {data}\n\n".encode()


def _text(event: bytes) -> str:
    data = event.removeprefix(b"data: ")
    if not data.startswith(b"{"):
        return ""
    return "".join(choice.delta.content or "" for choice in _read_chunk(data).choices)


def app(url: str, secret: str, upstream: str) -> Litestar:
    """Make the handlers: the bare ones, and Luxx's own accepting of a message beside them."""
    database = Database(url, pool_size=POOL)
    postgres = Postgres(url, secret) if database.postgres else None
    raw: Postgres | Sqlite = postgres or Sqlite(url.removeprefix("sqlite:///"), secret)
    endpoint = Endpoint.of(f"{upstream}/v1/chat/completions")
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    provider = Connections(endpoint, headers=headers, connect_s=10.0)
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
        # As `luxx serve` does when it starts.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)
        # The database is not opened: its log would listen to the service, and take time from it on the same core.
        await raw.open()
        yield
        await provider.aclose()
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
        new = new_turn(body, new_id("msg"), new_id("msg"))
        await raw.append(body, new)
        return _json(Appended(new.answer))

    @post("/append/luxx", status_code=200)
    async def append_luxx(request: Request[Any, Any, Any]) -> Response[bytes]:
        body = _read_append(await request.body())
        return _json(
            Appended(await send(user_id=body.user_id, conversation_id=body.conversation_id, content=body.content))
        )

    @post("/api/messages/stream", status_code=200)
    async def stream(request: Request[Any, Any, Any]) -> ASGIApp:
        owner = await raw.owner(request.headers["authorization"].removeprefix("Bearer "))
        sent = _read_send(await request.body())
        body = AppendBody(owner, sent.conversation_id, sent.content)
        new = new_turn(body, new_id("msg"), new_id("msg"))
        return cast("ASGIApp", RawStream(raw, provider, body, new, await raw.append(body, new, how="bare")))

    served = ObservedLitestar(
        [health, listed, append_raw, append_luxx, stream], lifespan=[lifespan], openapi_config=None
    )
    # The same server: it tells of every request in a line of the log and in its metrics, whatever handles it.
    served.request_observers = (LogObserver(), PrometheusMetrics())
    return served


def serve(port: int, url: str, secret: str, upstream: str) -> None:
    """Answer until a signal."""
    configure(style=Settings().log_format, level=Settings().log_level)
    uvicorn.run(
        app(url, secret, upstream),
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
