"""The model's connections, against servers on loopback that write exact bytes."""

import asyncio
import tracemalloc
from pathlib import Path

import pytest
from tests.support.far_end import (
    CHUNKED,
    WHOLE,
    FarEnd,
    Reader,
    Writer,
    answer_of,
    answering,
    body_of,
    connections_to,
    far_end,
    linger,
    on_both_loops,
    reset,
    tls_of,
)
from tests.support.until import until

from luxx.adapters.models.connections import (
    BrokenOff,
    Connections,
    Endpoint,
    Response,
    Unreachable,
    _Connection,
)

# --- what is sent, and how an answer is read --------------------------------------------------------


@on_both_loops
async def test_a_request_is_one_head_with_the_length_of_its_body() -> None:
    async with far_end(answering(WHOLE)) as far, connections_to(far) as connections:
        await connections.post(b"{}")
        assert far.requests == [
            b"POST /v1 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nX-Key: k\r\nContent-Length: 2\r\n\r\n{}" % far.port
        ]


@pytest.mark.parametrize("slice_size", [0, 1])
@pytest.mark.parametrize(
    ("head", "body"),
    [
        pytest.param(b"Content-Length: 5\r\n\r\nwhole", b"whole", id="length"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n3\r\nwho\r\n2\r\nle\r\n0\r\n\r\n", b"whole", id="chunks"),
        pytest.param(
            b"Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5;a=b\r\nwhole\r\n0\r\nX: y\r\n\r\n",
            b"whole",
            id="trailers",
        ),
        pytest.param(b"\r\nwhole", b"whole", id="until the end"),
        pytest.param(b"Transfer-Encoding: x\r\n\r\nwhole", b"whole", id="until the end, in another coding"),
        pytest.param(b"Content-Length: 0\r\n\r\n", b"", id="nothing"),
        pytest.param(b"Upgrade: h2\r\nConnection: Upgrade\r\nContent-Length: 5\r\n\r\nwhole", b"whole", id="offers h2"),
    ],
)
@on_both_loops
async def test_a_body_is_read_however_it_is_framed_and_cut(head: bytes, body: bytes, slice_size: int) -> None:
    answer = b"HTTP/1.1 200 OK\r\nA:\r\nB: 1\r\nb: 2\r\n" + head
    async with far_end(answering(answer, slice_size=slice_size)) as far, connections_to(far) as connections:
        response = await connections.post(b"")
        assert (response.status, response.headers["a"], response.headers["b"]) == (200, "", "1, 2")
        assert await body_of(response) == body
        assert await response.read() == b""
        assert "x" not in response.headers


@pytest.mark.parametrize("status", [204, 304])
@on_both_loops
async def test_a_status_without_a_body_waits_for_none_and_frees_the_connection(status: int) -> None:
    answer = b"HTTP/1.1 %d X\r\nContent-Length: 9\r\n\r\n" % status
    async with far_end(answering(answer, WHOLE)) as far, connections_to(far) as connections:
        response = await connections.post(b"")
        assert (response.status, await response.read()) == (status, b"")
        assert await answer_of(connections) == b"whole"
        assert far.connections == 1


@on_both_loops
async def test_interim_responses_are_read_over() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    async with far_end(answering(interim + WHOLE, slice_size=1)) as far, connections_to(far) as connections:
        response = await connections.post(b"")
        assert (response.status, dict(response.headers)) == (200, {"content-length": "5"})
        assert await body_of(response) == b"whole"


@on_both_loops
async def test_lines_that_end_in_lf_alone_and_spaces_behind_a_size_are_forgiven() -> None:
    answer = b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5 \r\nwhole\r\n0\r\n\r\n"
    async with far_end(answering(answer)) as far, connections_to(far) as connections:
        assert await answer_of(connections) == b"whole"


@on_both_loops
async def test_a_read_gives_all_that_has_come_and_waits_only_for_the_first_byte() -> None:
    go = asyncio.Event()

    async def talk(reader: Reader, writer: Writer) -> None:
        await far.asked(reader)
        writer.write(CHUNKED)
        await go.wait()
        writer.write(b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n")
        await linger(reader, writer)

    async with far_end(FarEnd(talk)) as far, connections_to(far) as connections:
        response = await connections.post(b"")
        assert not response.ready
        go.set()
        assert await response.read() == b"abc"
        response.close()


# --- answers that are none --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "came"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"half", id="shorter than its length"),
        pytest.param(CHUNKED + b"9\r\nhalf", b"half", id="cut in a chunk"),
        pytest.param(CHUNKED + b"4\r\nhalf\r\n", b"half", id="no last chunk"),
        pytest.param(CHUNKED + b"4\r\nhalf\r\n0\r\nX: y\r\n", b"half", id="cut in the trailers"),
        pytest.param(CHUNKED + b"4\r\nhalf\r\nno chunk\r\n", b"half", id="no chunk"),
    ],
)
@on_both_loops
async def test_what_came_of_a_broken_body_is_given_and_then_the_break_is_raised(answer: bytes, came: bytes) -> None:
    async with far_end(answering(answer)) as far, connections_to(far) as connections:
        response = await connections.post(b"")
        assert await response.read() == came
        with pytest.raises(BrokenOff):
            await response.read()
        with pytest.raises(BrokenOff):
            await response.read()


