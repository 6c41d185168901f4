"""The repositories of a unit of work, over its connection."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from luxx.adapters.database.connection import Connection
from luxx.adapters.database.recent import put_away
from luxx.adapters.database.schema import (
    api_keys,
    conversation_counts,
    conversations,
    messages,
    password_tries,
    sessions,
    turns,
    users,
)
from luxx.adapters.database.statements import Row, Script, Statement, insert_if_new
from luxx.adapters.wire import (
    decode_parts,
    decode_problem,
    decode_usage,
    encode_parts,
    encode_problem,
    encode_usage,
)
from luxx.application.ports import ConversationPlace, Counted, PasswordTry
from luxx.domain.api_key import ApiKey
from luxx.domain.conversation import Conversation
from luxx.domain.errors import Conflict, NotFound
from luxx.domain.message import Message, Role, Status
from luxx.domain.user import NewUser, Session, User, comparison_key
from luxx.domain.user import Role as UserRole

_STALE_TRIES: Final = 100
"""Old tries deleted with each new one, at most."""

_TRIES_LOCK: Final = 0x7472696573  # any number: "tries"

_DEEP: Final = 200
"""How far into a list one may count from its beginning before it is worth while to look which end is nearer."""

_NONE: Final = sa.literal_column("0", sa.BigInteger())

_MOST: Final = 1000
"""How long a page may be."""

EVERYTHING: Final = ""
"""The scope of a count of all conversations; no project has this name."""


def names_of(kind: type) -> tuple[str, ...]:
    """Name the columns of a domain type, which are named as its fields."""
    return tuple(field.name for field in fields(kind))


def _columns(table: sa.Table, kind: type) -> list[sa.Column[Any]]:
    return [table.c[name] for name in names_of(kind)]


_USER: Final = _columns(users, User)
_API_KEY: Final = _columns(api_keys, ApiKey)
_SESSION: Final = _columns(sessions, Session)
CONVERSATION: Final = _columns(conversations, Conversation)
MESSAGE: Final = _columns(messages, Message)
_TRY: Final = _columns(password_tries, PasswordTry)

_USER_NAMES: Final = names_of(User)
_API_KEY_NAMES: Final = names_of(ApiKey)
_SESSION_NAMES: Final = names_of(Session)
_CONVERSATION_NAMES: Final = names_of(Conversation)
_MESSAGE_NAMES: Final = names_of(Message)

_ROLES: Final = {role.value: role for role in Role}
_STATUSES: Final = {status.value: status for status in Status}


def _insert(table: sa.Table, columns: Sequence[sa.Column[Any]]) -> sa.Insert:
    return sa.insert(table).values({column: sa.bindparam(column.name) for column in columns})


def _stored(one: object, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(one, name) for name in names}


def _named(names: Sequence[str], row: Row) -> dict[str, Any]:
    return dict(zip(names, row, strict=True))


def _user(row: Row) -> User:
    values = _named(_USER_NAMES, row)
    values["role"] = UserRole(values["role"])
    return User(**values)


def _session(row: Row) -> Session:
    return Session(**_named(_SESSION_NAMES, row))


def _api_key(row: Row) -> ApiKey:
    return ApiKey(**_named(_API_KEY_NAMES, row))


def conversation_of(row: Row) -> Conversation:
    # Written out, because a list does it for every item: by name it takes twice as long.
    (
        identity,
        user_id,
        project_id,
        title,
        model,
        system_prompt,
        temperature,
        max_tokens,
        thinking_enabled,
        tools,
        created_at,
        updated_at,
    ) = row
    return Conversation(
        id=identity,
        user_id=user_id,
        project_id=project_id,
        title=title,
        model=model,
        system_prompt=system_prompt,
        temperature=temperature,
        max_tokens=max_tokens,
        thinking_enabled=thinking_enabled,
        tools=tools,
        created_at=created_at,
        updated_at=updated_at,
    )


def message_of(row: Row) -> Message:
    # As above: a thousand of these may begin a turn.
    identity, conversation_id, role, parts, status, model, usage, error, created_at = row
    return Message(
        id=identity,
        conversation_id=conversation_id,
        role=_ROLES[role],
        parts=decode_parts(parts),
        status=_STATUSES[status],
        model=model,
        usage=decode_usage(usage),
        error=decode_problem(error),
        created_at=created_at,
    )


def answer_values(message: Message) -> dict[str, Any]:
    """Give the columns that the end of a turn sets."""
    return {
        "parts": encode_parts(message.parts),
        "status": message.status.value,
        "model": message.model,
        "usage": encode_usage(message.usage),
        "error": encode_problem(message.error),
    }


# --- users, sessions, keys, tries -------------------------------------------------------------------


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
            raise Conflict(f"The username {user.username!r} is taken.", code="username_taken")
        raise Conflict(f"The e-mail address {user.email!r} is taken.", code="email_taken")

    async def get(self, user_id: int) -> User | None:
        return await self._first(_GET_USER, {"id": user_id})

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
_ADD_SESSION: Final = Statement(_insert(sessions, _SESSION))
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
        await self.connection.fetch(_ADD_SESSION, _stored(session, _SESSION_NAMES))

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
            raise NotFound(f"There is no session {session_id!r}.")

    async def revoke_all_of(self, owner: int, at: datetime, *, but: str | None = None) -> None:
        statement = _REVOKE_ALL if but is None else _REVOKE_OTHERS
        await self.connection.fetch(statement, {"owner": owner, "at": at, "but": but})


_ADD_KEY: Final = Statement(_insert(api_keys, [*_API_KEY, api_keys.c.digest]))
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
        await self.connection.fetch(_ADD_KEY, {**_stored(key, _API_KEY_NAMES), "digest": digest})

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
            raise NotFound(f"There is no key {key_id!r}.")


def _lock_name(postgres: bool) -> sa.Executable:
    if postgres:
        name = sa.bindparam("name", type_=sa.Text())
        return sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, _TRIES_LOCK)))
    return sa.select(sa.null())  # SQLite has one writer at a time anyway


def _standing(column: sa.Column[str], limit: str) -> sa.Executable:
    """Select the try that is the last of as many as the limit allows, counted from the newest."""
    return (
        sa.select(password_tries.c.at)
        .where(column == sa.bindparam(column.name), password_tries.c.at > sa.bindparam("since"))
        .order_by(password_tries.c.at.desc())
        .offset(sa.bindparam(limit, type_=sa.BigInteger()))
        .limit(1)
    )


_LOCK_NAME: Final = Statement(_lock_name)
_DELETE_STALE: Final = Statement(
    sa.delete(password_tries).where(
        password_tries.c.id.in_(
            sa.select(password_tries.c.id)
            .where(password_tries.c.at <= sa.bindparam("since"))
            .order_by(password_tries.c.at)
            .limit(_STALE_TRIES)
            .with_for_update(skip_locked=True)
        )
    )
)
_STANDING: Final = (
    Statement(_standing(password_tries.c.account, "account_limit")),
    Statement(_standing(password_tries.c.peer, "peer_limit")),
)
_ADD_TRY: Final = Statement(_insert(password_tries, _TRY))
_FORGET_TRIES: Final = Statement(sa.delete(password_tries).where(password_tries.c.account == sa.bindparam("account")))


@dataclass(frozen=True, slots=True)
class DatabasePasswordTries:
    connection: Connection

    async def begin(self, one: PasswordTry, *, since: datetime, account_limit: int, peer_limit: int) -> datetime | None:
        limits = {"account_limit": account_limit - 1, "peer_limit": peer_limit - 1}
        return await self.connection.run(_begin_try({**_stored(one, names_of(PasswordTry)), "since": since, **limits}))

    async def forget(self, account: str) -> None:
        await self.connection.fetch(_LOCK_NAME, {"name": f"account {account}"})
        await self.connection.fetch(_FORGET_TRIES, {"account": account})


def _begin_try(values: Mapping[str, Any]) -> Script[datetime | None]:
    # The account before the peer, in all units alike, so that nobody deadlocks.
    yield _LOCK_NAME, {"name": f"account {values['account']}"}
    yield _LOCK_NAME, {"name": f"peer {values['peer']}"}
    yield _DELETE_STALE, values
    found: list[datetime] = []
    for standing in _STANDING:
        rows = yield standing, values
        found += [at for (at,) in rows]
    if found:
        return max(found)
    yield _ADD_TRY, values
    return None


# --- conversations ----------------------------------------------------------------------------------


def no_conversation(conversation_id: str) -> NotFound:
    return NotFound(f"There is no conversation {conversation_id!r}.", code="conversation_not_found")


# Not as the column itself: while the tables are small, Postgres may take an index that begins with the owner for as
# good as the primary key, and it keeps that plan when the owner has a hundred thousand.
_ITS_OWNER: Final = conversations.c.user_id + sa.literal_column("0", sa.BigInteger()) == sa.bindparam("owner")
THE_CONVERSATION: Final = sa.and_(conversations.c.id == sa.bindparam("conversation"), _ITS_OWNER)


def _count(postgres: bool) -> sa.Executable:
    insert = (postgresql.insert if postgres else sqlite.insert)(conversation_counts).values(
        {name: sa.bindparam(name) for name in ("user_id", "scope", "total")}
    )
    added = conversation_counts.c.total + insert.excluded.total
    return insert.on_conflict_do_update(index_elements=["user_id", "scope"], set_={"total": added})


_COUNT: Final = Statement(_count)
_ADD_CONVERSATION: Final = Statement(_insert(conversations, CONVERSATION))
_SELECT_CONVERSATION: Final = sa.select(*CONVERSATION).where(THE_CONVERSATION)
_GET_CONVERSATION: Final = Statement(_SELECT_CONVERSATION)
_HOLD_CONVERSATION: Final = Statement(_SELECT_CONVERSATION.with_for_update(key_share=True))
_KEPT: Final = {"id", "user_id", "created_at"}
_UPDATE_CONVERSATION: Final = Statement(
    sa.update(conversations)
    .where(THE_CONVERSATION)
    .values({name: sa.bindparam(name) for name in _CONVERSATION_NAMES if name not in _KEPT})
)
_PROJECT: Final = sa.select(conversations.c.project_id).where(THE_CONVERSATION)
_HOLD_PROJECT: Final = Statement(_PROJECT.with_for_update(key_share=True))
_LOCK_PROJECT: Final = Statement(_PROJECT.with_for_update())
_LOCK_TURNS: Final = Statement(
    sa.select(turns.c.message_id)
    .join(messages, messages.c.id == turns.c.message_id)
    .where(messages.c.conversation_id == sa.bindparam("conversation"))
    .order_by(turns.c.message_id)
    .with_for_update(of=turns)
)
_DELETE_CONVERSATION: Final = Statement(sa.delete(conversations).where(THE_CONVERSATION))


@cache
def page_of_conversations(*, in_project: bool, behind: bool, skipping: bool, deep: bool) -> Statement:
    """Select a page, each row with the count of all before it; the count alone where the page is empty."""
    mine = [conversations.c.user_id == sa.bindparam("owner")]
    if in_project:
        mine.append(conversations.c.project_id == sa.bindparam("scope"))
    if behind:
        place = sa.tuple_(
            sa.bindparam("updated_at", type_=conversations.c.updated_at.type),
            sa.bindparam("id", type_=conversations.c.id.type),
        )
        mine.append(sa.tuple_(conversations.c.updated_at, conversations.c.id) < place)
    newest_first = (conversations.c.updated_at.desc(), conversations.c.id.desc())
    limit, offset = (sa.bindparam(name, type_=sa.BigInteger()) for name in ("limit", "offset"))
    kept = sa.select(conversation_counts.c.total).where(
        conversation_counts.c.user_id == sa.bindparam("owner"), conversation_counts.c.scope == sa.bindparam("scope")
    )
    counted = sa.select(sa.func.coalesce(kept.scalar_subquery(), _NONE).label("total")).cte("counted")
    if skipping:
        # A select of ids is answered by the index alone, however far the offset reaches.
        ids = sa.select(conversations.c.id).where(*mine)
        wanted = ids.order_by(*newest_first).limit(limit).offset(offset).subquery("wanted")
        if deep:
            wanted = _from_the_nearer_end(ids, sa.select(counted.c.total).scalar_subquery(), limit, offset)
        # Postgres takes a limit that it does not know for a tenth of the table, and would read all ids to join so many.
        wanted = sa.select(wanted.c.id).limit(sa.literal_column(str(_MOST))).subquery("few")
        rows = sa.select(*CONVERSATION).join_from(wanted, conversations, wanted.c.id == conversations.c.id)
    else:
        rows = sa.select(*CONVERSATION).where(*mine).order_by(*newest_first).limit(limit)
    page = rows.subquery("page")
    return Statement(
        sa.select(counted.c.total, *(page.c[name] for name in _CONVERSATION_NAMES))
        .select_from(counted.outerjoin(page, sa.true()))
        .order_by(page.c.updated_at.desc(), page.c.id.desc())
    )


def _from_the_nearer_end(
    ids: sa.Select[str], total: sa.ColumnElement[int], limit: sa.ColumnElement[int], offset: sa.ColumnElement[int]
) -> sa.Subquery:
    """Select ids by counting from the newest or from the oldest: both are written down, and one has the limit 0."""
    rest = total - offset
    back = rest < offset
    downwards = ids.order_by(conversations.c.updated_at.desc(), conversations.c.id.desc())
    forth = downwards.limit(sa.case((back, _NONE), else_=limit)).offset(offset).subquery("forth")
    # What the page holds, and what is behind it; nothing where the page is beyond the end.
    size = sa.case((rest < _NONE, _NONE), (rest < limit, rest), else_=limit)
    behind = sa.case((rest > limit, rest - limit), else_=_NONE)
    upwards = ids.order_by(conversations.c.updated_at, conversations.c.id)
    back_again = upwards.limit(sa.case((back, size), else_=_NONE)).offset(behind).subquery("back")
    return sa.union_all(sa.select(forth.c.id), sa.select(back_again.c.id)).subquery("wanted")


@dataclass(frozen=True, slots=True)
class DatabaseConversations:
    connection: Connection
    gone: Callable[[Sequence[str]], None]
    """Told the answers whose turns were deleted."""
    postgres: bool

    async def add(self, conversation: Conversation) -> None:
        await self.connection.run(_add_conversation(conversation))

    async def hold(self, owner: int, conversation_id: str) -> Conversation:
        return await self._one(_HOLD_CONVERSATION, owner, conversation_id)

    async def get(self, owner: int, conversation_id: str) -> Conversation:
        return await self._one(_GET_CONVERSATION, owner, conversation_id)

    async def _one(self, statement: Statement, owner: int, conversation_id: str) -> Conversation:
        rows = await self.connection.fetch(statement, {"owner": owner, "conversation": conversation_id})
        if not rows:
            raise no_conversation(conversation_id)
        return conversation_of(rows[0])

    async def page(
        self,
        owner: int,
        *,
        project_id: str | None,
        limit: int,
        offset: int = 0,
        behind: ConversationPlace | None = None,
    ) -> Counted[Conversation]:
        deep = behind is None and offset > _DEEP
        statement = page_of_conversations(
            in_project=project_id is not None, behind=behind is not None, skipping=offset > 0, deep=deep
        )
        scope = EVERYTHING if project_id is None else project_id
        parameters: dict[str, Any] = {"owner": owner, "scope": scope, "limit": limit, "offset": offset}
        if behind is not None:
            parameters |= {"updated_at": behind.updated_at, "id": behind.id}
        rows = await self.connection.fetch(statement, parameters)
        items = [conversation_of(row[1:]) for row in rows if row[1] is not None]
        return Counted(items, rows[0][0])

    async def update(self, conversation: Conversation) -> None:
        await self.connection.run(_update_conversation(conversation))

    async def delete(self, owner: int, conversation_id: str) -> None:
        self.gone(await self.connection.run(_delete_conversation(owner, conversation_id, postgres=self.postgres)))


def _counting(owner: int, changes: Mapping[str, int]) -> list[dict[str, Any]]:
    # In one order in all transactions, so that nobody deadlocks.
    return [{"user_id": owner, "scope": scope, "total": change} for scope, change in sorted(changes.items())]


def _scopes(project_id: str | None, change: int) -> dict[str, int]:
    return {EVERYTHING: change} if project_id is None else {EVERYTHING: change, project_id: change}


def _add_conversation(conversation: Conversation) -> Script[None]:
    yield _ADD_CONVERSATION, _stored(conversation, _CONVERSATION_NAMES)
    yield _COUNT, _counting(conversation.user_id, _scopes(conversation.project_id, 1))


def _update_conversation(conversation: Conversation) -> Script[None]:
    key = {"owner": conversation.user_id, "conversation": conversation.id}
    rows = yield _HOLD_PROJECT, key
    if not rows:
        raise no_conversation(conversation.id)
    ((before,),) = rows
    yield _UPDATE_CONVERSATION, {**key, **_stored(conversation, _CONVERSATION_NAMES)}
    if before != conversation.project_id:
        moves = ((before, -1), (conversation.project_id, 1))
        yield _COUNT, _counting(conversation.user_id, {name: by for name, by in moves if name is not None})


def _delete_conversation(owner: int, conversation_id: str, *, postgres: bool) -> Script[Sequence[str]]:
    # Conversation, turns, messages, counts: the order in which everybody locks, so that nobody deadlocks.
    key = {"owner": owner, "conversation": conversation_id}
    rows = yield _LOCK_PROJECT, key
    if not rows:
        raise no_conversation(conversation_id)
    ((project_id,),) = rows
    answers = yield _LOCK_TURNS, key
    if not postgres:
        yield from put_away()  # for each turn that goes, those that are there would be looked through
    yield _DELETE_CONVERSATION, key
    yield _COUNT, _counting(owner, _scopes(project_id, -1))
    return [message_id for (message_id,) in answers]


# --- messages ---------------------------------------------------------------------------------------


def no_message(message_id: str) -> NotFound:
    return NotFound(f"There is no message {message_id!r}.", code="message_not_found")


@cache
def page_of_messages(*, before: bool) -> Statement:
    """Select a page of a conversation's messages, each row with the count of all and the place of `before`."""
    inside = messages.c.conversation_id == sa.bindparam("conversation")
    wanted = sa.select(*MESSAGE, messages.c.position).where(inside)
    place = sa.select(messages.c.position).where(messages.c.id == sa.bindparam("before"), inside).scalar_subquery()
    if before:
        wanted = wanted.where(messages.c.position < place)
    limit = sa.bindparam("limit", type_=sa.BigInteger())
    page = wanted.order_by(messages.c.position.desc()).limit(limit).subquery("page")
    return Statement(
        sa.select(
            conversations.c.message_count,
            place.label("before") if before else sa.literal_column("0").label("before"),
            *(page.c[name] for name in _MESSAGE_NAMES),
        )
        .select_from(conversations.outerjoin(page, sa.true()))
        .where(THE_CONVERSATION)
        .order_by(page.c.position)
    )


