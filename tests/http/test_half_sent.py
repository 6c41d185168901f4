"""Clients that send half a request, slowly, or without end: over raw sockets."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest
from tests.http.conftest import SECRET, container_of
from tests.support.live import Live, live
from tests.support.raw import Wire, request_bytes, wire
from tests.support.until import until

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.models.scripted import ScriptedChatModel, spoken
from luxx.application.ports import ModelEnd, ModelText
from luxx.entrypoints.http.unreadable import FIELDS_LIMIT, HEADERS_LIMIT, PIPELINE_LIMIT, URL_LIMIT, EnvelopedHttp
from luxx.settings import Settings

SECONDS = 0.4
HEAD = b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture
async def hasty(tmp_path: Path, model: ScriptedChatModel) -> AsyncIterator[Live]:
    """Serve with little patience."""
    made = container_of(Settings(data_dir=tmp_path, jwt_secret=SECRET, request_seconds=SECONDS), model)
    made.storage.override(MemoryStorage())
    async with live(made) as running:
        yield running


async def rest(connection: Wire) -> bytes:
    """Read until the server hangs up."""
    async with asyncio.timeout(10):
        return await connection._reader.read()


@pytest.mark.parametrize(
    "sent",
    [
        b"G",
        b"GET /api/auth/me HTTP/1.1\r\nHost: x\r\nX-Half: ",
        HEAD + b"Content-Length: 40\r\n\r\n" + b'{"username": ',
        HEAD + b"Content-Length: 40\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    ],
    ids=["a letter", "half a header", "half a body", "no body", "half a chunk"],
)
async def test_half_a_request_is_waited_for_so_long_and_no_longer(hasty: Live, sent: bytes) -> None:
    async with wire(hasty.url) as connection:
        began = time.monotonic()
        await connection.send(sent)
        answer = await connection.answer()
        took = time.monotonic() - began
        assert (answer.status, answer.code, answer.headers["connection"]) == (408, "invalid_json", "close")
        assert await rest(connection) == b""
    assert SECONDS * 0.9 <= took < SECONDS + 3


@pytest.mark.parametrize("sent", [b"", b"\r\n"], ids=["nothing", "an empty line"])
async def test_who_asks_nothing_is_hung_up_on(hasty: Live, sent: bytes) -> None:
    async with wire(hasty.url) as connection:
        await connection.send(sent)
        assert await rest(connection) == b""


async def test_an_empty_line_behind_a_request_keeps_no_connection_open(hasty: Live) -> None:
    async with wire(hasty.url) as connection:
        assert (await connection.ask("GET", "/health/live")).status == 200
        await connection.send(b"\r\n")
        assert await rest(connection) == b""


async def test_a_byte_now_and_then_buys_no_time(hasty: Live) -> None:
    """The deadline is for the whole head and the whole body, not for each read."""
    for start in (b"GET /", HEAD + b"Content-Length: 4000\r\n\r\n"):
        async with wire(hasty.url) as connection:
            began = time.monotonic()
            await connection.send(start)

            async def drip(to: Wire = connection) -> None:
                while True:
                    await to.send(b"x")
                    await asyncio.sleep(SECONDS / 20)

            dripping = asyncio.create_task(drip())
            answer = await connection.answer()
            dripping.cancel()
            await asyncio.gather(dripping, return_exceptions=True)
        assert answer.status == 408
        assert time.monotonic() - began < SECONDS + 3


async def test_a_body_that_nobody_reads_is_not_waited_for_either(hasty: Live) -> None:
    head = b"POST /api/messages/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n{"
    async with wire(hasty.url) as connection:
        await connection.send(head)
        assert (await connection.answer()).status == 401
        assert await rest(connection) == b""


async def test_half_sent_requests_fail_no_other_and_leave_no_trace_in_the_log(
    hasty: Live, caplog: pytest.LogCaptureFixture
) -> None:
    async with wire(hasty.url) as half, wire(hasty.url) as whole:
        await half.send(HEAD + b"Content-Length: 40\r\n\r\n{")
        assert (await whole.ask("GET", "/health/live")).status == 200
        assert (await half.answer()).status == 408
        assert (await whole.ask("GET", "/health/live")).status == 200
    assert [record for record in caplog.records if record.exc_info] == []


TOLD = b"X-Request-ID: mine\r\nAccept-Language: en\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (HEAD + TOLD + b"X-Half: ", 408, "The request was not sent in time."),
        (HEAD + TOLD + b"Content-Length: 40\r\n\r\n{", 408, "The request was not sent in time."),
        (HEAD + TOLD + b"X: x\r\nno header\r\n\r\n", 400, "This is no valid HTTP request."),
        (HEAD + TOLD + b"X: x\r\n" * FIELDS_LIMIT + b"\r\n", 431, "The request headers are too large."),
    ],
    ids=["half a header", "half a body", "no header", "many headers"],
)
async def test_what_the_server_refuses_speaks_the_clients_language_under_its_id(
    hasty: Live, sent: bytes, status: int, message: str
) -> None:
    async with wire(hasty.url) as connection:
        before = await connection.ask("GET", "/health/live", headers=[("X-Request-ID", "earlier")])
        assert before.headers["x-request-id"] == "earlier"
        await connection.send(sent)
        answer = await connection.answer()
    told = json.loads(answer.body)
    assert (answer.status, told["message"]) == (status, message)
    assert answer.headers["x-request-id"] == told["error"]["request_id"] == "mine"


async def test_a_refusal_has_nothing_of_the_request_before(hasty: Live) -> None:
    async with wire(hasty.url) as connection:
        headers = [("X-Request-ID", "earlier"), ("Accept-Language", "en")]
        assert (await connection.ask("GET", "/health/live", headers=headers)).status == 200
        await connection.send(b"\x16\x03\x01\x02\x00\r\n\r\n")
        answer = await connection.answer()
    assert (answer.status, json.loads(answer.body)["message"]) == (400, "不是有效的 HTTP 请求")
    assert answer.headers["x-request-id"] != "earlier"


async def test_an_answer_may_take_longer_than_the_request_did(hasty: Live, model: ScriptedChatModel) -> None:
    async def slowly() -> None:
        await asyncio.sleep(3 * SECONDS)

    model.then([slowly, *spoken("at last")])
    user = await hasty.account()
    streamed = await user.stream(await user.new_conversation(), "hi")
    assert streamed.text == "at last"


# --- sizes ------------------------------------------------------------------------------------------


async def test_headers_are_read_up_to_a_size_and_a_number(served: Live) -> None:
    def request(*fields: tuple[str, str]) -> bytes:
        return request_bytes("GET", "/health/live", headers=fields)

    room = HEADERS_LIMIT - len("Hostluxx.test") - len("X-A")
    for fields, status in (
        ([("X-A", "x" * room)], 200),
        ([("X-A", "x" * (room + 1))], 431),
        ([(f"X-{number}", "x") for number in range(FIELDS_LIMIT - 1)], 200),
        ([(f"X-{number}", "x") for number in range(FIELDS_LIMIT)], 431),
    ):
        async with wire(served.url) as connection:
            await connection.send(request(*fields))
            answer = await connection.answer()
            assert answer.status == status
            if status == 431:
                assert (answer.code, answer.headers["connection"]) == ("payload_too_large", "close")


_TRAILED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"


@pytest.mark.parametrize(
    ("start", "more", "status"),
    [
        (b"GET / HTTP/1.1\r\nX-A: ", b"x", 431),
        (b"GET /", b"x", 414),
        (_TRAILED + b"X-A: ", b"x", 431),
        (_TRAILED, b"a: b\r\n", 431),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;", b"x", 431),
    ],
    ids=["a header", "an address", "a trailer", "trailers", "a chunk's extension"],
)
async def test_what_has_no_end_is_refused_before_it_has_come_far(
    served: Live, start: bytes, more: bytes, status: int
) -> None:
    async with wire(served.url) as connection:
        await connection.send(start)
        sent = 0
        answering = asyncio.create_task(connection.answer())
        while not answering.done() and sent < 64 * 1024 * 1024:
            try:
                await connection.send(more * (16_384 // len(more)))
            except ConnectionError:
                break
            sent += 16_384
            await asyncio.sleep(0)
        with suppress(ConnectionError, asyncio.IncompleteReadError):  # reset while we were sending: refused too
            assert (await answering).status == status
    assert sent < 8 * (URL_LIMIT + HEADERS_LIMIT)


async def test_a_large_head_leaves_all_the_room_to_its_body(served: Live) -> None:
    target, large = b"/api/auth/login?" + b"x" * 40_000, b"X-Large: " + b"x" * 40_000 + b"\r\n"
    head = HEAD.replace(b"/api/auth/login", target) + large
    async with wire(served.url) as connection:
        await connection.send(head + b"Content-Length: 2\r\n\r\n")
        await asyncio.sleep(0.05)  # the body comes in a read of its own
        await connection.send(b"{}")
        assert (await connection.answer()).status == 422


async def test_a_body_in_many_small_chunks_is_read_whole(served: Live) -> None:
    async with wire(served.url) as connection:
        await connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            for piece in (b"1;" + b"x" * 5_000 + b"\r\n", b" \r\n"):
                await connection.send(piece)
                await asyncio.sleep(0.005)  # each in a read of its own
        await connection.send(b"2\r\n{}\r\n0\r\n\r\n")
        assert (await connection.answer()).status == 422


async def test_a_refusal_is_never_the_answer_to_another_request(served: Live, model: ScriptedChatModel) -> None:
    gate = asyncio.Event()
    model.then([ModelText("half"), gate.wait, ModelEnd("stop")])
    user = await served.account()
    body = json.dumps({"conversation_id": await user.new_conversation(), "content": "Hi"}).encode()
    headers = [("Content-Type", "application/json"), *user.headers.items()]
    async with wire(served.url) as connection:
        await connection.send(request_bytes("POST", "/api/messages/stream", headers=headers, body=body))
        status, _ = await connection.head()
        assert status == 200
        await connection.send(b"this is no HTTP\r\n\r\n")
        with suppress(ConnectionError):
            assert b"HTTP/1.1" not in await rest(connection)
    gate.set()


async def test_a_head_that_is_refused_is_not_answered_before_the_request_in_front_of_it(
    served: Live, model: ScriptedChatModel
) -> None:
    """A plain send answers nothing until it has ended: what is written before would be taken for its answer."""
    asked, gate = asyncio.Event(), asyncio.Event()

    async def ask() -> None:
        asked.set()
        await gate.wait()

    model.then([ask, *spoken("late")])
    user = await served.account()
    body = json.dumps({"conversation_id": await user.new_conversation(), "content": "Hi"}).encode()
    headers = [("Content-Type", "application/json"), *user.headers.items()]
    many = [(f"X-{number}", "x") for number in range(FIELDS_LIMIT)]
    async with wire(served.url) as connection:
        await connection.send(request_bytes("POST", "/api/messages/", headers=headers, body=body))
        await asked.wait()
        await connection.send(request_bytes("GET", "/health/live", headers=many))
        with suppress(ConnectionError):
            assert await rest(connection) == b""
    gate.set()


async def test_a_trailer_is_no_header(served: Live) -> None:
    """A proxy in front says in the head whom it speaks for; what follows the body is the client's."""
    async with wire(served.url) as connection:
        await connection.send(_TRAILED + b"Accept-Language: en\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
        trailed = await connection.answer()
        plain = await connection.ask(
            "POST", "/api/auth/login", headers=[("Content-Type", "application/json")], body=b"{}"
        )
    assert trailed.status == plain.status == 422
    assert json.loads(trailed.body)["message"] == json.loads(plain.body)["message"]


async def test_who_has_closed_its_side_behind_a_request_is_answered(served: Live, model: ScriptedChatModel) -> None:
    """So do `nc -N` and whatever else sends all it has and then reads to the end."""
    user = await served.account()
    for path, status in (("/api/messages", 201), ("/api/messages/stream", 200)):
        asked, gate = asyncio.Event(), asyncio.Event()

        async def ask(asked: asyncio.Event = asked, gate: asyncio.Event = gate) -> None:
            asked.set()
            await gate.wait()

        model.then([ask, *spoken("late")])
        body = json.dumps({"conversation_id": await user.new_conversation(), "content": "Hi"}).encode()
        headers = [("Content-Type", "application/json"), *user.headers.items()]
        async with wire(served.url) as connection:
            await connection.send(
                request_bytes("GET", "/health/live") + request_bytes("POST", path, headers=headers, body=body)
            )
            connection._writer.write_eof()
            await asked.wait()
            gate.set()
            assert (await connection.answer()).status == 200
            answer = await connection.answer()
            assert (answer.status, answer.headers["connection"]) == (status, "close")
            assert b"late" in answer.body
            assert await rest(connection) == b""


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /health/li", HEAD + b"Content-Length: 2\r\n\r\n{"],
    ids=["nothing", "half a head", "half a body"],
)
async def test_who_has_closed_its_side_within_a_request_is_hung_up_on(served: Live, sent: bytes) -> None:
    async with wire(served.url) as connection:
        await connection.send(sent)
        connection._writer.write_eof()
        assert await rest(connection) == b""


async def test_a_reader_who_closes_the_connection_is_let_go_of_at_once(served: Live, model: ScriptedChatModel) -> None:
    gate = asyncio.Event()
    model.then([ModelText("half"), gate.wait, ModelEnd("stop")])
    user = await served.account()
    body = json.dumps({"conversation_id": await user.new_conversation(), "content": "Hi"}).encode()
    headers = [("Content-Type", "application/json"), *user.headers.items()]
    connections = served.server.server_state.connections
    async with wire(served.url) as connection:
        before = len(connections)
        await connection.send(request_bytes("POST", "/api/messages/stream", headers=headers, body=body))
        assert (await connection.head())[0] == 200
    await until(lambda: len(connections) < before)
    gate.set()


async def test_http_1_0_gets_no_chunks_and_no_interim_answers(served: Live, model: ScriptedChatModel) -> None:
    """What does not say its length ends with the connection (RFC 9112, 6.3)."""
    model.then(spoken("plain"))
    user = await served.account()
    body = json.dumps({"conversation_id": await user.new_conversation(), "content": "Hi"}).encode()
    headers = [("Content-Type", "application/json"), ("Expect", "100-continue"), *user.headers.items()]
    request = request_bytes("POST", "/api/messages/stream", headers=headers, body=body)
    async with wire(served.url) as connection:
        await connection.send(request.replace(b"HTTP/1.1", b"HTTP/1.0"))
        status, told = await connection.head()
        assert (status, told["connection"]) == (200, "close")
        assert "transfer-encoding" not in told
        assert "content-length" not in told
        events = await rest(connection)
    assert events.startswith(b"id: 1\nevent: start\n")
    assert events.endswith(b"\n\n")
    assert b"event: done\n" in events
    for method, target in (("GET", "/health/live"), ("HEAD", "/health/live"), ("OPTIONS", "/api/tools")):
        async with wire(served.url) as connection:
            await connection.send(request_bytes(method, target).replace(b"HTTP/1.1", b"HTTP/1.0"))
            answer = await connection.answer(head=method == "HEAD")
            assert (answer.status, answer.headers["connection"]) == (204 if method == "OPTIONS" else 200, "close")
            assert await rest(connection) == b""


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_an_early_answer_reaches_who_is_still_sending(served: Live, version: bytes) -> None:
    """Python's urllib asks to close behind each request, and reads nothing before it has sent all."""
    sent = HEAD.replace(b"1.1", version) + b"Connection: close\r\nContent-Length: 5000000\r\n\r\n"
    async with wire(served.url) as connection:
        await connection.send(sent)
        status, _ = await connection.head()
        assert status == 413
        await connection.send(b"x" * 5_000_000)
        assert json.loads(await rest(connection))["error"]["code"] == "payload_too_large"


async def test_who_was_answered_early_has_no_longer_for_the_rest(hasty: Live) -> None:
    async with wire(hasty.url) as connection:
        await connection.send(HEAD + b"Connection: close\r\nContent-Length: 5000000\r\n\r\n")
        assert (await connection.answer()).status == 413
        assert await rest(connection) == b""


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD + UPGRADE + b"Content-Length: 2\r\n\r\n{}"],
        [HEAD + UPGRADE + b"Content-Length: 2\r\n\r\n", b"{}"],
        [HEAD, UPGRADE + b"Content-Length: 2\r\n", b"\r\n{", b"}"],
        [HEAD + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", b"0\r\n\r\n"],
        [(HEAD + UPGRADE + b"Content-Length: 2\r\n\r\n{}") * 2],
    ],
    ids=["at once", "its body later", "in pieces", "in chunks", "and once more"],
)
async def test_who_asks_for_another_protocol_is_answered_in_this_one(served: Live, pieces: list[bytes]) -> None:
    """Java's HttpClient and `curl --http2` ask for HTTP/2 with their first request, whatever it carries."""
    async with wire(served.url) as connection:
        for piece in pieces:
            await connection.send(piece)
            await asyncio.sleep(0.01)  # each in a read of its own
        for _ in range(b"".join(pieces).count(HEAD)):
            assert (await connection.answer()).status == 422
        assert (await connection.ask("GET", "/health/live", headers=[("X-Request-ID", "behind")])).status == 200


