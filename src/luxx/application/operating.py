"""What the operator does with accounts. Nobody but the operator: these ask for no proof."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from luxx.application.passwords import account_key, session_key
from luxx.application.ports import Clock, NewUnit, PasswordHasher, UnitOfWork
from luxx.domain.errors import InvalidInput, NotFound
from luxx.domain.user import Role, User, normalized_password, password_fault


@dataclass(frozen=True, slots=True, kw_only=True)
class ListUsers:
    """List all accounts, by number."""

    new_unit: NewUnit

    async def __call__(self) -> AsyncIterator[User]:
        after: int | None = 0
        while after is not None:
            async with self.new_unit(once=True) as unit:
                page = await unit.users.page(after=after)
            for user in page:
                yield user
            after = page[-1].id if page else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeUser:
    """Disable or enable an account, or give it a role; raises `NotFound`."""

    new_unit: NewUnit

    async def __call__(self, *, username: str, is_active: bool | None = None, role: Role | None = None) -> User:
        changes: dict[str, Any] = {"is_active": is_active, "role": role}
        async with self.new_unit() as unit:
            held = await _held(unit, username)
            user = replace(held, **{name: value for name, value in changes.items() if value is not None})
            await unit.users.update(user)
            await unit.commit()
        return user


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetPassword:
    """Set a password, end all sessions, and forget the wrong tries; keys stay.

    Raises `InvalidInput`, `NotFound`.
    """

    new_unit: NewUnit
    hasher: PasswordHasher
    clock: Clock

    async def __call__(self, *, username: str, password: str) -> User:
        if (fault := password_fault(password)) is not None:
            raise InvalidInput(fault)
        changed = await self.hasher.hash(normalized_password(password))
        async with self.new_unit() as unit:
            held = await _held(unit, username)
            for account in (account_key(username), session_key(held.id)):
                await unit.tries.forget(account)
            await unit.users.update(replace(held, password_hash=changed))
            await unit.sessions.revoke_all_of(held.id, self.clock())
            await unit.commit()
        return held


async def _held(unit: UnitOfWork, username: str) -> User:
    found = await unit.users.by_username(username)
    held = None if found is None else await unit.users.hold(found.id)
    if held is None:
        raise NotFound(f"There is no user {username!r}; `luxx user list` tells who there is.")
    return held
