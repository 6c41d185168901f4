"""Keys for programs: make, list, delete."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from luxx.application.ports import Clock, NewId, NewUnit
from luxx.domain.api_key import KEYS_LIMIT, NAME_LIMIT, PREFIX, ApiKey
from luxx.domain.errors import Fault, InvalidInput, Unauthenticated

NOTED_EVERY: Final = timedelta(minutes=10)
"""How old the note of a key's last use may be: to write one at each request would cost more than the request."""

FULL: Final = "there are as many keys as one user may have; delete one first"
ONE_OF_TWO: Final = "give expires_at or expires_in_days, not both"
PAST: Final = "it must be a time to come"


def digest_of(secret: str) -> str:
    """Give what is kept of a key's secret.

    A plain SHA-256: a slow hash buys time against guessing, and 256 random bits cannot be guessed. It
    is read on every request, and found by an index.
    """
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApiKey:
    """A key and its secret, which is told this once."""

    key: ApiKey
    secret: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateApiKey:
    """Make a key; raises `InvalidInput` for a name or a time that cannot be, and for one key too many."""

    new_unit: NewUnit
    clock: Clock
    new_id: NewId
    limit: int = KEYS_LIMIT

    async def __call__(
        self, *, user_id: int, name: str, expires_at: datetime | None = None, lasts_for: timedelta | None = None
    ) -> NewApiKey:
        now = self.clock()
        if expires_at is not None and lasts_for is not None:
            raise InvalidInput(Fault(field="expires_in_days", rule="invalid", parameters={"reason": ONE_OF_TWO}))
        expires_at = expires_at if lasts_for is None else now + lasts_for
        if not 1 <= len(name) <= NAME_LIMIT:
            raise InvalidInput(
                Fault(field="name", rule="invalid", parameters={"reason": f"1 to {NAME_LIMIT} characters"})
            )
        if expires_at is not None and expires_at <= now:
            raise InvalidInput(Fault(field="expires_at", rule="invalid", parameters={"reason": PAST}))
        secret = PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(id=self.new_id("key"), user_id=user_id, name=name, created_at=now, expires_at=expires_at)
        async with self.new_unit() as unit:
            # Held, so that keys made at once are counted one after the other.
            if await unit.users.hold(user_id) is None:
                raise Unauthenticated("The access token is not valid.")
            if len(await unit.api_keys.of(user_id)) >= self.limit:
                raise InvalidInput(Fault(field="", rule="invalid", parameters={"reason": FULL}))
            await unit.api_keys.add(key, digest_of(secret))
            await unit.commit()
        return NewApiKey(key=key, secret=secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListApiKeys:
    """List a user's keys, newest first."""

    new_unit: NewUnit

    async def __call__(self, *, user_id: int) -> Sequence[ApiKey]:
        async with self.new_unit(once=True) as unit:
            return await unit.api_keys.of(user_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteApiKey:
    """Delete a key for good; raises `NotFound` where the user has no such one."""

    new_unit: NewUnit

    async def __call__(self, *, user_id: int, key_id: str) -> None:
        async with self.new_unit() as unit:
            await unit.api_keys.delete(user_id, key_id)
            await unit.commit()
