"""The conversations of a unit of work, and the kept counts of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from luxx.adapters.database.connection import Connection
from luxx.adapters.database.recent import put_away
from luxx.adapters.database.rows import columns_of, names_of, values_of
from luxx.adapters.database.schema import UtcTime, conversation_counts, conversations, messages, turns, users
from luxx.adapters.database.statements import Row, Script, Statement
from luxx.application.ports import ConversationPlace, FoundConversations
from luxx.domain.conversation import Conversation, no_conversation
from luxx.domain.user import no_user

_DEEP: Final = 200
"""How far into a list one may count from its beginning before it is worth while to look which end is nearer."""

_ZERO: Final = sa.literal_column("0", sa.BigInteger())

_MOST: Final = 1001
"""How long a page may be, and one more, which tells that it is not the last."""

EVERYTHING: Final = ""
"""The scope of a count of all conversations; no project has this name."""

CONVERSATION: Final = columns_of(conversations, Conversation)
_NAMES: Final = names_of(Conversation)
_LAST: Final = 1 + len(_NAMES)
"""Where a row of a list has its last column: behind the count and the conversation."""


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


# Not as the column itself: while the tables are small, Postgres may take an index that begins with the owner for as
# good as the primary key, and it keeps that plan when the owner has a hundred thousand.
ITS_OWNER: Final = conversations.c.user_id + sa.literal_column("0", sa.BigInteger()) == sa.bindparam("owner")
THE_CONVERSATION: Final = sa.and_(conversations.c.id == sa.bindparam("conversation"), ITS_OWNER)


def _count(postgres: bool) -> sa.Executable:
    insert = (postgresql.insert if postgres else sqlite.insert)(conversation_counts).values(
        {name: sa.bindparam(name) for name in ("user_id", "scope", "total")}
    )
    added = conversation_counts.c.total + insert.excluded.total
    return insert.on_conflict_do_update(index_elements=["user_id", "scope"], set_={"total": added})


_COUNT: Final = Statement(_count)
_DROP_EMPTY: Final = Statement(
    sa.delete(conversation_counts).where(
        conversation_counts.c.user_id == sa.bindparam("user_id"),
        conversation_counts.c.scope == sa.bindparam("scope"),
        conversation_counts.c.total == _ZERO,
    )
)
# Only where the owner is there: a violated constraint would void a transaction on Postgres.
_ADD_CONVERSATION: Final = Statement(
    sa.insert(conversations)
    .from_select(
        _NAMES,
        sa.select(*(sa.bindparam(column.name, type_=column.type) for column in CONVERSATION)).where(
            users.c.id == sa.bindparam("user_id", type_=users.c.id.type)
        ),
    )
    .returning(conversations.c.id)
)
_SELECT_CONVERSATION: Final = sa.select(*CONVERSATION).where(THE_CONVERSATION)
_GET_CONVERSATION: Final = Statement(_SELECT_CONVERSATION)
_HOLD_CONVERSATION: Final = Statement(_SELECT_CONVERSATION.with_for_update(key_share=True))
_KEPT: Final = {"id", "user_id", "created_at"}
_UPDATE_CONVERSATION: Final = Statement(
    sa.update(conversations)
    .where(THE_CONVERSATION)
    .values({name: sa.bindparam(name) for name in _NAMES if name not in _KEPT})
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


def _mine(*, in_project: bool) -> list[sa.ColumnElement[bool]]:
    mine = [conversations.c.user_id == sa.bindparam("owner")]
    if in_project:
        mine.append(conversations.c.project_id == sa.bindparam("scope"))
    return mine


def _counted() -> sa.CTE:
    kept = sa.select(conversation_counts.c.total).where(
        conversation_counts.c.user_id == sa.bindparam("owner"), conversation_counts.c.scope == sa.bindparam("scope")
    )
    return sa.select(sa.func.coalesce(kept.scalar_subquery(), _ZERO).label("total")).cte("counted")


_LIMIT: Final = sa.bindparam("limit", type_=sa.BigInteger())
_OFFSET: Final = sa.bindparam("offset", type_=sa.BigInteger())
_EVER: Final = sa.bindparam("ever", datetime.max.replace(tzinfo=UTC), type_=UtcTime())
_NEWEST_FIRST: Final = (conversations.c.updated_at.desc(), conversations.c.id.desc())


@cache
def page_of_conversations(*, in_project: bool, skipping: bool, deep: bool) -> Statement:
    """Select a page, each row with the count of all before it; the count alone where the page is empty.

    Where it skips some, the last column is the latest activity of all.
    """
    mine, counted = _mine(in_project=in_project), _counted()
    latest = []
    if skipping:
        newest = (
            sa.select(conversations.c.updated_at).where(*mine).order_by(*_NEWEST_FIRST).limit(sa.literal_column("1"))
        )
        latest.append(newest.scalar_subquery())
        # A select of ids is answered by the index alone, however far the offset reaches.
        ids = sa.select(conversations.c.id).where(*mine)
        wanted = ids.order_by(*_NEWEST_FIRST).limit(_LIMIT).offset(_OFFSET).subquery("wanted")
        if deep:
            wanted = _from_the_nearer_end(ids, sa.select(counted.c.total).scalar_subquery(), _LIMIT, _OFFSET)
        # Postgres takes a limit that it does not know for a tenth of the table, and would read all ids to join so many.
        wanted = sa.select(wanted.c.id).limit(sa.literal_column(str(_MOST))).subquery("few")
        rows = sa.select(*CONVERSATION).join_from(wanted, conversations, wanted.c.id == conversations.c.id)
    else:
        rows = sa.select(*CONVERSATION).where(*mine).order_by(*_NEWEST_FIRST).limit(_LIMIT)
    page = rows.subquery("page")
    return Statement(
        sa.select(counted.c.total, *(page.c[name] for name in _NAMES), *latest)
        .select_from(counted.outerjoin(page, sa.true()))
        .order_by(page.c.updated_at.desc(), page.c.id.desc())
    )


@cache
def rest_of_conversations(*, in_project: bool) -> Statement:
    """Select a page as `page_of_conversations` does, behind a place in a walk; the last column is where each stood.

    What has not moved stands where it stood. What has, stood where its newest message of that time says, or its
    creation; what was made since has a creation too late to be behind any place of the walk.
    """
    mine, counted = _mine(in_project=in_project), _counted()
    began = sa.bindparam("began", type_=UtcTime())
    place = sa.tuple_(
        sa.bindparam("updated_at", type_=conversations.c.updated_at.type),
        sa.bindparam("id", type_=conversations.c.id.type),
    )
    still = (
        sa.select(*CONVERSATION, conversations.c.updated_at.label("stood"))
        .where(*mine, sa.tuple_(conversations.c.updated_at, conversations.c.id) < place)
        .order_by(*_NEWEST_FIRST)
        .limit(_LIMIT)
        .subquery("still")
    )
    # Postgres takes what is above a bound for a third of all, and plans anew for each bound that it is told.
    bound = sa.select(began).scalar_subquery()
    said = (
        sa.select(messages.c.created_at)
        .where(messages.c.conversation_id == conversations.c.id, messages.c.created_at <= began)
        .order_by(messages.c.position.desc())
        .limit(sa.literal_column("1"))
        .scalar_subquery()
    )
    moved = (
        sa.select(*CONVERSATION, sa.func.coalesce(said, conversations.c.created_at).label("stood"))
        # What is between two bounds, one of which it is not told, it takes for few: and so it is.
        .where(
            *mine,
            conversations.c.updated_at > bound,
            conversations.c.updated_at < _EVER,
            conversations.c.created_at <= bound,
        )
        .order_by(*_NEWEST_FIRST)  # which names the index
        .offset(_ZERO)  # skips nothing, but keeps `said` from being looked up twice
        .subquery("moved")
    )
    unread = sa.select(*moved.c).where(sa.tuple_(moved.c.stood, moved.c.id) < place)
    listed = sa.union_all(sa.select(*still.c), unread).subquery("listed")
    page = sa.select(*listed.c).order_by(listed.c.stood.desc(), listed.c.id.desc()).limit(_LIMIT).subquery("page")
    return Statement(
        sa.select(counted.c.total, *(page.c[name] for name in _NAMES), page.c.stood)
        .select_from(counted.outerjoin(page, sa.true()))
        .order_by(page.c.stood.desc(), page.c.id.desc())
    )


def _from_the_nearer_end(
    ids: sa.Select[str], total: sa.ColumnElement[int], limit: sa.ColumnElement[int], offset: sa.ColumnElement[int]
) -> sa.Subquery:
    """Select ids by counting from the newest or from the oldest: both are written down, and one has the limit 0."""
    rest = total - offset
    back = rest < offset
    downwards = ids.order_by(*_NEWEST_FIRST)
    forth = downwards.limit(sa.case((back, _ZERO), else_=limit)).offset(offset).subquery("forth")
    # What the page holds, and what is behind it; nothing where the page is beyond the end.
    size = sa.case((rest < _ZERO, _ZERO), (rest < limit, rest), else_=limit)
    behind = sa.case((rest > limit, rest - limit), else_=_ZERO)
    upwards = ids.order_by(conversations.c.updated_at, conversations.c.id)
    back_again = upwards.limit(sa.case((back, size), else_=_ZERO)).offset(behind).subquery("back")
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
    ) -> FoundConversations:
        if project_id == EVERYTHING:
            return FoundConversations([], 0, None)
        in_project = project_id is not None
        scope = EVERYTHING if project_id is None else project_id
        parameters: dict[str, Any] = {"owner": owner, "scope": scope, "limit": limit + 1, "offset": offset}
        if behind is not None:
            statement = rest_of_conversations(in_project=in_project)
            parameters |= {"updated_at": behind.updated_at, "id": behind.id, "began": behind.began}
        else:
            statement = page_of_conversations(in_project=in_project, skipping=offset > 0, deep=offset > _DEEP)
        rows = await self.connection.fetch(statement, parameters)
        items = [conversation_of(row[1:_LAST]) for row in rows if row[1] is not None]
        total, rest = rows[0][0], None
        if limit == 0:
            items.clear()
        if len(items) > limit:
            items.pop()
            last = items[-1]
            if behind is not None:
                rest = ConversationPlace(updated_at=rows[limit - 1][_LAST], id=last.id, began=behind.began)
            else:
                began = rows[0][_LAST] if offset else items[0].updated_at
                rest = ConversationPlace(updated_at=last.updated_at, id=last.id, began=began)
        return FoundConversations(items, total, rest)

    async def update(self, conversation: Conversation) -> None:
        await self.connection.run(_update_conversation(conversation))

    async def delete(self, owner: int, conversation_id: str) -> None:
        self.gone(await self.connection.run(_delete_conversation(owner, conversation_id, postgres=self.postgres)))


def _counting(owner: int, changes: Mapping[str, int]) -> Script[None]:
    # In one order in all transactions, so that nobody deadlocks.
    each: list[dict[str, Any]] = [
        {"user_id": owner, "scope": scope, "total": change} for scope, change in sorted(changes.items())
    ]
    yield _COUNT, each
    if fewer := [one for one in each if one["total"] < 0]:
        yield _DROP_EMPTY, fewer  # whoever makes up projects and leaves them must leave no rows


def _scopes(project_id: str | None, change: int) -> dict[str, int]:
    return {EVERYTHING: change} if project_id is None else {EVERYTHING: change, project_id: change}


def _add_conversation(conversation: Conversation) -> Script[None]:
    rows = yield _ADD_CONVERSATION, values_of(conversation, _NAMES)
    if not rows:
        raise no_user(conversation.user_id)
    yield from _counting(conversation.user_id, _scopes(conversation.project_id, 1))


def _update_conversation(conversation: Conversation) -> Script[None]:
    key = {"owner": conversation.user_id, "conversation": conversation.id}
    rows = yield _HOLD_PROJECT, key
    if not rows:
        raise no_conversation(conversation.id)
    ((before,),) = rows
    yield _UPDATE_CONVERSATION, {**key, **values_of(conversation, _NAMES)}
    if before != conversation.project_id:
        moves = ((before, -1), (conversation.project_id, 1))
        yield from _counting(conversation.user_id, {name: by for name, by in moves if name is not None})


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
    yield from _counting(owner, _scopes(project_id, -1))
    return [message_id for (message_id,) in answers]
