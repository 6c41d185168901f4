"""Accounts: sign up, sign in, sign out, and who is calling."""

from dataclasses import dataclass, replace
from datetime import timedelta

from luxx.application.ports import Clock, NewId, NewUnit, PasswordHasher, TokenClaims, TokenCodec
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
class LogIn:
    """Open a session.

    An unknown user and a wrong password raise the same `Unauthenticated` `invalid_credentials`, after
    the same work. Raises `Forbidden` `account_disabled`, with the right password only.
    """

    new_unit: NewUnit
    hasher: PasswordHasher
    tokens: TokenCodec
    clock: Clock
    new_id: NewId
    session_for: timedelta = timedelta(hours=24)

    async def __call__(self, *, username: str, password: str) -> SignedIn:
        async with self.new_unit(read_only=True) as unit:
            user = await unit.users.by_username(username)
        normalized = normalized_password(password)
        matches = await self.hasher.verify(normalized, user.password_hash if user else None)
        if user is None or not matches:
            raise Unauthenticated("The username or the password is wrong.", code="invalid_credentials")
        if not user.is_active:
            raise Forbidden("This account is disabled.", code="account_disabled")
        if self.hasher.outdated(user.password_hash):
            user = replace(user, password_hash=await self.hasher.hash(normalized))
        now = self.clock()
        session = Session(id=self.new_id("sess"), user_id=user.id, created_at=now, expires_at=now + self.session_for)
        async with self.new_unit() as unit:
            await unit.users.update(user)
            await unit.sessions.add(session)
            await unit.commit()
        claims = TokenClaims(user_id=user.id, session_id=session.id, issued_at=now, expires_at=session.expires_at)
        return SignedIn(token=self.tokens.encode(claims), user=user, session=session)


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
