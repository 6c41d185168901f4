"""What the tests of promises share."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Protocol, Self

import httpx

from luxx.settings import Settings
from luxx.testing.chaos.processes import ServiceProcess
from luxx.testing.stream_client import Following
from tests.support.live import PASSWORD, Account, Live

StartServer = Callable[..., Awaitable[Live]]


class SettingsOf(Protocol):
    def __call__(self, url: str | None, **values: object) -> Settings: ...


class Processes:
    """The service as processes; `account` is known to all of them, each reached by a client of its own."""

    def __init__(self, started: list[ServiceProcess]) -> None:
        self.all = started
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def http(self, number: int = 0) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None)
        client = httpx.AsyncClient(base_url=self.all[number].url, trust_env=False, timeout=60, limits=limits)
        return await self._stack.enter_async_context(client)

    async def account(self, number: int = 0, *, username: str = "ada") -> Account:
        return await signed_up(await self.http(number), username)

    async def elsewhere(self, account: Account, number: int) -> Account:
        return elsewhere(account, await self.http(number))


class StartProcesses(Protocol):
    async def __call__(self, url: str, count: int = 1, **environ: str) -> Processes: ...


async def signed_up(http: httpx.AsyncClient, username: str) -> Account:
    """Register and log in."""
    body = {"username": username, "email": f"{username}@example.com", "password": PASSWORD}
    assert (await http.post("/api/auth/register", json=body)).status_code == 201
    response = await http.post("/api/auth/login", json={"username": username, "password": PASSWORD})
    data = response.json()["data"]
    return Account(http=http, user_id=data["user"]["id"], username=username, token=data["access_token"])


def elsewhere(account: Account, http: httpx.AsyncClient) -> Account:
    """Give the same user at another server."""
    return Account(http=http, user_id=account.user_id, username=account.username, token=account.token)


class Reader:
    """A stream that a task reads; what it has seen is checked, and may be waited for."""

    def __init__(self, account: Account, conversation_id: str, content: str, *, key: str | None = None) -> None:
        self.following = Following()
        self._changed = asyncio.Event()
        self._args = (account, conversation_id, content, key)
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> Following:
        account, conversation_id, content, key = self._args
        take = self.following.take

        def taken(event: Any) -> None:
            take(event)
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

        self.following.take = taken  # type: ignore[method-assign]  # tells who waits
        async with account.streaming(conversation_id, content, key=key) as response:
            if response.status_code != 200:
                await response.aread()
            assert response.status_code == 200, response.text
            await self.following.read(response)
        return self.following

    async def seen(self, events: int, *, within: float = 10.0) -> str:
        """Wait for so many events; gives the id of the answer."""
        async with asyncio.timeout(within):
            while len(self.following.events) < events:
                changed = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait({changed, self.task}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if self.task.done() and len(self.following.events) < events:
                    self.task.result()
                    raise AssertionError(f"the stream ended after {len(self.following.events)} events")
        assert self.following.message_id is not None
        return self.following.message_id

    async def broken_off(self) -> None:
        """Wait until the connection is gone, however it goes."""
        await asyncio.gather(self.task, return_exceptions=True)


async def ended(account: Account, conversation_id: str, *, within: float) -> dict[str, Any]:
    """Wait until the newest message of a conversation is no longer written; gives it."""
    async with asyncio.timeout(within):
        while True:
            newest = (await account.messages(conversation_id))[-1]
            if newest["status"] != "streaming":
                return newest
            await asyncio.sleep(0.1)  # another process ends it, and only asking tells
