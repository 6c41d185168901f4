"""Errors have names, and all that the service tells of them."""

import asyncio
import json
import math
import pickle
import re
import socket
import ssl
import sys
import time
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any

import httpx
import pytest
from tests.support.live import PASSWORD, Live

from luxx.adapters.models.scripted import ScriptedChatModel
from luxx.client import (
    AsyncClient,
    Client,
    Conflict,
    ConnectionLost,
    Detail,
    Forbidden,
    InvalidInput,
    LuxxApiError,
    ModelFailed,
    NotFound,
    Overloaded,
    Patience,
    RateLimited,
    ServerFault,
    ToolFailed,
    Unauthenticated,
    UnreadableAnswer,
    calls,
)
from luxx.client.calls import Answer, Exchange, Pause
from luxx.client.errors import kind_of
from luxx.client.following import Following
from luxx.domain.errors import ModelRateLimited
from luxx.entrypoints.http.text import ERRORS

URL = "http://127.0.0.1:9"
RUSHED = Patience(first_pause_seconds=0.0, tries=3, longest_wait_seconds=10)


def test_every_code_of_the_service_has_an_error_of_its_own() -> None:
    nameless = [code for code in ERRORS if kind_of(code, None) is LuxxApiError]
    assert nameless == []


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Unauthenticated), (403, Forbidden), (418, LuxxApiError), (507, ServerFault)]
)
def test_a_code_of_a_newer_service_is_named_by_its_status(status: int, kind: type[LuxxApiError]) -> None:
    assert issubclass(kind_of("made_up_later", status), kind)


async def test_what_is_against_the_rules_names_each_field(client: AsyncClient) -> None:
    with pytest.raises(InvalidInput) as caught:
        await client.create_conversation(title="", temperature=7)
    error = caught.value
    assert (error.code, error.status, error.retry_after) == ("validation_failed", 422, None)
    assert error.details == (
        Detail("title", "must have at least 1 characters"),
        Detail("temperature", "must be at most 2.0"),
    )
    assert error.request_id is not None
    assert error.request_id.startswith("req_")
    assert str(error).count("temperature") == 1


async def test_errors_are_told_in_the_language_of_the_client(served: Live, token: str) -> None:
    async with AsyncClient(served.url, token=token, language="zh") as client:
        with pytest.raises(InvalidInput, match=r"请求参数有误.*title") as caught:
            await client.create_conversation(title="")
    assert caught.value.code == "validation_failed"


async def test_who_is_not_known_is_told_so(served: Live) -> None:
    async with AsyncClient(served.url) as client:
        await client.register("ada", "ada@example.com", PASSWORD)
        with pytest.raises(Conflict) as taken:
            await client.register("ada", "ada@example.org", PASSWORD)
        assert (taken.value.code, taken.value.status) == ("username_taken", 409)
        with pytest.raises(Unauthenticated) as wrong:
            await client.login("ada", "not the password")
        assert wrong.value.code == "invalid_credentials"
        with pytest.raises(Unauthenticated):
            await client.me()


async def test_a_tool_that_cannot_do_it_says_why(client: AsyncClient) -> None:
    with pytest.raises(ToolFailed) as caught:
        await client.execute_tool("calculate", {"expression": "1/0"})
    assert (caught.value.code, caught.value.status) == ("tool_failed", 422)
    with pytest.raises(NotFound):
        await client.execute_tool("no/such tool?", {})


async def test_a_model_that_asks_for_a_pause_is_not_asked_again(client: AsyncClient, model: ScriptedChatModel) -> None:
    model.then((ModelRateLimited("slow down", retry_after=7),))
    conversation = await client.create_conversation()
    with pytest.raises(ModelFailed) as caught:
        await client.send(conversation.id, "Hi")
    assert (caught.value.code, caught.value.status) == ("model_rate_limited", 429)
    assert caught.value.retry_after == 7
    assert len(model.requests) == 1


