"""The HTTP client of all tools.

It resolves a name once, refuses what is not allowed, and dials the very address that it looked at; every
redirect is a new request that starts over. Time, bytes and decompression are bounded; no proxy, cookie,
credential or other setting is taken from the environment.
"""

import asyncio
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from http import HTTPStatus
from typing import Any, Final, Protocol

import httpcore
import httpx

from luxx import __version__
from luxx.adapters.tools.web.addresses import Address, AddressRules
from luxx.adapters.tools.web.names import LookUp, Names, system_look_up
from luxx.application.places import Places
from luxx.domain.errors import ToolBroken, ToolError, ToolRefused, ToolTimeout

USER_AGENT: Final = f"Luxx/{__version__}"
BODY_BYTES: Final = 5 * 2**20
REDIRECTS: Final = 5
SECONDS: Final = 15.0
CONNECT_SECONDS: Final = 5.0
CONNECTIONS: Final = 50
URL_CHARACTERS: Final = 8_192

_CHUNK: Final = 65_536
READ_BYTES: Final = 4_096
"""Taken from a connection at once: a server can put hundreds of chunks or provisional answers into it, no thousands."""
_MOVED: Final = {301, 302, 303, 307, 308}


class Before(Protocol):
    """Comes before a hop to `url`. `until` is when, by the loop's clock, the time of the whole request ends."""

    def __call__(self, url: str, *, until: float) -> Awaitable[None]: ...


class AddressRefused(ToolRefused):
    """The address may not be reached: it leads nowhere, or it is not public and no operator allowed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebResponse:
    """An answer, its body whole and unpacked. `url` is the last one of the redirects; header names are lower-case."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def media_type(self) -> str:
        """The type without parameters, lower-case; empty where the server named none."""
        return self.headers.get("content-type", "").split(";", 1)[0].strip().lower()


class WebClient:
    """Makes GET requests, and only to where `rules` allow. `aclose` when done.

    `look_up` resolves names, the system's way unless given.

    Raises `ToolRefused` for addresses that are malformed, lead nowhere or are not allowed, and for answers that are
    too large; `ToolBroken` where a server cannot be reached or talks nonsense; `ToolTimeout` where it is too slow.
    """

    def __init__(
        self,
        rules: AddressRules,
        *,
        ssl_context: ssl.SSLContext | None = None,
        seconds: float = SECONDS,
        body_bytes: int = BODY_BYTES,
        look_up: LookUp | None = None,
    ) -> None:
        self._seconds = seconds
        self._body_bytes = body_bytes
        self._rules = rules
        self._names = Names(look_up or system_look_up)
        self._loose: set[asyncio.Future[None]] = set()
        self._ssl_context = ssl_context or _authorities()
        self._places = Places(CONNECTIONS)

    async def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        redirects: int = REDIRECTS,
        before: Before | None = None,
        body_bytes: int | None = None,
    ) -> WebResponse:
        """Get a page, following redirects; all of it within the client's time.

        `before` is awaited for every hop, and may raise to stop there. `headers` go to the first origin alone.
        """
        until = asyncio.get_running_loop().time() + self._seconds
        entering = None if before is None else partial(before, until=until)
        most = body_bytes or self._body_bytes
        try:
            async with asyncio.timeout_at(until):
                return await self._follow(url, dict(headers or {}), redirects, entering, most)
        except TimeoutError as error:
            reason = f"{_shown(url)} did not answer within {self._seconds:g} seconds; try again later"
            raise ToolTimeout(reason) from error

    async def _follow(
        self,
        url: str,
        headers: dict[str, str],
        redirects: int,
        entering: Callable[[str], Awaitable[None]] | None,
        body_bytes: int,
    ) -> WebResponse:
        target = parsed(url)
        for _ in range(redirects + 1):
            if entering is not None:
                await entering(str(target))
            async with self._request(target, headers) as response:
                location = _location(response)
                if response.status not in _MOVED or not location:
                    return await _read(target, response, body_bytes)
            following = parsed(location, base=target)
            if _origin(following) != _origin(target):
                headers = {}
            target = following
        raise ToolRefused(f"{_shown(url)} redirects more than {redirects} times")

    @asynccontextmanager
    async def _request(self, url: httpx.URL, headers: Mapping[str, str]) -> AsyncIterator[httpcore.Response]:
        sent = {
            "Host": url.netloc.decode("ascii"),
            "User-Agent": USER_AGENT,
            "Accept": "*/*",
            # Brotli and zstd unpack a few bytes to gigabytes in one step; gzip can be stopped in the middle.
            "Accept-Encoding": "gzip",
            **headers,
        }
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        request = httpcore.Request(
            method="GET",
            url=target,
            headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in sent.items()],
            extensions={"timeout": {"connect": CONNECT_SECONDS, "read": self._seconds}},
        )
        addresses = await self._allowed(target.origin.host.decode("ascii"), target.origin.port)
        # A connection each: httpcore's pool keeps those half made for good when a request is cancelled meanwhile.
        connection = httpcore.AsyncHTTPConnection(
            target.origin, ssl_context=self._ssl_context, network_backend=_Network(addresses, self._loose)
        )
        try:
            async with self._places.one():
                try:
                    yield await connection.handle_async_request(request)
                finally:
                    await connection.aclose()
        except ToolError:
            raise
        except httpcore.TimeoutException as error:
            raise ToolTimeout(f"{_shown(url)} did not answer in time; try again later") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError, ssl.SSLError, OSError) as error:
            raise ToolBroken(f"{_shown(url)} cannot be read: {_reason(error)}") from error

    async def _allowed(self, host: str, port: int) -> Sequence[Address]:
        """Look a host up, once, and give those of its addresses that may be dialled.

        Raises the same for a name that leads nowhere: else anybody could try which names there are inside.
        """
        try:
            found = await self._names.addresses(host)
        except (OSError, UnicodeError):
            found = ()
        allowed = [address for address in found if self._rules.allows(host, address, port)]
        if not allowed:
            where = f"{host} on port {port} may not be reached"
            raise AddressRefused(f"{where}: no web server of the public internet was found there; check the address")
        return allowed

    async def aclose(self) -> None:
        await asyncio.gather(*self._loose)
        self._names.close()


