"""HTTP/1.1 by hand, for requests that no decent client would send."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True, kw_only=True)
class RawAnswer:
    """One answer, its header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> Any:
        """The error code of a failure."""
        return json.loads(self.body)["error"]["code"]


class Wire:
    """One kept connection: requests go out as they are given."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        """Read status and headers; the body is left to be read."""
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines[1:] if line)
        return int(lines[0].split(" ")[1]), {name.lower(): value.strip() for name, _, value in fields}

    async def answer(self, *, head: bool = False) -> RawAnswer:
        """Read one answer whole; `head` says that it has no body by its method."""
        async with asyncio.timeout(20):
            status, headers = await self.head()
            while status < 200:  # an interim answer (RFC 9110, 15.2)
                status, headers = await self.head()
            if head or status in {204, 304}:
                body = b""
            elif headers.get("transfer-encoding") == "chunked":
                body = b"".join([chunk async for chunk in self.chunks()])
            else:
                body = await self._reader.readexactly(int(headers["content-length"]))
        return RawAnswer(status=status, headers=headers, body=body)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Read the chunks of a body as the server wrote them (RFC 9112, 7.1)."""
        while size := int((await self._reader.readuntil(b"\r\n")).strip(), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)

    async def ask(
        self,
        method: str,
        target: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> RawAnswer:
        """Send a request with a Content-Length if it has a body, and read the answer."""
        await self.send(request_bytes(method, target, headers=headers, body=body))
        return await self.answer(head=method == "HEAD")


def request_bytes(
    method: str, target: str, *, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None
) -> bytes:
    """Write a request; nothing is checked or escaped."""
    fields = [("Host", "luxx.test"), *headers]
    if body is not None:
        fields.append(("Content-Length", str(len(body))))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + (body or b"")


@asynccontextmanager
async def wire(url: str) -> AsyncIterator[Wire]:
    """Connect to the server of `url`."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
