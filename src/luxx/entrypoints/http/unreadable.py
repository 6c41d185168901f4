"""What the server itself refuses, before there is a request that the application could answer."""

import uuid
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from luxx.adapters import wire
from luxx.entrypoints.http.answers import ErrorObject, Failure
from luxx.entrypoints.http.text import ERRORS

URL_LIMIT: Final = 65_535
"""Bytes of a request target that the parser takes, at most."""


class EnvelopedHttp(HttpToolsProtocol):
    """HTTP/1.1 whose own refusals have the envelope and a request id, like every other answer."""

    def send_400_response(self, msg: str) -> None:  # the client gets our words
        """Refuse what is no HTTP, and close: where a next request would begin is not known."""
        long = len(self.url or b"") > URL_LIMIT
        code, line = ("uri_too_long", "414 URI Too Long") if long else ("invalid_json", "400 Bad Request")
        message = ERRORS[code] if long else "不是有效的 HTTP 请求"
        identity = f"req_{uuid.uuid4().hex}"
        failure = Failure(success=False, message=message, error=ErrorObject(code, identity))
        body = wire.encode(failure)
        head = (
            f"HTTP/1.1 {line}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"x-request-id: {identity}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
