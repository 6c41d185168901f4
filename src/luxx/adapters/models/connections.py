"""HTTP/1.1 to one endpoint, for streams: connections that are kept, and as few steps as can be for each piece."""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self, cast
from urllib.parse import quote, urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from luxx.adapters.models.dial import addresses_of, dialled

KEEP_ALIVE_S: Final = 30.0
AGAIN_WITHIN_S: Final = 1.0
"""How soon a kept connection shows that it was gone when it was asked."""
_UNREAD_LIMIT: Final = 1 << 18
_OF_A_PIECE: Final = 64
"""Bytes that a piece takes besides what is in it."""
_OVERHEAD_LIMIT: Final = 1 << 16
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class ConnectTimedOut(Exception):
    """No connection was made in time; looking the name up and TLS are parts of it."""


class Unreachable(Exception):
    """No connection could be made: no such name, or refused."""


class Untrusted(Unreachable):
    """The far end has no certificate to trust."""


class BrokenOff(Exception):
    """The connection ended before the response did, or what came is no response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where requests go. `host` is as it is looked up, without brackets; `path` is as it is sent."""

    secure: bool
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> Self:
        """Read an absolute http or https URL without user, query and fragment; raises ValueError with what is wrong."""
        unreadable = ValueError("cannot be read; it looks like https://host/v1")
        if not url.isprintable():
            raise unreadable
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
            port = parts.port
            if ":" not in host:
                host = host.encode("idna").decode()
        except ValueError:
            raise unreadable from None
        if parts.scheme not in _DEFAULT_PORTS or not host:
            raise ValueError("must begin with http:// or https:// and a host, as in https://host/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must have no user, query or fragment")
        return cls(
            secure=parts.scheme == "https",
            host=host,
            port=_DEFAULT_PORTS[parts.scheme] if port is None else port,
            path=quote(parts.path, safe="/%:@!$&'()*+,;=~") or "/",
        )

    @property
    def authority(self) -> str:
        """The host and, unless it is the usual one, the port, as a `Host` header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS["https" if self.secure else "http"] else f"{host}:{self.port}"


class Connections:
    """Any number of connections to one endpoint; one that has become free is kept for `keep_alive_s`.

    No proxies, no redirects, no cookies: what is answered is what is given. All of one event loop.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        headers: Mapping[str, str],
        connect_s: float,
        tls: ssl.SSLContext | None = None,
        keep_alive_s: float = KEEP_ALIVE_S,
        again_within_s: float = AGAIN_WITHIN_S,
    ) -> None:
        """`headers` go with every request. Times are in seconds.

        What is lost on a kept connection within `again_within_s` is sent again; later, the provider may
        have worked on it.

        Raises ValueError for a secure endpoint without `tls`.
        """
        if endpoint.secure and tls is None:
            raise ValueError("A secure endpoint needs to know whom to trust.")
        self._endpoint = endpoint
        lines = [f"POST {endpoint.path} HTTP/1.1", f"Host: {endpoint.authority}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._head = ("\r\n".join(lines) + "\r\nContent-Length: ").encode("ascii")
        self._connect_s = connect_s
        self._tls = tls
        self._keep_alive_s = keep_alive_s
        self._again_within_s = again_within_s
        self._open: set[_Connection] = set()
        self._idle: dict[_Connection, float] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._closed = False

    async def post(self, body: bytes) -> "Response":
        """Send a request and give the response once its head is there; close it, whatever comes of it.

        A kept connection that turns out at once to be gone is none: the request goes out again on a new one.
        Raises `ConnectTimedOut`, `Unreachable` or `BrokenOff`.
        """
        request = b"%b%d\r\n\r\n%b" % (self._head, len(body), body)
        kept = self._kept()
        if kept is not None:
            now = asyncio.get_running_loop().time
            again_until = now() + self._again_within_s
            response = kept.ask(request)
            try:
                await response.head()
            except BrokenOff:
                if response.begun or self._closed or now() > again_until:
                    raise
            else:
                return response
        response = (await self._connected()).ask(request)
        await response.head()
        return response

    async def aclose(self) -> None:
        """Close all connections, those in use as well."""
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in list(self._open):
            connection.abort()
        # Each is told on the loop's next round; only then it is gone.
        await asyncio.sleep(0)

    def _kept(self) -> "_Connection | None":
        """Give the connection that has been idle for the shortest time."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if not connection.transport.is_closing():
                return connection
        return None

    async def _connected(self) -> "_Connection":
        if self._closed:
            raise RuntimeError("The connections to the model are closed.")
        connection = _Connection(self)
        endpoint = self._endpoint
        try:
            async with asyncio.timeout(self._connect_s):
                dialling = await dialled(await addresses_of(endpoint.host, endpoint.port))
                await asyncio.get_running_loop().create_connection(
                    lambda: connection,
                    sock=dialling,
                    ssl=self._tls if endpoint.secure else None,
                    server_hostname=endpoint.host if endpoint.secure else None,
                )
        except TimeoutError:
            raise ConnectTimedOut from None
        except ssl.SSLCertVerificationError as error:
            raise Untrusted from error
        except OSError as error:
            raise Unreachable from error
        # Not before: uvloop leaves the socket open of a connection that is closed while it is made.
        self._opened(connection)
        return connection

    def _opened(self, connection: "_Connection") -> None:
        self._open.add(connection)
        if self._closed:
            connection.abort()

    def lost(self, connection: "_Connection") -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def keep(self, connection: "_Connection") -> None:
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        self._idle[connection] = loop.time()
        if self._sweeping is None:
            self._sweeping = loop.call_later(self._keep_alive_s, self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle for too long; the dict has the longest idle first."""
        self._sweeping = None
        loop = asyncio.get_running_loop()
        for connection, since in list(self._idle.items()):
            if since + self._keep_alive_s > loop.time():
                self._sweeping = loop.call_at(since + self._keep_alive_s, self._sweep)
                break
            del self._idle[connection]
            connection.abort()


class _Connection(asyncio.Protocol):
    """One connection, with the response that is being read from it, if any."""

    __slots__ = ("_lost", "_pool", "response", "transport")

    transport: asyncio.Transport

    def __init__(self, pool: Connections) -> None:
        self._pool = pool
        self._lost = False
        self.response: Response | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes) -> "Response":
        """Send a request. All of it is handed over, and the answer may come before it is gone."""
        response = self.response = Response(self)
        if self._lost or self.transport.is_closing():
            response.broken("the connection was lost before anything was asked")
        else:
            self.transport.write(request)
        return response

    def data_received(self, data: bytes) -> None:
        if self.response is None:
            self.abort()  # nothing was asked: it could pass for the next answer
        else:
            self.response.feed(data)

    def eof_received(self) -> None:
        if self.response is None:
            self.abort()
        else:
            self.response.ended()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._let_go()
        if self.response is not None:
            self.response.broken("the connection was lost")

    def free(self, *, fit: bool) -> None:
        """Let go of the response; keep the connection if it is fit for another."""
        self.response = None
        # What is left of a request that was answered early would be taken for the next one.
        if fit and not self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self._pool.keep(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once: a goodbye, as TLS has it, would be waited for."""
        self._let_go()
        self.transport.abort()

    def _let_go(self) -> None:
        self._lost = True
        self._pool.lost(self)


class Response:
    """A response as it comes: its head is there, its body is read, and it is closed in the end.

    `headers` have lower-case names; what a server repeats is joined by commas. Interim responses are
    read over, and so are trailers.
    """

    __slots__ = (
        "_complete",
        "_connection",
        "_error",
        "_fit",
        "_loop",
        "_overhead",
        "_parser",
        "_paused",
        "_pieces",
        "_unread",
        "_until_eof",
        "_waiter",
        "begun",
        "headers",
        "status",
    )

    def __init__(self, connection: _Connection) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.begun = False
        self._connection: _Connection | None = connection
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._unread = 0
        self._overhead = 0
        self._complete = False
        self._fit = False
        self._paused = False
        self._until_eof = False
        self._error = ""
        self._waiter: asyncio.Future[None] | None = None
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        # What clients commonly forgive servers: it cannot be taken for another response here.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    async def head(self) -> None:
        """Wait until the head is there; closes and raises `BrokenOff` where none comes."""
        try:
            while not self.status and self._connection is not None:
                self._waiter = self._loop.create_future()
                await self._waiter
        except BaseException:  # a cancel, too, leaves nothing open
            self.close()
            raise
        if not self.status:
            raise BrokenOff(self._error)

    @property
    def ready(self) -> bool:
        """Whether `read` has something to give, or to raise, without waiting."""
        return bool(self._pieces) or self._connection is None

    async def read(self) -> bytes:
        """Give all of the body that has come since the last time; nothing at its end. Raises `BrokenOff`."""
        while not self._pieces:
            if self._connection is None:
                if self._complete:
                    return b""
                raise BrokenOff(self._error)
            self._waiter = self._loop.create_future()
            await self._waiter
        pieces = self._pieces
        self._pieces = []
        self._unread = 0
        if self._paused:
            self._paused = False
            if self._connection is not None and not self._connection.transport.is_closing():
                self._connection.transport.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Be done with it, read to its end or not."""
        self.broken("the response was closed")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- what the connection tells ------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take what came."""
        parser = self._parser
        if parser is None:
            return
        self.begun = True
        self._overhead += len(data)
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self._complete:
                self.broken(f"not HTTP/1.1: {error}")
                return
            self._fit = False
        if self._complete:
            # Reading that is held up would stay so, with nobody to let it go on.
            self._detach(fit=self._fit and not self._paused)
        elif self._overhead > _OVERHEAD_LIMIT:
            self.broken(f"more than {_OVERHEAD_LIMIT} bytes that are not of the body")
        elif self._unread > _UNREAD_LIMIT and not self._paused and self._connection is not None:
            self._paused = True
            self._connection.transport.pause_reading()
        self._wake()

    def ended(self) -> None:
        """Take the end of what the server sends: a body without a length and without chunks is whole, then."""
        if self._until_eof:
            self._complete = True
            self._detach(fit=False)
            self._wake()
        else:
            self.broken("the connection was closed")

    def broken(self, why: str) -> None:
        """Take it that no more comes; what came can still be read."""
        if self._connection is not None:
            self._error = why
            self._detach(fit=False)
            self._wake()

    def _detach(self, *, fit: bool) -> None:
        connection, self._connection = self._connection, None
        self._parser = None  # it holds on to this object
        if connection is not None:
            connection.free(fit=fit)

    # --- what the parser tells ----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._complete:
            raise BrokenOff("a response that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip()
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        parser = cast("HttpResponseParser", self._parser)
        status = parser.get_status_code()
        if status < 200:
            self.headers.clear()
            return
        self.status = status
        coding = self.headers.get("transfer-encoding")
        if coding is not None:
            self._until_eof = not coding.lower().endswith("chunked")
        else:
            self._until_eof = "content-length" not in self.headers

    def on_body(self, piece: bytes) -> None:
        self._overhead = 0
        self._unread += len(piece) + _OF_A_PIECE
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        if self.status:
            self._complete = True
            self._fit = cast("HttpResponseParser", self._parser).should_keep_alive()