@on_both_loops
async def test_a_reset_is_no_end_of_a_body_that_has_no_length() -> None:
    go = asyncio.Event()

    async def later(reader: Reader, writer: Writer) -> None:
        await go.wait()
        await reset(reader, writer)

    async with (
        far_end(answering(b"HTTP/1.1 200 OK\r\n\r\nhalf", then=later)) as far,
        connections_to(far) as connections,
    ):
        response = await connections.post(b"")
        assert await response.read() == b"half"
        go.set()
        with pytest.raises(BrokenOff):
            await response.read()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="half a head"),
        pytest.param(b"SSH-2.0-OpenSSH_9\r\n", id="another protocol"),
        pytest.param(
            b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx", id="another one from here"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", id="two lengths"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", id="only an interim one"),
    ],
)
@on_both_loops
async def test_what_is_no_response_is_told_as_broken_off(answer: bytes) -> None:
    async with far_end(answering(answer)) as far, connections_to(far) as connections:
        with pytest.raises(BrokenOff):
            await connections.post(b"")
        assert far.connections == 1


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 999, id="a header"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 99, id="headers"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 99, id="interim responses"),
        pytest.param(CHUNKED + b"1\r\na\r\n0\r\n", b"X: y\r\n" * 99, id="trailers"),
        pytest.param(CHUNKED + b"1\r\na\r\n0\r\nX: ", b"x" * 999, id="a trailer"),
        pytest.param(CHUNKED + b"1\r\na\r\n1;", b"x" * 999, id="an extension of a chunk"),
    ],
)
@on_both_loops
async def test_what_is_not_of_the_body_is_bounded(begin: bytes, more: bytes) -> None:
    async def endless(reader: Reader, writer: Writer) -> None:
        await far.asked(reader)
        writer.write(begin)
        while True:
            writer.write(more)
            await writer.drain()
            await asyncio.sleep(0)

    async with far_end(FarEnd(endless)) as far, connections_to(far) as connections:
        with pytest.raises(BrokenOff, match="65536 bytes"):
            await answer_of(connections)
        await until(lambda: far.open == 0)


# --- keeping connections ----------------------------------------------------------------------------


@on_both_loops
async def test_a_connection_is_used_again_once_its_response_is_whole() -> None:
    async with far_end(answering(*[WHOLE] * 3)) as far, connections_to(far) as connections:
        for number in range(3):
            assert await answer_of(connections, b"%d" % number) == b"whole"
        assert far.connections == 1
        assert [request[-1:] for request in far.requests] == [b"0", b"1", b"2"]


