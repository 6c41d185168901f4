"""The types of ASGI 3.0, of no framework: what is written with them can be mounted in any."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

Scope: TypeAlias = Any
"""A mapping. Every framework has a type of its own for it, and none of them fits another."""

Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
