"""A server on loopback that writes exact bytes, and the model's connections to it."""

import asyncio
import inspect
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
import uvloop

from luxx.adapters.models.connections import (
    Connections,
    Endpoint,
    Response,
)

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter
Talk: TypeAlias = Callable[[Reader, Writer], Awaitable[None]]

WHOLE: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole"
CHUNKED: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make two tests of one: on asyncio's own loop, and on uvloop's."""

    def both(new_loop: Callable[[], asyncio.AbstractEventLoop], **given: Any) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(asyncio.wait_for(test(**given), 20))

    first = inspect.Parameter("new_loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    both.__signature__ = inspect.Signature([first, *inspect.signature(test).parameters.values()])  # type: ignore[attr-defined]  # it is for pytest
    both.__name__, both.__doc__ = test.__name__, test.__doc__
    loops = [asyncio.new_event_loop, uvloop.new_event_loop]
    mark: Callable[..., Callable[..., None]] = pytest.mark.parametrize("new_loop", loops, ids=["asyncio", "uvloop"])
    return mark(both)


class FarEnd:
    """A server that talks by hand: each connection is one `talk`, the last of them again and again."""

    def __init__(self, *talks: Talk) -> None:
        self._talks = talks
        self.port = 0
        self.connections = 0
        self.open = 0
        self.requests: list[bytes] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def connected(self, reader: Reader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        talk = self._talks[min(self.connections, len(self._talks) - 1)]
        self.connections += 1
        self.open += 1
        try:
            await talk(reader, writer)
        except (asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.transport.abort()

    async def asked(self, reader: Reader) -> bytes:
        """Read a request, head and body; gives the body."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        self.requests.append(head + body)
        return body


@asynccontextmanager
async def far_end(far: FarEnd, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[FarEnd]:
    server = await asyncio.start_server(far.connected, "127.0.0.1", 0, ssl=tls)
    far.port = server.sockets[0].getsockname()[1]
    try:
        yield far
    finally:
        server.close()
        for task in far.tasks:
            task.cancel()
        await asyncio.gather(*far.tasks, return_exceptions=True)


@asynccontextmanager
async def connections_to(
    far: FarEnd, *, host: str = "localhost", tls: ssl.SSLContext | None = None, connect_s: float = 5.0, **how: Any
) -> AsyncIterator[Connections]:
    endpoint = Endpoint.of(f"http://127.0.0.1:{far.port}/v1" if tls is None else f"https://{host}:{far.port}/v1")
    connections = Connections(endpoint, headers={"X-Key": "k"}, connect_s=connect_s, tls=tls, **how)
    try:
        yield connections
    finally:
        await connections.aclose()


def answering(*answers: bytes, slice_size: int = 0, then: Talk | None = None) -> FarEnd:
    """Give a server that answers each request of a connection with the next of these bytes, and then ends."""

    async def talk(reader: Reader, writer: Writer) -> None:
        for answer in answers:
            await far.asked(reader)
            step = slice_size or len(answer)
            for place in range(0, len(answer), step):
                writer.write(answer[place : place + step])
                await writer.drain()
                await asyncio.sleep(0)
        if then is not None:
            await then(reader, writer)

    far = FarEnd(talk)
    return far


async def linger(reader: Reader, writer: Writer) -> None:
    """Hold the connection until the client leaves."""
    del writer
    await reader.read()


async def reset(reader: Reader, writer: Writer) -> None:
    """Break the connection."""
    del reader
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def body_of(response: Response) -> bytes:
    pieces = []
    while piece := await response.read():
        pieces.append(piece)
    return b"".join(pieces)


async def answer_of(connections: Connections, request: bytes = b"") -> bytes:
    return await body_of(await connections.post(request))


def tls_of(certificate: tuple[Path, Path]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Give what the server shows, and what trusts it."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*certificate)
    return serving, ssl.create_default_context(cafile=str(certificate[0]))
