"""The turns of a unit of work: how one begins, and how it stands."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from luxx.adapters.database.connection import Connection, Driver
from luxx.adapters.database.conversations import CONVERSATION, THE_CONVERSATION, conversation_of
from luxx.adapters.database.errors import NotUnique
from luxx.adapters.database.messages import ANSWER, MESSAGE, answer_values, message_of, messages_of, page_of_messages
from luxx.adapters.database.rows import named, names_of
from luxx.adapters.database.schema import (
    Duration,
    UtcTime,
    conversations,
    idempotency_keys,
    messages,
    turn_events,
    turns,
    users,
)
from luxx.adapters.database.statements import Parameters, Row, Script, Statement
from luxx.adapters.wire import encode_event
from luxx.application.ports import Begun, Clock, KeyTaken, Lease, NewTurn, Remembered, TooManyTurns, Turn
from luxx.domain.conversation import generation_in_progress, no_conversation
from luxx.domain.errors import Damaged
from luxx.domain.message import Message, Status
from luxx.domain.turn import Started

_TURN: Final = names_of(Turn)
_REMEMBERED: Final = names_of(Remembered)
_ONE: Final = sa.literal_column("1", sa.BigInteger())
_TWO: Final = sa.literal_column("2", sa.BigInteger())


def now_on(postgres: bool) -> sa.ColumnElement[Any]:
    """Give the time by the one clock that all who share the database read; on SQLite it is the parameter `now`."""
    return sa.func.clock_timestamp(type_=UtcTime()) if postgres else sa.bindparam("now", type_=UtcTime())


def lease_end(postgres: bool) -> sa.ColumnElement[Any]:
    """Give when a lease ends that is given now, for the parameter `lease_for`."""
    return now_on(postgres) + sa.bindparam("lease_for", type_=Duration())


def _given(column: sa.Column[Any], name: str | None = None) -> sa.BindParameter[Any]:
    return sa.bindparam(name or column.name, type_=column.type)


def _key_values() -> dict[str, sa.BindParameter[Any]]:
    renamed = {"user_id": "owner", "message_id": "answer_id", "created_at": "at"}
    return {column.name: _given(column, renamed.get(column.name)) for column in idempotency_keys.c}


def _turn_values(postgres: bool) -> dict[str, sa.ColumnElement[Any]]:
    renamed = {"message_id": "answer_id", "conversation_id": "conversation", "user_id": "owner", "started_at": "at"}
    values: dict[str, sa.ColumnElement[Any]] = {
        name: _given(turns.c[name], renamed.get(name))
        for name in ("message_id", "conversation_id", "user_id", "user_message_id", "holder", "started_at")
    }
    yes, no = sa.true(), sa.false()
    values |= {"running": yes, "fence": _ONE, "cancel_requested": no, "last_seq": _ONE, "log_kept": yes}
    values["lease_until"] = lease_end(postgres)
    return values


_TOUCH: Final = (
    sa.update(conversations)
    .where(THE_CONVERSATION)
    .values(
        next_position=conversations.c.next_position + 2,
        message_count=conversations.c.message_count + 2,
        updated_at=sa.bindparam("at"),
    )
    .returning(*CONVERSATION, conversations.c.next_position, conversations.c.message_count)
)
_LIMIT: Final = sa.bindparam("earlier", type_=sa.BigInteger())


def _earlier(conversation: sa.ColumnElement[str], limit: sa.ColumnElement[int]) -> sa.Select[Any]:
    """Give the newest messages, newest first."""
    newest_first = messages.c.position.desc()
    return sa.select(*MESSAGE).where(messages.c.conversation_id == conversation).order_by(newest_first).limit(limit)


def _message_values(which: str, position: sa.ColumnElement[int]) -> dict[str, sa.ColumnElement[Any]]:
    values: dict[str, sa.ColumnElement[Any]] = {
        name: _given(messages.c[name], f"{which}_{name}") for name in ("id", "role", *ANSWER)
    }
    values["created_at"] = _given(messages.c.created_at, "at")
    values["conversation_id"] = _given(messages.c.conversation_id, "conversation")
    values["position"] = position
    return values


def _event_values() -> dict[str, sa.ColumnElement[Any]]:
    return {
        "message_id": _given(turn_events.c.message_id, "answer_id"),
        "seq": _ONE,
        "name": _given(turn_events.c.name, "event_name"),
        "data": _given(turn_events.c.data, "event_data"),
    }


def _begin_at_once(*, keyed: bool) -> sa.Executable:
    """Do it all in one statement: what one part violates undoes the others, and no row is added where none is touched.

    Its update locks the conversation: whoever comes second waits there. The turn of the first is not in
    its snapshot then, but in the index that holds one running turn for each conversation.

    Gives one row: the conversation, whether it is as in the snapshot from which the earlier messages are
    read, and these, as an array of each column: asyncpg takes twice the time for an array of rows, and
    for rows that repeat the conversation four times.
    """
    touched = _TOUCH.cte("touched")
    position = touched.c.next_position

    def added(table: sa.Table, values: Mapping[str, sa.ColumnElement[Any]], name: str) -> sa.CTE:
        rows = sa.select(*(value.label(name) for name, value in values.items())).select_from(touched)
        return sa.insert(table).from_select(list(values), rows).cte(name)

    parts = [added(idempotency_keys, _key_values(), "keyed")] if keyed else []
    parts += [
        added(messages, _message_values("question", position - 2), "asked"),
        added(messages, _message_values("answer", position - 1), "answering"),
        added(turns, _turn_values(postgres=True), "begun"),
        added(turn_events, _event_values(), "told"),
    ]
    # Neither names a parameter to the planner: where Postgres expects fewer rows of some values than of others it
    # plans the statement anew for each, which takes longer than to run it.
    page = _earlier(touched.c.id, sa.select(_LIMIT).scalar_subquery()).correlate(touched).subquery("page")
    seen = conversations.alias("seen")
    unmoved = sa.and_(seen.c.next_position == position - _TWO, seen.c.message_count == touched.c.message_count - _TWO)
    earlier = sa.select(*(sa.func.array_agg(column).label(column.name) for column in page.c)).lateral("earlier")
    return (
        sa.select(*(touched.c[column.name] for column in CONVERSATION), unmoved, *earlier.c)
        .select_from(touched.join(seen, seen.c.id == touched.c.id).join(earlier, sa.true()))
        .add_cte(*parts)
    )


_BEGIN: Final = {keyed: Statement(_begin_at_once(keyed=keyed)) for keyed in (False, True)}

_TOUCH_IT: Final = Statement(_TOUCH)
_READ_EARLIER: Final = Statement(_earlier(sa.bindparam("conversation"), _LIMIT))
_KEEP_KEY: Final = Statement(sa.insert(idempotency_keys).values(_key_values()))
_ADD_MESSAGES: Final = Statement(
    sa.insert(messages).values(
        [
            _message_values("question", _given(messages.c.position) - _TWO),
            _message_values("answer", _given(messages.c.position) - _ONE),
        ]
    )
)
_ADD_TURN: Final = Statement(lambda postgres: sa.insert(turns).values(_turn_values(postgres)))
_ADD_EVENT: Final = Statement(sa.insert(turn_events).values(_event_values()))
_HOLD_OWNER: Final = Statement(
    sa.select(users.c.id).where(users.c.id == sa.bindparam("owner")).with_for_update(key_share=True)
)
_RUNNING_OF: Final = Statement(
    sa.select(sa.func.count()).select_from(turns).where(turns.c.running, turns.c.user_id == sa.bindparam("owner"))
)
_SELECT_TURN: Final = sa.select(*(turns.c[name] for name in _TURN)).where(turns.c.user_id == sa.bindparam("owner"))
_GET: Final = Statement(_SELECT_TURN.where(turns.c.message_id == sa.bindparam("message")))
_RUNNING_IN: Final = Statement(
    _SELECT_TURN.where(turns.c.conversation_id == sa.bindparam("conversation"), turns.c.running)
)
_RECALL: Final = Statement(
    sa.select(*(idempotency_keys.c[name] for name in _REMEMBERED)).where(
        idempotency_keys.c.user_id == sa.bindparam("owner"), idempotency_keys.c.key == sa.bindparam("key")
    )
)
_REQUEST_CANCEL: Final = Statement(
    sa.update(turns)
    .where(turns.c.message_id == sa.bindparam("message"), turns.c.user_id == sa.bindparam("owner"), turns.c.running)
    .values(cancel_requested=True)
)


@dataclass(frozen=True, slots=True)
class DatabaseTurns:
    connection: Connection
    driver: Driver
    clock: Clock
    ending: Callable[[], None]
    """Called when a turn is begun or asked to end, with which the unit ends."""
    begun: Callable[[Lease, Started, tuple[str, str]], None]
    """Told what was begun, and its first event as it is stored, once it is committed."""

    async def begin(self, turn: NewTurn) -> Begun:
        connection = self.connection
        self.ending()
        started = Started(user_message=turn.user_message, message_id=turn.answer.id)
        values = _values(turn, started, self.clock())
        try:
            if self.driver.postgres and not (turn.at_most or connection.begun):
                told = _told(turn, await connection.fetch(_BEGIN[turn.key is not None], values, alone=True))
            else:
                told = await connection.run(_begin(turn, values, postgres=self.driver.postgres), last=True)
        except NotUnique as error:
            await connection.close()
            # Which of two constraints is named is a matter of chance; what the key says goes first.
            if turn.key is not None and await self.driver.fetch(_RECALL, values):
                raise KeyTaken(turn.key.key) from error
            raise generation_in_progress(turn.conversation_id) from error
        await connection.close()
        lease = turn.lease()
        self.begun(lease, started, (values["event_name"], values["event_data"]))
        history: Sequence[Message] = ()
        damaged = None
        try:
            history = await self._history(turn, told)
        except Damaged as error:
            damaged = error  # raised, it would leave behind a turn that nobody runs
        return Begun(
            lease=lease,
            answer=turn.answer,
            conversation=conversation_of(told.conversation),
            history=history,
            damaged=damaged,
        )

    async def _history(self, turn: NewTurn, told: "_Told") -> Sequence[Message]:
        if turn.history < 1:
            return []
        history = [message_of(row) for row in told.newest_first]
        if told.unmoved and not any(message.status is Status.STREAMING for message in history):
            return [*reversed(history), turn.user_message]
        # What was committed while the statement waited is not in its snapshot: a message deleted, an answer ended.
        values = {
            "owner": turn.owner,
            "conversation": turn.conversation_id,
            "limit": turn.history,
            "before": turn.answer.id,
        }
        return messages_of(await self.driver.fetch(page_of_messages(before=True), values))

    async def get(self, owner: int, message_id: str) -> Turn | None:
        return await self._first(_GET, {"owner": owner, "message": message_id})

    async def running_in(self, owner: int, conversation_id: str) -> Turn | None:
        return await self._first(_RUNNING_IN, {"owner": owner, "conversation": conversation_id})

    async def _first(self, statement: Statement, parameters: Parameters) -> Turn | None:
        for row in await self.connection.fetch(statement, parameters):
            return Turn(**named(_TURN, row))
        return None

    async def recall(self, owner: int, key: str) -> Remembered | None:
        for row in await self.connection.fetch(_RECALL, {"owner": owner, "key": key}):
            return Remembered(**named(_REMEMBERED, row))
        return None

    async def request_cancel(self, owner: int, message_id: str) -> None:
        connection, parameters = self.connection, {"owner": owner, "message": message_id}
        self.ending()
        await connection.fetch(_REQUEST_CANCEL, parameters, alone=not connection.begun)
        await connection.commit()
        await connection.close()


@dataclass(frozen=True, slots=True)
class _Told:
    """What the database gave as a turn began."""

    conversation: Row
    newest_first: Sequence[Row]
    unmoved: bool = True
    """Whether no message was added or deleted after those that were read."""


def _told(turn: NewTurn, rows: Sequence[Row]) -> _Told:
    if not rows:
        raise no_conversation(turn.conversation_id)
    (row,) = rows
    width = len(CONVERSATION)
    # There is no array where there is nothing to put into it.
    columns = row[width + 1 :] if row[width + 1] is not None else ()
    return _Told(row[:width], list(zip(*columns, strict=True)), row[width])


def _values(turn: NewTurn, started: Started, now: datetime) -> dict[str, Any]:
    name, data = encode_event(started)
    values: dict[str, Any] = {
        "owner": turn.owner,
        "conversation": turn.conversation_id,
        "at": turn.user_message.created_at,
        "user_message_id": turn.user_message.id,
        "holder": turn.holder,
        "lease_for": turn.lease_for,
        "earlier": max(0, turn.history - 1),
        "now": now,
        "event_name": name,
        "event_data": data,
    }
    for which, message in (("question", turn.user_message), ("answer", turn.answer)):
        columns = {"id": message.id, "role": message.role.value, **answer_values(message)}
        values |= {f"{which}_{column}": value for column, value in columns.items()}
    if turn.key is not None:
        values |= {"key": turn.key.key, "fingerprint": turn.key.fingerprint}
    return values


def _begin(turn: NewTurn, values: Parameters, *, postgres: bool) -> Script[_Told]:
    if turn.at_most:
        # Held, so that of messages sent at once each counts those before it.
        yield _HOLD_OWNER, values
    if postgres:
        told = _told(turn, (yield _BEGIN[turn.key is not None], values))
    else:
        told = yield from _begin_on_sqlite(turn, values)
    if turn.at_most:
        ((running,),) = yield _RUNNING_OF, values
        if running > turn.at_most:
            raise TooManyTurns(turn.owner)
    return told


def _begin_on_sqlite(turn: NewTurn, values: Parameters) -> Script[_Told]:
    touched = yield _TOUCH_IT, values
    if not touched:
        raise no_conversation(turn.conversation_id)
    ((*conversation, position, _),) = touched
    earlier = (yield _READ_EARLIER, values) if values["earlier"] else ()
    if turn.key is not None:
        yield _KEEP_KEY, values
    yield _ADD_MESSAGES, {**values, "position": position}
    yield _ADD_TURN, values
    yield _ADD_EVENT, values
    return _Told(conversation, earlier)
