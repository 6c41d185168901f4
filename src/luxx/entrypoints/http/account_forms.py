"""The bodies and data of passwords, sessions and keys."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from luxx.domain.api_key import NAME_LIMIT, ApiKey
from luxx.domain.errors import Fault
from luxx.domain.user import Session, new_password_fault
from luxx.entrypoints.http.forms import password_rules

NO_TIME: Final = "it must be a time with its offset, as in RFC 3339"
DAYS_LIMIT: Final = 3650

_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


class PasswordBody(Struct, forbid_unknown_fields=True):
    current_password: Annotated[str, Meta(max_length=1024, extra_json_schema={"format": "password"})]
    new_password: Annotated[str, password_rules(new_password_fault)]


class WholeListQuery(Struct, forbid_unknown_fields=True):
    """A list that is always given whole takes no parameters."""


class SessionData(Struct):
    """One login; `current` is the one that asks."""

    id: str
    created_at: datetime
    expires_at: datetime
    current: bool

    @classmethod
    def of(cls, session: Session, *, current: str) -> "SessionData":
        return cls(session.id, session.created_at, session.expires_at, session.id == current)


class SessionsData(Struct):
    items: list[SessionData]
    total: int


def _time(text: str) -> datetime | None:
    if not _TIME.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _time_fault(text: str) -> Fault | None:
    if _time(text) is None:
        return Fault(field="expires_at", rule="invalid", parameters={"reason": NO_TIME})
    return None


class NewKeyBody(Struct, forbid_unknown_fields=True):
    """A key lasts until `expires_at`, or `expires_in_days` from now, or for ever; at most one of them is given."""

    name: Annotated[str, Meta(min_length=1, max_length=NAME_LIMIT)]
    expires_at: (
        Annotated[
            str,
            Meta(max_length=40, extra={"fault": _time_fault}, extra_json_schema={"format": "date-time"}),
        ]
        | None
    ) = None
    expires_in_days: Annotated[int, Meta(ge=1, le=DAYS_LIMIT)] | None = None

    def life(self) -> dict[str, Any]:
        """Give `expires_at` and `lasts_for`, as the use case takes them."""
        return {
            "expires_at": None if self.expires_at is None else _time(self.expires_at),
            "lasts_for": None if self.expires_in_days is None else timedelta(days=self.expires_in_days),
        }


class KeyData(Struct):
    """A key, without its secret. `last_used_at` may be some minutes old."""

    id: str
    name: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None

    @classmethod
    def of(cls, key: ApiKey) -> "KeyData":
        return cls(**{name: getattr(key, name) for name in cls.__struct_fields__})


class KeysData(Struct):
    items: list[KeyData]
    total: int


class NewKeyData(Struct):
    """A new key: `key` is the secret, told this once."""

    id: str
    name: str
    key: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
