"""The real server on loopback, inside the test's event loop."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import httpx

from luxx.container import Container
from luxx.entrypoints.cli.serve import DrainingServer, server_of

_numbers: Final = count(1)
PASSWORD: Final = "correct horse battery staple"  # of accounts that live for one test


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream, as a client reads it."""

    id: int | None
    name: str
    data: Any


@dataclass(slots=True, kw_only=True)
class Streamed:
    """A stream read to its end, checked against the contract while it is read."""

    status: int
    headers: httpx.Headers
    events: list[Event] = field(default_factory=list)
    comments: int = 0

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]

    @property
    def text(self) -> str:
        return "".join(event.data["delta"] for event in self.events if event.name == "text")

    @property
    def end(self) -> Event:
        return self.events[-1]

    @property
    def message_id(self) -> str:
        return str(self.events[0].data["message_id"])


async def events_of(response: httpx.Response) -> AsyncIterator[Event]:
    """Read a stream event by event."""
    identity, name = None, ""
    async for line in response.aiter_lines():
        if line.startswith("id: "):
            identity = int(line[4:])
        elif line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield Event(identity, name, json.loads(line[6:]))
            identity, name = None, ""


def check_stream(events: list[Event], *, after: int = 0) -> None:
    """Hold a whole stream to the contract: ids without gaps, one start, exactly one end, nothing behind it."""
    assert events, "a stream without any event"
    assert [event.id for event in events] == list(range(after + 1, after + 1 + len(events)))
    ends = [place for place, event in enumerate(events) if event.name in {"done", "error"}]
    assert ends == [len(events) - 1], f"the stream ended at {ends} of {len(events)}"
    if after == 0:
        assert events[0].name == "start"
    assert all(event.name != "start" for event in events[1:])
    if after == 0 and events[-1].name == "done":
        message = events[-1].data["message"]
        joined = "".join(event.data["delta"] for event in events if event.name == "text")
        assert joined == message["content"]
        assert joined == "".join(part["text"] for part in message["parts"] if part["type"] == "text")


@dataclass(slots=True, kw_only=True)
class Account:
    """A logged-in user of a live server."""

    http: httpx.AsyncClient
    user_id: int
    username: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = self.headers | dict(options.pop("headers", {}))
        return await self.http.request(method, path, headers=headers, **options)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.call("GET", path, **options)

    async def post(self, path: str, **options: Any) -> httpx.Response:
        return await self.call("POST", path, **options)

    async def new_conversation(self, **body: Any) -> str:
        response = await self.post("/api/conversations/", json=body)
        assert response.status_code == 201, response.text
        return str(response.json()["data"]["id"])

    async def send(self, conversation_id: str, content: str, *, key: str | None = None, **body: Any) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        sent = {"conversation_id": conversation_id, "content": content} | body
        return await self.post("/api/messages/", json=sent, headers=headers)

    @asynccontextmanager
    async def streaming(
        self, conversation_id: str, content: str, *, key: str | None = None, **body: Any
    ) -> AsyncIterator[httpx.Response]:
        headers = self.headers | ({} if key is None else {"Idempotency-Key": key})
        sent = {"conversation_id": conversation_id, "content": content} | body
        async with self.http.stream("POST", "/api/messages/stream", json=sent, headers=headers) as response:
            yield response

    async def stream(self, conversation_id: str, content: str, *, key: str | None = None, **body: Any) -> Streamed:
        """Send and read the stream to its end."""
        async with self.streaming(conversation_id, content, key=key, **body) as response:
            return await self._whole(response)

    async def resume(self, message_id: str, *, after: int = 0) -> Streamed:
        """Follow an answer from `after` to its end."""
        headers = self.headers | ({"Last-Event-ID": str(after)} if after else {})
        async with self.http.stream("GET", f"/api/messages/{message_id}/stream", headers=headers) as response:
            return await self._whole(response, after=after)

    async def _whole(self, response: httpx.Response, *, after: int = 0) -> Streamed:
        if response.status_code != 200:
            await response.aread()
        assert response.status_code == 200, response.text
        streamed = Streamed(status=response.status_code, headers=response.headers)
        streamed.events = [event async for event in events_of(response)]
        check_stream(streamed.events, after=after)
        return streamed

    async def messages(self, conversation_id: str, **params: Any) -> list[dict[str, Any]]:
        response = await self.get(f"/api/messages/{conversation_id}", params=params)
        assert response.status_code == 200, response.text
        return list(response.json()["data"]["items"])


@dataclass(slots=True, kw_only=True)
class Live:
    """A running server and a client of it."""

    container: Container
    server: DrainingServer
    url: str
    http: httpx.AsyncClient

    async def account(self, username: str | None = None) -> Account:
        """Register and log in."""
        number = next(_numbers)
        username = username or f"user{number}"
        body = {"username": username, "email": f"user{number}@example.com", "password": PASSWORD}
        registered = await self.http.post("/api/auth/register", json=body)
        assert registered.status_code == 201, registered.text
        response = await self.http.post("/api/auth/login", json={"username": username, "password": PASSWORD})
        assert response.status_code == 200, response.text
        data = response.json()["data"]
        return Account(http=self.http, user_id=data["user"]["id"], username=username, token=data["access_token"])


@asynccontextmanager
async def live(container: Container) -> AsyncIterator[Live]:
    """Serve `container` on a free port of loopback."""
    server = server_of(container, host="127.0.0.1", port=0)
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:
            assert not serving.done(), "the server ended while starting"
            await asyncio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http:
            yield Live(container=container, server=server, url=url, http=http)
    finally:
        server.should_exit = True
        await serving
