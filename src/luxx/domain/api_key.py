"""Keys for programs: what a user's own program sends in place of a login's token."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from luxx.domain.errors import NotFound

NAME_LIMIT: Final = 100
KEYS_LIMIT: Final = 50
"""Keys that one user may have."""

PREFIX: Final = "luxx_"
"""How every key begins, so that people and secret scanners know one when they see it."""


def no_key(key_id: str) -> NotFound:
    return NotFound(f"There is no key {key_id!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key, without its secret. `last_used_at` is coarse: it may be some minutes old."""

    id: str
    user_id: int
    name: str
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