async def test_the_body_of_who_asks_for_another_protocol_is_no_request(served: Live) -> None:
    """Of what a proxy in front lets pass as one request, nobody makes two."""
    hidden = request_bytes("GET", "/health/live")
    async with wire(served.url) as connection:
        await connection.send(HEAD + UPGRADE + b"Content-Length: %d\r\n\r\n" % len(hidden))
        await asyncio.sleep(0.01)  # in a read of its own
        await connection.send(hidden + request_bytes("GET", "/api/nothing"))
        assert [(await connection.answer()).status for _ in range(2)] == [400, 404]


async def test_who_asks_for_another_protocol_is_held_to_the_same_bounds(served: Live) -> None:
    for sent, status in (
        (b"GET /" + b"x" * URL_LIMIT + b" HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"\r\n", 414),
        (HEAD + UPGRADE + b"X: x\r\n" * FIELDS_LIMIT + b"\r\n", 431),
        (HEAD + UPGRADE + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ):
        async with wire(served.url) as connection:
            await connection.send(sent)
            assert (await connection.answer()).status == status
    async with wire(served.url) as connection:
        answers = b""
        with suppress(ConnectionError):
            await connection.send((b"GET /health/live HTTP/1.1\r\nHost: x\r\n" + UPGRADE + b"\r\n") * 1000)
            answers = await rest(connection)
    assert answers.count(b"HTTP/1.1 ") <= PIPELINE_LIMIT


async def test_requests_are_answered_in_order_and_no_more_may_wait_than_so_many(served: Live) -> None:
    targets = ["/health/live", "/api/nothing"] * PIPELINE_LIMIT
    async with wire(served.url) as connection:
        await connection.send(b"".join(request_bytes("GET", target) for target in targets[:PIPELINE_LIMIT]))
        statuses = [(await connection.answer()).status for _ in range(PIPELINE_LIMIT)]
    assert statuses == [200, 404] * (PIPELINE_LIMIT // 2)
    async with wire(served.url) as connection:
        answers = b""
        with suppress(ConnectionError):
            await connection.send(b"".join(request_bytes("GET", target) for target in targets * 100))
            answers = await rest(connection)
    assert answers.count(b"HTTP/1.1 ") <= PIPELINE_LIMIT


async def test_who_asks_ahead_and_no_further_than_that_is_answered_everything(served: Live) -> None:
    """More is read when those that wait are answered: else they would soon be too many."""
    request = request_bytes("GET", "/health/live")
    async with wire(served.url) as connection:
        await connection.send(request * PIPELINE_LIMIT)
        async with asyncio.timeout(10):
            # Just as the first are read: while most of them still wait.
            connections = served.server.server_state.connections
            while sum(len(cast("EnvelopedHttp", one).pipeline) for one in connections) < PIPELINE_LIMIT / 2:  # noqa: ASYNC110 - none tells
                await asyncio.sleep(0)
        await connection.send(request * PIPELINE_LIMIT)
        assert [(await connection.answer()).status for _ in range(2 * PIPELINE_LIMIT)] == [200] * 2 * PIPELINE_LIMIT


async def test_little_of_an_answer_is_held_for_who_does_not_take_it(served: Live) -> None:
    """Thousands may have fallen asleep over their streams."""
    async with wire(served.url) as connection:
        await connection.send(request_bytes("GET", "/health/live"))
        assert (await connection.answer()).status == 200
        (held,) = served.server.server_state.connections
        _, high = held.transport.get_write_buffer_limits()
    assert high <= 4096


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such deadline")
async def test_who_takes_nothing_of_an_answer_is_hung_up_on(hasty: Live) -> None:
    request = request_bytes("GET", "/schema/openapi.json")
    address = urlsplit(hasty.url)
    with socket.socket() as narrow:
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        narrow.connect((address.hostname, address.port))
        narrow.sendall(request * (PIPELINE_LIMIT - 1))
        connections = hasty.server.server_state.connections
        await until(lambda: bool(connections))
        await until(lambda: not connections)


async def test_two_lengths_are_refused(served: Live) -> None:
    """A proxy in front may believe the other one (RFC 9112, 6.1)."""
    for lengths in (
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
        b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    ):
        async with wire(served.url) as connection:
            await connection.send(HEAD + lengths)
            answer = await connection.answer()
            assert (answer.status, answer.code, answer.headers["connection"]) == (400, "invalid_json", "close")
            assert await rest(connection) == b""
