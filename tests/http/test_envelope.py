"""What every answer has in common: the envelope, the language, the request id, the framework's own refusals."""

import httpx
import pytest
from tests.support.live import PASSWORD, Account, Live, live
from tests.support.raw import wire

from luxx.container import Container
from luxx.domain.errors import Overloaded, RateLimited, StorageUnavailable
from luxx.entrypoints.http.reading import BODY_LIMIT

JSON = ("Content-Type", "application/json")


LANGUAGES = [
    (None, False),
    ("", False),
    ("en", True),
    ("EN-us", True),
    ("zh-CN,zh;q=0.9,en;q=0.8", False),
    ("en;q=0.8, zh;q=0.9", False),
    ("en;q=0.9, zh;q=0.8", True),
    ("fr, en;q=0.5, *;q=0.1", True),
    ("*", False),
    ("en, *", False),
    ("en;q=0", False),
    ("fr", False),
    ("en;q=2, zh;q=x, ;;;,,,=", False),
    ("\u00ff" * 100, False),
    ("en," * 20_000, True),
]
"""What is accepted, and whether that is English."""


async def test_people_are_told_in_chinese_unless_english_is_preferred(served: Live) -> None:
    async with wire(served.url) as connection:
        for accepted, english in LANGUAGES:
            headers = [] if accepted is None else [("Accept-Language", accepted)]
            answer = await connection.ask("GET", "/api/nothing", headers=headers)
            said = answer.body.decode()
            assert ("There is nothing at this address." in said) == english, accepted
            assert ("请求的资源不存在" in said) == (not english), accepted
            assert answer.code == "not_found"


async def test_english_speaks_in_successes_and_details_too(user: Account) -> None:
    english = {"Accept-Language": "en"}
    created = await user.post("/api/conversations/", json={}, headers=english)
    assert created.json()["message"] == "Conversation created"
    bad = {"title": "", "temperature": 3, "nothing": 1}
    refused = await user.post("/api/conversations/", json=bad, headers=english)
    assert refused.json()["error"]["details"] == [
        {"field": "title", "message": "must have at least 1 characters"},
        {"field": "temperature", "message": "must be at most 2.0"},
        {"field": "nothing", "message": "is not a known field"},
    ]
    refused = await user.post("/api/conversations/", json=bad)
    assert [detail["message"] for detail in refused.json()["error"]["details"]] == [
        "至少需要 1 个字符",
        "不能大于 2.0",
        "是未知字段",
    ]
    refused = await user.get("/api/conversations/", params={"cursor": "no cursor"})
    assert refused.json()["error"]["details"] == [{"field": "cursor", "message": "无效：请使用列表返回的 next_cursor"}]


async def test_a_sane_request_id_comes_back_in_header_and_body(served: Live) -> None:
    for given in ("abc", "a.b_c-d:e/f+g=", "x" * 128):
        answer = await served.http.get("/api/nothing", headers={"X-Request-ID": given})
        assert answer.headers["x-request-id"] == given
        assert answer.json()["error"]["request_id"] == given


async def test_any_other_request_id_is_replaced_by_one_that_is_unique(served: Live) -> None:
    seen = set()
    odd: list[list[str]] = [[], [""], ["x" * 129], ["a b"], ["<script>"], ["\u00ff"], ["a;b"], ["same", "same"]]
    async with wire(served.url) as connection:
        for given in odd:
            headers = [("X-Request-ID", one) for one in given]
            answer = await connection.ask("GET", "/api/nothing", headers=headers)
            made = answer.headers["x-request-id"]
            assert made.startswith("req_"), given
            assert f'"{made}"' in answer.body.decode(), given
            seen.add(made)
    assert len(seen) == len(odd)


async def test_collections_answer_with_and_without_the_slash_and_never_redirect(user: Account) -> None:
    conversation = await user.new_conversation()
    for path in (
        "/api/auth/me",
        "/api/conversations",
        f"/api/conversations/{conversation}",
        f"/api/messages/{conversation}",
        "/api/tools",
        "/api/tools/calculate",
        "/health/live",
        "/health/ready",
        "/schema",
        "/schema/openapi.json",
    ):
        for slash in ("", "/"):
            answer = await user.get(path + slash, follow_redirects=False)
            assert answer.status_code == 200, path + slash
    for slash in ("", "/"):
        assert (await user.post(f"/api/conversations{slash}", json={})).status_code == 201
        assert (await user.post(f"/api/messages{slash}", json={})).status_code == 422
        assert (await user.post(f"/api/messages/stream{slash}", json={})).status_code == 422