async def test_a_second_message_while_an_answer_is_written_is_a_conflict(served: Live, token: str) -> None:
    async with AsyncClient(served.url, token=token) as client:
        conversation = await client.create_conversation()
        sent = calls.stream(conversation.id, "a", tools_enabled=True, idempotency_key="k")
        assert sent.headers["Idempotency-Key"] == "k"
        async with client.stream(conversation.id, "a", idempotency_key="k") as stream:
            await anext(stream)
            assert stream.idempotency_key == "k"
        with pytest.raises(Conflict) as caught:
            await client.send(conversation.id, "b", idempotency_key="k")
        assert caught.value.code == "idempotency_conflict"


# --- when to try again, without a network -----------------------------------------------------------


def refused(exchange: Exchange[Any], status: int, code: str, headers: Mapping[str, str] | None = None) -> object:
    body = {"success": False, "message": "No.", "error": {"code": code, "request_id": "req_1"}}
    return exchange.answered(status, headers or {}, json.dumps(body).encode())


def test_the_service_says_when_to_come_back_and_is_obeyed_within_reason() -> None:
    exchange = Exchange[Any](calls.me(), RUSHED)
    assert refused(exchange, 429, "rate_limited", {"retry-after": "7"}) == Pause(7.0)
    with pytest.raises(RateLimited) as caught:
        refused(Exchange[Any](calls.me(), RUSHED), 429, "rate_limited", {"retry-after": "300"})
    assert caught.value.retry_after == 300.0


@pytest.mark.parametrize(
    ("asked", "date", "pause"),
    [
        ("Thu, 01 Jan 2026 00:00:09 GMT", "Thu, 01 Jan 2026 00:00:02 GMT", 7.0),
        ("Thu, 01 Jan 2026 00:00:02 GMT", "Thu, 01 Jan 2026 00:00:09 GMT", 0.0),
        ("Thu, 01 Jan 2026 00:00:09", "Thu, 01 Jan 2026 00:00:02 GMT", 0.0),
        ("Thu, 01 Jan 2026 00:00:09 GMT", "now", 0.0),
        ("Thu, 01 Jan 1970 00:00:09 GMT", "", 0.0),
        ("Thu, 99 Jan 99999999 00:00:09 GMT", "", 0.0),
        (f"Thu, 01 Jan {10**30} 00:00:09 GMT", "", 0.0),
        ("soon", "", 0.0),
        ("-1", "", 0.0),
        ("1.5", "", 0.0),
        ("", "", 0.0),
    ],
)
def test_a_proxy_may_say_when_to_come_back_with_a_date(asked: str, date: str, pause: float) -> None:
    headers = {"retry-after": asked} | ({"date": date} if date else {})
    assert Exchange[Any](calls.me(), RUSHED).answered(503, headers, b"<h1>Busy</h1>") == Pause(pause)


def test_a_date_without_another_one_is_held_to_the_clock_of_this_machine() -> None:
    asked = {"retry-after": formatdate(time.time() + 7, usegmt=True)}
    step = Exchange[Any](calls.me(), RUSHED).answered(503, asked, b"<h1>Busy</h1>")
    assert isinstance(step, Pause)
    assert 4 < step.seconds <= 8


def test_tries_come_to_an_end_with_what_the_last_one_met() -> None:
    exchange = Exchange[Any](calls.me(), RUSHED)
    assert isinstance(refused(exchange, 503, "overloaded"), Pause)
    assert isinstance(exchange.lost(httpx.ReadError("reset")), Pause)
    with pytest.raises(Overloaded):
        refused(exchange, 503, "overloaded")


def test_pauses_grow_and_are_bounded() -> None:
    patience = Patience(first_pause_seconds=1.0, longest_pause_seconds=4.0, tries=8)
    exchange = Exchange[Any](calls.me(), patience)
    pauses = [exchange.lost(httpx.ConnectError("refused")).seconds for _ in range(7)]
    for pause, most in zip(pauses, (1, 2, 4, 4, 4, 4, 4), strict=True):
        assert most / 2 <= pause <= most


