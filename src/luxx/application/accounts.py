"""Accounts: sign up, sign in, sign out, and who is calling."""

from dataclasses import dataclass, replace
from datetime import timedelta

from luxx.application.passwords import ChecksPasswords, account_key
from luxx.application.ports import Clock, NewUnit, PasswordHasher, TokenClaims, TokenCodec
from luxx.domain.errors import Forbidden, InvalidInput, Unauthenticated
from luxx.domain.user import (
    NewUser,
    Role,
    Session,
    User,
    email_fault,
    normalized_password,
    password_fault,
    username_fault,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterUser:
    """Make an account; its role is `user` unless the operator says otherwise.

    Raises `InvalidInput` with every fault, `Conflict` (`username_taken`, `email_taken`).
    """

    new_unit: NewUnit
    hasher: PasswordHasher
    clock: Clock

    async def __call__(self, *, username: str, email: str, password: str, role: Role = Role.USER) -> User:
        checks = (username_fault(username), email_fault(email), password_fault(password))
        if faults := [fault for fault in checks if fault is not None]:
            raise InvalidInput(*faults)
        password_hash = await self.hasher.hash(normalized_password(password))
        new = NewUser(username=username, email=email, password_hash=password_hash, role=role, created_at=self.clock())
        async with self.new_unit() as unit:
            user = await unit.users.add(new)
            await unit.commit()
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

    async def __call__(self, *, username: str, password: str, peer: str = "") -> SignedIn:
        normalized = normalized_password(password)
        async with self.tried(username=username, password=normalized, peer=peer) as user:
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
                if held is None or held.password_hash != user.password_hash:
                    raise Unauthenticated("The username or the password is wrong.", code="invalid_credentials")
                await unit.tries.forget(account_key(username))
                if held.is_active:
                    if renewed is not None:
                        held = replace(held, password_hash=renewed)
                        await unit.users.update(held)
                    await unit.sessions.add(session)
                await unit.commit()
            if not held.is_active:
                raise Forbidden("This account is disabled.", code="account_disabled")
        claims = TokenClaims(user_id=held.id, session_id=session.id, issued_at=now, expires_at=session.expires_at)
        return SignedIn(token=self.tokens.encode(claims), user=held, session=session)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who is calling, and by which session."""

    user: User
    session: Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticate:
    """Tell whose token this is. Session and user are read each time: a logout or a disabled account bites at once.

    Raises `Unauthenticated` (`unauthenticated`, `token_expired`, `token_revoked`) and `Forbidden`
    `account_disabled`.
    """

    new_unit: NewUnit
    tokens: TokenCodec
    clock: Clock

    async def __call__(self, *, token: str) -> Caller:
        now = self.clock()
        claims = self.tokens.decode(token, now=now)
        async with self.new_unit(read_only=True) as unit:
            found = await unit.sessions.with_user(claims.session_id)
        if found is None or found[1].id != claims.user_id:
            raise Unauthenticated("The access token is not valid.")
        session, user = found
        if session.revoked_at is not None:
            raise Unauthenticated("The access token was revoked: log in again.", code="token_revoked")
        if session.expires_at <= now:
            raise Unauthenticated("The access token has expired: log in again.", code="token_expired")
        if not user.is_active:
            raise Forbidden("This account is disabled.", code="account_disabled")
        return Caller(user=user, session=session)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOut:
    """Revoke a session for good; the user's other sessions stay."""

    new_unit: NewUnit
    clock: Clock

    async def __call__(self, *, session_id: str) -> None:
        async with self.new_unit() as unit:
            await unit.sessions.revoke(session_id, self.clock())
            await unit.commit()
