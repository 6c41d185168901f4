"""The types of ASGI 3.0, of no framework: what is written with them can be mounted in any."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias
from urllib.parse import unquote

Scope: TypeAlias = Any
"""A mapping. Every framework has a type of its own for it, and none of them fits another."""

Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]


def prefix_of(scope: Scope) -> str:
    """Tell below which path the application is mounted: `/chat`, or nothing.

    `root_path` says so, where the outer application keeps it; Litestar takes the prefix off the path
    and does not, but what was asked for stands in `raw_path`.
    """
    root: str = scope.get("root_path", "").rstrip("/")
    if root:
        return root
    path: str = scope["path"].rstrip("/")
    raw = unquote(scope.get("raw_path", b"").decode("latin-1")).rstrip("/")
    return raw.removesuffix(path).rstrip("/") if raw.endswith(path) else ""
