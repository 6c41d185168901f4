"""What a provider's failure is, by its HTTP status or by what it says within an answer, in words of our own."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from luxx.domain.errors import ModelError, ModelRateLimited, ModelRejected, ModelTimeout, ModelUnavailable

_REFUSALS: Final = {
    400: "check the model name, the length of the conversation, max_tokens, temperature and the thinking style",
    401: "check the API key",
    402: "check the balance of the account",
    403: "check the API key, and whether its account may use the model",
    404: "check the model name and the base URL, which usually ends in /v1",
    405: "check the base URL, which usually ends in /v1",
    413: "the conversation is too long for it; shorten it or start a new one",
    422: "check the model name, max_tokens, temperature and the thinking style",
}
"""What to check when a provider refuses a request, by HTTP status."""

_FILTERED: Final = re.compile(
    "content_filter|content management policy|data_?inspection_?failed|content exists risk|sensitive_words"
    '|(^|")1301($|")'
)
"""What Azure, Qwen, DeepSeek, gateways and GLM (1301) say where their content filter stops a conversation."""

_STATUS: Final = re.compile("[45][0-9][0-9]")


def error_for(status: int, retry_after: float | None = None) -> ModelError:
    """Give the error that a status stands for, with what to do about it."""
    if status in _REFUSALS:
        return ModelRejected(f"The model provider refuses the request (HTTP {status}): {_REFUSALS[status]}.")
    if status == 429:
        return ModelRateLimited(
            "The model provider asks for a pause (HTTP 429): try again later, or check the limits of the account.",
            retry_after=retry_after,
        )
    if status in {408, 504}:
        return ModelTimeout(f"The model provider took too long by its own clock (HTTP {status}): try again later.")
    if 300 <= status < 400:
        return ModelUnavailable(
            f"The model provider sends elsewhere (HTTP {status}), and redirects are not followed: check the base URL."
        )
    return ModelUnavailable(f"The model provider failed (HTTP {status}): try again later, or check the base URL.")


def error_by_filter(said: str) -> ModelError | None:
    """Give the error where a content filter says this; None where it is something else."""
    if not _FILTERED.search(said.lower()):
        return None
    return ModelRejected(
        "The model provider's content filter objects to what is said in the conversation: leave that out, or start a "
        "new one."
    )


def retry_after_of(value: str | None) -> float | None:
    """Read seconds or an HTTP date (RFC 9110, 10.2.3); None where it is neither."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.replace(".", "", 1).isdigit():
        return min(float(value), 1e9)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def error_in(error: Any) -> ModelError:
    """Give the error that an error object inside an answer stands for."""
    told = error if isinstance(error, dict) else {}
    said = [told.get(key) for key in ("code", "status", "type")]
    for value in said:
        if isinstance(value, str) and (filtered := error_by_filter(value)):
            return filtered
    words = []
    for value in said:
        number = int(value) if isinstance(value, str) and _STATUS.fullmatch(value) else value
        if isinstance(number, int) and 400 <= number <= 599:
            return error_for(number)
        words.append(str(value).lower())
    kind = " ".join(words)
    if any(word in kind for word in ("limit", "quota", "too_many", "exhausted")):
        return error_for(429) if "context" not in kind else error_for(413)
    if "timeout" in kind or "deadline" in kind:
        return error_for(504)
    if any(word in kind for word in ("auth", "api_key", "permission")):
        return error_for(401)
    if any(word in kind for word in ("invalid", "context_length", "not_found", "unsupported")):
        return error_for(400)
    return ModelUnavailable("The model provider failed in the middle of its answer: try again later.")