@on_both_loops
async def test_the_connection_that_became_free_last_is_used_first() -> None:
    async def numbered(reader: Reader, writer: Writer) -> None:
        number = b"%d" % far.connections
        while True:
            await far.asked(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + number)

    async with far_end(FarEnd(numbered)) as far, connections_to(far) as connections:
        both = await asyncio.gather(connections.post(b""), connections.post(b""))
        free = [await body_of(response) for response in both]
        assert sorted(free) == [b"1", b"2"]
        last = await answer_of(connections)
        assert [await answer_of(connections) for _ in range(3)] == [last] * 3


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nwhole", id="says close"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nwhole", id="HTTP/1.0"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nwhole", id="until the end"),
        pytest.param(WHOLE + b"more", id="bytes behind the end"),
        pytest.param(WHOLE + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", id="a response behind the end"),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nwholemore", id="both"),
    ],
)
@on_both_loops
async def test_a_connection_that_is_not_fit_for_another_request_is_closed(answer: bytes) -> None:
    until_end = b"Content-Length" not in answer
    async with (
        far_end(answering(answer, then=None if until_end else linger)) as far,
        connections_to(far) as connections,
    ):
        assert await answer_of(connections) == b"whole"
        await until(lambda: far.open == 0)
        assert await answer_of(connections) == b"whole"
        assert far.connections == 2


@on_both_loops
async def test_what_comes_unasked_on_a_free_connection_closes_it() -> None:
    go = asyncio.Event()

    async def unasked(reader: Reader, writer: Writer) -> None:
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad")
        await linger(reader, writer)

    async with far_end(answering(WHOLE, then=unasked)) as far, connections_to(far) as connections:
        assert await answer_of(connections) == b"whole"
        go.set()
        await until(lambda: far.open == 0)
        assert await answer_of(connections) == b"whole"
        assert far.connections == 2


@on_both_loops
async def test_a_response_that_is_closed_before_its_end_takes_its_connection_with_it() -> None:
    async with (
        far_end(answering(CHUNKED + b"4\r\nhalf\r\n", then=linger)) as far,
        connections_to(far) as connections,
    ):
        response = await connections.post(b"")
        assert await response.read() == b"half"
        response.close()
        await until(lambda: far.open == 0)
        await connections.post(b"")
        assert far.connections == 2


@on_both_loops
async def test_an_idle_connection_is_closed_after_a_while() -> None:
    async with (
        far_end(answering(WHOLE, WHOLE, then=linger)) as far,
        connections_to(far, keep_alive_s=0.05) as connections,
    ):
        await answer_of(connections)
        assert far.open == 1
        await until(lambda: far.open == 0)
        await answer_of(connections)
        assert far.connections == 2
        await until(lambda: far.open == 0)


@pytest.mark.parametrize("ending", ["close", "reset"])
@on_both_loops
async def test_a_request_on_a_kept_connection_that_turns_out_to_be_gone_is_sent_again(ending: str) -> None:
    async def first(reader: Reader, writer: Writer) -> None:
        await far.asked(reader)
        writer.write(WHOLE)
        await far.asked(reader)
        if ending == "reset":
            await reset(reader, writer)

    async def second(reader: Reader, writer: Writer) -> None:
        await far.asked(reader)
        writer.write(WHOLE)

    async with far_end(FarEnd(first, second)) as far, connections_to(far, again_within_s=60) as connections:
        await answer_of(connections, b"1")
        assert await answer_of(connections, b"2") == b"whole"
        assert [request[-1:] for request in far.requests] == [b"1", b"2", b"2"]


@on_both_loops
async def test_it_is_sent_again_once_and_not_where_an_answer_has_begun() -> None:
    async def first(reader: Reader, writer: Writer) -> None:
        await far.asked(reader)
        writer.write(WHOLE)
        await far.asked(reader)
        writer.write(b"HTTP/1.1 200 ")
        await writer.drain()

    async with far_end(FarEnd(first)) as far, connections_to(far) as connections:
        await answer_of(connections)
        with pytest.raises(BrokenOff):
            await connections.post(b"")
        assert far.connections == 1

    async def silent(reader: Reader, writer: Writer) -> None:
        del writer
        await far.asked(reader)

    async def kept(reader: Reader, writer: Writer) -> None:
        await far.asked(reader)
        writer.write(WHOLE)
        await far.asked(reader)

    async with far_end(FarEnd(kept, silent)) as far, connections_to(far, again_within_s=60) as connections:
        await answer_of(connections)
        with pytest.raises(BrokenOff):
            await connections.post(b"")
        assert far.connections == 2


