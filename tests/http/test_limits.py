"""How much one user may ask for: requests in a minute, answers at once."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests.http.conftest import SECRET, container_of
from tests.support.live import live

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.models.scripted import ScriptedChatModel, spoken
from luxx.adapters.request_rates import BucketRates
from luxx.domain.errors import RateLimited
from luxx.settings import Settings


async def test_a_user_who_asks_too_often_is_told_to_wait_and_nobody_else_is(
    tmp_path: Path, model: ScriptedChatModel
) -> None:
    made = container_of(Settings(data_dir=tmp_path, jwt_secret=SECRET, user_requests_per_minute=5), model)
    made.storage.override(MemoryStorage())
    async with live(made) as server:
        one, other = await server.account(), await server.account()
        key = (await one.post("/api/auth/keys", json={"name": "k"})).json()["data"]["key"]
        program = replace(one, token=key)
        answers = await asyncio.gather(*(program.get("/api/auth/me") for _ in range(9)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert [answer.status_code for answer in answers].count(200) == 4
        assert len(refused) == 5
        for answer in refused:
            assert answer.json()["error"]["code"] == "rate_limited"
            assert 1 <= int(answer.headers["retry-after"]) <= 12
        assert (await one.get("/api/auth/me")).status_code == 429, "the key and the login are one user"
        assert (await one.post("/api/messages/stream", json={})).status_code == 429, "before anything is read"
        assert (await other.get("/api/auth/me")).status_code == 200
        assert (await server.http.get("/health/live")).status_code == 200


async def test_who_waits_as_told_is_let_in_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)  # the limiter's clock
    rates = BucketRates(2)
    for _ in range(2):
        await rates.take(1)
    with pytest.raises(RateLimited) as refused:
        await rates.take(1)
    now += refused.value.retry_after - 1
    with pytest.raises(RateLimited):
        await rates.take(1)
    now += 1
    await rates.take(1)
    with pytest.raises(RateLimited):
        await rates.take(1)


async def test_so_many_users_are_remembered_and_whoever_asked_last_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luxx.adapters.request_rates.USERS_LIMIT", 2)
    rates = BucketRates(2)
    for user_id in (1, 2, 1, 3):
        await rates.take(user_id)
    with pytest.raises(RateLimited):
        await rates.take(1)
    for _ in range(2):
        await rates.take(2)  # forgotten, when the third came


async def test_without_the_settings_there_is_no_limit() -> None:
    rates = BucketRates(Settings().user_requests_per_minute)
    for _ in range(1000):
        await rates.take(1)
    assert Settings().user_turns == 0


async def test_a_user_has_so_many_answers_written_at_once_and_no_more(
    storage_url: str | None, tmp_path: Path, model: ScriptedChatModel
) -> None:
    go = asyncio.Event()
    model.then(*([go, *spoken("done")] for _ in range(4)))
    settings = Settings(data_dir=tmp_path, database_url=storage_url, jwt_secret=SECRET, user_turns=2)
    made = container_of(settings, model)
    if storage_url is None:
        made.storage.override(MemoryStorage())
    async with live(made) as server:
        one, other = await server.account(), await server.account()
        conversations = [await one.new_conversation() for _ in range(5)]
        sending = [asyncio.create_task(one.send(each, "hi", key=each)) for each in conversations]
        others = asyncio.create_task(other.send(await other.new_conversation(), "hi"))
        refused = []
        for first in asyncio.as_completed(sending):
            refused.append(await first)
            if len(refused) == 3:
                break
        assert {(answer.status_code, answer.json()["error"]["code"]) for answer in refused} == {(429, "rate_limited")}
        assert {answer.headers["retry-after"] for answer in refused} == {"5"}
        go.set()
        answers = [await each for each in sending]
        assert sorted(answer.status_code for answer in answers) == [201, 201, 429, 429, 429]
        assert (await others).status_code == 201
        late = conversations[[answer.status_code for answer in answers].index(429)]
        assert await one.messages(late) == [], "nothing was stored of what was refused"
        assert (await one.send(late, "hi", key=late)).status_code == 201
