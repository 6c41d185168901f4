"""What the contract suites of the storage start from: users, conversations and turns."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from luxx.adapters.system import SortableIds
from luxx.application.ports import (
    Begun,
    IdempotencyKey,
    Lease,
    LoggedEvent,
    NewTurn,
    Storage,
    TurnLog,
    UnitOfWork,
)
from luxx.domain.conversation import Conversation
from luxx.domain.message import Message, Role, Status, TextPart, ToolCallPart
from luxx.domain.turn import Done, Failed
from luxx.domain.user import NewUser, User
from luxx.domain.user import Role as UserRole

LONG: Final = timedelta(minutes=5)
"""A lease that no test outlives."""

EXPIRED: Final = timedelta(seconds=-1)
"""A lease that has run out when it is given."""

PATIENCE: Final = 20.0
"""Seconds until a test that waits for something gives up."""

ODD_TEXT: Final = "naïve 🦉 e\u0301 \u202e\ufeff 'quote\" \\ % _ \r\n\t"

new_id: Final = SortableIds()


def moment(seconds: float = 0) -> datetime:
    """Give a fixed time, and times so many seconds after it; with microseconds, which must survive."""
    return datetime(2026, 3, 1, 12, 30, 15, 123_457, tzinfo=UTC) + timedelta(seconds=seconds)


def new_user(name: str = "ada", email: str | None = None) -> NewUser:
    return NewUser(
        username=name,
        email=email or f"{name}@example.org",
        password_hash="not a hash",  # noqa: S106 - a sample
        role=UserRole.USER,
        created_at=moment(),
    )


async def stored_user(storage: Storage, name: str = "ada") -> User:
    async with storage.new_unit() as unit:
        user = await unit.users.add(new_user(name))
        await unit.commit()
    return user


def new_conversation(owner: User, **changes: Any) -> Conversation:
    fields: dict[str, Any] = {
        "id": new_id("conv"),
        "user_id": owner.id,
        "project_id": None,
        "title": "新会话",
        "model": "glm-5",
        "system_prompt": None,
        "temperature": 1.0,
        "max_tokens": 65_536,
        "thinking_enabled": False,
        "created_at": moment(),
        "updated_at": moment(),
    }
    return Conversation(**{**fields, **changes})


async def stored_conversation(storage: Storage, owner: User, **changes: Any) -> Conversation:
    conversation = new_conversation(owner, **changes)
    async with storage.new_unit() as unit:
        await unit.conversations.add(conversation)
        await unit.commit()
    return conversation


def new_turn(
    conversation: Conversation,
    *,
    text: str = "Hello?",
    holder: str = "here",
    lease_for: timedelta = LONG,
    history: int = 1000,
    key: IdempotencyKey | None = None,
    at: datetime | None = None,
) -> NewTurn:
    at = at or moment(60)
    question = Message(
        id=new_id("msg"),
        conversation_id=conversation.id,
        role=Role.USER,
        parts=(TextPart(text=text),),
        status=Status.COMPLETE,
        created_at=at,
    )
    answer = Message(
        id=new_id("msg"),
        conversation_id=conversation.id,
        role=Role.ASSISTANT,
        parts=(),
        status=Status.STREAMING,
        model=conversation.model,
        created_at=at,
    )
    return NewTurn(
        owner=conversation.user_id,
        conversation_id=conversation.id,
        user_message=question,
        answer=answer,
        holder=holder,
        lease_for=lease_for,
        history=history,
        key=key,
    )


async def begin(storage: Storage, turn: NewTurn) -> Begun:
    """Begin a turn in a unit of its own; gives what it starts from."""
    async with storage.new_unit() as unit:
        return await unit.turns.begin(turn)


async def leased(storage: Storage, turn: NewTurn) -> Lease:
    """Begin a turn in a unit of its own; gives the right to write it."""
    return (await begin(storage, turn)).lease


async def running_turn(
    storage: Storage, owner: User, *, holder: str = "here", lease_for: timedelta = LONG
) -> tuple[NewTurn, Lease]:
    """Begin a turn in a new conversation."""
    turn = new_turn(await stored_conversation(storage, owner), holder=holder, lease_for=lease_for)
    return turn, await leased(storage, turn)


async def following(
    log: TurnLog, message_id: str, *, after: int = 0, limit: int = 256
) -> AsyncGenerator[LoggedEvent, None]:
    """Read, wait, read on, as every reader does, until the end of the turn; fails after `PATIENCE`."""
    async with asyncio.timeout(PATIENCE):
        with log.watch(message_id) as wakeup:
            while True:
                events = await log.read(message_id, after=after, limit=limit)
                for logged in events:
                    yield logged
                    after = logged.seq
                    if isinstance(logged.event, Done | Failed):
                        return
                if not events:
                    await wakeup.wait(0.25)


async def count_of(unit: UnitOfWork, owner: User, project_id: str | None) -> int:
    """Tell how many conversations there are, in all or in a project."""
    return (await unit.conversations.page(owner.id, project_id=project_id, limit=1)).total


async def size_of(unit: UnitOfWork, conversation: Conversation) -> int:
    """Tell how many messages a conversation has."""
    return (await unit.messages.page(conversation.user_id, conversation.id, limit=1)).total


async def history_of(storage: Storage, conversation: Conversation) -> list[Message]:
    """Give all messages of a conversation, oldest first."""
    async with storage.new_unit(read_only=True) as unit:
        return list(await unit.messages.newest(conversation.user_id, conversation.id, limit=1000))


def later_in(message: Message) -> list[bool]:
    """Tell which calls began another round: two parts are the same without it."""
    return [part.later for part in message.parts if isinstance(part, ToolCallPart)]


async def ended_turn(storage: Storage, conversation: Conversation, *, text: str = "Hello?", at: float = 60) -> str:
    """Begin a turn and end it at once; gives the id of the answer."""
    turn = new_turn(conversation, text=text, at=moment(at))
    lease = await leased(storage, turn)
    answer = replace(turn.answer, status=Status.COMPLETE)
    await storage.log.end(lease, Done(message=answer), answer)
    return answer.id