async def test_where_nobody_is_the_error_names_the_address_and_how_often_it_was_tried() -> None:
    with Client(URL, patience=RUSHED) as client:
        with pytest.raises(ConnectionLost, match=rf"to GET {URL}/health/ready in 3 tries and \d+\.\d s: "):
            await asyncio.to_thread(client.ready)
        with pytest.raises(ConnectionLost, match=rf"to POST {URL}/api/messages/stream in 3 tries "):
            await asyncio.to_thread(lambda: list(client.stream("conv_1", "Hi")))
    async with AsyncClient(URL, patience=Patience(tries=1)) as alone:
        with pytest.raises(ConnectionLost, match=rf"to GET {URL}/health/ready: "):
            await alone.ready()


async def test_a_name_that_nobody_knows_is_told_at_once() -> None:
    began = time.monotonic()
    with Client("http://nowhere.invalid") as client:
        with pytest.raises(ConnectionLost, match=r"to GET http://nowhere\.invalid/health/live: "):
            await asyncio.to_thread(client.live)
        with pytest.raises(ConnectionLost, match=r"nowhere\.invalid/api/messages/msg_1/stream: "):
            await asyncio.to_thread(lambda: list(client.follow("msg_1")))
    async with AsyncClient("http://nowhere.invalid") as other:
        with pytest.raises(ConnectionLost, match=r"nowhere\.invalid/api/messages/stream: "):
            async for _ in other.stream("conv_1", "Hi"):
                pass
    assert time.monotonic() - began < 10


def test_a_name_that_was_right_before_may_be_so_again() -> None:
    unknown = httpx.ConnectError("[Errno -2] Name or service not known")
    unknown.__cause__ = socket.gaierror(-2, "Name or service not known")
    assert isinstance(Exchange[Any](calls.me(), RUSHED, reached=True).lost(unknown), Pause)
    with pytest.raises(ConnectionLost):
        Exchange[Any](calls.me(), RUSHED).lost(unknown)
    following = Following(RUSHED, message_id="msg_1")
    following.opened({"content-type": "text/event-stream"})
    assert following.lost(unknown) == 0.0


async def test_a_client_keeps_in_mind_that_it_has_reached_the_service() -> None:
    def unknown_after_one(request: httpx.Request) -> httpx.Response:
        if asked:
            error = httpx.ConnectError("no name", request=request)
            raise error from socket.gaierror(-3, "Temporary failure in name resolution")
        asked.append(request)
        return httpx.Response(200, json={"status": "ok", "checks": {}})

    asked: list[httpx.Request] = []
    with Client(URL, patience=RUSHED, transport=httpx.MockTransport(unknown_after_one)) as client:
        client.live()
        with pytest.raises(ConnectionLost, match="in 3 tries"):
            client.live()
        with pytest.raises(ConnectionLost, match="in 3 tries"):
            list(client.follow("msg_1"))
    asked.clear()
    async with AsyncClient(URL, patience=RUSHED, transport=httpx.MockTransport(unknown_after_one)) as other:
        await other.live()
        with pytest.raises(ConnectionLost, match="in 3 tries"):
            await other.live()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tries", 0),
        ("tries", -1),
        ("connect_seconds", 0),
        ("answer_seconds", -1.0),
        ("silence_seconds", math.nan),
        ("send_seconds", 0.0),
        ("first_pause_seconds", -0.1),
        ("longest_wait_seconds", math.nan),
    ],
)
def test_a_patience_that_can_wait_for_nothing_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        Patience(**{field: value})  # type: ignore[arg-type]  # a number as any other


