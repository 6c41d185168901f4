"""Accounts over HTTP: the bodies of the contract, and every way in which a token can be bad."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from tests.support.live import PASSWORD, Account, Live
from tests.support.raw import wire

from luxx.application.ports import TokenClaims
from luxx.container import Container

SIGNED_ANYHOW = "another secret of more than thirty-two bytes"


async def test_an_account_lives_as_the_contract_says(stored: Live) -> None:
    body = {"username": "Zoë", "email": "Zoe@Example.com", "password": PASSWORD}
    registered = await stored.http.post("/api/auth/register", json=body)
    assert registered.status_code == 201
    assert registered.headers["content-type"] == "application/json"
    user_id = registered.json()["data"]["id"]
    assert isinstance(user_id, int)
    assert registered.json() == {
        "success": True,
        "message": "注册成功",
        "data": {"id": user_id, "username": "Zoë"},
    }
    logged_in = await stored.http.post("/api/auth/login", json={"username": "zoë", "password": PASSWORD})
    assert logged_in.status_code == 200
    token = logged_in.json()["data"]["access_token"]
    assert logged_in.json() == {
        "success": True,
        "message": "登录成功",
        "data": {
            "access_token": token,
            "token_type": "bearer",
            "user": {"id": user_id, "username": "Zoë", "role": "user"},
        },
    }
    headers = {"Authorization": f"Bearer {token}"}
    me = await stored.http.get("/api/auth/me", headers=headers)
    assert (me.status_code, me.json()) == (
        200,
        {
            "success": True,
            "data": {
                "id": user_id,
                "username": "Zoë",
                "email": "Zoe@Example.com",
                "role": "user",
                "is_active": True,
            },
        },
    )
    logged_out = await stored.http.post("/api/auth/logout", headers=headers)
    assert (logged_out.status_code, logged_out.json()) == (200, {"success": True, "message": "登出成功"})


async def test_names_and_addresses_are_taken_once_however_they_are_written(stored: Live) -> None:
    account = {"username": "Straße", "email": "one@example.com", "password": PASSWORD}
    assert (await stored.http.post("/api/auth/register", json=account)).status_code == 201
    again = await stored.http.post("/api/auth/register", json=account | {"username": "STRASSE", "email": "b@c.de"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "username_taken")
    again = await stored.http.post(
        "/api/auth/register", json=account | {"username": "other", "email": "ONE@example.com"}
    )
    assert (again.status_code, again.json()["error"]["code"]) == (409, "email_taken")


async def test_every_bad_field_is_named_at_once(served: Live) -> None:
    body = {"username": "a", "email": "nowhere", "password": "short", "role": "admin"}
    refused = await served.http.post("/api/auth/register", json=body)
    assert refused.status_code == 422
    assert [detail["field"] for detail in refused.json()["error"]["details"]] == [
        "username",
        "email",
        "password",
        "role",
    ]


async def test_a_wrong_password_and_an_unknown_user_look_the_same(served: Live, user: Account) -> None:
    answers = [
        await served.http.post("/api/auth/login", json=body, headers={"X-Request-ID": "same"})
        for body in (
            {"username": user.username, "password": PASSWORD + "!"},
            {"username": "nobody-at-all", "password": PASSWORD},
            {"username": "", "password": ""},
        )
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].json()["error"]["code"] == "invalid_credentials"
    assert answers[0].headers["www-authenticate"] == "Bearer"


async def test_a_logout_revokes_the_presented_token_and_no_other(stored: Live) -> None:
    one = await stored.account()
    body = {"username": one.username, "password": PASSWORD}
    again = await stored.http.post("/api/auth/login", json=body)
    other = replace(one, token=again.json()["data"]["access_token"])
    assert (await one.post("/api/auth/logout")).status_code == 200
    for _ in range(2):
        refused = await one.get("/api/auth/me")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "token_revoked")
    refused = await one.post("/api/auth/logout")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "token_revoked")
    assert (await other.get("/api/auth/me")).status_code == 200


async def test_an_account_disabled_after_login_is_refused_at_once(stored: Live) -> None:
    account = await stored.account()
    async with stored.container.new_unit()() as unit:
        user = await unit.users.get(account.user_id)
        assert user is not None
        await unit.users.update(replace(user, is_active=False))
        await unit.commit()
    refused = await account.get("/api/auth/me")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "account_disabled")
    body = {"username": account.username, "password": PASSWORD}
    refused = await stored.http.post("/api/auth/login", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "account_disabled")
    refused = await stored.http.post("/api/auth/login", json=body | {"password": "wrong password"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_credentials")


async def test_an_expired_token_says_so(container: Container, user: Account) -> None:
    now = container.clock()()
    codec = container.tokens()
    claims = codec.decode(user.token, now=now)
    old = codec.encode(replace(claims, issued_at=now - timedelta(hours=2), expires_at=now - timedelta(seconds=1)))
    refused = await replace(user, token=old).get("/api/auth/me")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "token_expired")
    assert refused.headers["www-authenticate"] == "Bearer"


def _part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _json(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def _flipped(token: str) -> str:
    head, claims, signature = token.split(".")
    return f"{head}.{claims}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"


def _unsigned(token: str) -> str:
    return f"{_part({'alg': 'none', 'typ': 'at+jwt'})}.{token.split('.')[1]}."


def _resigned(token: str) -> str:
    head, claims, _ = token.split(".")
    digest = hmac.new(SIGNED_ANYHOW.encode(), f"{head}.{claims}".encode(), hashlib.sha256).digest()
    return f"{head}.{claims}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def _someone_else(token: str) -> str:
    head, claims, signature = token.split(".")
    return f"{head}.{_part(_json(claims) | {'sub': '1'})}.{signature}"


MANGLED: dict[str, Callable[[str], list[str]]] = {
    "no header": lambda _: [],
    "nothing": lambda _: [""],
    "scheme alone": lambda _: ["Bearer"],
    "no scheme": lambda token: [token],
    "another scheme": lambda token: [f"Basic {token}"],
    "given twice": lambda token: [f"Bearer {token}", f"Bearer {token}"],
    "good and bad": lambda token: [f"Bearer {token}", "Bearer x"],
    "two in one": lambda token: [f"Bearer {token}, Bearer {token}"],
    "padded": lambda token: [f"Bearer {token}="],
    "cut": lambda token: [f"Bearer {token[:-1]}"],
    "extended": lambda token: [f"Bearer {token}A"],
    "a fourth part": lambda token: [f"Bearer {token}.A"],
    "flipped": lambda token: [f"Bearer {_flipped(token)}"],
    "unsigned": lambda token: [f"Bearer {_unsigned(token)}"],
    "another secret": lambda token: [f"Bearer {_resigned(token)}"],
    "another subject": lambda token: [f"Bearer {_someone_else(token)}"],
    "three letters": lambda _: ["Bearer a.b.c"],
    "not ASCII": lambda _: ["Bearer \u00ff\u00fe"],
    "long": lambda _: [f"Bearer {'x' * 50_000}"],
}


async def test_a_mangled_token_is_refused_like_none(served: Live, user: Account) -> None:
    async with wire(served.url) as connection:
        for name, mangle in MANGLED.items():
            headers = [("X-Request-ID", "same"), *(("Authorization", value) for value in mangle(user.token))]
            for method, path in (
                ("GET", "/api/auth/me"),
                ("POST", "/api/auth/logout"),
                ("POST", "/api/messages/stream"),
            ):
                answer = await connection.ask(method, path, headers=headers)
                assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer"), name
                assert json.loads(answer.body) == {
                    "success": False,
                    "message": "未登录或令牌无效",
                    "error": {"code": "unauthenticated", "request_id": "same"},
                }, name


async def test_a_token_for_a_session_that_is_not_the_subjects_is_refused(
    container: Container, served: Live, user: Account
) -> None:
    other = await served.account()
    codec = container.tokens()
    claims: TokenClaims = codec.decode(user.token, now=container.clock()())
    for wrong in (replace(claims, user_id=other.user_id), replace(claims, session_id="sess_nothing")):
        refused = await replace(user, token=codec.encode(wrong)).get("/api/auth/me")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "unauthenticated")


async def test_the_scheme_is_read_without_case(served: Live, user: Account) -> None:
    for scheme in ("bearer", "BEARER"):
        answer = await served.http.get("/api/auth/me", headers={"Authorization": f"{scheme} {user.token}"})
        assert answer.status_code == 200
