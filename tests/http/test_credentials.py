"""Passwords, sessions and keys."""

import asyncio
import hashlib
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from tests.support.live import PASSWORD, Account, Live, live

from luxx.container import Container
from luxx.domain.api_key import KEYS_LIMIT
from luxx.testing import FixedClock

NEW = "another horse, another battery"


async def again(server: Live, account: Account, password: str = PASSWORD) -> Account:
    """Log in once more."""
    body = {"username": account.username, "password": password}
    answer = await server.http.post("/api/auth/login", json=body)
    assert answer.status_code == 200, answer.text
    return replace(account, token=answer.json()["data"]["access_token"])


def change(account: Account, current: str = PASSWORD, new: str = NEW) -> Any:
    return account.post("/api/auth/password", json={"current_password": current, "new_password": new})


async def new_key(account: Account, **body: Any) -> tuple[str, Account]:
    """Make a key; gives its id, and the account as a program that uses it."""
    answer = await account.post("/api/auth/keys", json={"name": "a program"} | body)
    assert answer.status_code == 201, answer.text
    data = answer.json()["data"]
    return str(data["id"]), replace(account, token=data["key"])


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, str(answer.json()["error"]["code"])


@pytest.mark.parametrize("path", ["/api/auth/sessions", "/api/auth/keys"])
async def test_a_list_refuses_parameters_that_it_does_not_know(user: Account, path: str) -> None:
    answer = await user.get(f"{path}?page=2&_=1")
    assert refused(answer) == (422, "validation_failed")
    assert [detail["field"] for detail in answer.json()["error"]["details"]] == ["page"]
    assert (await user.get(f"{path}?_=1")).status_code == 200


# --- the password -----------------------------------------------------------------------------------


async def test_a_changed_password_ends_the_other_sessions_and_no_one_elses(stored: Live) -> None:
    account, stranger = await stored.account(), await stored.account()
    others = [await again(stored, account) for _ in range(2)]
    answer = await change(account)
    assert (answer.status_code, answer.json()) == (200, {"success": True, "message": "密码修改成功"})
    assert (await account.get("/api/auth/me")).status_code == 200
    assert (await stranger.get("/api/auth/me")).status_code == 200
    for other in others:
        assert refused(await other.get("/api/auth/me")) == (401, "token_revoked")
    body = {"username": account.username, "password": PASSWORD}
    assert refused(await stored.http.post("/api/auth/login", json=body)) == (401, "invalid_credentials")
    await again(stored, account, NEW)


async def test_a_wrong_present_password_changes_nothing_and_counts_as_a_failed_try(served: Live, user: Account) -> None:
    for _ in range(10):
        assert refused(await change(user, "wrong password")) == (401, "invalid_credentials")
    for current in (PASSWORD, "wrong password"):
        answer = await change(user, current)
        assert refused(answer) == (429, "rate_limited")
        assert 0 < int(answer.headers["retry-after"]) <= 300
    body = {"username": user.username, "password": PASSWORD}
    assert refused(await served.http.post("/api/auth/login", json=body)) == (429, "rate_limited")
    assert (await user.get("/api/auth/me")).status_code == 200


async def test_strangers_who_guess_do_not_keep_the_owner_from_changing_the_password(stored: Live) -> None:
    owner = await stored.account()
    body = {"username": owner.username, "password": "wrong password"}
    for expected in [(401, "invalid_credentials")] * 10 + [(429, "rate_limited")]:
        assert refused(await stored.http.post("/api/auth/login", json=body)) == expected
    assert (await change(owner)).status_code == 200
    await again(stored, owner, NEW)


async def test_a_right_present_password_clears_the_failures(user: Account) -> None:
    for _ in range(9):
        assert (await change(user, "wrong password")).status_code == 401
    assert (await change(user)).status_code == 200
    for _ in range(10):
        assert (await change(user, "wrong password")).status_code == 401


@pytest.mark.parametrize("new", ["short", "12345678", "x" * 129, "with a\0nul"])
async def test_a_new_password_keeps_the_rules_of_all_passwords(user: Account, new: str) -> None:
    answer = await change(user, new=new)
    assert refused(answer) == (422, "validation_failed")
    assert [detail["field"] for detail in answer.json()["error"]["details"]] == ["new_password"]