async def test_a_patience_without_end_waits(served: Live) -> None:
    endless = Patience(
        connect_seconds=math.inf,
        answer_seconds=math.inf,
        send_seconds=1e18,
        silence_seconds=math.inf,
        longest_wait_seconds=math.inf,
    )

    def talk() -> None:
        with Client(served.url, patience=endless) as client:
            assert client.live().status == "ok"
            for ask in (lambda: client.send("conv_1", "Hi"), lambda: list(client.stream("conv_1", "Hi"))):
                with pytest.raises(Unauthenticated):
                    ask()

    await asyncio.to_thread(talk)
    busy = Exchange[Any](calls.me(), endless).answered(503, {"retry-after": "9" * 400}, b"<h1>Busy</h1>")
    assert isinstance(busy, Pause)
    assert math.isfinite(busy.seconds)


def test_what_must_happen_once_is_tried_again_only_where_it_cannot_have_happened() -> None:
    once = Exchange[Any](calls.create_conversation(title="x"), RUSHED)
    assert isinstance(once.lost(httpx.ConnectError("refused")), Pause)
    assert isinstance(refused(once, 429, "rate_limited", {"retry-after": "1"}), Pause)
    for lost in (httpx.ReadError("reset"), httpx.ReadTimeout("late"), httpx.RemoteProtocolError("cut")):
        with pytest.raises(ConnectionLost):
            Exchange[Any](calls.create_conversation(title="x"), RUSHED).lost(lost)
    with pytest.raises(Overloaded):
        refused(Exchange[Any](calls.create_conversation(title="x"), RUSHED), 503, "overloaded")


def test_what_is_gone_is_deleted_only_where_an_earlier_try_may_have_done_it() -> None:
    with pytest.raises(NotFound):
        refused(Exchange[Any](calls.delete_message("m"), RUSHED), 404, "message_not_found")
    again = Exchange[Any](calls.delete_message("m"), RUSHED)
    again.lost(httpx.ConnectError("refused"))
    with pytest.raises(NotFound):
        refused(again, 404, "message_not_found")
    lost = Exchange[Any](calls.delete_message("m"), RUSHED)
    lost.lost(httpx.ReadError("reset"))
    assert refused(lost, 404, "message_not_found") == Answer(None)
    out = Exchange[Any](calls.logout(), RUSHED)
    out.answered(504, {}, b"<h1>Gateway Timeout</h1>")
    assert refused(out, 401, "token_revoked") == Answer(None)


def test_a_proxys_page_is_waited_out_and_any_other_page_is_not() -> None:
    for status in (429, 502, 503, 504, 520, 524):
        exchange = Exchange[Any](calls.me(), RUSHED)
        assert isinstance(exchange.answered(status, {"content-type": "text/html"}, b"<h1>Bad Gateway</h1>"), Pause)
        with pytest.raises(UnreadableAnswer):
            Exchange[Any](calls.create_conversation(), RUSHED).answered(status, {}, b"<h1>Bad Gateway</h1>")
    exchange = Exchange[Any](calls.me(), RUSHED)
    with pytest.raises(UnreadableAnswer) as caught:
        exchange.answered(404, {}, b"<h1>Not Found</h1>")
    assert caught.value.status == 404
    with pytest.raises(UnreadableAnswer):
        exchange.answered(200, {}, b'{"success": true, "data": {"id": "of something else"}}')
    with pytest.raises(UnreadableAnswer, match=r"leads to https://login\.example$"):
        exchange.answered(302, {"location": "https://login.example"}, b"")


def test_what_is_nested_beyond_all_use_is_no_answer_of_luxx() -> None:
    """Whoever catches the errors of the client has caught this one, too."""
    deep = b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(UnreadableAnswer):
        Exchange(calls.openapi(), RUSHED).answered(200, {}, deep)
    event = b'id: 1\nevent: tool_call\ndata: {"id": "1", "name": "a", "arguments": ' + deep + b"}\n\n"
    with pytest.raises(UnreadableAnswer):
        list(Following(RUSHED, message_id="msg_1").feed(event))


