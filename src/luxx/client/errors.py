"""What can go wrong between a program and a service.

LuxxClientError
├── ConnectionLost          no answer, or not all of it, however often it was tried
├── UnreadableAnswer        whatever answered, it was not Luxx: a proxy's page, a wrong address
└── LuxxApiError            the service refused or failed; `code` says which of its errors it was
├── BadRequest          the request cannot be read as one
├── InvalidInput        well-formed but against the rules; `details` has every field at fault
├── Unauthenticated     no, a bad, an expired or a revoked token; wrong credentials
├── Forbidden           known, but not allowed
├── NotFound            absent, or somebody else's
├── Conflict            against the present state
├── RateLimited         too often
├── Overloaded          the server takes no more work now
├── ToolFailed          a tool gave no result
├── ModelFailed         the model gave no whole answer
├── Interrupted         the process that wrote the answer ended before the answer did
└── ServerFault         a fault of the service
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct

Headers: TypeAlias = Mapping[str, str]

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What reading raises where something is no JSON of Luxx's: the last where it is nested beyond all use."""


@dataclass(frozen=True, slots=True)
class Detail:
    """One thing wrong with one field. `field` is a dotted path; the empty path is the whole input."""

    field: str
    message: str


class LuxxClientError(Exception):
    """The root of all that the client raises on purpose."""

    retry_after: float | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # What exceptions do by themselves forgets arguments that have names, and then a pool of processes
        # that cannot read the error waits for ever.
        return type(self).__new__, (type(self), *self.args), self.__dict__


class ConnectionLost(LuxxClientError):
    """No whole answer came. What httpx raised last, if it did, is the `__cause__`.

    What was asked for may have happened or not. A message that was sent: send it again with the same
    `idempotency_key`.
    """