def messages_of(rows: Sequence[Row]) -> list[Message]:
    """Read the messages from rows of `page_of_messages`: an empty page has one row, and no message in it."""
    return [message_of(row[2:]) for row in rows if row[2] is not None]


_GET_MESSAGE: Final = Statement(
    sa.select(*MESSAGE).where(
        messages.c.id == sa.bindparam("message"),
        sa.select(conversations.c.user_id).where(conversations.c.id == messages.c.conversation_id).scalar_subquery()
        == sa.bindparam("owner"),
    )
)
_OF_MESSAGE: Final = sa.select(messages.c.conversation_id).where(messages.c.id == sa.bindparam("message"))
_LOCK_CONVERSATION: Final = Statement(
    sa.select(conversations.c.id)
    .where(conversations.c.id == _OF_MESSAGE.scalar_subquery(), _ITS_OWNER)
    .with_for_update(key_share=True)
)
_LOCK_TURN: Final = Statement(
    sa.select(turns.c.message_id)
    .where(turns.c.message_id == sa.bindparam("message"), turns.c.user_id == sa.bindparam("owner"))
    .with_for_update()
)
_DELETE_MESSAGE: Final = Statement(
    sa.delete(messages)
    .where(messages.c.id == sa.bindparam("message"), messages.c.conversation_id == sa.bindparam("conversation"))
    .returning(messages.c.id)
)
_ONE_LESS: Final = Statement(
    sa.update(conversations)
    .where(conversations.c.id == sa.bindparam("conversation"))
    .values(message_count=conversations.c.message_count - 1)
)


