"""What every answer of the API must have, whatever was asked."""

from typing import Any, Final

import httpx

PROXIES: Final = frozenset({502, 503, 504})
"""What a proxy says in the service's place, in words of its own, where it cannot reach it."""


def fault_of(response: httpx.Response, expected: int) -> str | None:
    """Tell what is wrong with an answer by the HTTP reference; `expected` is its status where it is no failure."""
    status = response.status_code
    body = body_of(response)
    if body is None:
        return None if status in PROXIES else f"{status} with a body that is no JSON object: {response.text[:80]!r}"
    identity = response.headers.get("x-request-id")
    if not identity:
        return "it has no X-Request-ID"
    if status < 400:
        if status != expected:
            return f"its status is {status}, not {expected}"
        return None if body.get("success") is True else "it is a success that does not say so"
    error = body.get("error")
    if body.get("success") is not False or not body.get("message") or not isinstance(error, dict):
        return f"{status} without the envelope of failures: {response.text[:80]!r}"
    if not isinstance(error.get("code"), str) or error.get("request_id") != identity:
        return f"{status} whose error has no code, or another request_id than X-Request-ID"
    if status == 401 and response.headers.get("www-authenticate") != "Bearer":
        return "401 without WWW-Authenticate: Bearer"
    if status in {429, 503} and not retry_after(response):
        return f"{status} without a Retry-After of at least a second"
    return None


def fault_of_head(response: httpx.Response) -> str | None:
    """Tell what is wrong with the head of a stream."""
    if not response.headers.get("x-request-id"):
        return "the stream has no X-Request-ID"
    if "no-cache" not in response.headers.get("cache-control", ""):
        return "the stream has no Cache-Control: no-cache"
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
