"""One key, one turn."""

import asyncio
from typing import Final

import pytest

from luxx.testing.upstream import ScriptedUpstream
from tests.promises.support import StartServer, elsewhere, signed_up
from tests.support.live import Account, Live

PAIRS: Final = {"memory": 400, "sqlite": 300, "postgres": 300}
_WORKERS: Final = 10


async def _race(accounts: list[Account], pairs: int, name: str) -> list[str]:
    """Send each message twice at once; gives the ids of the answers, one a pair."""
    ids: list[str] = []
    conversation_id = ""
    for number in range(pairs):
        if number % 5 == 0:  # short histories: the race is about the key
            conversation_id = await accounts[0].new_conversation()
        key = f"{name}-{number}"
        both = await asyncio.gather(
            *(account.send(conversation_id, key, key=key, tools_enabled=False) for account in accounts)
        )
        assert [one.status_code for one in both] == [201, 201], [one.text for one in both]
        first, second = (one.json()["data"] for one in both)
        assert first == second
        assert first["assistant_message"]["content"] == key
        ids.append(first["assistant_message"]["id"])
    return ids


@pytest.mark.parametrize("storage", ["memory", "sqlite"])
async def test_racing_duplicates_run_the_model_once_and_both_get_the_answer(
    storage: str, request: pytest.FixtureRequest, serve: StartServer, upstream: ScriptedUpstream
) -> None:
    url = None if storage == "memory" else str(request.getfixturevalue(f"{storage}_url"))
    served = await serve(url)
    account = await served.account()
    await _races(account, account, PAIRS[storage], upstream)


async def test_racing_duplicates_at_two_processes_run_the_model_once(
    pair: tuple[Live, Live], upstream: ScriptedUpstream
) -> None:
    one, other = pair
    account = await signed_up(one.http, "ada")
    await _races(account, elsewhere(account, other.http), PAIRS["postgres"], upstream)


async def _races(one: Account, other: Account, pairs: int, upstream: ScriptedUpstream) -> None:
    workers = [_race([one, other], pairs // _WORKERS, f"worker {worker}") for worker in range(_WORKERS)]
    ids = [message_id for found in await asyncio.gather(*workers) for message_id in found]
    assert len(set(ids)) == pairs
    assert len(upstream.requests) == pairs


async def test_a_key_that_was_used_for_something_else_is_a_conflict(served: Live, upstream: ScriptedUpstream) -> None:
    account = await served.account()
    conversation_id = await account.new_conversation()
    assert (await account.send(conversation_id, "one", key="k")).status_code == 201
    refused = await account.send(conversation_id, "two", key="k")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "idempotency_conflict")
    assert len(upstream.requests) == 1
