"""Accounts: sign up, sign in, sign out, and who is calling."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from luxx.application.api_keys import NOTED_EVERY, digest_of
from luxx.application.observer import UNOBSERVED, Observer
from luxx.application.passwords import ChecksPasswords, HashQueue, account_key, session_key
from luxx.application.ports import Clock, NewUnit, PasswordHasher, TokenClaims, TokenCodec
from luxx.domain.api_key import PREFIX as KEY_PREFIX
from luxx.domain.api_key import ApiKey
from luxx.domain.errors import Conflict, Forbidden, InvalidInput, LuxxError, StorageUnavailable, Unauthenticated
from luxx.domain.user import (
    NewUser,
    Role,
    Session,
    User,
    email_fault,
    email_taken,
    new_password_fault,
    normalized_password,
    password_fault,
    username_fault,
    username_taken,
)

NOBODYS_HASH: Final = "!"
"""Stands where a hash would: no password makes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterUser:
    """Make an account; its role is `user` unless the operator says otherwise.

    Who is refused costs no hash, and others' hashes wait in `queue`: a burst of them must hold no login up.
    Raises `InvalidInput` with every fault, `Conflict` (`username_taken`, `email_taken`), `Overloaded`.
    """

    new_unit: NewUnit
    hasher: PasswordHasher
    clock: Clock
    queue: HashQueue = field(default_factory=HashQueue)

    async def __call__(self, *, username: str, email: str, password: str, role: Role = Role.USER) -> User:
        checks = (username_fault(username), email_fault(email), password_fault(password))
        if faults := [fault for fault in checks if fault is not None]:
            raise InvalidInput(*faults)
        async with self.queue.place():
            async with self.new_unit(read_only=True) as unit:
                if await unit.users.by_username(username) is not None:
                    raise username_taken(username)
                if await unit.users.by_email(email) is not None:
                    raise email_taken(email)
            password_hash = await self.hasher.hash(normalized_password(password))
        new = NewUser(username=username, email=email, password_hash=password_hash, role=role, created_at=self.clock())
        async with self.new_unit() as unit:
            user = await unit.users.add(new)
            await unit.commit()
        return user


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitUser:
    """Give the account of somebody whom the embedding program has authenticated; make it the first time.

    No password opens an account made so. Names are compared as usernames are, in NFKC and without case:
    where your program tells `Ada` from `ada`, admit by a number of yours. An account of that name which was
    registered with a password is given too: let people sign up here or there, not in both places.

    `email` may be left out; then the account has an address that nobody can have (RFC 2606).

    Raises `InvalidInput` with every fault, `Forbidden` `account_disabled`, `Conflict` `email_taken`.
    """

    new_unit: NewUnit
    clock: Clock

    async def __call__(self, *, username: str, email: str | None = None) -> User:
        checks = (username_fault(username), None if email is None else email_fault(email))
        if faults := [fault for fault in checks if fault is not None]:
            raise InvalidInput(*faults)
        async with self.new_unit(once=True) as unit:
            user = await unit.users.by_username(username)
        if user is None:
            user = await self._make(username, email or f"{username}@users.invalid")
        if not user.is_active:
            raise Forbidden("This account is disabled.", code="account_disabled")
        return user

    async def _make(self, username: str, email: str) -> User:
        new = NewUser(
            username=username, email=email, password_hash=NOBODYS_HASH, role=Role.USER, created_at=self.clock()
        )
        try:
            async with self.new_unit() as unit:
                user = await unit.users.add(new)
                await unit.commit()
        except Conflict as error:
            if error.code != "username_taken":
                raise
            # Somebody was quicker: the account is there.
            async with self.new_unit(once=True) as unit:
                found = await unit.users.by_username(username)
            if found is None:
                raise
            return found
        return user


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIn:
    """A new session and the token that stands for it."""

    token: str
    user: User
    session: Session


