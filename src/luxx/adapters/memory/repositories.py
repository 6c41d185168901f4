"""The repositories of a unit of work, over its `Tables`."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from luxx.adapters.memory.tables import Tables, TurnRow
from luxx.application.ports import (
    Begun,
    Clock,
    ConversationPlace,
    Counted,
    FoundConversations,
    KeyTaken,
    LoggedEvent,
    NewTurn,
    PasswordTry,
    Remembered,
    TooManyTurns,
    Turn,
)
from luxx.domain.api_key import ApiKey, no_key
from luxx.domain.conversation import Conversation, generation_in_progress, no_conversation
from luxx.domain.message import Message, no_message, not_in_conversation
from luxx.domain.turn import Started
from luxx.domain.user import (
    NewUser,
    Session,
    User,
    comparison_key,
    email_taken,
    no_session,
    no_user,
    username_taken,
)


@dataclass(frozen=True, slots=True)
class _Repository:
    reach: Callable[[], Tables]
    """Gives the tables of the unit; raises RuntimeError when it is over."""

    @property
    def tables(self) -> Tables:
        return self.reach()

    def known(self, user_id: int) -> None:
        """Raise `NotFound` where there is no such user."""
        if user_id not in self.tables.users:
            raise no_user(user_id)


def _new(identity: str, stored: Collection[str]) -> None:
    if identity in stored:
        raise ValueError(f"The id {identity!r} is taken.")


class MemoryUsers(_Repository):
    __slots__ = ()

    async def add(self, user: NewUser) -> User:
        username, email = comparison_key(user.username), comparison_key(user.email)
        if username in self.tables.usernames:
            raise username_taken(user.username)
        if email in self.tables.emails:
            raise email_taken(user.email)
        added = User(
            id=len(self.tables.users) + 1,
            username=user.username,
            email=user.email,
            password_hash=user.password_hash,
            role=user.role,
            is_active=True,
            created_at=user.created_at,
        )
        self.tables.users[added.id] = added
        self.tables.usernames[username] = added.id
        self.tables.emails[email] = added.id
        return added

    async def get(self, user_id: int) -> User | None:
        return self.tables.users.get(user_id)

    async def by_email(self, email: str) -> User | None:
        user_id = self.tables.emails.get(comparison_key(email))
        return None if user_id is None else self.tables.users[user_id]

    async def by_username(self, username: str) -> User | None:
        user_id = self.tables.usernames.get(comparison_key(username))
        return None if user_id is None else self.tables.users[user_id]

    async def hold(self, user_id: int) -> User | None:
        return self.tables.users.get(user_id)

    async def page(self, *, after: int = 0, limit: int = 1000) -> Sequence[User]:
        return [self.tables.users[number] for number in sorted(self.tables.users) if number > after][:limit]

    async def update(self, user: User) -> None:
        stored = self.tables.users.get(user.id)
        if stored is not None:
            self.tables.users[user.id] = replace(
                stored, password_hash=user.password_hash, role=user.role, is_active=user.is_active
            )


class MemorySessions(_Repository):
    __slots__ = ()

    async def add(self, session: Session) -> None:
        self.known(session.user_id)
        _new(session.id, self.tables.sessions)
        self.tables.sessions[session.id] = session

    async def with_user(self, session_id: str) -> tuple[Session, User] | None:
        session = self.tables.sessions.get(session_id)
        return None if session is None else (session, self.tables.users[session.user_id])

    async def revoke(self, session_id: str, at: datetime) -> None:
        session = self.tables.sessions.get(session_id)
        if session is not None and session.revoked_at is None:
            self.tables.sessions[session_id] = replace(session, revoked_at=at)

    async def live_of(self, owner: int, now: datetime) -> Sequence[Session]:
        found = [
            one
            for one in self.tables.sessions.values()
            if one.user_id == owner and one.revoked_at is None and one.expires_at > now
        ]
        return sorted(found, key=lambda one: (one.created_at, one.id), reverse=True)[:1000]

    async def revoke_one_of(self, owner: int, session_id: str, at: datetime) -> None:
        session = self.tables.sessions.get(session_id)
        if session is None or session.user_id != owner or session.revoked_at is not None or session.expires_at <= at:
            raise no_session(session_id)
        self.tables.sessions[session_id] = replace(session, revoked_at=at)

    async def revoke_all_of(self, owner: int, at: datetime, *, but: str | None = None) -> None:
        for session in list(self.tables.sessions.values()):
            if session.user_id == owner and session.id != but:
                await self.revoke(session.id, at)


class MemoryApiKeys(_Repository):
    __slots__ = ()

    async def add(self, key: ApiKey, digest: str) -> None:
        self.known(key.user_id)
        _new(key.id, self.tables.api_keys)
        if digest in self.tables.digests:
            raise ValueError("There is a key with this digest.")
        self.tables.api_keys[key.id] = key
        self.tables.digests[digest] = key.id

    async def of(self, owner: int) -> Sequence[ApiKey]:
        found = [key for key in self.tables.api_keys.values() if key.user_id == owner]
        return sorted(found, key=lambda key: (key.created_at, key.id), reverse=True)

    async def with_user(self, digest: str) -> tuple[ApiKey, User] | None:
        key = self.tables.api_keys.get(self.tables.digests.get(digest, ""))
        return None if key is None else (key, self.tables.users[key.user_id])

    async def used(self, key_id: str, at: datetime) -> None:
        if key_id in self.tables.api_keys:
            self.tables.api_keys[key_id] = replace(self.tables.api_keys[key_id], last_used_at=at)

    async def delete(self, owner: int, key_id: str) -> None:
        key = self.tables.api_keys.get(key_id)
        if key is None or key.user_id != owner:
            raise no_key(key_id)
        del self.tables.api_keys[key_id]
        for digest in [one for one, of in self.tables.digests.items() if of == key_id]:
            del self.tables.digests[digest]


class MemoryPasswordTries(_Repository):
    __slots__ = ()

    async def begin(self, one: PasswordTry, *, since: datetime, account_limit: int, peer_limit: int) -> datetime | None:
        tries = self.tables.tries
        for old in [other.id for other in tries.values() if other.at <= since]:
            del tries[old]
        at_account = sorted(other.at for other in tries.values() if other.account == one.account)
        from_peer = sorted(other.at for other in tries.values() if other.peer == one.peer)
        full = ((at_account, account_limit), (from_peer, peer_limit))
        if standing := [times[-limit] for times, limit in full if len(times) >= limit]:
            return max(standing)
        tries[one.id] = one
        return None

    async def forget(self, account: str) -> None:
        for settled in [one.id for one in self.tables.tries.values() if one.account == account]:
            del self.tables.tries[settled]


def _owned(tables: Tables, owner: int, conversation_id: str) -> Conversation:
    conversation = tables.conversations.get(conversation_id)
    if conversation is None or conversation.user_id != owner:
        raise no_conversation(conversation_id)
    return conversation


class MemoryConversations(_Repository):
    __slots__ = ()

    async def add(self, conversation: Conversation) -> None:
        self.known(conversation.user_id)
        _new(conversation.id, self.tables.conversations)
        self.tables.conversations[conversation.id] = conversation
        self.tables.history[conversation.id] = ()

    async def hold(self, owner: int, conversation_id: str) -> Conversation:
        return await self.get(owner, conversation_id)

    async def get(self, owner: int, conversation_id: str) -> Conversation:
        return _owned(self.tables, owner, conversation_id)

    async def page(
        self,
        owner: int,
        *,
        project_id: str | None,
        limit: int,
        offset: int = 0,
        behind: ConversationPlace | None = None,
    ) -> FoundConversations:
        found = [
            one
            for one in self.tables.conversations.values()
            if one.user_id == owner and project_id in (None, one.project_id)
        ]
        places = {(self._stood(one, behind), one.id): one for one in found}
        if behind is not None:
            place = (behind.updated_at, behind.id)
            places = {other: one for other, one in places.items() if other < place}
        wanted = sorted(places, reverse=True)[offset : offset + limit + 1]
        rest = None
        if len(wanted) > limit > 0:
            stood, identity = wanted[limit - 1]
            began = max(one.updated_at for one in found) if behind is None else behind.began
            rest = ConversationPlace(updated_at=stood, id=identity, began=began)
        return FoundConversations([places[place] for place in wanted[:limit]], len(found), rest)

    def _stood(self, conversation: Conversation, behind: ConversationPlace | None) -> datetime:
        """Tell where a conversation stands in the list, or stood when the walk began."""
        if behind is None or conversation.updated_at <= behind.began:
            return conversation.updated_at
        if conversation.created_at > behind.began:
            return conversation.created_at  # made since, whatever date its messages have
        said = (self.tables.messages[one].created_at for one in reversed(self.tables.history[conversation.id]))
        return next((at for at in said if at <= behind.began), conversation.created_at)

    async def update(self, conversation: Conversation) -> None:
        stored = _owned(self.tables, conversation.user_id, conversation.id)
        self.tables.conversations[conversation.id] = replace(conversation, created_at=stored.created_at)

    async def delete(self, owner: int, conversation_id: str) -> None:
        _owned(self.tables, owner, conversation_id)
        for message_id in self.tables.history[conversation_id]:
            self.tables.drop_message(message_id)
        del self.tables.history[conversation_id]
        del self.tables.conversations[conversation_id]


class MemoryMessages(_Repository):
    __slots__ = ()

    async def get(self, owner: int, message_id: str) -> Message:
        message = self.tables.messages.get(message_id)
        if message is None or self.tables.conversations[message.conversation_id].user_id != owner:
            raise no_message(message_id)
        return message

    async def page(
        self, owner: int, conversation_id: str, *, limit: int, before: str | None = None
    ) -> Counted[Message]:
        _owned(self.tables, owner, conversation_id)
        ids = self.tables.history[conversation_id]
        end = len(ids)
        if before is not None:
            if before not in ids:
                raise not_in_conversation(before)
            end = ids.index(before)
        items = [self.tables.messages[message_id] for message_id in ids[max(0, end - limit) : end]]
        return Counted(items, len(ids))

    async def newest(
        self, owner: int, conversation_id: str, *, limit: int, before: str | None = None
    ) -> Sequence[Message]:
        return (await self.page(owner, conversation_id, limit=limit, before=before)).items

    async def delete(self, owner: int, message_id: str) -> None:
        await self.get(owner, message_id)
        self.tables.drop_message(message_id)


@dataclass(frozen=True, slots=True)
class MemoryTurns(_Repository):
    clock: Clock
    publish: Callable[[Tables], None]
    """Commits the unit."""
    ending: Callable[[], None]
    """Called when a turn is begun or asked to end, with which the unit ends."""

    async def begin(self, turn: NewTurn) -> Begun:
        tables = self.tables
        self.ending()
        conversation = _owned(tables, turn.owner, turn.conversation_id)
        if turn.key is not None and (turn.owner, turn.key.key) in tables.keys:
            raise KeyTaken(turn.key.key)
        if turn.conversation_id in tables.running:
            raise generation_in_progress(turn.conversation_id)
        if turn.at_most and _running_of(tables, turn.owner) >= turn.at_most:
            raise TooManyTurns(turn.owner)
        question, answer = turn.user_message, turn.answer
        for message in (question, answer):
            _new(message.id, tables.messages)
        conversation = replace(conversation, updated_at=question.created_at)
        tables.conversations[conversation.id] = conversation
        tables.messages[question.id] = question
        tables.messages[answer.id] = answer
        tables.history[conversation.id] += (question.id, answer.id)
        tables.turns[answer.id] = TurnRow(
            message_id=answer.id,
            user_message_id=question.id,
            conversation_id=conversation.id,
            owner=turn.owner,
            holder=turn.holder,
            fence=1,
            lease_until=self.clock() + turn.lease_for,
        )
        tables.running[conversation.id] = answer.id
        tables.events[answer.id] = [LoggedEvent(1, Started(user_message=question, message_id=answer.id))]
        if turn.key is not None:
            tables.keys[turn.owner, turn.key.key] = Remembered(
                fingerprint=turn.key.fingerprint, message_id=answer.id, created_at=question.created_at
            )
        self.publish(tables)
        told = tables.history[conversation.id][:-1][-turn.history :] if turn.history else ()
        return Begun(
            lease=turn.lease(),
            answer=answer,
            conversation=conversation,
            history=[tables.messages[message_id] for message_id in told],
        )

    async def get(self, owner: int, message_id: str) -> Turn | None:
        row = self.tables.turns.get(message_id)
        if row is None or row.owner != owner:
            return None
        return row.turn(len(self.tables.events[message_id]) if row.running else row.last_seq)

    async def running_in(self, owner: int, conversation_id: str) -> Turn | None:
        message_id = self.tables.running.get(conversation_id)
        return None if message_id is None else await self.get(owner, message_id)

    async def recall(self, owner: int, key: str) -> Remembered | None:
        return self.tables.keys.get((owner, key))

    async def request_cancel(self, owner: int, message_id: str) -> None:
        tables = self.tables
        self.ending()
        row = tables.turns.get(message_id)
        if row is not None and row.owner == owner and row.running:
            tables.turns[message_id] = replace(row, cancel_requested=True)
        self.publish(tables)


def _running_of(tables: Tables, owner: int) -> int:
    return sum(row.owner == owner and row.running for row in tables.turns.values())
