"""httpx's API over aiohttp's connections.

httpx's own transport costs several times as much for each piece of a stream, and looks through all of
its connections at every request.
"""

import ssl
from typing import Final

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

KEEP_ALIVE_SECONDS: Final = 30.0


class StreamTransport(AiohttpTransport):
    """Any number of connections at once, kept for `KEEP_ALIVE_SECONDS` when idle; no cookies, no proxy."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(verify=tls, trust_env=False, client=lambda: _session(tls))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises `httpx.ConnectTimeout`, `ConnectError` or, for what comes later, other `httpx.TransportError`s."""
        try:
            return await super().handle_async_request(request)
        except aiohttp.ClientError as error:
            raise httpx.RemoteProtocolError(str(error), request=request) from error
        except httpx.TransportError as error:
            # It takes every broken connection for one that was made too late.
            match error.__cause__:
                case aiohttp.ServerTimeoutError():
                    raise httpx.ConnectTimeout(str(error), request=request) from error
                case aiohttp.ClientConnectorError():
                    raise httpx.ConnectError(str(error), request=request) from error
                case aiohttp.ClientConnectionError():
                    raise httpx.RemoteProtocolError(str(error), request=request) from error
                case _:
                    raise


def _session(tls: ssl.SSLContext) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0, ssl=tls, keepalive_timeout=KEEP_ALIVE_SECONDS)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
