"""A database that is away for a while costs time, not words."""

import asyncio

import httpx

from luxx.adapters.database import Database
from luxx.testing.postgres import ThrowawayPostgres
from luxx.testing.stream_client import Following
from luxx.testing.upstream import echo
from tests.promises.support import Reader, StartServer

PROMPT = "patience [[words:120]] [[delay:0.03]]"


async def test_answers_go_on_over_a_restart_of_the_database(serve: StartServer) -> None:
    with await asyncio.to_thread(ThrowawayPostgres) as server:
        url = server.url(await asyncio.to_thread(server.create_database))
        database = Database(url)
        await database.upgrade()
        await database.close()
        served = await serve(url)
        account = await served.account()
        conversations = [await account.new_conversation() for _ in range(3)]
        readers = [Reader(account, one, PROMPT) for one in conversations]
        await asyncio.gather(*(reader.seen(5) for reader in readers))
        await asyncio.to_thread(server.stop, crash=True)
        refused = await account.post("/api/conversations/", json={})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        await asyncio.to_thread(server.start)
        for conversation_id, reader in zip(conversations, readers, strict=True):
            following = await reader.task
            async with asyncio.timeout(20):
                while following.end is None:
                    await _go_on(account.http, account.headers, following)
            assert following.end.name == "done"
            assert following.text == echo(PROMPT)
            assert (await account.messages(conversation_id))[-1] == following.end.data["message"]


async def _go_on(http: httpx.AsyncClient, headers: dict[str, str], following: Following) -> None:
    path = f"/api/messages/{following.message_id}/stream"
    sent = headers | {"Last-Event-ID": str(following.last)}
    async with http.stream("GET", path, headers=sent) as response:
        if response.status_code == 200:
            await following.read(response)
        else:
            assert response.status_code == 503
            await asyncio.sleep(0.1)  # a client's pause between tries