async def test_of_two_changes_at_once_one_succeeds(stored: Live) -> None:
    account = await stored.account()
    answers = await asyncio.gather(*(change(account, new=f"{NEW} {n}") for n in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401]


async def test_no_login_with_the_old_password_survives_its_change(stored: Live) -> None:
    """Those that were checked before the change and would be stored after it are refused."""
    account = await stored.account()
    body = {"username": account.username, "password": PASSWORD}
    logins = [stored.http.post("/api/auth/login", json=body) for _ in range(6)]
    changed, *answers = await asyncio.gather(change(account), *logins)
    assert changed.status_code == 200
    for answer in answers:
        if answer.status_code == 200:
            late = replace(account, token=answer.json()["data"]["access_token"])
            assert refused(await late.get("/api/auth/me")) == (401, "token_revoked")


# --- sessions ---------------------------------------------------------------------------------------


async def test_sessions_are_listed_newest_first_and_ended_one_by_one(stored: Live) -> None:
    one = await stored.account()
    two = await again(stored, one)
    listed = (await one.get("/api/auth/sessions")).json()["data"]
    assert listed["total"] == 2
    assert [item["current"] for item in listed["items"]] == [False, True]
    assert set(listed["items"][0]) == {"id", "created_at", "expires_at", "current"}
    ended = await one.call("DELETE", f"/api/auth/sessions/{listed['items'][0]['id']}")
    assert (ended.status_code, ended.json()) == (200, {"success": True, "message": "该登录已注销"})
    assert refused(await two.get("/api/auth/me")) == (401, "token_revoked")
    assert (await one.get("/api/auth/sessions")).json()["data"]["items"] == [listed["items"][1]]
    assert refused(await one.call("DELETE", f"/api/auth/sessions/{listed['items'][0]['id']}")) == (404, "not_found")


@pytest.mark.parametrize("kind", ["sessions", "keys"])
async def test_what_is_somebody_elses_is_absent(stored: Live, kind: str) -> None:
    owner, stranger = await stored.account(), await stored.account()
    await new_key(owner)
    (item,) = (await owner.get(f"/api/auth/{kind}")).json()["data"]["items"]
    same = {"X-Request-ID": "same"}
    answers = [
        await stranger.call("DELETE", f"/api/auth/{kind}/{identity}", headers=same)
        for identity in (item["id"], "sess_none", "key_none", "x" * 500, "%00", "%ed%a0%80", "*")
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1
    assert (await owner.get(f"/api/auth/{kind}")).json()["data"]["items"] == [item]
    assert item not in (await stranger.get(f"/api/auth/{kind}")).json()["data"]["items"]


# --- keys -------------------------------------------------------------------------------------------


async def test_a_key_is_shown_once_and_works_like_a_token(stored: Live) -> None:
    account = await stored.account()
    answer = await account.post("/api/auth/keys", json={"name": "laptop", "expires_in_days": 30})
    data = answer.json()["data"]
    assert (answer.status_code, answer.json()["message"]) == (201, "API 密钥创建成功")
    secret = data.pop("key")
    assert secret.startswith("luxx_")
    assert len(secret) == 48
    assert data["last_used_at"] is None
    lasts = datetime.fromisoformat(data["expires_at"]) - datetime.fromisoformat(data["created_at"])
    assert lasts == timedelta(days=30)
    program = replace(account, token=secret)
    assert (await program.get("/api/auth/me")).json()["data"]["id"] == account.user_id
    await program.new_conversation(title="by a program")
    listed = await account.get("/api/auth/keys")
    assert secret not in listed.text
    (item,) = listed.json()["data"]["items"]
    assert item.pop("last_used_at") is not None
    assert item == {name: value for name, value in data.items() if name != "last_used_at"}


async def test_only_a_digest_of_a_key_is_stored(stored: Live) -> None:
    _, program = await new_key(await stored.account())
    async with stored.container.new_unit()(read_only=True) as unit:
        assert await unit.api_keys.with_user(program.token) is None
        assert await unit.api_keys.with_user(hashlib.sha256(program.token.encode()).hexdigest()) is not None


async def test_a_key_may_not_give_itself_a_longer_life(user: Account) -> None:
    identity, program = await new_key(user)
    bodies: dict[tuple[str, str], Any] = {
        ("POST", "/api/auth/keys"): {"name": "another"},
        ("GET", "/api/auth/keys"): None,
        ("DELETE", f"/api/auth/keys/{identity}"): None,
        ("POST", "/api/auth/password"): {"current_password": PASSWORD, "new_password": NEW},
        ("GET", "/api/auth/sessions"): None,
        ("DELETE", "/api/auth/sessions/sess_none"): None,
        ("POST", "/api/auth/logout"): None,
    }
    answers = [
        await program.call(method, path, json=body, headers={"X-Request-ID": "same"})
        for (method, path), body in bodies.items()
    ]
    assert {refused(answer) for answer in answers} == {(403, "forbidden")}
    assert len({answer.content for answer in answers}) == 1
    assert (await program.get("/api/auth/me")).status_code == 200


async def test_a_deleted_key_is_refused_at_once(stored: Live) -> None:
    account = await stored.account()
    identity, program = await new_key(account)
    _, other = await new_key(account)
    assert (await program.get("/api/auth/me")).status_code == 200
    deleted = await account.call("DELETE", f"/api/auth/keys/{identity}")
    assert (deleted.status_code, deleted.json()["message"]) == (200, "API 密钥删除成功")
    assert refused(await program.get("/api/auth/me")) == (401, "unauthenticated")
    assert (await other.get("/api/auth/me")).status_code == 200


async def test_a_key_of_a_disabled_account_is_refused_at_once(stored: Live) -> None:
    account = await stored.account()
    _, program = await new_key(account)
    async with stored.container.new_unit()() as unit:
        held = await unit.users.hold(account.user_id)
        assert held is not None
        await unit.users.update(replace(held, is_active=False))
        await unit.commit()
    assert refused(await program.get("/api/auth/me")) == (403, "account_disabled")


async def test_a_key_outlives_a_changed_password(user: Account) -> None:
    _, program = await new_key(user)
    assert (await change(user)).status_code == 200
    assert (await program.get("/api/auth/me")).status_code == 200


async def test_a_key_expires_and_tells_its_last_use_to_ten_minutes(container: Container) -> None:
    clock = FixedClock()
    start = clock.now
    container.clock.override(clock)
    async with live(container) as server:
        user = await server.account()
        ends = (clock.now + timedelta(hours=1)).astimezone().isoformat()
        _, program = await new_key(user, expires_at=ends)
        seen = []
        for seconds in (0, 599, 1, 600):
            clock.advance(seconds)
            assert (await program.get("/api/auth/me")).status_code == 200
            (item,) = (await user.get("/api/auth/keys")).json()["data"]["items"]
            seen.append(datetime.fromisoformat(item["last_used_at"]))
        assert seen == [start + timedelta(seconds=seconds) for seconds in (0, 0, 600, 1200)]
        clock.advance(2399)
        assert (await program.get("/api/auth/me")).status_code == 200
        clock.advance(1)
        assert refused(await program.get("/api/auth/me")) == (401, "token_expired")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": None}, "name"),
        ({"name": "k", "expires_in_days": 0}, "expires_in_days"),
        ({"name": "k", "expires_in_days": 3651}, "expires_in_days"),
        ({"name": "k", "expires_at": "tomorrow"}, "expires_at"),
        ({"name": "k", "expires_at": "2999-01-01T00:00:00"}, "expires_at"),
        ({"name": "k", "expires_at": "2999-02-30T00:00:00Z"}, "expires_at"),
        ({"name": "k", "expires_at": "9999-12-31T23:59:59-23:59"}, "expires_at"),
        ({"name": "k", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "k", "expires_at": "2999-01-01T00:00:00Z", "expires_in_days": 1}, "expires_in_days"),
        ({"name": "k", "scope": "all"}, "scope"),
    ],
)
async def test_a_key_that_cannot_be_is_refused_by_field(user: Account, body: dict[str, Any], field: str) -> None:
    answer = await user.post("/api/auth/keys", json=body)
    assert refused(answer) == (422, "validation_failed")
    assert [detail["field"] for detail in answer.json()["error"]["details"]] == [field]


async def test_a_user_has_so_many_keys_and_no_more_however_they_are_made(stored: Live) -> None:
    account, other = await stored.account(), await stored.account()
    create = stored.container.create_api_key()
    for _ in range(KEYS_LIMIT - 2):
        await create(user_id=account.user_id, name="made before")
    answers = await asyncio.gather(*(account.post("/api/auth/keys", json={"name": "k"}) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [201, 201, 422, 422, 422]
    assert (await account.get("/api/auth/keys")).json()["data"]["total"] == KEYS_LIMIT
    await new_key(other)


@pytest.mark.parametrize(
    "secret", ["luxx_", "luxx_x", "luxx_" + "x" * 43, "luxx_" + "x" * 5000, "LUXX_x", "luxx_\u00ff"]
)
async def test_what_only_looks_like_a_key_is_no_token(served: Live, secret: str) -> None:
    headers = [(b"Authorization", b"Bearer " + secret.encode("latin-1"))]
    answer = await served.http.get("/api/auth/me", headers=headers)
    assert refused(answer) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"
