"""Guessing passwords is slowed down: at one account, and from one peer; nobody else is."""

import asyncio
from pathlib import Path

import httpx
import pytest
from tests.http.conftest import SECRET, container_of
from tests.support.live import PASSWORD, Live, live

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.models.scripted import ScriptedChatModel
from luxx.container import Container
from luxx.entrypoints.http.peer import peer_of
from luxx.settings import Settings
from luxx.testing import FixedClock

WRONG = "wrong " + PASSWORD


async def log_in(server: Live, username: str, password: str = WRONG, **headers: str) -> httpx.Response:
    body = {"username": username, "password": password}
    return await server.http.post("/api/auth/login", json=body, headers={"X-Request-ID": "same"} | headers)


async def statuses(server: Live, username: str, count: int, **headers: str) -> list[int]:
    return [(await log_in(server, username, **headers)).status_code for _ in range(count)]


async def test_after_ten_failures_an_account_pauses_and_no_other(stored: Live) -> None:
    one, other = await stored.account(), await stored.account()
    assert await statuses(stored, one.username, 10) == [401] * 10
    wrong = await log_in(stored, one.username)
    right = await log_in(stored, one.username.upper(), PASSWORD)
    assert wrong.status_code == right.status_code == 429
    assert wrong.json()["error"] == {"code": "rate_limited", "request_id": "same"}
    assert wrong.content == right.content, "the right password is not told apart"
    for refused in (wrong, right):
        assert 0 < int(refused.headers["retry-after"]) <= 300
    assert (await log_in(stored, other.username, PASSWORD)).status_code == 200
    assert (await one.get("/api/auth/me")).status_code == 200, "who is logged in stays so"


async def test_an_unknown_account_is_slowed_like_a_known_one(served: Live) -> None:
    known = await served.account()
    answers = [[await log_in(served, name) for _ in range(12)] for name in (known.username, "nobody-at-all")]
    told = [[(answer.status_code, answer.content) for answer in those] for those in answers]
    assert told[0] == told[1]
    assert told[0][10][0] == 429


async def test_the_limit_holds_for_tries_at_once(stored: Live) -> None:
    user = await stored.account()
    answers = await asyncio.gather(*(log_in(stored, user.username) for _ in range(30)))
    found = [answer.status_code for answer in answers]
    assert (found.count(401), found.count(429)) == (10, 20)


async def test_a_burst_of_right_passwords_is_let_through(stored: Live) -> None:
    user = await stored.account()
    answers = await asyncio.gather(*(log_in(stored, user.username, PASSWORD) for _ in range(30)))
    assert {answer.status_code for answer in answers} == {200}


async def test_a_success_clears_the_failures(stored: Live) -> None:
    user = await stored.account()
    assert await statuses(stored, user.username, 9) == [401] * 9
    assert (await log_in(stored, user.username, PASSWORD)).status_code == 200
    assert await statuses(stored, user.username, 11) == [401] * 10 + [429]


async def test_the_pause_ends_when_it_was_said_to(container: Container) -> None:
    clock = FixedClock()
    container.clock.override(clock)
    async with live(container) as server:
        user = await server.account()
        assert await statuses(server, user.username, 10) == [401] * 10
        clock.advance(60)
        seconds = int((await log_in(server, user.username)).headers["retry-after"])
        assert seconds == 240
        clock.advance(seconds - 1)
        assert (await log_in(server, user.username, PASSWORD)).status_code == 429
        clock.advance(1)
        assert (await log_in(server, user.username, PASSWORD)).status_code == 200


async def test_the_pause_is_kept_by_every_replica(postgres_url: str, tmp_path: Path, model: ScriptedChatModel) -> None:
    settings = Settings(data_dir=tmp_path, database_url=postgres_url, jwt_secret=SECRET)
    async with live(container_of(settings, model)) as one, live(container_of(settings, model)) as two:
        user = await one.account()
        answers = await asyncio.gather(*(log_in(server, user.username) for server in (one, two) for _ in range(10)))
        assert [answer.status_code for answer in answers].count(401) == 10
        for server in (one, two):
            assert (await log_in(server, user.username, PASSWORD)).status_code == 429


@pytest.mark.parametrize(
    ("proxies", "slowed"),
    [(frozenset[str](), True), (frozenset({"192.0.2.0/24"}), True), (frozenset({"127.0.0.1"}), False)],
    ids=["none", "others", "loopback"],
)
async def test_a_peer_is_slowed_and_x_forwarded_for_counts_from_trusted_proxies_only(
    proxies: frozenset[str], slowed: bool, tmp_path: Path, model: ScriptedChatModel
) -> None:
    settings = Settings(data_dir=tmp_path, jwt_secret=SECRET, login_peer_tries=3, trusted_proxies=proxies)
    made = container_of(settings, model)
    made.storage.override(MemoryStorage())
    async with live(made) as server:
        for number in range(3):
            assert await statuses(server, f"user-{number}", 1, **{"X-Forwarded-For": "203.0.113.1"}) == [401]
        again = await log_in(server, "another", **{"X-Forwarded-For": "203.0.113.1"})
        assert again.status_code == 429
        assert int(again.headers["retry-after"]) > 200
        elsewhere = await log_in(server, "another", **{"X-Forwarded-For": "198.51.100.7"})
        assert elsewhere.status_code == (429 if slowed else 401)
        invented = await log_in(server, "another", **{"X-Forwarded-For": "198.51.100.8, 203.0.113.1"})
        assert invented.status_code == 429, "what a client wrote before the proxy did is not believed"


@pytest.mark.parametrize(
    ("client", "forwarded", "peer"),
    [
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.1"], "203.0.113.1"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.1"], "203.0.113.1"),
        ("10.0.0.1", ["198.51.100.1", "203.0.113.1"], "203.0.113.1"),
        ("10.0.0.1", ["203.0.113.1, 10.9.9.9"], "203.0.113.1"),
        ("10.0.0.1", ["10.1.1.1, 10.9.9.9"], "10.1.1.1"),
        ("10.0.0.1", ["203.0.113.1, rubbish"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.1,"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.1:4711"], "203.0.113.1"),
        ("10.0.0.1", ["[2001:db8:1:2:3::4]:4711"], "2001:db8:1:2::/64"),
        ("10.0.0.1", ["2001:db8:1:2:ffff::1"], "2001:db8:1:2::/64"),
        ("10.0.0.1", ["::ffff:203.0.113.1"], "203.0.113.1"),
        ("::ffff:10.0.0.1", ["203.0.113.1"], "203.0.113.1"),
        ("192.0.2.1", ["203.0.113.1"], "192.0.2.1"),
        ("fe80::1%eth0", [], "fe80::/64"),
        (None, ["203.0.113.1"], "nowhere"),
    ],
)
def test_the_peer_is_who_the_last_trusted_proxy_saw(client: str | None, forwarded: list[str], peer: str) -> None:
    scope = {
        "client": None if client is None else (client, 1),
        "headers": [(b"x-forwarded-for", value.encode()) for value in forwarded],
    }
    assert peer_of({"10.0.0.0/8"})(scope) == peer  # type: ignore[arg-type]  # no more of a scope is read
