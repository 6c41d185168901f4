"""SIGTERM: no new messages, answers under way finish within the grace, the rest end as interrupted, exit status 0."""

import asyncio
import signal

import pytest

from tests.promises.support import Reader, StartProcesses

GRACE = 2


@pytest.mark.parametrize("storage", ["sqlite", "postgres"])
async def test_sigterm_under_20_streams(
    storage: str, request: pytest.FixtureRequest, processes: StartProcesses
) -> None:
    service = await processes(str(request.getfixturevalue(f"{storage}_url")), LUXX_LLM_IDLE_SECONDS="30")
    account = await service.account()
    conversations = [await account.new_conversation() for _ in range(21)]
    quick = [Reader(account, one, "quick [[words:20]] [[delay:0.03]]") for one in conversations[:10]]
    slow = [Reader(account, one, "slow [[stall:1]]") for one in conversations[10:20]]
    await asyncio.gather(*(reader.seen(2) for reader in (*quick, *slow)))

    service.all[0].signal(signal.SIGTERM)
    async with asyncio.timeout(GRACE):
        while (await account.get("/health/ready")).status_code == 200:
            pass  # the signal is on its way
    refused = await account.send(conversations[20], "too late")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert refused.headers["Retry-After"]
    # What is already there can still be read.
    assert len(await account.messages(conversations[0])) == 2

    async with asyncio.timeout(GRACE + 5):
        finished = await asyncio.gather(*(reader.task for reader in quick))
        broken = await asyncio.gather(*(reader.task for reader in slow))
        assert await service.all[0].wait() == 0
    assert {following.end.name for following in finished if following.end} == {"done"}
    assert [following.end.data["code"] for following in broken if following.end] == ["interrupted"] * 10
    assert 'File "' not in service.all[0].said

    await service.all[0].start()
    account = await service.elsewhere(account, 0)
    for one, reader in zip(conversations[10:20], slow, strict=True):
        message = (await account.messages(one))[-1]
        assert (message["status"], message["content"]) == ("interrupted", reader.following.text)
    assert await account.messages(conversations[20]) == []
    assert (await account.stream(conversations[19], "and on")).end.name == "done"


async def test_a_tool_that_runs_too_long_to_be_waited_for_is_refused_as_a_message_is(
    sqlite_url: str, processes: StartProcesses
) -> None:
    service = await processes(sqlite_url)
    account = await service.account()
    endless = {"code": "while True: pass", "timeout_s": 30}
    running = asyncio.create_task(account.post("/api/tools/execute_python/execute", json=endless))
    await asyncio.sleep(1)  # it runs by now: nothing tells that from outside
    service.all[0].signal(signal.SIGTERM)
    async with asyncio.timeout(GRACE + 10):
        refused = await running
        assert await service.all[0].wait() == 0
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert refused.headers["Retry-After"] == "1"
    assert refused.headers["X-Request-ID"] == refused.json()["error"]["request_id"]
    assert 'File "' not in service.all[0].said
    assert "status=503" in service.all[0].said


async def test_readers_of_another_process_answers_are_sent_there(postgres_url: str, processes: StartProcesses) -> None:
    service = await processes(postgres_url, 2, LUXX_LLM_IDLE_SECONDS="30")
    here = await service.account(0)
    there = await service.elsewhere(here, 1)
    reader = Reader(here, await here.new_conversation(), "long [[stall:1]]")
    message_id = await reader.seen(2)
    following = asyncio.create_task(there.get(f"/api/messages/{message_id}/stream"))
    await there.get(f"/api/messages/{reader._args[1]}")
    service.all[1].signal(signal.SIGTERM)
    async with asyncio.timeout(4):
        response = await following
        assert await service.all[1].wait() == 0
    last = response.text.split("\n\n")[-2]
    assert last.startswith("event: error\ndata: ")  # no id: the answer goes on, and so may its reader
    assert '"overloaded"' in last
    assert 'File "' not in service.all[1].said
    assert (await here.post(f"/api/messages/{message_id}/cancel")).json()["data"]["status"] == "cancelled"
    await reader.task
