"""No database connection is held while a model works."""

import asyncio
import time
from statistics import median

import httpx

from luxx.testing.postgres import ThrowawayPostgres
from luxx.testing.upstream import ScriptedUpstream
from tests.promises.support import Reader, StartServer, elsewhere

STREAMS = 200


async def test_crud_stays_quick_beside_200_open_streams_on_a_pool_of_5(
    postgres: ThrowawayPostgres, postgres_url: str, serve: StartServer, upstream: ScriptedUpstream
) -> None:
    served = await serve(postgres_url, database_pool=5)
    many = httpx.AsyncClient(
        base_url=served.url, trust_env=False, timeout=30, limits=httpx.Limits(max_connections=None)
    )
    account = elsewhere(await served.account(), many)
    readers: list[Reader] = []
    while len(readers) < STREAMS:  # not all at once: on a busy machine the last would wait too long for a connection
        some = await asyncio.gather(*(account.new_conversation() for _ in range(20)))
        opened = [Reader(account, conversation_id, "wait [[stall:1]]") for conversation_id in some]
        await asyncio.gather(*(reader.seen(2, within=60) for reader in opened))
        readers += opened
    assert upstream.open_requests == STREAMS

    took: list[float] = []
    for number in range(20):
        began = time.monotonic()
        conversation_id = await account.new_conversation(title=f"beside {number}")
        assert (await account.get(f"/api/conversations/{conversation_id}")).status_code == 200
        assert (await account.get("/api/conversations/?page_size=20")).status_code == 200
        assert (await account.call("DELETE", f"/api/conversations/{conversation_id}")).status_code == 200
        took.append(time.monotonic() - began)
    # The median: the machine that runs this has other things to do as well.
    assert median(took) < 1, f"four requests took {median(took):.2f} s beside {STREAMS} open streams"
    name = postgres_url.rpartition("/")[2]
    rows = await postgres.execute(f"SELECT state FROM pg_stat_activity WHERE datname = '{name}'")
    assert len(rows) <= 8, "a pool of 5, one that listens and two for the log and its leases"

    for first in range(0, STREAMS, 20):
        stopped = (account.post(f"/api/messages/{one.following.message_id}/cancel") for one in readers[first:][:20])
        assert {response.status_code for response in await asyncio.gather(*stopped)} == {200}
    ends = await asyncio.gather(*(reader.task for reader in readers))
    assert {following.end.name for following in ends if following.end} == {"done"}
    await many.aclose()