@dataclass(frozen=True, slots=True)
class DatabaseMessages:
    connection: Connection
    gone: Callable[[Sequence[str]], None]
    """Told the answers whose turns were deleted."""

    async def get(self, owner: int, message_id: str) -> Message:
        rows = await self.connection.fetch(_GET_MESSAGE, {"owner": owner, "message": message_id})
        if not rows:
            raise no_message(message_id)
        return message_of(rows[0])

    async def page(
        self, owner: int, conversation_id: str, *, limit: int, before: str | None = None
    ) -> Counted[Message]:
        rows = await self.connection.fetch(
            page_of_messages(before=before is not None),
            {"owner": owner, "conversation": conversation_id, "limit": limit, "before": before},
        )
        if not rows:
            raise no_conversation(conversation_id)
        total, place = rows[0][:2]
        if place is None:
            raise NotFound(f"There is no message {before!r} in this conversation.", code="message_not_found")
        return Counted(messages_of(rows), total)

    async def newest(
        self, owner: int, conversation_id: str, *, limit: int, before: str | None = None
    ) -> Sequence[Message]:
        return (await self.page(owner, conversation_id, limit=limit, before=before)).items

    async def delete(self, owner: int, message_id: str) -> None:
        if (answer := await self.connection.run(_delete_message(owner, message_id))) is not None:
            self.gone([answer])


def _delete_message(owner: int, message_id: str) -> Script[str | None]:
    # In the order of `_delete_conversation`; a turn that ends locks itself before its message, too.
    key: dict[str, Any] = {"owner": owner, "message": message_id}
    rows = yield _LOCK_CONVERSATION, key
    if not rows:
        raise no_message(message_id)
    key["conversation"] = rows[0][0]
    locked = yield _LOCK_TURN, key
    deleted = yield _DELETE_MESSAGE, key
    if not deleted:
        raise no_message(message_id)
    yield _ONE_LESS, key
    return message_id if locked else None
