"""The envelope around every answer, and the one table from errors to statuses."""

import logging
import math
import re
import uuid
from collections.abc import Mapping
from typing import Any, Final, Generic, Literal, TypeVar

from litestar import Request, Response
from litestar.exceptions import HTTPException
from msgspec import UNSET, Struct, UnsetType

from luxx.adapters import wire
from luxx.application.letting_go import forget_frames
from luxx.domain.errors import (
    Conflict,
    Forbidden,
    InternalError,
    Interrupted,
    InvalidInput,
    LuxxError,
    ModelRateLimited,
    ModelRejected,
    ModelTimeout,
    ModelUnavailable,
    NotFound,
    Overloaded,
    RateLimited,
    StorageUnavailable,
    ToolBroken,
    ToolError,
    ToolRefused,
    ToolTimeout,
    Unauthenticated,
)
from luxx.entrypoints.http.asgi import Receive, Scope, Send
from luxx.entrypoints.http.text import Language, error_text, fault_text, language_of, success

T = TypeVar("T")
_log = logging.getLogger(__name__)


class BadRequest(LuxxError):
    """What cannot be read as a request at all; `status` goes with the code."""

    def __init__(self, message: str, *, code: str, status: int) -> None:
        super().__init__(message, code=code)
        self.status = status


STATUS: Final[Mapping[type[LuxxError], int]] = {
    InvalidInput: 422,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    RateLimited: 429,
    Overloaded: 503,
    StorageUnavailable: 503,
    ToolRefused: 422,
    ToolBroken: 502,
    ToolTimeout: 504,
    ModelUnavailable: 502,
    ModelTimeout: 504,
    ModelRateLimited: 429,
    ModelRejected: 502,
    Interrupted: 503,
    InternalError: 500,
}

_OF_THE_FRAMEWORK: Final[Mapping[int, tuple[str, str]]] = {
    400: ("invalid_json", "The request cannot be read."),
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not take this method."),
    413: ("payload_too_large", "The request body is larger than 4 MiB."),
    414: ("uri_too_long", "The address is too long."),
    415: ("unsupported_media_type", "The request body must be application/json."),
}


class Success(Struct, Generic[T], omit_defaults=True):
    success: Literal[True]
    message: str | UnsetType = UNSET
    data: T | UnsetType = UNSET


class Detail(Struct, frozen=True):
    field: str
    message: str


class ErrorObject(Struct, frozen=True, omit_defaults=True):
    code: str
    request_id: str
    details: list[Detail] = []


class Failure(Struct, frozen=True):
    success: Literal[False]
    message: str
    error: ErrorObject


class Answer:
    """A JSON body and its status, as an ASGI application: a small response of the framework's takes longer to make."""

    __slots__ = ("_body", "_status")

    def __init__(self, content: object, status: int) -> None:
        self._body = wire.encode(content)
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(self._body))]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})


def language(request: Request[Any, Any, Any]) -> Language:
    return language_of(request.headers.get("accept-language", ""))


def ok(request: Request[Any, Any, Any], data: object = UNSET, *, said: str | None = None, status: int = 200) -> Answer:
    """Answer with `data`; `said` names the message in `text.SUCCESS`."""
    message = UNSET if said is None else success(said, language(request))
    return Answer(Success(success=True, message=message, data=data), status)


def status_of(error: LuxxError) -> int:
    if isinstance(error, BadRequest):
        return error.status
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def failed(request: Request[Any, Any, Any], error: LuxxError) -> Response[bytes]:
    """Answer with the failure envelope. Used as the handler of `LuxxError`."""
    speech = language(request)
    status = status_of(error)
    details: list[Detail] = []
    if isinstance(error, InvalidInput):
        details = [Detail(fault.field, fault_text(fault, speech)) for fault in error.faults]
    headers: dict[str, str] = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in {429, 503}:
        # A whole number of seconds, never 0: a client would try again at once (RFC 9110, 10.2.3).
        headers["Retry-After"] = str(max(1, math.ceil(getattr(error, "retry_after", None) or 1)))
    if status >= 500:
        # A tool's words may quote what it was given; the reader has them, the log need not.
        said = type(error).__name__ if isinstance(error, ToolError) else error.to_operator()
        _log.warning("answered %s: %s", error.code, said)
    body = Failure(
        success=False,
        message=error_text(error, speech),
        error=ErrorObject(error.code, request_id(request.scope), details),
    )
    forget_frames(error)  # with the request, and whatever large was sent in it
    return Response(wire.encode(body), status_code=status, headers=headers, media_type="application/json")


def refused(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Put what the framework refuses by itself into the envelope."""
    status = error.status_code
    code, text = _OF_THE_FRAMEWORK.get(status, ("internal_error", "The service failed."))
    if code == "internal_error":
        _log.error("%s unexpected refusal", request_id(request.scope), exc_info=error)
        status = 500
    forget_frames(error)
    response = failed(request, BadRequest(text, code=code, status=status))
    for name, value in (error.headers or {}).items():
        response.headers.setdefault(name, value)
    return response


def stopped(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Answer for a process whose time to stop is over before the request's answer was begun."""
    return failed(request, Overloaded("This process is stopping: ask again, another one."))


def broken(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer for a fault of ours: the log has the cause, the client the request id."""
    _log.error("%s failed unexpectedly", request_id(request.scope), exc_info=error)
    forget_frames(error)
    return failed(request, InternalError("The service failed; the request id helps to find out why."))


_SANE_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


def request_id(scope: Scope) -> str:
    """Give the request's id: the client's X-Request-ID if it is a sane one, else one made once for this request."""
    state = scope.setdefault("state", {})
    if "luxx_request_id" not in state:
        given = [value for name, value in scope["headers"] if name == b"x-request-id"]
        sane = len(given) == 1 and _SANE_ID.fullmatch(given[0])
        state["luxx_request_id"] = given[0].decode() if sane else f"req_{uuid.uuid4().hex}"
    return str(state["luxx_request_id"])