async def test_a_wrong_method_is_told_which_are_right(user: Account) -> None:
    for method, path, allowed in (
        ("PATCH", "/api/conversations/", {"GET", "POST"}),
        ("POST", "/api/conversations/conv_x", {"GET", "PUT", "DELETE"}),
        ("DELETE", "/api/auth/me", {"GET"}),
        ("GET", "/api/auth/login", {"POST"}),
        ("TRACE", "/api/messages/", {"POST"}),
    ):
        answer = await user.call(method, path)
        assert answer.status_code == 405
        assert answer.json()["error"]["code"] == "method_not_allowed"
        assert answer.json()["message"] == "不支持该请求方法"
        told = allowed | {"OPTIONS"} | ({"HEAD"} if "GET" in allowed else set())
        assert set(answer.headers["allow"].split(", ")) == told
        asked = await user.http.options(path)
        assert (asked.status_code, asked.content) == (204, b"")
        assert set(asked.headers["allow"].split(", ")) == told


async def test_a_body_of_4_mib_is_read_and_one_byte_more_is_413(served: Live, user: Account) -> None:
    authorized = ("Authorization", f"Bearer {user.token}")
    just = b"{}" + b" " * (BODY_LIMIT - 2)
    async with wire(served.url) as connection:
        answer = await connection.ask("POST", "/api/conversations/", headers=[authorized, JSON], body=just)
        assert answer.status == 201
        answer = await connection.ask("POST", "/api/conversations/", headers=[authorized, JSON], body=just + b" ")
        assert (answer.status, answer.code) == (413, "payload_too_large")
        assert (await connection.ask("GET", "/health/live")).status == 200


async def test_a_body_that_does_not_say_how_long_it_is_is_counted_as_it_comes(served: Live, user: Account) -> None:
    head = (
        "POST /api/conversations/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {user.token}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    mib = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    async with wire(served.url) as connection:
        await connection.send(head.encode(), b"2\r\n{}\r\n", mib, mib, mib, b"0\r\n\r\n")
        assert (await connection.answer()).status == 201
        await connection.send(head.encode(), b"2\r\n{}\r\n", mib, mib, mib, mib, b"0\r\n\r\n")
        answer = await connection.answer()
        assert (answer.status, answer.code) == (413, "payload_too_large")
        assert (await connection.ask("GET", "/health/live")).status == 200


class RaisingHasher:
    """A part of the service that fails at login, in a way the test chooses."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def verify(self, _password: str, _hashed: str | None) -> bool:
        raise self.error


async def failing_login(container: Container, error: Exception) -> httpx.Response:
    container.hasher.override(RaisingHasher(error))
    body = {"username": "u", "password": PASSWORD}
    async with live(container) as served:
        return await served.http.post("/api/auth/login", json=body, headers={"X-Request-ID": "find-me"})


async def test_a_fault_of_the_service_tells_its_cause_to_the_log_alone(
    container: Container, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await failing_login(container, ValueError("SELECT secret FROM vault"))
    assert answer.status_code == 500
    assert answer.json() == {
        "success": False,
        "message": "服务内部错误",
        "error": {"code": "internal_error", "request_id": "find-me"},
    }
    assert answer.headers["x-request-id"] == "find-me"
    assert "SELECT secret" in caplog.text
    assert "find-me" in caplog.text


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RateLimited("slowly", retry_after=2.1), (429, "rate_limited", "3")),
        (RateLimited("slowly", retry_after=0), (429, "rate_limited", "1")),
        (Overloaded("full"), (503, "overloaded", "1")),
        (StorageUnavailable("gone"), (503, "overloaded", "1")),
    ],
)
async def test_whoever_is_to_wait_is_told_how_long_in_whole_seconds(
    container: Container, error: Exception, expected: tuple[int, str, str]
) -> None:
    answer = await failing_login(container, error)
    assert (answer.status_code, answer.json()["error"]["code"], answer.headers["retry-after"]) == expected


async def test_why_the_database_is_away_is_for_the_log_and_not_for_the_client(
    container: Container, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await failing_login(container, StorageUnavailable("It is away.", reason="53300: too many clients"))
    assert answer.status_code == 503
    assert "clients" not in answer.text
    assert "It is away. (53300: too many clients)" in caplog.text


async def test_health_needs_no_login_and_tells_what_is_missing(
    container: Container, served: Live, user: Account
) -> None:
    live = await served.http.get("/health/live")
    assert (live.status_code, live.json()) == (200, {"status": "ok", "checks": {}})
    ready = await served.http.get("/health/ready")
    assert (ready.status_code, ready.json()) == (200, {"status": "ok", "checks": {"database": "ok", "turns": "ok"}})
    await container.supervisor().drain(grace=0)
    ready = await served.http.get("/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
    assert ready.json()["checks"]["turns"] != "ok"
    conversation = await user.new_conversation()
    refused = await user.send(conversation, "hello?")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