@cache
def _authorities() -> ssl.SSLContext:
    """Read the certificate authorities, once for all clients: it takes a while."""
    return httpx.create_ssl_context(trust_env=False)


def parsed(text: str, *, base: httpx.URL | None = None) -> httpx.URL:
    """Read an http(s) URL, relative to `base` where there is one; raises `ToolRefused` that says what is wrong."""
    stripped = text.strip()
    if len(stripped) > URL_CHARACTERS:
        raise ToolRefused(f"the address is longer than {URL_CHARACTERS} characters")
    if re.search(r"[\x00-\x20\x7f\\]", stripped) or not stripped.isprintable():
        raise ToolRefused(f"{_shown(text)} holds characters that no address may hold")
    try:
        url = base.join(stripped) if base is not None else httpx.URL(stripped)
        host = url.host
        port = url.port
    except (httpx.InvalidURL, ValueError, UnicodeError) as error:
        raise ToolRefused(f"{_shown(text)} is not an address that can be read") from error
    if url.scheme not in {"http", "https"}:
        raise ToolRefused(f"{_shown(text)} is no web address: it must begin with http:// or https://")
    if not host or len(host) > 253:
        raise ToolRefused(f"{_shown(text)} names no host")
    if url.userinfo:
        raise ToolRefused(f"{_shown(text)} holds a user name or password; give the address without")
    if "%" in host or port == 0:
        raise ToolRefused(f"{_shown(text)} is not an address that can be read")
    return url.copy_with(fragment=None)


class _Network(httpcore.AsyncNetworkBackend):
    """Opens connections for httpcore, to `addresses` and to nothing else. `loose` keeps what is yet to be closed."""

    def __init__(self, addresses: Sequence[Address], loose: set[asyncio.Future[None]]) -> None:
        self._addresses = addresses
        self._loose = loose
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - it has been looked up
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own signature
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception | None = None
        for address in self._addresses[:4]:
            try:
                connecting = self._sockets.connect_tcp(str(address), port, timeout, local_address, socket_options)
                return await self._connected(asyncio.ensure_future(connecting))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        assert failure is not None  # noqa: S101 - there was at least one address
        raise failure

    async def _connected(self, connecting: asyncio.Future[httpcore.AsyncNetworkStream]) -> "_Stream":
        """Wait for a connection; one that comes into being after a cancel is closed, instead of being lost open."""
        try:
            return _Stream(await asyncio.shield(connecting))
        except asyncio.CancelledError:
            closing = asyncio.ensure_future(_closed(connecting))
            self._loose.add(closing)
            closing.add_done_callback(self._loose.discard)
            raise

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 - as above
        socket_options: Any = None,  # noqa: ARG002 - as above
    ) -> httpcore.AsyncNetworkStream:
        raise AddressRefused(f"{path} is a local socket; it is not fetched")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _closed(connecting: asyncio.Future[httpcore.AsyncNetworkStream]) -> None:
    # Nobody waits for this connection any more, so nobody is told that it failed either.
    with suppress(httpcore.NetworkError, httpcore.TimeoutException, OSError):
        await (await connecting).aclose()