@pytest.mark.parametrize("token", ["luxx_abc\n", "luxx abc", "luxx_\u00e4bc", ""])
def test_a_token_that_fits_in_no_header_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match="token must") as caught:
        Client(URL, token=token)
    with Client(URL) as client, pytest.raises(ValueError, match="token must"):
        client.token = token
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "a\nb", "\u0437\u0430\u043a\u0430\u0437", " a", "a ", "a" * 256])
def test_a_key_that_comes_to_the_service_as_another_or_not_at_all_is_refused(key: str) -> None:
    with Client(URL) as client:
        with pytest.raises(ValueError, match="idempotency key"):
            client.send("conv_1", "Hi", idempotency_key=key)
        with pytest.raises(ValueError, match="idempotency key"):
            client.stream("conv_1", "Hi", idempotency_key=key)


@pytest.mark.parametrize("key", ["a", "order 4711", "a" * 255])
def test_any_other_key_is_sent_as_it_is(key: str) -> None:
    assert calls.key_of(key) == key


def test_an_error_comes_whole_out_of_another_process() -> None:
    refused = kind_of("validation_failed", 422)(
        "No.", code="validation_failed", status=422, request_id="r", details=[Detail("a", "b")], retry_after=1.0
    )
    for error in (refused, UnreadableAnswer("What?", status=502, retry_after=2.0), ConnectionLost("Gone.")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8000",
        "ftp://example.com",
        "http://",
        "http://a:b",
        "http://a..b",
        f"http://{'a' * 64}.example.com",
        "http://example.com/?lang=en",
        "http://example.com/#top",
        "http://example.com:65536",
        "http://ada:lovelace@example.com",
    ],
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as caught:
        Client(url)
    assert "lovelace" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks://127.0.0.1:1080"),
        ("ALL_PROXY", "ftp://127.0.0.1:1080"),
        ("NO_PROXY", "fd00::/8"),
        ("NO_PROXY", "[::1]"),
        ("SSL_CERT_FILE", "/nowhere/ca.pem"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_environment_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, kind: type[Client | AsyncClient]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=rf"environment says of .*{name}"):
        kind(URL)
    kind(URL, transport=httpx.MockTransport(lambda _: httpx.Response(200)))


def test_a_proxy_that_needs_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(ValueError, match=r"environment says of .*ALL_PROXY.*httpx\[socks\]"):
        Client(URL)


async def test_nothing_that_is_printed_shows_a_token_or_a_key(served: Live) -> None:
    async with AsyncClient(served.url) as client:
        await client.register("ada", "ada@example.com", PASSWORD)
        login = await client.login("ada", PASSWORD)
        key = await client.create_key("ci")
        for secret in (login.access_token, key.key):
            for shown in (repr(client), repr(login), repr(key)):
                assert secret not in shown


@pytest.mark.parametrize("nothing", ["", ".", ".."])
def test_an_id_that_would_lead_elsewhere_is_refused(nothing: str) -> None:
    """Of `conversation("")` the list was asked for, and the service called unreadable."""
    with Client(URL) as client:
        for asking in (client.conversation, client.delete_conversation, client.messages, client.cancel, client.tool):
            with pytest.raises(ValueError, match=f"'{re.escape(nothing)}' is no id"):
                asking(nothing)
        with pytest.raises(ValueError, match="is no id"):
            next(client.follow(nothing))


def test_what_is_no_text_is_no_id() -> None:
    nobody: Any = None
    with Client(URL) as client:
        with pytest.raises(TypeError, match="an id or a name must be a string, not None"):
            client.conversation(nobody)
        with pytest.raises(TypeError, match="the id of an answer must be a string, not None"):
            client.follow(nobody)


async def test_what_fits_in_no_address_is_refused() -> None:
    endless = "x" * 70_000
    with Client(URL) as client:
        for ask in (
            lambda: client.conversation(endless),
            lambda: client.conversations(project_id=endless),
            lambda: next(client.follow(endless)),
        ):
            with pytest.raises(ValueError, match=r"fits in no address: .*too long"):
                ask()
    async with AsyncClient(URL) as other:
        with pytest.raises(ValueError, match="fits in no address"):
            await other.messages("conv_1", before=endless)
        with pytest.raises(ValueError, match="fits in no address"):
            await anext(other.follow(endless))


