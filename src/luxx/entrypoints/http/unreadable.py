"""What the server itself refuses, before there is a request that the application could answer."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from luxx.adapters import wire
from luxx.entrypoints.http.answers import ErrorObject, Failure, request_id
from luxx.entrypoints.http.asgi import Receive, Scope, Send
from luxx.entrypoints.http.text import ERRORS, Language, language_of

URL_LIMIT: Final = 65_535
"""Bytes of a request target that the parser takes, at most."""

HEADERS_LIMIT: Final = 64 * 1024
"""Bytes of all header names and values of a request, at most."""

FIELDS_LIMIT: Final = 256
"""Header fields of a request, at most."""

PIPELINE_LIMIT: Final = 16
"""Requests that may wait on one connection behind the one that is being answered."""


_TOO_SLOW: Final = {Language.ZH: "请求未在规定时间内发送完毕", Language.EN: "The request was not sent in time."}
_NO_HTTP: Final = {Language.ZH: "不是有效的 HTTP 请求", Language.EN: "This is no valid HTTP request."}
_LONG_TARGET: Final = {Language.ZH: ERRORS["uri_too_long"], Language.EN: "The address is too long."}
_LARGE_HEAD: Final = {Language.ZH: "请求头过大", Language.EN: "The request headers are too large."}


class _TooLarge(Exception):
    """The header section is larger than it may be."""


class _TooMany(Exception):
    """More requests wait on the connection than may."""


_UNSENT_BYTES: Final = 4 * 1024
"""Held of an answer of which the system takes no more: beyond that who writes it waits."""


class EnvelopedHttp(HttpToolsProtocol):
    """HTTP/1.1 that waits for nobody for ever, and whose own refusals have the envelope and a request id.

    A client has `seconds` for the head of a request, from its first byte or from connecting, and as
    many again for its body; uvicorn by itself has a deadline only for the pause between two requests.
    Sizes are bounded while they come, before anything is known of the request. Trailer fields (RFC 9112,
    7.1.2) are read over: what comes after a body must not pass for what a proxy has said in the head.
    """

    def __init__(self, *args: Any, seconds: float = 60.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self._seconds: Final = seconds
        self._deadline: asyncio.TimerHandle | None = None
        self._in_head = False
        self._in_body = False
        self._just_begun = False
        self._progressed = False
        """Whether this read held the end of a head, or something of a body."""
        self._head_bytes = 0
        self._framing_bytes = 0
        self._asks_another_protocol = False
        self._is_last = False
        """Whether the request that is read asks for the connection to be closed behind it."""

    # --- deadlines ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_UNSENT_BYTES)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)
        self.pipeline.clear()  # nobody is left to answer; each holds this connection

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio has it
        """Answer who has closed its side behind a whole request, as `nc -N` does, and hang up then.

        Where the answer has begun its reader is taken to have gone: a stream would be written on for nobody.
        """
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.more_body or cycle.response_started:
            return False
        cycle.keep_alive = False
        return True

    def _arm(self) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(self._seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        unanswered = cycle is not None and not cycle.response_started
        if self._in_head or unanswered:
            self._refuse("408 Request Timeout", "invalid_json", _TOO_SLOW)
        else:
            # Nothing was asked, or all that was asked is answered: there is nobody to tell.
            self.transport.close()

    # --- the parser's callbacks ---------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._just_begun = self._progressed = False
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("")
        if self.transport.is_closing():
            return
        if self._in_head and not self._just_begun:
            self._head_bytes += len(data)
            if self._head_bytes > URL_LIMIT + HEADERS_LIMIT:
                self._refuse_head()
        elif self._in_body and not self._progressed:
            # Chunk sizes and trailers: nothing that the application reads, and the parser would take any amount.
            self._framing_bytes += len(data)
            if self._framing_bytes > HEADERS_LIMIT:
                self._refuse_head()
        cycle: RequestResponseCycle | None = self.cycle
        idle = cycle is None or cycle.response_complete
        if idle and self._deadline is None and self.timeout_keep_alive_task is None:
            self._arm()  # empty lines before a request ended uvicorn's own deadline

    def _parse(self, data: bytes) -> None:
        """Parse, and take nothing but HTTP/1.1: who asks for another protocol is answered in this one (RFC 9110, 7.8).

        Behind a head with Upgrade the parser reads the other protocol; the body would be lost, or be taken for the
        next request. So it gets that head once more, without the field.
        """
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as paused:
                if not self._asks_another_protocol:  # CONNECT: its path is refused, and it has no body
                    return
                data = self._head_without_upgrade() + data[paused.args[0] :]
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        fields = [b"%s: %s\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        return b"%s %s HTTP/%s\r\n%s\r\n" % (self.parser.get_method(), self.url, version, b"".join(fields))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._just_begun = True
        self._head_bytes = 0
        self._arm()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        size = sum(len(name) + len(value) for name, value in self.headers)
        if size > HEADERS_LIMIT or len(self.headers) > FIELDS_LIMIT:
            raise _TooLarge
        self._in_head = False
        self._asks_another_protocol = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if self._asks_another_protocol:
            return
        if len(self.pipeline) >= PIPELINE_LIMIT:
            raise _TooMany
        super().on_headers_complete()
        # An answer may come before its request is whole. To hang up then resets the connection: who is still sending
        # would never read it (RFC 9112, 9.6). So the request is read to its end first.
        self._is_last = not self.cycle.keep_alive
        self.cycle.keep_alive = True
        self._in_body = self._progressed = True
        self._framing_bytes = 0
        if self.pipeline:
            # Its body is not read before the request in front of it is answered.
            self._disarm()
        else:
            self._arm()

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        self._progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._asks_another_protocol:
            return
        self._in_body = False
        super().on_message_complete()
        self._disarm()
        if self._is_last:
            self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()  # uvicorn reads on after each answer, however many requests wait
        if self.cycle.more_body and not self.cycle.response_complete:
            self._arm()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        super()._start_asgi_task(cycle, app if cycle.scope["http_version"] == "1.1" else _as_of_1_0(cycle, app))

    # --- refusals -----------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:  # the client gets our words
        """Refuse what is no HTTP, and close: where a next request would begin is not known."""
        too_large = len(self.headers or ()) > FIELDS_LIMIT or (
            sum(len(name) + len(value) for name, value in self.headers or ()) > HEADERS_LIMIT
        )
        if len(self.url or b"") > URL_LIMIT or too_large:
            self._refuse_head()
        else:
            self._refuse("400 Bad Request", "invalid_json", _NO_HTTP)

    def _refuse_head(self) -> None:
        if len(self.url or b"") > URL_LIMIT:
            self._refuse("414 URI Too Long", "uri_too_long", _LONG_TARGET)
        else:
            self._refuse("431 Request Header Fields Too Large", "payload_too_large", _LARGE_HEAD)

    def _is_its_turn(self) -> bool:
        """Tell whether what would be written now is the answer to the request at fault, and to no other before it."""
        cycle: RequestResponseCycle | None = self.cycle
        if self.pipeline:
            return False
        return cycle is None or cycle.response_complete or (self._in_body and not cycle.response_started)

    def _refuse(self, line: str, code: str, messages: Mapping[Language, str]) -> None:
        if not self._is_its_turn():
            self.transport.abort()
            return
        # Of the request at fault; what came before its first line may be all there is, and then the scope is another's.
        scope: Scope = self.scope if self._in_head or self._in_body else {"headers": []}
        identity = request_id(scope)
        speech = language_of(b",".join(v for n, v in scope["headers"] if n == b"accept-language").decode("latin-1"))
        body = wire.encode(Failure(success=False, message=messages[speech], error=ErrorObject(code, identity)))
        head = (
            f"HTTP/1.1 {line}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"x-request-id: {identity}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def _as_of_1_0(cycle: RequestResponseCycle, app: Any) -> Any:
    """Answer as HTTP/1.0 has it: what does not say its length ends with the connection (RFC 9112, 6.1 and 6.3).

    uvicorn has chunks for it, and would ask to go on with a body (RFC 9110, 10.1.1), which only HTTP/1.1 knows.
    """
    cycle.waiting_for_100_continue = False

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        unmeasured = False

        async def sending(message: Any) -> None:
            nonlocal unmeasured
            if message["type"] == "http.response.start":
                unmeasured = all(name.lower() != b"content-length" for name, _ in message["headers"])
                if unmeasured:
                    cycle.chunked_encoding = False
            elif unmeasured:
                cycle.expected_content_length = len(message["body"])  # of what uvicorn is about to count off
            await send(message)

        await app(scope, receive, sending)

    return answering