@dataclass(frozen=True, slots=True, kw_only=True)
class LogIn(ChecksPasswords):
    """Open a session; `peer` is where the try comes from.

    An unknown user and a wrong password raise the same `Unauthenticated` `invalid_credentials`, after
    the same work. Raises `Forbidden` `account_disabled`, with the right password only, and
    `RateLimited` whatever the password is.
    """

    tokens: TokenCodec
    session_for: timedelta = timedelta(hours=24)
    observer: Observer = UNOBSERVED

    async def __call__(self, *, username: str, password: str, peer: str = "") -> SignedIn:
        try:
            signed_in = await self._try(username=username, password=password, peer=peer)
        except LuxxError as error:
            self.observer.login(error.code)
            raise
        self.observer.login("ok")
        return signed_in

    async def _try(self, *, username: str, password: str, peer: str) -> SignedIn:
        normalized = normalized_password(password)
        async with self.tried(username=username, password=normalized, peer=peer) as matched:
            user = matched
            while True:
                if user is None:
                    raise Unauthenticated("The username or the password is wrong.", code="invalid_credentials")
                renewed = await self.hasher.hash(normalized) if self.hasher.outdated(user.password_hash) else None
                now = self.clock()
                session = Session(
                    id=self.new_id("sess"), user_id=user.id, created_at=now, expires_at=now + self.session_for
                )
                async with self.new_unit() as unit:
                    # What was read before the hash may have changed meanwhile: an account disabled or a
                    # password changed while it was computed must stay so, and open no session.
                    held = await unit.users.hold(user.id)
                    if held is not None and held.password_hash == user.password_hash:
                        await unit.tries.forget(account_key(username))
                        if held.is_active:
                            if renewed is not None:
                                held = replace(held, password_hash=renewed)
                                await unit.users.update(held)
                            await unit.sessions.add(session)
                        await unit.commit()
                        break
                user = await self.still(held, normalized)
            if not held.is_active:
                raise Forbidden("This account is disabled.", code="account_disabled")
        claims = TokenClaims(user_id=held.id, session_id=session.id, issued_at=now, expires_at=session.expires_at)
        return SignedIn(token=self.tokens.encode(claims), user=held, session=session)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who is calling: by a login's session, or by a key."""

    user: User
    session: Session | None = None
    key: ApiKey | None = None

    def by_login(self) -> Session:
        """Give the session; raises `Forbidden` for a key, which must not make itself a longer life."""
        if self.session is None:
            raise Forbidden("A key may not do this: log in with the password.")
        return self.session


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticate:
    """Tell whose token or key this is.

    Session or key and user are read each time: a logout or a disabled account bites at once.
    Raises `Unauthenticated` (`unauthenticated`, `token_expired`, `token_revoked`) and `Forbidden`
    `account_disabled`.
    """

    new_unit: NewUnit
    tokens: TokenCodec
    clock: Clock

    async def __call__(self, *, token: str) -> Caller:
        now = self.clock()
        caller = await (self._by_key if token.startswith(KEY_PREFIX) else self._by_session)(token, now)
        if not caller.user.is_active:
            raise Forbidden("This account is disabled.", code="account_disabled")
        return caller

    async def _by_session(self, token: str, now: datetime) -> Caller:
        claims = self.tokens.decode(token, now=now)
        async with self.new_unit(once=True) as unit:
            found = await unit.sessions.with_user(claims.session_id)
        if found is None or found[1].id != claims.user_id:
            raise Unauthenticated("The access token is not valid.")
        session, user = found
        if session.revoked_at is not None:
            raise Unauthenticated("The access token was revoked: log in again.", code="token_revoked")
        if session.expires_at <= now:
            raise Unauthenticated("The access token has expired: log in again.", code="token_expired")
        return Caller(user=user, session=session)

    async def _by_key(self, secret: str, now: datetime) -> Caller:
        async with self.new_unit(once=True) as unit:
            found = await unit.api_keys.with_user(digest_of(secret))
        if found is None:
            raise Unauthenticated("The access token is not valid.")
        key, user = found
        if key.expires_at is not None and key.expires_at <= now:
            raise Unauthenticated("The key has expired: make another.", code="token_expired")
        if user.is_active and (key.last_used_at is None or now - key.last_used_at >= NOTED_EVERY):
            # A note that is lost harms nobody; the request must not wait for a database that only reads.
            with suppress(StorageUnavailable):
                async with self.new_unit() as writing:
                    await writing.api_keys.used(key.id, now)
                    await writing.commit()
        return Caller(user=user, key=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOut:
    """Revoke a session for good; the user's other sessions stay."""

    new_unit: NewUnit
    clock: Clock

    async def __call__(self, *, session_id: str) -> None:
        async with self.new_unit() as unit:
            await unit.sessions.revoke(session_id, self.clock())
            await unit.commit()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePassword(ChecksPasswords):
    """Change the password of who is logged in, and end all their sessions but this one. Keys stay.

    Raises `InvalidInput`; `Unauthenticated` `invalid_credentials` for a wrong present password, which
    counts as a failed try; `RateLimited` after too many of these, however many others failed to log in.
    """

    async def __call__(
        self, *, user: User, session_id: str, current_password: str, new_password: str, peer: str = ""
    ) -> None:
        if (fault := new_password_fault(new_password)) is not None:
            raise InvalidInput(fault)
        present = normalized_password(current_password)
        trying = self.tried(username=user.username, password=present, peer=peer, logged_in=user.id)
        async with trying as found:
            if found is None:
                raise _wrong_password()
            matched: User | None = found
            changed = await self.hasher.hash(normalized_password(new_password))
            while matched is not None:
                async with self.new_unit() as unit:
                    held = await unit.users.hold(user.id)
                    if held is not None and held.password_hash == matched.password_hash:
                        for account in (account_key(user.username), session_key(user.id)):
                            await unit.tries.forget(account)
                        await unit.users.update(replace(held, password_hash=changed))
                        await unit.sessions.revoke_all_of(user.id, self.clock(), but=session_id)
                        await unit.commit()
                        return
                matched = await self.still(held, present)
            raise _wrong_password()


def _wrong_password() -> Unauthenticated:
    return Unauthenticated("The present password is wrong.", code="invalid_credentials")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSessions:
    """List where a user is logged in, newest first."""

    new_unit: NewUnit
    clock: Clock

    async def __call__(self, *, user_id: int) -> Sequence[Session]:
        async with self.new_unit(once=True) as unit:
            return await unit.sessions.live_of(user_id, self.clock())


@dataclass(frozen=True, slots=True, kw_only=True)
class EndSession:
    """End one of a user's sessions; raises `NotFound` where the user has no such one."""

    new_unit: NewUnit
    clock: Clock

    async def __call__(self, *, user_id: int, session_id: str) -> None:
        async with self.new_unit() as unit:
            await unit.sessions.revoke_one_of(user_id, session_id, self.clock())
            await unit.commit()
