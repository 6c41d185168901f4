"""What every answer of the API must have, whatever was asked."""

from collections.abc import Mapping
from typing import Any, Final

import httpx

PROXIES: Final = frozenset({502, 503, 504})
"""What a proxy says in the service's place, in words of its own, where it cannot reach it."""

_STATUS: Final[Mapping[str, frozenset[int]]] = {
    "invalid_json": frozenset({400, 408}),
    "validation_failed": frozenset({422}),
    "unauthenticated": frozenset({401}),
    "token_expired": frozenset({401}),
    "token_revoked": frozenset({401}),
    "invalid_credentials": frozenset({401}),
    "account_disabled": frozenset({403}),
    "forbidden": frozenset({403}),
    "username_taken": frozenset({409}),
    "email_taken": frozenset({409}),
    "conversation_not_found": frozenset({404}),
    "message_not_found": frozenset({404}),
    "tool_not_found": frozenset({404}),
    "not_found": frozenset({404}),
    "method_not_allowed": frozenset({405}),
    "payload_too_large": frozenset({413, 431}),
    "uri_too_long": frozenset({414}),
    "unsupported_media_type": frozenset({415}),
    "generation_in_progress": frozenset({409}),
    "idempotency_conflict": frozenset({409}),
    "rate_limited": frozenset({429}),
    "tool_failed": frozenset({422, 502}),
    "tool_timeout": frozenset({504}),
    "model_unavailable": frozenset({502}),
    "model_timeout": frozenset({504}),
    "model_rate_limited": frozenset({429}),
    "model_rejected": frozenset({502}),
    "interrupted": frozenset({503}),
    "overloaded": frozenset({503}),
    "internal_error": frozenset({500}),
}
"""The statuses that go with a code, as the HTTP reference has them; a newer service may have other codes."""


def fault_of(response: httpx.Response, expected: int) -> str | None:
    """Tell what is wrong with an answer by the HTTP reference; `expected` is its status where it is no failure."""
    status = response.status_code
    body = body_of(response)
    if body is None:
        return None if status in PROXIES else f"{status} with a body that is no JSON object: {response.text[:80]!r}"
    kind = response.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        return f"it is {kind or 'of no type'}, not application/json"
    identity = response.headers.get("x-request-id")
    if not identity:
        return "it has no X-Request-ID"
    if response.request.headers.get("x-request-id", identity) != identity:
        return f"its X-Request-ID is {identity}, not the one that was sent"
    if status < 400:
        if status != expected:
            return f"its status is {status}, not {expected}"
        return None if body.get("success") is True else "it is a success that does not say so"
    return _fault_of_failure(response, body, identity)


def _fault_of_failure(response: httpx.Response, body: dict[str, Any], identity: str) -> str | None:
    status = response.status_code
    error = body.get("error")
    if body.get("success") is not False or not body.get("message") or not isinstance(error, dict):
        return f"{status} without the envelope of failures: {response.text[:80]!r}"
    if not isinstance(error.get("code"), str) or error.get("request_id") != identity:
        return f"{status} whose error has no code, or another request_id than X-Request-ID"
    if status not in _STATUS.get(error["code"], {status}):
        return f"{status} with the code {error['code']}"
    if error["code"] == "validation_failed" and not _are_details(error.get("details")):
        return f"validation_failed whose details are {str(error.get('details'))[:80]!r}"
    if status == 401 and response.headers.get("www-authenticate") != "Bearer":
        return "401 without WWW-Authenticate: Bearer"
    if status in {429, 503} and not retry_after(response):
        return f"{status} without a Retry-After of at least a second"
    return None


def _are_details(details: Any) -> bool:
    return bool(details) and all(isinstance(one.get("field"), str) and one.get("message") for one in details)


def fault_of_head(response: httpx.Response, *, direct: bool) -> str | None:
    """Tell what is wrong with the head of a stream; `direct` is where no proxy takes out what was meant for it."""
    if not response.headers.get("x-request-id"):
        return "the stream has no X-Request-ID"
    if "no-cache" not in response.headers.get("cache-control", ""):
        return "the stream has no Cache-Control: no-cache"
    if direct and response.headers.get("x-accel-buffering") != "no":
        return "the stream has no X-Accel-Buffering: no"
    return None


def body_of(response: httpx.Response) -> dict[str, Any] | None:
    try:
        body = response.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def retry_after(response: httpx.Response) -> int:
    """Read Retry-After in seconds; 0 where there is none."""
    text = response.headers.get("retry-after", "")
    return int(text) if text.isascii() and text.isdecimal() else 0