@on_both_loops
async def test_a_request_that_the_server_had_for_a_while_is_not_sent_again() -> None:
    """The provider may have worked on it, and would be paid twice."""
    loop = asyncio.get_running_loop()
    go = asyncio.Event()

    async def holding(reader: Reader, writer: Writer) -> None:
        await far.asked(reader)
        writer.write(WHOLE)
        await far.asked(reader)
        await go.wait()

    async with far_end(FarEnd(holding)) as far, connections_to(far, again_within_s=0.02) as connections:
        await answer_of(connections)
        waiting = asyncio.create_task(connections.post(b""))
        await until(lambda: len(far.requests) == 2)
        had_since = loop.time()
        await until(lambda: loop.time() > had_since + 0.02)
        go.set()
        with pytest.raises(BrokenOff):
            await waiting
        assert (far.connections, len(far.requests)) == (1, 2)


# --- how much is held, and how much is sent ---------------------------------------------------------


@on_both_loops
async def test_a_reader_that_is_slow_holds_the_server_up_and_loses_nothing() -> None:
    piece = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    written = 0

    async def talk(reader: Reader, writer: Writer) -> None:
        nonlocal written
        await far.asked(reader)
        writer.write(CHUNKED)
        for _ in range(1_000):
            writer.write(piece)
            await writer.drain()
            written += 1
        writer.write(b"0\r\n\r\n")
        await linger(reader, writer)

    async with far_end(FarEnd(talk)) as far, connections_to(far) as connections:
        response = await connections.post(b"")
        seen = -1
        while seen != written:
            seen = written
            await asyncio.sleep(0.1)  # nothing tells that nothing more is written
        assert written < 1_000
        first = await response.read()
        assert len(first) < 1 << 20
        assert len(first) + len(await body_of(response)) == 1_000 * 0x8000