@pytest.mark.parametrize("language", ["中文", "en\n", " en"])
def test_a_language_that_fits_in_no_header_is_refused(language: str) -> None:
    with pytest.raises(ValueError, match="language"):
        Client(URL, language=language)


@pytest.mark.parametrize("language", ["", "zh-CN, zh;q=0.9, en;q=0.1"])
def test_any_other_language_is_sent_as_it_is(language: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept-language"] == language
        return httpx.Response(200, json={"status": "ok", "checks": {}})

    with Client(URL, language=language, transport=httpx.MockTransport(answer)) as client:
        assert client.live().status == "ok"


def test_a_page_of_something_else_does_not_say_that_it_is_done() -> None:
    """A network that asks for a login of its own answers everything with 200."""
    for call in (
        calls.logout(),
        calls.change_password("old", "new"),
        calls.end_session("s"),
        calls.delete_key("k"),
        calls.delete_conversation("c"),
        calls.delete_message("m"),
    ):
        for page in (b"<html>Welcome to our network", b"", b"null", b'{"ok": true}', b'{"success": false}'):
            with pytest.raises(UnreadableAnswer):
                Exchange(call, RUSHED).answered(200, {}, page)
        assert Exchange(call, RUSHED).answered(200, {}, b'{"success": true, "message": "Done"}') == Answer(None)


def test_in_another_event_loop_a_client_says_what_to_do() -> None:
    """It said of a connection that its loop was closed, once, and worked the next time."""

    async def reach(client: AsyncClient) -> None:
        with pytest.raises(ConnectionLost):
            await client.live()

    client = AsyncClient(URL, patience=Patience(tries=1))
    asyncio.run(reach(client))
    with pytest.raises(RuntimeError, match="belongs to the event loop that it was first used in: make one in each"):
        asyncio.run(client.me())

    async def follow() -> None:
        await anext(client.follow("msg_1"))

    with pytest.raises(RuntimeError, match="make one in each"):
        asyncio.run(follow())

    given = AsyncClient(
        URL, transport=httpx.MockTransport(lambda _: httpx.Response(200, json={"status": "ok", "checks": {}}))
    )
    assert [asyncio.run(given.live()).status for _ in range(2)] == ["ok", "ok"]


def test_a_page_that_tells_of_a_service_away_does_not_blame_the_address() -> None:
    for status in (502, 503, 504, 522):
        with pytest.raises(UnreadableAnswer, match=rf"status {status} .*: something before Luxx") as caught:
            Exchange[Any](calls.create_conversation(), RUSHED).answered(status, {}, b"<h1>Bad Gateway</h1>")
        assert "root" not in str(caught.value)
    for status in (304, 404, 500):
        with pytest.raises(UnreadableAnswer, match="does the URL name the service's root"):
            Exchange[Any](calls.me(), RUSHED).answered(status, {}, b"<h1>Oh</h1>")


def test_a_certificate_that_is_not_trusted_is_told_at_once() -> None:
    untrusted = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")
    untrusted.__cause__ = ssl.SSLCertVerificationError(1, "self-signed certificate")
    for patience in (RUSHED, Patience()):
        with pytest.raises(ConnectionLost, match="self-signed"):
            Exchange[Any](calls.me(), patience).lost(untrusted)
    with pytest.raises(ConnectionLost):
        Following(RUSHED, message_id="msg_1").lost(untrusted)
    broken = httpx.ConnectError("EOF in the handshake")
    broken.__cause__ = ssl.SSLEOFError(8, "EOF occurred in violation of protocol")
    assert isinstance(Exchange[Any](calls.me(), RUSHED).lost(broken), Pause)
