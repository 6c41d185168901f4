"""The objects of the HTTP reference: the fields that are always there, and what each of them may hold."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

Shape: TypeAlias = Mapping[str, Callable[[Any], bool]]

_UTC: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|\+00:00)")


def _of(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in kinds  # true is no integer


def _one_of(*choices: str) -> Callable[[Any], bool]:
    return lambda value: value in choices


def _null_or(shape: Shape) -> Callable[[Any], bool]:
    return lambda value: value is None or fault_of_object(value, shape) is None


def _is_time(value: Any) -> bool:
    return isinstance(value, str) and _UTC.fullmatch(value) is not None


def _is_anything(_value: Any) -> bool:
    return True


_NULL: Final = type(None)
_PROBLEM: Final[Shape] = {"code": _of(str), "message": _of(str)}
_USAGE: Final[Shape] = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), _of(int))
_PARTS: Final[Mapping[str, Shape]] = {
    "text": {"text": _of(str)},
    "thinking": {"text": _of(str)},
    "tool_call": {
        "id": _of(str),
        "name": _of(str),
        "arguments": _of(dict),
        "result": _is_anything,
        "success": _of(bool, _NULL),
        "error": _null_or(_PROBLEM),
        "duration_ms": _of(int, _NULL),
    },
}


def _are_parts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(part, dict) and fault_of_object(part, _PARTS.get(part.get("type", ""), {})) is None for part in value
    )


MESSAGE: Final[Shape] = {
    "id": _of(str),
    "conversation_id": _of(str),
    "role": _one_of("user", "assistant"),
    "content": _of(str),
    "parts": _are_parts,
    "status": _one_of("complete", "streaming", "cancelled", "interrupted", "failed"),
    "model": _of(str, _NULL),
    "usage": _null_or(_USAGE),
    "error": _null_or(_PROBLEM),
    "created_at": _is_time,
}

CONVERSATION: Final[Shape] = {
    "id": _of(str),
    "user_id": _of(int),
    "project_id": _of(str, _NULL),
    "title": _of(str),
    "model": _of(str),
    "system_prompt": _of(str, _NULL),
    "temperature": _of(int, float),
    "max_tokens": _of(int),
    "thinking_enabled": _of(bool),
    "tools": _of(list, _NULL),
    "created_at": _is_time,
    "updated_at": _is_time,
}


def fault_of_object(value: Any, shape: Shape) -> str | None:
    """Tell which field is missing, or holds what it may not; others than those of `shape` may be there."""
    if not isinstance(value, dict):
        return f"{str(value)[:80]!r} is no object"
    for name, holds in shape.items():
        if name not in value:
            return f"it has no {name}"
        if not holds(value[name]):
            return f"its {name} is {str(value[name])[:80]!r}"
    return None


def moment(text: str) -> datetime:
    """Read a time of an answer."""
    return datetime.fromisoformat(text)