class Wire(asyncio.Transport):
    """The near end of a connection whose far end is the test."""

    paused = False
    aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Nobody reads it."""

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def wired() -> tuple[_Connection, Wire]:
    connection = _Connection(Connections(Endpoint.of("http://h/v1"), headers={}, connect_s=1))
    wire = Wire()
    connection.connection_made(wire)
    return connection, wire


async def test_what_is_unread_is_bounded_although_it_comes_in_the_smallest_pieces() -> None:
    connection, wire = wired()
    response = connection.ask(b"")
    connection.data_received(CHUNKED)
    tracemalloc.start()
    try:
        while not wire.paused:
            connection.data_received(b"1\r\na\r\n" * 100)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1 << 19
    assert len(await response.read()) < 1 << 13
    assert not wire.paused


async def test_a_connection_whose_reading_is_held_up_is_not_kept() -> None:
    connection, wire = wired()
    response = connection.ask(b"")
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 300001\r\n\r\n" + b"a" * 300_000)
    assert wire.paused
    connection.data_received(b"b")
    assert wire.aborted
    assert len(await body_of(response)) == 300_001


@on_both_loops
async def test_an_early_answer_is_read_although_the_request_is_not_all_sent() -> None:
    answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"

    async def early(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await asyncio.get_running_loop().create_future()

    async with far_end(FarEnd(early)) as far, connections_to(far) as connections:
        response = await connections.post(b"x" * (32 << 20))
        assert (response.status, await body_of(response)) == (413, b"no")
        await connections.post(b"")
        assert far.connections == 2, "what was left of the first request would have been read as the second"


@on_both_loops
async def test_a_body_of_many_mebibytes_arrives_whole() -> None:
    async with far_end(answering(WHOLE)) as far, connections_to(far) as connections:
        body = bytes(range(256)) * (1 << 14)
        assert await answer_of(connections, body) == b"whole"
        assert far.requests[0].endswith(b"\r\n\r\n" + body)


# --- letting go -------------------------------------------------------------------------------------


@on_both_loops
async def test_a_cancel_before_the_head_closes_the_connection() -> None:
    async with far_end(answering(b"HTTP/1.1 200", then=linger)) as far, connections_to(far) as connections:
        task = asyncio.create_task(connections.post(b""))
        await until(lambda: far.requests)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: far.open == 0)


@on_both_loops
async def test_a_cancelled_read_can_be_closed_and_leaves_nothing() -> None:
    async with far_end(answering(CHUNKED, then=linger)) as far, connections_to(far) as connections:
        response = await connections.post(b"")
        task = asyncio.create_task(response.read())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        response.close()
        await until(lambda: far.open == 0)


@on_both_loops
async def test_closing_closes_what_is_free_and_what_is_in_use_and_no_more_can_be_asked() -> None:
    async def unending(reader: Reader, writer: Writer) -> None:
        await far.asked(reader)
        writer.write(CHUNKED)
        await linger(reader, writer)

    async def whole(reader: Reader, writer: Writer) -> None:
        await far.asked(reader)
        writer.write(WHOLE)
        await linger(reader, writer)

    async with far_end(FarEnd(unending, whole)) as far, connections_to(far) as connections:
        used = await connections.post(b"")
        await answer_of(connections)
        assert far.open == 2
        await connections.aclose()
        await until(lambda: far.open == 0)
        with pytest.raises(BrokenOff):
            await body_of(used)
        with pytest.raises(RuntimeError, match="closed"):
            await connections.post(b"")


@on_both_loops
async def test_closing_breaks_off_what_waits_on_a_kept_connection_and_asks_nobody_again() -> None:
    async def once(reader: Reader, writer: Writer) -> None:
        await far.asked(reader)
        writer.write(WHOLE)
        await far.asked(reader)
        await linger(reader, writer)

    async with far_end(FarEnd(once)) as far, connections_to(far) as connections:
        await answer_of(connections)
        waiting = asyncio.create_task(connections.post(b""))
        await until(lambda: len(far.requests) == 2)
        await connections.aclose()
        with pytest.raises(BrokenOff):
            await waiting


@pytest.mark.parametrize("secure", [False, True])
@on_both_loops
async def test_closing_while_a_connection_is_being_made_breaks_the_answer_off(
    certificate: tuple[Path, Path], secure: bool
) -> None:
    """Of the rounds of the loop from asking to being asked, it may fall into any."""
    serving, trusting = tls_of(certificate) if secure else (None, None)
    rounds = 0
    async with far_end(answering(WHOLE, then=linger), tls=serving) as far:
        while not far.requests:
            rounds += 1
            async with connections_to(far, tls=trusting) as connections:
                asking = asyncio.create_task(connections.post(b""))
                for _ in range(rounds):
                    await asyncio.sleep(0)
                await connections.aclose()
                async with asyncio.timeout(5):
                    (outcome,) = await asyncio.gather(asking, return_exceptions=True)
                assert isinstance(outcome, (BrokenOff, Unreachable, Response))


@on_both_loops
async def test_a_new_connection_that_is_lost_before_it_is_asked_is_broken_off() -> None:
    async def refusing(reader: Reader, writer: Writer) -> None:
        await reset(reader, writer)

    async with far_end(FarEnd(refusing)) as far, connections_to(far) as connections:
        for _ in range(50):
            with pytest.raises((BrokenOff, Unreachable)):
                await connections.post(b"")
    connection, wire = wired()
    wire.abort()
    with pytest.raises(BrokenOff):
        await connection.ask(b"").head()
    connection, wire = wired()
    connection.connection_lost(None)
    with pytest.raises(BrokenOff):
        await connection.ask(b"").head()
