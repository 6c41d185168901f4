"""Checking passwords, and slowing down those who guess them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from luxx.application.places import Places
from luxx.application.ports import Clock, NewId, NewUnit, PasswordHasher, PasswordTry, UnitOfWork
from luxx.domain.errors import Overloaded, RateLimited
from luxx.domain.user import User, comparison_key

AT_ONCE: Final = 8
"""Passwords checked at once by one process: enough for its cores, and fewer than one account is allowed tries."""

HASHED_AT_ONCE: Final = 2
"""New accounts' passwords hashed at once by one process: whoever logs in waits behind these, and no more."""

HASHES_WAITING: Final = 100
"""New accounts that wait for that, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TryLimits:
    """How many wrong passwords are borne within `window`, at one account and from one peer."""

    account: int = 10
    peer: int = 100
    window: timedelta = timedelta(minutes=5)


def account_key(username: str) -> str:
    """Give the word by which tries at an account are counted, whether there is such an account or not.

    A digest, because people type their password where their name belongs.
    """
    return sha256(comparison_key(username).encode("utf-8", "surrogatepass")).hexdigest()


def session_key(user_id: int) -> str:
    """Give the word by which tries of who is logged in are counted: no digest, so that no name stands for it."""
    return f"user {user_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChecksPasswords:
    """What use cases share that take a password for a proof.

    A try is counted before the password is looked at, and forgotten if it was right: of any number of
    tries at once no more are answered than the limit says. `gate` lets few through at a time, for else
    a burst of right passwords would count as a burst of wrong ones; the hashes would queue anyway. One peer
    has all but one of its places: a flood of tries from there holds up nobody who tries from elsewhere.
    """

    new_unit: NewUnit
    hasher: PasswordHasher
    clock: Clock
    new_id: NewId
    limits: TryLimits = TryLimits()
    gate: Places = field(default_factory=lambda: Places(AT_ONCE))

    @asynccontextmanager
    async def tried(
        self, *, username: str, password: str, peer: str, logged_in: int | None = None
    ) -> AsyncIterator[User | None]:
        """Try a normalized password; gives the user whose it is, else None.

        `logged_in` is the number of the user whose session asks. Such a try counts like all others,
        but only their own refuse it: whoever guesses at the login keeps nobody out who is in.

        Who finds it right calls `tries.forget` inside. An empty `peer` is nobody's: it is not slowed.
        Raises `RateLimited`, before the password is looked at.
        """
        async with self.gate.one(peer or None):
            now = self.clock()
            async with self.new_unit() as unit:
                user = await unit.users.by_username(username)
                stands_until_old = await self._begin(unit, account_key(username), peer, now)
                if logged_in is not None:
                    # After the other, always: units that begin both must not wait for each other.
                    stands_until_old = await self._begin(unit, session_key(logged_in), "", now)
                if stands_until_old is not None:
                    wait = stands_until_old + self.limits.window - now
                    raise RateLimited("Too many wrong passwords: try again later.", retry_after=wait.total_seconds())
                await unit.commit()
            matches = await self.hasher.verify(password, user.password_hash if user else None)
            yield user if matches else None

    async def still(self, user: User | None, password: str) -> User | None:
        """Try it at an account whose hash has changed since `tried` gave it: another login may only have renewed it."""
        matches = user is not None and await self.hasher.verify(password, user.password_hash)
        return user if matches else None

    async def _begin(self, unit: UnitOfWork, account: str, peer: str, now: datetime) -> datetime | None:
        return await unit.tries.begin(
            PasswordTry(id=self.new_id("try"), account=account, peer=peer, at=now),
            since=now - self.limits.window,
            account_limit=self.limits.account,
            peer_limit=self.limits.peer if peer else _NO_LIMIT,
        )


class HashQueue:
    """Lets few in at a time while some more wait; whoever comes then is refused with `Overloaded`."""

    def __init__(self) -> None:
        self._places: Final = asyncio.Semaphore(HASHED_AT_ONCE)
        self._here = 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        if self._here >= HASHED_AT_ONCE + HASHES_WAITING:
            raise Overloaded("Too many accounts are being made now: try again a little later.")
        self._here += 1
        try:
            async with self._places:
                yield
        finally:
            self._here -= 1


_NO_LIMIT: Final = 2**31 - 1
