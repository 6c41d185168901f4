"""The accounts of a unit of work: users, their sessions and their API keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from luxx.adapters.database.connection import Connection
from luxx.adapters.database.rows import columns_of, insert_of, named, names_of, values_of
from luxx.adapters.database.schema import api_keys, sessions, users
from luxx.adapters.database.statements import Row, Statement, insert_if_new
from luxx.domain.api_key import ApiKey, no_key
from luxx.domain.errors import DamagedUser
from luxx.domain.user import NewUser, Role, Session, User, comparison_key, email_taken, no_session, username_taken

_USER: Final = columns_of(users, User)
_SESSION: Final = columns_of(sessions, Session)
_API_KEY: Final = columns_of(api_keys, ApiKey)

_USER_NAMES: Final = names_of(User)
_SESSION_NAMES: Final = names_of(Session)
_API_KEY_NAMES: Final = names_of(ApiKey)


def _user(row: Row) -> User:
    values = named(_USER_NAMES, row)
    try:
        values["role"] = Role(values["role"])
    except ValueError:
        raise DamagedUser(values["id"], roles=list(Role)) from None
    return User(**values)


def _session(row: Row) -> Session:
    return Session(**named(_SESSION_NAMES, row))


def _api_key(row: Row) -> ApiKey:
    return ApiKey(**named(_API_KEY_NAMES, row))


def _add_user(postgres: bool) -> sa.Executable:
    new = ("username", "username_key", "email", "email_key", "password_hash", "role", "is_active", "created_at")
    values: dict[Any, Any] = {users.c[name]: sa.bindparam(name) for name in new}
    return insert_if_new(users, postgres=postgres).values(values).returning(*_USER)


_USER_BY_ID: Final = sa.select(*_USER).where(users.c.id == sa.bindparam("id"))
_ADD_USER: Final = Statement(_add_user)
_GET_USER: Final = Statement(_USER_BY_ID)
# NO KEY: what refers to the user (a new conversation) need not wait.
_HOLD_USER: Final = Statement(_USER_BY_ID.with_for_update(key_share=True))
_USER_BY_NAME: Final = Statement(sa.select(*_USER).where(users.c.username_key == sa.bindparam("username_key")))
_USER_BY_EMAIL: Final = Statement(sa.select(*_USER).where(users.c.email_key == sa.bindparam("email_key")))
_USERS: Final = Statement(
    sa.select(*_USER)
    .where(users.c.id > sa.bindparam("after"))
    .order_by(users.c.id)
    .limit(sa.bindparam("limit", type_=sa.BigInteger()))
)
_UPDATE_USER: Final = Statement(
    sa.update(users)
    .where(users.c.id == sa.bindparam("user"))
    .values({name: sa.bindparam(name) for name in ("password_hash", "role", "is_active")})
)


@dataclass(frozen=True, slots=True)
class DatabaseUsers:
    connection: Connection

    async def add(self, user: NewUser) -> User:
        keys = {"username_key": comparison_key(user.username), "email_key": comparison_key(user.email)}
        values = {
            "username": user.username,
            "email": user.email,
            "password_hash": user.password_hash,
            "role": user.role.value,
            "is_active": True,
            "created_at": user.created_at,
        }
        for row in await self.connection.fetch(_ADD_USER, {**values, **keys}):
            return _user(row)
        if await self.by_username(user.username) is not None:
            raise username_taken(user.username)
        raise email_taken(user.email)

    async def get(self, user_id: int) -> User | None:
        return await self._first(_GET_USER, {"id": user_id})

    async def by_email(self, email: str) -> User | None:
        return await self._first(_USER_BY_EMAIL, {"email_key": comparison_key(email)})

    async def by_username(self, username: str) -> User | None:
        return await self._first(_USER_BY_NAME, {"username_key": comparison_key(username)})

    async def hold(self, user_id: int) -> User | None:
        return await self._first(_HOLD_USER, {"id": user_id})

    async def page(self, *, after: int = 0, limit: int = 1000) -> Sequence[User]:
        return [_user(row) for row in await self.connection.fetch(_USERS, {"after": after, "limit": limit})]

    async def _first(self, statement: Statement, parameters: Mapping[str, Any]) -> User | None:
        rows = await self.connection.fetch(statement, parameters)
        return _user(rows[0]) if rows else None

    async def update(self, user: User) -> None:
        values = {"password_hash": user.password_hash, "role": user.role.value, "is_active": user.is_active}
        await self.connection.fetch(_UPDATE_USER, {"user": user.id, **values})


_OF_OWNER: Final = sessions.c.user_id == sa.bindparam("owner")
_UNREVOKED: Final = sessions.c.revoked_at.is_(None)
_REVOKE: Final = sa.update(sessions).values(revoked_at=sa.bindparam("at"))
_ADD_SESSION: Final = Statement(insert_of(sessions, _SESSION))
_SESSION_AND_USER: Final = Statement(
    sa.select(*_SESSION, *_USER).join_from(sessions, users).where(sessions.c.id == sa.bindparam("id"))
)
_REVOKE_SESSION: Final = Statement(_REVOKE.where(sessions.c.id == sa.bindparam("session"), _UNREVOKED))
_REVOKE_ONE: Final = Statement(
    _REVOKE.where(
        sessions.c.id == sa.bindparam("session"), _OF_OWNER, _UNREVOKED, sessions.c.expires_at > sa.bindparam("at")
    ).returning(sessions.c.id)
)
_REVOKE_ALL: Final = Statement(_REVOKE.where(_OF_OWNER, _UNREVOKED))
_REVOKE_OTHERS: Final = Statement(_REVOKE.where(_OF_OWNER, _UNREVOKED, sessions.c.id != sa.bindparam("but")))
_LIVE_SESSIONS: Final = Statement(
    sa.select(*_SESSION)
    .where(_OF_OWNER, _UNREVOKED, sessions.c.expires_at > sa.bindparam("now"))
    .order_by(sessions.c.created_at.desc(), sessions.c.id.desc())
    .limit(1000)
)


@dataclass(frozen=True, slots=True)
class DatabaseSessions:
    connection: Connection

    async def add(self, session: Session) -> None:
        await self.connection.fetch(_ADD_SESSION, values_of(session, _SESSION_NAMES))

    async def with_user(self, session_id: str) -> tuple[Session, User] | None:
        width = len(_SESSION)
        for row in await self.connection.fetch(_SESSION_AND_USER, {"id": session_id}):
            return _session(row[:width]), _user(row[width:])
        return None

    async def revoke(self, session_id: str, at: datetime) -> None:
        await self.connection.fetch(_REVOKE_SESSION, {"session": session_id, "at": at})

    async def live_of(self, owner: int, now: datetime) -> Sequence[Session]:
        return [_session(row) for row in await self.connection.fetch(_LIVE_SESSIONS, {"owner": owner, "now": now})]

    async def revoke_one_of(self, owner: int, session_id: str, at: datetime) -> None:
        if not await self.connection.fetch(_REVOKE_ONE, {"session": session_id, "owner": owner, "at": at}):
            raise no_session(session_id)

    async def revoke_all_of(self, owner: int, at: datetime, *, but: str | None = None) -> None:
        statement = _REVOKE_ALL if but is None else _REVOKE_OTHERS
        await self.connection.fetch(statement, {"owner": owner, "at": at, "but": but})


_ADD_KEY: Final = Statement(insert_of(api_keys, [*_API_KEY, api_keys.c.digest]))
_KEYS_OF: Final = Statement(
    sa.select(*_API_KEY)
    .where(api_keys.c.user_id == sa.bindparam("owner"))
    .order_by(api_keys.c.created_at.desc(), api_keys.c.id.desc())
)
_KEY_AND_USER: Final = Statement(
    sa.select(*_API_KEY, *_USER).join_from(api_keys, users).where(api_keys.c.digest == sa.bindparam("digest"))
)
_KEY_USED: Final = Statement(
    sa.update(api_keys).where(api_keys.c.id == sa.bindparam("key")).values(last_used_at=sa.bindparam("at"))
)
_DELETE_KEY: Final = Statement(
    sa.delete(api_keys)
    .where(api_keys.c.id == sa.bindparam("key"), api_keys.c.user_id == sa.bindparam("owner"))
    .returning(api_keys.c.id)
)


@dataclass(frozen=True, slots=True)
class DatabaseApiKeys:
    connection: Connection

    async def add(self, key: ApiKey, digest: str) -> None:
        await self.connection.fetch(_ADD_KEY, {**values_of(key, _API_KEY_NAMES), "digest": digest})

    async def of(self, owner: int) -> Sequence[ApiKey]:
        return [_api_key(row) for row in await self.connection.fetch(_KEYS_OF, {"owner": owner})]

    async def with_user(self, digest: str) -> tuple[ApiKey, User] | None:
        width = len(_API_KEY)
        for row in await self.connection.fetch(_KEY_AND_USER, {"digest": digest}):
            return _api_key(row[:width]), _user(row[width:])
        return None

    async def used(self, key_id: str, at: datetime) -> None:
        await self.connection.fetch(_KEY_USED, {"key": key_id, "at": at})

    async def delete(self, owner: int, key_id: str) -> None:
        if not await self.connection.fetch(_DELETE_KEY, {"key": key_id, "owner": owner}):
            raise no_key(key_id)
