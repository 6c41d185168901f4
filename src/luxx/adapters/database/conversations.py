"""The conversations of a unit of work, and the kept counts of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from luxx.adapters.database.connection import Connection
from luxx.adapters.database.recent import put_away
from luxx.adapters.database.rows import columns_of, insert_of, names_of, values_of
from luxx.adapters.database.schema import conversation_counts, conversations, messages, turns
from luxx.adapters.database.statements import Row, Script, Statement
from luxx.application.ports import ConversationPlace, Counted
from luxx.domain.conversation import Conversation
from luxx.domain.errors import NotFound

_DEEP: Final = 200
"""How far into a list one may count from its beginning before it is worth while to look which end is nearer."""

_NONE: Final = sa.literal_column("0", sa.BigInteger())

_MOST: Final = 1000
"""How long a page may be."""

EVERYTHING: Final = ""
"""The scope of a count of all conversations; no project has this name."""

CONVERSATION: Final = columns_of(conversations, Conversation)
_NAMES: Final = names_of(Conversation)


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


def no_conversation(conversation_id: str) -> NotFound:
    return NotFound(f"There is no conversation {conversation_id!r}.", code="conversation_not_found")


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
_ADD_CONVERSATION: Final = Statement(insert_of(conversations, CONVERSATION))
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
        sa.select(counted.c.total, *(page.c[name] for name in _NAMES))
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
    yield _ADD_CONVERSATION, values_of(conversation, _NAMES)
    yield _COUNT, _counting(conversation.user_id, _scopes(conversation.project_id, 1))


def _update_conversation(conversation: Conversation) -> Script[None]:
    key = {"owner": conversation.user_id, "conversation": conversation.id}
    rows = yield _HOLD_PROJECT, key
    if not rows:
        raise no_conversation(conversation.id)
    ((before,),) = rows
    yield _UPDATE_CONVERSATION, {**key, **values_of(conversation, _NAMES)}
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