class UnreadableAnswer(LuxxClientError):
    """The answer is none of Luxx's. `status` is its HTTP status."""

    def __init__(self, message: str, *, status: int, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class LuxxApiError(LuxxClientError):
    """The service refused, or failed.

    The text is for people, in the client's language. `code` is for programs and never changes.
    `status` is the HTTP status, None where the error ended a stream. `request_id` finds the request in
    the service's log. `details` names the fields at fault, if any. `retry_after` is in seconds, None
    where the service did not say.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int | None,
        request_id: str | None = None,
        details: Sequence[Detail] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.request_id = request_id
        self.details = tuple(details)
        self.retry_after = retry_after

    def __str__(self) -> str:
        text = super().__str__()
        faults = "; ".join(f"{detail.field} {detail.message}".strip() for detail in self.details)
        return f"{text} ({faults})" if faults and faults not in text else text


class BadRequest(LuxxApiError):
    """Codes: `invalid_json`, `method_not_allowed`, `payload_too_large`, `uri_too_long`, `unsupported_media_type`."""


class InvalidInput(LuxxApiError):
    """Code: `validation_failed`."""


class Unauthenticated(LuxxApiError):
    """Codes: `unauthenticated`, `token_expired`, `token_revoked`, `invalid_credentials`."""


class Forbidden(LuxxApiError):
    """Codes: `forbidden`, `account_disabled`."""


class NotFound(LuxxApiError):
    """Codes: `not_found`, `conversation_not_found`, `message_not_found`, `tool_not_found`."""


class Conflict(LuxxApiError):
    """Codes: `username_taken`, `email_taken`, `generation_in_progress`, `idempotency_conflict`."""


class RateLimited(LuxxApiError):
    """Code: `rate_limited`."""


class Overloaded(LuxxApiError):
    """Code: `overloaded`."""


class ToolFailed(LuxxApiError):
    """Codes: `tool_failed`, `tool_timeout`."""


class ModelFailed(LuxxApiError):
    """Codes: `model_unavailable`, `model_timeout`, `model_rate_limited`, `model_rejected`."""


class Interrupted(LuxxApiError):
    """Code: `interrupted`."""


class ServerFault(LuxxApiError):
    """Code: `internal_error`."""


_BY_CODE: Final[Mapping[str, type[LuxxApiError]]] = {
    "invalid_json": BadRequest,
    "method_not_allowed": BadRequest,
    "payload_too_large": BadRequest,
    "uri_too_long": BadRequest,
    "unsupported_media_type": BadRequest,
    "validation_failed": InvalidInput,
    "unauthenticated": Unauthenticated,
    "token_expired": Unauthenticated,
    "token_revoked": Unauthenticated,
    "invalid_credentials": Unauthenticated,
    "forbidden": Forbidden,
    "account_disabled": Forbidden,
    "not_found": NotFound,
    "conversation_not_found": NotFound,
    "message_not_found": NotFound,
    "tool_not_found": NotFound,
    "username_taken": Conflict,
    "email_taken": Conflict,
    "generation_in_progress": Conflict,
    "idempotency_conflict": Conflict,
    "rate_limited": RateLimited,
    "overloaded": Overloaded,
    "tool_failed": ToolFailed,
    "tool_timeout": ToolFailed,
    "model_unavailable": ModelFailed,
    "model_timeout": ModelFailed,
    "model_rate_limited": ModelFailed,
    "model_rejected": ModelFailed,
    "interrupted": Interrupted,
    "internal_error": ServerFault,
}

# For the codes of services newer than this client.
_BY_STATUS: Final[Mapping[int, type[LuxxApiError]]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    422: InvalidInput,
    429: RateLimited,
    503: Overloaded,
}


def kind_of(code: str, status: int | None) -> type[LuxxApiError]:
    """Give the class of an error, by its code; by its status where the code is not known here."""
    if code in _BY_CODE:
        return _BY_CODE[code]
    if status is None:
        return LuxxApiError
    return _BY_STATUS.get(status, ServerFault if status >= 500 else BadRequest)


def ended_with(code: str, message: str, *, request_id: str | None = None) -> LuxxApiError:
    """Give the error that a stream told, as something to raise."""
    return kind_of(code, None)(message, code=code, status=None, request_id=request_id)


class _DetailJson(Struct):
    field: str
    message: str


class _ErrorJson(Struct):
    code: str
    request_id: str | None = None
    details: list[_DetailJson] = []


class _FailureJson(Struct):
    message: str
    error: _ErrorJson


_failure: Final = msgspec.json.Decoder(_FailureJson)


def _pause(headers: Headers) -> float | None:
    """Read `Retry-After`: seconds, or, as some proxies have it, a date (RFC 9110, 10.2.3)."""
    asked = headers.get("retry-after", "")
    if asked.isascii() and asked.isdigit():
        return float(asked)
    try:
        until = parsedate_to_datetime(asked)
        # By the clock of whoever says so: this one may be wrong.
        now = parsedate_to_datetime(headers.get("date") or formatdate(usegmt=True))
        return max((until - now).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):  # TypeError where one of them has no zone
        return None


AWAY: Final = frozenset({502, 503, 504, *range(520, 525)})
"""What proxies say of a service that is not there for now; Cloudflare has numbers of its own for it."""


def refusal(status: int, headers: Headers, body: bytes) -> LuxxApiError | UnreadableAnswer:
    """Give the error that an answer tells, as something to raise."""
    pause = _pause(headers)
    try:
        told = _failure.decode(body)
    except UNREADABLE:
        what = (
            "something before Luxx says that it cannot be reached"
            if status in AWAY
            else "does the URL name the service's root?"
        )
        text = f"The answer with the status {status} is no answer of Luxx: {what}"
        if 300 <= status < 400 and (place := headers.get("location")):
            text += f" It leads to {place}"
        return UnreadableAnswer(text, status=status, retry_after=pause)
    return kind_of(told.error.code, status)(
        told.message,
        code=told.error.code,
        status=status,
        request_id=told.error.request_id or headers.get("x-request-id"),
        details=[Detail(one.field, one.message) for one in told.error.details],
        retry_after=pause,
    )