class _Stream(httpcore.AsyncNetworkStream):
    """A connection that is closed when the call that secures it is cancelled; httpcore would leave it open.

    It gives a little at a time and lets others run between: what was read at once is worked through without a pause.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's own
        await asyncio.sleep(0)
        return await self._stream.read(min(max_bytes, READ_BYTES), timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's own
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own
    ) -> httpcore.AsyncNetworkStream:
        try:
            return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout))
        except BaseException:
            await asyncio.shield(self._stream.aclose())
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


async def _read(url: httpx.URL, response: httpcore.Response, most: int) -> WebResponse:
    """Read and unpack a body, and stop as soon as it is too large, packed or unpacked."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip", "x-gzip", ""}:
        raise ToolBroken(f"{_shown(url)} is packed as {encoding[:40]!r}, which nobody asked for")
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise ToolRefused(_too_large(url, most))
    unpacker = zlib.decompressobj(wbits=31) if "gzip" in encoding else None
    parts: list[bytes] = []
    size = received = 0
    async for chunk in response.aiter_stream():
        received += len(chunk)
        pieces = [chunk] if unpacker is None else _unpacked(unpacker, chunk, most - size + 1, url)
        parts += pieces
        size += sum(map(len, pieces))
        if max(size, received) > most:
            raise ToolRefused(_too_large(url, most))
    if unpacker is not None and received and not unpacker.eof:
        raise ToolBroken(f"{_shown(url)} cannot be read: its packed content ends too early")
    return WebResponse(url=str(url), status=response.status, headers=headers, body=b"".join(parts))


def _unpacked(unpacker: Any, chunk: bytes, most: int, url: httpx.URL) -> list[bytes]:
    """Unpack a chunk, to one byte more than is allowed at most."""
    pieces: list[bytes] = []
    try:
        while chunk and most > 0 and not unpacker.eof:
            pieces.append(unpacker.decompress(chunk, min(_CHUNK, most)))
            most -= len(pieces[-1])
            chunk = unpacker.unconsumed_tail
    except zlib.error as error:
        raise ToolBroken(f"{_shown(url)} is packed in a way that cannot be unpacked") from error
    return pieces


def _too_large(url: httpx.URL, most: int) -> str:
    return f"{_shown(url)} is larger than {most / 2**20:g} MiB; it is not read"


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _location(response: httpcore.Response) -> str:
    """Give where an answer leads; some servers write it unescaped, in UTF-8 as browsers read it."""
    value = next((value for key, value in response.headers if key.lower() == b"location"), b"")
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _shown(url: str | httpx.URL) -> str:
    """Give an address for an error's text: short, on one line, without secrets."""
    text = re.sub(r"//[^/@\s]*@", "//", str(url))
    clean = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return repr(clean if len(clean) <= 200 else clean[:200] + "…")


def _reason(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not valid ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError):
            return "no secure connection could be made"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpcore.ConnectError):
        return "no connection could be made"
    if isinstance(error, httpcore.ProtocolError):
        return "the server does not speak HTTP as it should"
    return "the connection broke"


def outcome_of(response: WebResponse) -> WebResponse:
    """Pass a good answer on; raises `ToolRefused` for a status of 400 to 499, `ToolBroken` for other bad ones."""
    if 200 <= response.status < 300:
        return response
    try:
        phrase = f"{response.status} {HTTPStatus(response.status).phrase}"
    except ValueError:
        phrase = str(response.status)
    kind = ToolRefused if 400 <= response.status < 500 and response.status not in {408, 425, 429} else ToolBroken
    raise kind(f"{_shown(response.url)} answered {phrase}")
