"""How the model's connections are made: addresses, deadlines, TLS."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import cast

import pytest
from tests.support.far_end import (
    CHUNKED,
    WHOLE,
    FarEnd,
    Reader,
    Writer,
    answer_of,
    answering,
    connections_to,
    far_end,
    linger,
    on_both_loops,
    tls_of,
)
from tests.support.until import until

from luxx.adapters.models.connections import (
    BrokenOff,
    Connections,
    ConnectTimedOut,
    Endpoint,
    Unreachable,
    Untrusted,
)
from luxx.adapters.models.dial import Address, addresses_of, dialled

# --- connecting -------------------------------------------------------------------------------------


@on_both_loops
async def test_a_refused_connection_is_unreachable() -> None:
    far = FarEnd()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        far.port = unused.getsockname()[1]
        async with connections_to(far) as connections:
            with pytest.raises(Unreachable):
                await connections.post(b"")


@on_both_loops
async def test_an_address_that_refuses_leaves_the_host_to_the_next_one() -> None:
    """`localhost` is `::1` first on many machines, and many servers listen on 127.0.0.1 alone."""
    async with far_end(answering(WHOLE)) as far:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            refusing = Address(socket.AF_INET, unused.getsockname())
            nowhere = Address(socket.AF_INET6, ("::1", far.port))
            there = Address(socket.AF_INET, ("127.0.0.1", far.port))
            with closing(await dialled([nowhere, refusing, there])) as connected:
                assert connected.getpeername() == there.place
            with pytest.raises(OSError, match=r"\[Errno"):
                await dialled([refusing, refusing])


@on_both_loops
async def test_an_address_that_says_nothing_does_not_keep_the_next_one_waiting() -> None:
    async with far_end(answering(WHOLE)) as far, silent_address() as silent:
        there = Address(socket.AF_INET, ("127.0.0.1", far.port))
        with closing(await dialled([silent, there])) as connected:
            assert connected.getpeername() == there.place


@on_both_loops
async def test_connecting_has_a_deadline() -> None:
    far = FarEnd()
    async with silent_address() as silent:
        far.port = int(silent.place[1])
        async with connections_to(far, connect_s=0.05) as connections:
            with pytest.raises(ConnectTimedOut):
                await connections.post(b"")


@asynccontextmanager
async def silent_address() -> AsyncIterator[Address]:
    """Give an address where connections are neither taken nor refused."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            # Fills the queue of connections that nobody accepts, so that the next has to wait.
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        try:
            yield Address(socket.AF_INET, full.getsockname())
        finally:
            for one in waiting:
                one.close()


async def test_a_literal_address_is_not_looked_up() -> None:
    assert await addresses_of("127.0.0.1", 80) == [Address(socket.AF_INET, ("127.0.0.1", 80))]
    assert await addresses_of("::1", 80) == [Address(socket.AF_INET6, ("::1", 80))]


# --- TLS --------------------------------------------------------------------------------------------


@on_both_loops
async def test_tls_names_the_host_and_keeps_the_connection(certificate: tuple[Path, Path]) -> None:
    serving, trusting = tls_of(certificate)
    names: list[str | None] = []
    serving.sni_callback = lambda _socket, name, _context: names.append(name)
    answers = WHOLE, CHUNKED + b"5\r\nwhole\r\n0\r\n\r\n"
    async with far_end(answering(*answers), tls=serving) as far, connections_to(far, tls=trusting) as connections:
        assert [await answer_of(connections) for _ in answers] == [b"whole", b"whole"]
        assert (names, far.connections) == (["localhost"], 1)


@pytest.mark.parametrize(("host", "trusted"), [("127.0.0.1", True), ("localhost", False)])
@on_both_loops
async def test_a_certificate_for_another_name_or_of_nobody_is_untrusted(
    certificate: tuple[Path, Path], host: str, trusted: bool
) -> None:
    serving, trusting = tls_of(certificate)
    tls = trusting if trusted else ssl.create_default_context()
    async with far_end(answering(WHOLE), tls=serving) as far, connections_to(far, tls=tls, host=host) as connections:
        with pytest.raises(Untrusted):
            await connections.post(b"")
        assert not far.requests


