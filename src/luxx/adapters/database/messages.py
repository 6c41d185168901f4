"""The messages of a unit of work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from luxx.adapters.database.connection import Connection
from luxx.adapters.database.conversations import ITS_OWNER, THE_CONVERSATION
from luxx.adapters.database.rows import columns_of, names_of
from luxx.adapters.database.schema import conversations, messages, turns
from luxx.adapters.database.statements import Row, Script, Statement
from luxx.adapters.wire import (
    decode_parts,
    decode_problem,
    decode_usage,
    encode_parts,
    encode_problem,
    encode_usage,
)
from luxx.application.ports import Counted
from luxx.domain.conversation import no_conversation
from luxx.domain.errors import Damaged
from luxx.domain.message import Message, Role, Status, no_message, not_in_conversation

MESSAGE: Final = columns_of(messages, Message)
ANSWER: Final = ("parts", "status", "model", "usage", "error")
"""The columns that the end of a turn sets, as `answer_values` gives them."""
_NAMES: Final = names_of(Message)

_ROLES: Final = {role.value: role for role in Role}
_STATUSES: Final = {status.value: status for status in Status}
_UNREADABLE: Final = (msgspec.MsgspecError, KeyError, TypeError, ValueError, RecursionError)
_READ: Final[Mapping[str, Callable[[Any], object]]] = {
    "role": _ROLES.__getitem__,
    "parts": decode_parts,
    "status": _STATUSES.__getitem__,
    "usage": decode_usage,
    "error": decode_problem,
}


def message_of(row: Row) -> Message:
    # Written out: a thousand of these may begin a turn.
    identity, conversation_id, role, parts, status, model, usage, error, created_at = row
    try:
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
    except _UNREADABLE as reason:
        given = {"role": role, "parts": parts, "status": status, "usage": usage, "error": error}
        damaged = [column for column, value in given.items() if not _readable(column, value)]
        raise Damaged(identity, conversation_id, columns=damaged) from reason


def _readable(column: str, value: Any) -> bool:
    try:
        _READ[column](value)
    except _UNREADABLE:
        return False
    return True


def answer_values(message: Message) -> dict[str, Any]:
    """Give the columns that the end of a turn sets."""
    return {
        "parts": encode_parts(message.parts),
        "status": message.status.value,
        "model": message.model,
        "usage": encode_usage(message.usage),
        "error": encode_problem(message.error),
    }


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
            *(page.c[name] for name in _NAMES),
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
    .where(conversations.c.id == _OF_MESSAGE.scalar_subquery(), ITS_OWNER)
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
        if before is not None and place is None:
            raise not_in_conversation(before)
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
