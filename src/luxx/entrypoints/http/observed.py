"""Around the application: each request has an id, and what it was is told to whoever observes."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from litestar import Litestar, Request
from litestar.types import HTTPScope, Message, Receive, Scope, Send

from luxx.adapters.telemetry.requests import METHODS, UNANSWERED, RequestObserver, RequestRecord, watched
from luxx.entrypoints.http.answers import request_id, stopped

_CARRIED: Final = (b"traceparent", b"tracestate", b"baggage")
_RECORD: Final = "luxx_request_record"


def note_user(scope: Scope, user_id: int) -> None:
    """Say who sent the request, once that is known."""
    record = scope.get("state", {}).get(_RECORD)
    if isinstance(record, RequestRecord):
        record.user_id = user_id


class ObservedLitestar(Litestar):
    """An application of which each HTTP request is observed, whatever becomes of it, and each response has its id."""

    request_observers: Sequence[RequestObserver] = ()
    stopping: Callable[[], bool] = staticmethod(lambda: False)
    """Whether the process is about to end: what is cancelled then was asked by nobody to be."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await self._observe(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def _observe(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        record = RequestRecord(id=request_id(scope), method=method)
        scope["state"][_RECORD] = record
        carrier = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _CARRIED}

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", record.id.encode())]
            await send(message)

        began = time.monotonic()
        with watched(self.request_observers, record, carrier):
            try:
                await super().__call__(scope, receive, noting)
            except asyncio.CancelledError:
                if not self.stopping() or record.status != UNANSWERED:
                    raise
                request: Request[Any, Any, Any] = Request(scope)
                answer = stopped(request).to_asgi_response(None, request, is_head_response=method == "HEAD")
                await answer(scope, receive, noting)
            finally:
                # The router leaves the template of the route there; a path that has none stays unmatched.
                record.route = scope.get("path_template") or record.route
                record.duration_s = time.monotonic() - began