@on_both_loops
async def test_a_handshake_that_does_not_come_is_bounded_as_connecting_is(certificate: tuple[Path, Path]) -> None:
    _, trusting = tls_of(certificate)
    async with far_end(FarEnd(linger)) as far, connections_to(far, tls=trusting, connect_s=0.1) as connections:
        with pytest.raises(ConnectTimedOut):
            await connections.post(b"")
        await until(lambda: far.open == 0)


@on_both_loops
async def test_closing_waits_for_no_goodbye_of_a_tls_server(certificate: tuple[Path, Path]) -> None:
    serving, trusting = tls_of(certificate)

    async def deaf(reader: Reader, writer: Writer) -> None:
        await far.asked(reader)
        writer.write(CHUNKED)
        await writer.drain()
        cast("asyncio.Transport", writer.transport).pause_reading()
        await asyncio.get_running_loop().create_future()

    async with far_end(FarEnd(deaf), tls=serving) as far, connections_to(far, tls=trusting) as connections:
        response = await connections.post(b"")
        async with asyncio.timeout(1):
            await connections.aclose()
        with pytest.raises(BrokenOff):
            await response.read()


@on_both_loops
async def test_a_tls_connection_that_is_cut_is_no_end_of_a_body(certificate: tuple[Path, Path]) -> None:
    serving, trusting = tls_of(certificate)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"
    async with far_end(answering(answer), tls=serving) as far, connections_to(far, tls=trusting) as connections:
        with pytest.raises(BrokenOff):
            await answer_of(connections)


def test_a_secure_endpoint_is_never_asked_in_the_clear() -> None:
    with pytest.raises(ValueError, match="whom to trust"):
        Connections(Endpoint.of("https://host/v1"), headers={}, connect_s=1)


# --- addresses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "endpoint", "authority"),
    [
        ("http://host/v1", (False, "host", 80, "/v1"), "host"),
        ("HTTPS://Host:443", (True, "host", 443, "/"), "host"),
        ("https://host:80/a/", (True, "host", 80, "/a/"), "host:80"),
        ("http://[::1]:8000/v1?", (False, "::1", 8000, "/v1"), "[::1]:8000"),
        ("http://[2001:DB8::1]/v1#", (False, "2001:db8::1", 80, "/v1"), "[2001:db8::1]"),
        (
            "http://bücher.example/ä b%20",
            (False, "xn--bcher-kva.example", 80, "/%C3%A4%20b%20"),
            "xn--bcher-kva.example",
        ),
        ("http://my_model:/v1", (False, "my_model", 80, "/v1"), "my_model"),
    ],
)
def test_an_address_is_read_as_it_is_dialled_and_sent(
    url: str, endpoint: tuple[bool, str, int, str], authority: str
) -> None:
    read = Endpoint.of(url)
    assert (read.secure, read.host, read.port, read.path) == endpoint
    assert read.authority == authority


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://h:port/v1", "cannot be read"),
        ("http://h:99999/v1", "cannot be read"),
        ("http://[::1/v1", "cannot be read"),
        ("http://h/v1\r\nX: y", "cannot be read"),
        ("http://a..ä/v1", "cannot be read"),
        ("http://a..b/v1", "cannot be read"),
        ("http://" + "h" * 70 + "/v1", "cannot be read"),
        ("host/v1", "begin with"),
        ("", "begin with"),
        ("http:///v1", "begin with"),
        ("http://user@h/v1", "no user"),
        ("http://h/v1?a", "no user"),
        ("http://h/v1#a", "no user"),
    ],
)
def test_an_address_that_cannot_be_asked_is_refused_with_its_fault(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Endpoint.of(url)
