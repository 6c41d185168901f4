"""The repositories of a unit of work, over its connection."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from luxx.adapters.database.connection import Connection
from luxx.adapters.database.schema import (
    api_keys,
    conversations,
    idempotency_keys,
    messages,
    password_tries,
    sessions,
    turn_events,
    turns,
    users,
)
from luxx.adapters.wire import (
    decode_parts,
    decode_problem,
    decode_usage,
    encode_event,
    encode_parts,
    encode_problem,
    encode_usage,
)
from luxx.application.ports import ConversationPlace, KeyTaken, Lease, NewTurn, PasswordTry, Remembered, Turn
from luxx.domain.api_key import ApiKey
from luxx.domain.conversation import Conversation
from luxx.domain.errors import Conflict, NotFound
from luxx.domain.message import Message, Role, Status
from luxx.domain.turn import Started
from luxx.domain.user import NewUser, Session, User, comparison_key
from luxx.domain.user import Role as UserRole

_STALE_TRIES: Final = 100
"""Old tries deleted with each new one, at most."""

_TRIES_LOCK: Final = 0x7472696573  # any number: "tries"


def _columns(table: sa.Table, kind: type) -> list[sa.Column[Any]]:
    return [table.c[field.name] for field in fields(kind)]


_USER: Final = _columns(users, User)
_API_KEY: Final = _columns(api_keys, ApiKey)
_SESSION: Final = _columns(sessions, Session)
_CONVERSATION: Final = _columns(conversations, Conversation)
_MESSAGE: Final = _columns(messages, Message)
_TRY: Final = _columns(password_tries, PasswordTry)
_TURN: Final = _columns(turns, Turn)


def _named(columns: Sequence[sa.Column[Any]], row: Sequence[Any]) -> dict[str, Any]:
    return dict(zip((column.name for column in columns), row, strict=True))


def _user(row: Sequence[Any]) -> User:
    values = _named(_USER, row)
    return User(**{**values, "role": UserRole(values["role"])})


def _message(row: Sequence[Any]) -> Message:
    values = _named(_MESSAGE, row)
    values["role"] = Role(values["role"])
    values["status"] = Status(values["status"])
    values["parts"] = decode_parts(values["parts"])
    values["usage"] = decode_usage(values["usage"])
    values["error"] = decode_problem(values["error"])
    return Message(**values)


def answer_values(message: Message) -> dict[str, Any]:
    """Give the columns that the end of a turn sets."""
    return {
        "parts": encode_parts(message.parts),
        "status": message.status.value,
        "model": message.model,
        "usage": encode_usage(message.usage),
        "error": encode_problem(message.error),
    }


def _insert_if_new(connection: Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    # A violated constraint would void the whole transaction on Postgres; this only tells.
    if connection.postgres:
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def lease_end(connection: Connection, now: datetime, lease_for: timedelta) -> Any:
    """Give when a lease ends that is given now, by the one clock that all who share the database read."""
    if connection.postgres:
        return sa.func.clock_timestamp() + sa.literal(lease_for, sa.Interval())
    return now + lease_for


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
        statement = _insert_if_new(self.connection, users).values(**values, **keys).returning(*_USER)
        row = (await self.connection.execute(statement)).first()
        if row is not None:
            return _user(row)
        by_name = sa.select(sa.exists().where(users.c.username_key == keys["username_key"]))
        if await self.connection.scalar(by_name):
            raise Conflict(f"The username {user.username!r} is taken.", code="username_taken")
        raise Conflict(f"The e-mail address {user.email!r} is taken.", code="email_taken")

    async def get(self, user_id: int) -> User | None:
        return await self._first(users.c.id == user_id)

    async def by_username(self, username: str) -> User | None:
        return await self._first(users.c.username_key == comparison_key(username))

    async def hold(self, user_id: int) -> User | None:
        return await self._first(users.c.id == user_id, held=True)

    async def page(self, *, after: int = 0, limit: int = 1000) -> Sequence[User]:
        rows = await self.connection.execute(
            sa.select(*_USER).where(users.c.id > after).order_by(users.c.id).limit(limit)
        )
        return [_user(row) for row in rows]

    async def _first(self, condition: sa.ColumnElement[bool], *, held: bool = False) -> User | None:
        statement = sa.select(*_USER).where(condition)
        # NO KEY: what refers to the user (a new conversation) need not wait.
        statement = statement.with_for_update(key_share=True) if held else statement
        row = (await self.connection.execute(statement)).first()
        return None if row is None else _user(row)

    async def update(self, user: User) -> None:
        await self.connection.execute(
            sa.update(users)
            .where(users.c.id == user.id)
            .values(password_hash=user.password_hash, role=user.role.value, is_active=user.is_active)
        )


@dataclass(frozen=True, slots=True)
class DatabaseSessions:
    connection: Connection

    async def add(self, session: Session) -> None:
        await self.connection.execute(
            sa.insert(sessions).values({column: getattr(session, column.name) for column in _SESSION})
        )

    async def with_user(self, session_id: str) -> tuple[Session, User] | None:
        both = sa.select(*_SESSION, *_USER).join_from(sessions, users).where(sessions.c.id == session_id)
        row = (await self.connection.execute(both)).first()
        if row is None:
            return None
        width = len(_SESSION)
        return Session(**_named(_SESSION, row[:width])), _user(row[width:])

    async def revoke(self, session_id: str, at: datetime) -> None:
        await self.connection.execute(
            sa.update(sessions)
            .where(sessions.c.id == session_id, sessions.c.revoked_at.is_(None))
            .values(revoked_at=at)
        )

    async def live_of(self, owner: int, now: datetime) -> Sequence[Session]:
        rows = await self.connection.execute(
            sa.select(*_SESSION)
            .where(sessions.c.user_id == owner, sessions.c.revoked_at.is_(None), sessions.c.expires_at > now)
            .order_by(sessions.c.created_at.desc(), sessions.c.id.desc())
            .limit(1000)
        )
        return [Session(**row) for row in rows.mappings()]

    async def revoke_one_of(self, owner: int, session_id: str, at: datetime) -> None:
        result = await self.connection.execute(
            sa.update(sessions)
            .where(
                sessions.c.id == session_id,
                sessions.c.user_id == owner,
                sessions.c.revoked_at.is_(None),
                sessions.c.expires_at > at,
            )
            .values(revoked_at=at)
        )
        if not result.rowcount:
            raise NotFound(f"There is no session {session_id!r}.")

    async def revoke_all_of(self, owner: int, at: datetime, *, but: str | None = None) -> None:
        theirs = sa.update(sessions).where(sessions.c.user_id == owner, sessions.c.revoked_at.is_(None))
        if but is not None:
            theirs = theirs.where(sessions.c.id != but)
        await self.connection.execute(theirs.values(revoked_at=at))


@dataclass(frozen=True, slots=True)
class DatabaseApiKeys:
    connection: Connection

    async def add(self, key: ApiKey, digest: str) -> None:
        values = {column: getattr(key, column.name) for column in _API_KEY}
        await self.connection.execute(sa.insert(api_keys).values({**values, api_keys.c.digest: digest}))

    async def of(self, owner: int) -> Sequence[ApiKey]:
        rows = await self.connection.execute(
            sa.select(*_API_KEY)
            .where(api_keys.c.user_id == owner)
            .order_by(api_keys.c.created_at.desc(), api_keys.c.id.desc())
        )
        return [ApiKey(**row) for row in rows.mappings()]

    async def with_user(self, digest: str) -> tuple[ApiKey, User] | None:
        both = sa.select(*_API_KEY, *_USER).join_from(api_keys, users).where(api_keys.c.digest == digest)
        row = (await self.connection.execute(both)).first()
        if row is None:
            return None
        width = len(_API_KEY)
        return ApiKey(**_named(_API_KEY, row[:width])), _user(row[width:])

    async def used(self, key_id: str, at: datetime) -> None:
        await self.connection.execute(sa.update(api_keys).where(api_keys.c.id == key_id).values(last_used_at=at))

    async def delete(self, owner: int, key_id: str) -> None:
        result = await self.connection.execute(
            sa.delete(api_keys).where(api_keys.c.id == key_id, api_keys.c.user_id == owner)
        )
        if not result.rowcount:
            raise NotFound(f"There is no key {key_id!r}.")


@dataclass(frozen=True, slots=True)
class DatabasePasswordTries:
    connection: Connection

    async def begin(self, one: PasswordTry, *, since: datetime, account_limit: int, peer_limit: int) -> datetime | None:
        # The account before the peer, in all units alike, so that nobody deadlocks.
        await self._order(f"account {one.account}")
        await self._order(f"peer {one.peer}")
        stale = (
            sa.select(password_tries.c.id)
            .where(password_tries.c.at <= since)
            .order_by(password_tries.c.at)
            .limit(_STALE_TRIES)
            .with_for_update(skip_locked=True)
        )
        await self.connection.execute(sa.delete(password_tries).where(password_tries.c.id.in_(stale)))
        limits = (
            (password_tries.c.account == one.account, account_limit),
            (password_tries.c.peer == one.peer, peer_limit),
        )
        standing = [
            await self.connection.scalar(
                sa.select(password_tries.c.at)
                .where(condition, password_tries.c.at > since)
                .order_by(password_tries.c.at.desc())
                .offset(limit - 1)
                .limit(1)
            )
            for condition, limit in limits
        ]
        found: list[datetime] = [at for at in standing if at is not None]
        if found:
            return max(found)
        await self.connection.execute(
            sa.insert(password_tries).values({column: getattr(one, column.name) for column in _TRY})
        )
        return None

    async def forget(self, account: str) -> None:
        await self._order(f"account {account}")
        await self.connection.execute(sa.delete(password_tries).where(password_tries.c.account == account))

    async def _order(self, name: str) -> None:
        # SQLite has one writer at a time anyway.
        if self.connection.postgres:
            lock = sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, _TRIES_LOCK))
            await self.connection.execute(sa.select(lock))


def _no_conversation(conversation_id: str) -> NotFound:
    return NotFound(f"There is no conversation {conversation_id!r}.", code="conversation_not_found")


def _is(owner: int, conversation_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(conversations.c.id == conversation_id, conversations.c.user_id == owner)


@dataclass(frozen=True, slots=True)
class DatabaseConversations:
    connection: Connection
    gone: Callable[[Sequence[str]], None]
    """Told the answers whose turns were deleted."""

    async def add(self, conversation: Conversation) -> None:
        await self.connection.execute(
            sa.insert(conversations).values({column: getattr(conversation, column.name) for column in _CONVERSATION})
        )

    async def hold(self, owner: int, conversation_id: str) -> Conversation:
        return await self.get(owner, conversation_id, held=True)

    async def get(self, owner: int, conversation_id: str, *, held: bool = False) -> Conversation:
        statement = sa.select(*_CONVERSATION).where(_is(owner, conversation_id))
        statement = statement.with_for_update(key_share=True) if held else statement
        row = (await self.connection.execute(statement)).mappings().first()
        if row is None:
            raise _no_conversation(conversation_id)
        return Conversation(**row)

    async def page(
        self,
        owner: int,
        *,
        project_id: str | None,
        limit: int,
        offset: int = 0,
        behind: ConversationPlace | None = None,
    ) -> Sequence[Conversation]:
        newest_first = (conversations.c.updated_at.desc(), conversations.c.id.desc())
        # The inner select is answered by the index alone, however far the offset reaches.
        wanted = sa.select(conversations.c.id).where(*_of(owner, project_id))
        if behind is not None:
            place = sa.tuple_(
                sa.literal(behind.updated_at, conversations.c.updated_at.type),
                sa.literal(behind.id, conversations.c.id.type),
            )
            wanted = wanted.where(sa.tuple_(conversations.c.updated_at, conversations.c.id) < place)
        page = wanted.order_by(*newest_first).limit(limit).offset(offset).subquery()
        rows = await self.connection.execute(
            sa.select(*_CONVERSATION)
            .join_from(page, conversations, page.c.id == conversations.c.id)
            .order_by(*newest_first)
        )
        return [Conversation(**row) for row in rows.mappings()]

    async def count(self, owner: int, *, project_id: str | None) -> int:
        statement = sa.select(sa.func.count()).select_from(conversations).where(*_of(owner, project_id))
        return int(await self.connection.scalar(statement))

    async def update(self, conversation: Conversation) -> None:
        kept = {"id", "user_id", "created_at"}
        result = await self.connection.execute(
            sa.update(conversations)
            .where(_is(conversation.user_id, conversation.id))
            .values({column: getattr(conversation, column.name) for column in _CONVERSATION if column.name not in kept})
        )
        if not result.rowcount:
            raise _no_conversation(conversation.id)

    async def delete(self, owner: int, conversation_id: str) -> None:
        # Conversation, turns, messages: the order in which everybody locks, so that nobody deadlocks.
        locked = sa.select(conversations.c.id).where(_is(owner, conversation_id)).with_for_update()
        if await self.connection.scalar(locked) is None:
            raise _no_conversation(conversation_id)
        answers = await self.connection.execute(
            sa.select(turns.c.message_id)
            .join(messages, messages.c.id == turns.c.message_id)
            .where(messages.c.conversation_id == conversation_id)
            .order_by(turns.c.message_id)
            .with_for_update(of=turns)
        )
        self.gone(answers.scalars().all())
        await self.connection.execute(sa.delete(conversations).where(_is(owner, conversation_id)))


def _of(owner: int, project_id: str | None) -> list[sa.ColumnElement[bool]]:
    mine = conversations.c.user_id == owner
    return [mine] if project_id is None else [mine, conversations.c.project_id == project_id]


def _no_message(message_id: str) -> NotFound:
    return NotFound(f"There is no message {message_id!r}.", code="message_not_found")


@dataclass(frozen=True, slots=True)
class DatabaseMessages:
    connection: Connection
    gone: Callable[[Sequence[str]], None]
    """Told the answers whose turns were deleted."""

    async def get(self, owner: int, message_id: str) -> Message:
        statement = (
            sa.select(*_MESSAGE)
            .join_from(messages, conversations)
            .where(messages.c.id == message_id, conversations.c.user_id == owner)
        )
        row = (await self.connection.execute(statement)).first()
        if row is None:
            raise _no_message(message_id)
        return _message(row)

    async def newest(
        self, owner: int, conversation_id: str, *, limit: int, before: str | None = None
    ) -> Sequence[Message]:
        if not await self.connection.scalar(sa.select(sa.exists().where(_is(owner, conversation_id)))):
            raise _no_conversation(conversation_id)
        inside = messages.c.conversation_id == conversation_id
        statement = sa.select(*_MESSAGE).where(inside).order_by(messages.c.position.desc()).limit(limit)
        if before is not None:
            position = await self.connection.scalar(
                sa.select(messages.c.position).where(messages.c.id == before, inside)
            )
            if position is None:
                raise NotFound(f"There is no message {before!r} in this conversation.", code="message_not_found")
            statement = statement.where(messages.c.position < position)
        rows = (await self.connection.execute(statement)).all()
        return [_message(row) for row in reversed(rows)]

    async def count(self, owner: int, conversation_id: str) -> int:
        statement = (
            sa.select(sa.func.count())
            .select_from(messages)
            .where(messages.c.conversation_id == conversation_id, sa.exists().where(_is(owner, conversation_id)))
        )
        return int(await self.connection.scalar(statement))

    async def delete(self, owner: int, message_id: str) -> None:
        # The turn is locked before its message: in the same order as at the end of a turn.
        turn = sa.select(turns.c.message_id).where(turns.c.message_id == message_id, turns.c.user_id == owner)
        answer = await self.connection.scalar(turn.with_for_update())
        mine = sa.select(conversations.c.id).where(conversations.c.user_id == owner)
        result = await self.connection.execute(
            sa.delete(messages).where(messages.c.id == message_id, messages.c.conversation_id.in_(mine))
        )
        if not result.rowcount:
            raise _no_message(message_id)
        if answer is not None:
            self.gone([answer])


@dataclass(frozen=True, slots=True)
class DatabaseTurns:
    connection: Connection
    now: datetime
    began: Callable[[Lease, Started], None]
    """Told what was begun."""
    spoil: Callable[[], None]
    """Called where a transaction holds half of a turn and must not be committed."""

    async def begin(self, turn: NewTurn) -> Lease:
        question, answer = turn.user_message, turn.answer
        # This locks the conversation: whoever comes second waits here, and then sees the first one's turn.
        after = await self.connection.scalar(
            sa.update(conversations)
            .where(_is(turn.owner, turn.conversation_id))
            .values(next_position=conversations.c.next_position + 2, updated_at=question.created_at)
            .returning(conversations.c.next_position)
        )
        if after is None:
            raise _no_conversation(turn.conversation_id)
        if turn.key is not None:
            result = await self.connection.execute(
                _insert_if_new(self.connection, idempotency_keys).values(
                    user_id=turn.owner,
                    key=turn.key.key,
                    fingerprint=turn.key.fingerprint,
                    message_id=answer.id,
                    created_at=question.created_at,
                )
            )
            if not result.rowcount:
                self.spoil()
                raise KeyTaken(turn.key.key)
        running = sa.exists().where(turns.c.conversation_id == turn.conversation_id, turns.c.running)
        if await self.connection.scalar(sa.select(running)):
            self.spoil()
            raise Conflict(
                f"An answer is already being written in the conversation {turn.conversation_id!r}.",
                code="generation_in_progress",
            )
        await self.connection.execute(
            sa.insert(messages),
            [
                {
                    "id": message.id,
                    "conversation_id": turn.conversation_id,
                    "position": position,
                    "role": message.role.value,
                    "created_at": message.created_at,
                    **answer_values(message),
                }
                for position, message in ((after - 2, question), (after - 1, answer))
            ],
        )
        await self.connection.execute(
            sa.insert(turns).values(
                message_id=answer.id,
                conversation_id=turn.conversation_id,
                user_id=turn.owner,
                user_message_id=question.id,
                running=True,
                holder=turn.holder,
                fence=1,
                lease_until=lease_end(self.connection, self.now, turn.lease_for),
                cancel_requested=False,
                last_seq=1,
                log_kept=True,
                started_at=question.created_at,
            )
        )
        started = Started(user_message=question, message_id=answer.id)
        name, data = encode_event(started)
        await self.connection.execute(sa.insert(turn_events).values(message_id=answer.id, seq=1, name=name, data=data))
        lease = Lease(
            message_id=answer.id,
            conversation_id=turn.conversation_id,
            owner=turn.owner,
            holder=turn.holder,
            fence=1,
        )
        self.began(lease, started)
        return lease

    async def get(self, owner: int, message_id: str) -> Turn | None:
        return await self._first(turns.c.message_id == message_id, turns.c.user_id == owner)

    async def running_in(self, owner: int, conversation_id: str) -> Turn | None:
        return await self._first(turns.c.conversation_id == conversation_id, turns.c.running, turns.c.user_id == owner)

    async def _first(self, *conditions: sa.ColumnElement[bool]) -> Turn | None:
        row = (await self.connection.execute(sa.select(*_TURN).where(*conditions))).mappings().first()
        return None if row is None else Turn(**row)

    async def running_of(self, owner: int) -> int:
        statement = sa.select(sa.func.count()).select_from(turns).where(turns.c.running, turns.c.user_id == owner)
        return int(await self.connection.scalar(statement))

    async def recall(self, owner: int, key: str) -> Remembered | None:
        row = (
            (
                await self.connection.execute(
                    sa.select(
                        idempotency_keys.c.fingerprint, idempotency_keys.c.message_id, idempotency_keys.c.created_at
                    ).where(idempotency_keys.c.user_id == owner, idempotency_keys.c.key == key)
                )
            )
            .mappings()
            .first()
        )
        return None if row is None else Remembered(**row)

    async def request_cancel(self, owner: int, message_id: str) -> None:
        await self.connection.execute(
            sa.update(turns)
            .where(turns.c.message_id == message_id, turns.c.user_id == owner, turns.c.running)
            .values(cancel_requested=True)
        )
