"""One commit of the turn log: what the fences let through of many turns, and the turns of which they let nothing."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from luxx.adapters.database.messages import ANSWER, answer_values
from luxx.adapters.database.notices import CHANNEL
from luxx.adapters.database.recent import EVENT
from luxx.adapters.database.schema import Names, messages, recent_events, turn_events, turns
from luxx.adapters.database.statements import Parameters, Row, Script, Statement
from luxx.adapters.database.turn_writing import Share, Writing
from luxx.adapters.wire import encode

_RECENT_SIZE: Final = 1024
"""How long the data of a recent event may be, in characters: of longer ones few share a page."""
_Event: TypeAlias = tuple[str, int, str, str]


def commit_at_once(shares: Sequence[Share], *, now: datetime, payload: str) -> tuple[Statement, Parameters]:
    """Give the one statement that stores all shares on Postgres and tells `payload` to the listeners; see `lost_of`."""
    ids = [share.turn.lease.message_id for share in shares]
    seqs = [share.turn.seq for share in shares]
    ended = [share for share in shares if share.end is not None]
    values: dict[str, Any] = {
        "turn": ids,
        "fence": [share.turn.lease.fence for share in shares],
        "seq": seqs,
        "upto": [share.turn.seq + len(share.rows) for share in shares],
        "of": [message_id for message_id, share in zip(ids, shares, strict=True) for _ in share.rows],
        "at": [seq + place for seq, share in zip(seqs, shares, strict=True) for place in range(1, len(share.rows) + 1)],
        "name": [name for share in shares for name, _ in share.rows],
        "data": [data for share in shares for _, data in share.rows],
        "payload": payload,
    }
    if ended:
        answers = [answer_values(share.end[1]) for share in ended if share.end is not None]
        values |= {name: [answer[name] for answer in answers] for name in ANSWER}
        values |= {
            "ending": [share.end is not None for share in shares],
            "now": now,
            "answer": [share.turn.lease.message_id for share in ended],
        }
    return (_COMMIT_ENDS if ended else _COMMIT), values


def _stored(share: Share, row: Row | None, again: bool) -> bool:
    """Tell from a turn's row as it was before the commit whether the commit has stored the share."""
    if row is None:
        return False
    _, fence, running, seq, *_ = row
    if fence != share.turn.lease.fence:
        return False
    if again and seq == share.turn.seq + len(share.rows):
        return True  # the last try did commit; only its answer was lost
    return bool(running) and seq == share.turn.seq


def lost_of(shares: Sequence[Share], rows: Sequence[Row], *, again: bool) -> set[Writing]:
    """Tell from the turns' rows, as they were before the commit, of which turns nothing was stored."""
    found = {row[0]: row for row in rows}
    return {share.turn for share in shares if not _stored(share, found.get(share.turn.lease.message_id), again)}


def commit_on_sqlite(shares: Sequence[Share], now: datetime, *, again: bool) -> Script[tuple[set[Writing], int]]:
    """Store what the fences let through; give the turns that they do not, and how many recent events there were.

    One statement does one thing for all of them, and gives one row or none: for each that it is given or
    gives, the driver takes Python's lock anew, and waits for it as long as whatever else this process does.
    """
    good, lost = shares, set[Writing]()
    went, recent = yield from _go_on_all(good)
    if went < len(good):
        # To be undone, so that the turns are seen as they were.
        yield _ROLLBACK, {}
        yield _BEGIN, {}
        rows = yield _STANDING, {"turn": [share.turn.lease.message_id for share in shares]}
        lost = lost_of(shares, rows, again=again)
        stale = lost_of(shares, rows, again=False)
        good = [share for share in shares if share.turn not in stale]
        yield from _go_on_all(good)
    events = {recent_events: list[_Event](), turn_events: list[_Event]()}
    ending, answers = [], []
    for share in good:
        message_id = share.turn.lease.message_id
        for seq, (name, data) in enumerate(share.rows, share.turn.seq + 1):
            table = recent_events if len(data) <= _RECENT_SIZE else turn_events
            events[table].append((message_id, seq, name, data))
        if share.end is not None:
            ending.append({"turn": message_id, "now": now})
            answers.append({"answer": message_id, **answer_values(share.end[1])})
    for table, added in events.items():
        if added:
            yield _ADD_EVENTS[table], {"events": encode(added).decode()}
    if ending:
        yield _END, ending
        yield _STORE_ANSWER, answers
    return lost, recent


def _go_on_all(shares: Sequence[Share]) -> Script[tuple[int, int]]:
    """Set how far these turns are, where the lease is good; give how many they were, and how many events are recent."""
    given = [
        (share.turn.lease.message_id, share.turn.lease.fence, share.turn.seq, share.turn.seq + len(share.rows))
        for share in shares
    ]
    yield _GO_ON, {"given": encode(given).decode()}
    ((went, recent),) = yield _WENT_ON, {}
    return went, recent or 0


# --- statements -------------------------------------------------------------------------------------


def among(column: sa.ColumnElement[str], name: str, postgres: bool) -> sa.ColumnElement[bool]:
    """Tell whether a column is among the values of a parameter, in one statement for any number of them."""
    if postgres:
        return column == sa.any_(sa.bindparam(name, type_=postgresql.ARRAY(sa.Text())))
    # As one value too: SQLite takes no more than 32 766 of them.
    listed = sa.func.json_each(sa.bindparam(name, type_=Names())).table_valued("value")
    return column.in_(sa.select(listed.c.value))


def _unnested(alias: str, /, **columns: sa.types.TypeEngine[Any]) -> sa.TableValuedAlias:
    """Give arrays of one length, named as the columns, as a table."""
    arrays = (sa.bindparam(column, type_=postgresql.ARRAY(kind)) for column, kind in columns.items())
    named = (sa.column(column, kind) for column, kind in columns.items())
    return sa.func.unnest(*arrays).table_valued(*named).render_derived(alias)


def _commit_of(*, ends: bool) -> sa.Executable:
    """Check the fences and store what they let through, in one statement and one round trip.

    The row lock is the fence: until the commit nobody can take these turns over. They are locked in
    one order everywhere, so that nobody deadlocks; then `good` sees the rows as they are by now, and
    all that is written follows from it. The rows as they were are the result.
    """
    text, number = sa.Text(), sa.BigInteger()
    flag: dict[str, sa.types.TypeEngine[Any]] = {"ending": sa.Boolean()} if ends else {}
    given = _unnested("given", turn=text, fence=number, seq=number, upto=number, **flag)
    locked = (
        sa.select(turns.c.message_id, turns.c.fence, turns.c.running, turns.c.last_seq)
        .where(among(turns.c.message_id, "turn", postgres=True))
        .order_by(turns.c.message_id)
        .with_for_update()
        .cte("locked")
    )
    good = (
        sa.select(*given.c)
        .join(locked, locked.c.message_id == given.c.turn)
        .where(locked.c.fence == given.c.fence, locked.c.running, locked.c.last_seq == given.c.seq)
        .cte("good")
    )
    changes: dict[str, Any] = {"last_seq": good.c.upto}
    if ends:
        now = sa.bindparam("now", type_=turns.c.ended_at.type)
        changes |= {"running": sa.not_(good.c.ending), "ended_at": sa.case((good.c.ending, now))}
    moved = sa.update(turns).where(turns.c.message_id == good.c.turn).values(changes).cte("moved")
    event = _unnested("event", of=text, at=number, name=text, data=text)
    added = (
        sa.insert(turn_events)
        .from_select(["message_id", "seq", "name", "data"], sa.select(*event.c).join(good, good.c.turn == event.c.of))
        .cte("added")
    )
    parts = [moved, added]
    if ends:
        answer = _unnested("answer", answer=text, **dict.fromkeys(ANSWER, text))
        parts.append(
            sa.update(messages)
            .where(messages.c.id == answer.c.answer, answer.c.answer == good.c.turn)
            .values({name: answer.c[name] for name in ANSWER})
            .cte("answered")
        )
    told = sa.select(notify()).scalar_subquery()
    return sa.select(locked.c.message_id, locked.c.fence, locked.c.running, locked.c.last_seq, told).add_cte(*parts)


def notify() -> sa.ColumnElement[Any]:
    return sa.func.pg_notify(CHANNEL, sa.bindparam("payload", type_=sa.Text()))


_COMMIT: Final = Statement(lambda _: _commit_of(ends=False))
_COMMIT_ENDS: Final = Statement(lambda _: _commit_of(ends=True))
_STANDING: Final = Statement(
    lambda postgres: sa.select(turns.c.message_id, turns.c.fence, turns.c.running, turns.c.last_seq).where(
        among(turns.c.message_id, "turn", postgres)
    )
)
_THE_TURN: Final = turns.c.message_id == sa.bindparam("turn")
_END: Final = Statement(sa.update(turns).where(_THE_TURN).values(running=False, ended_at=sa.bindparam("now")))
_STORE_ANSWER: Final = Statement(
    sa.update(messages)
    .where(messages.c.id == sa.bindparam("answer"))
    .values({name: sa.bindparam(name) for name in ANSWER})
)


def _listed(name: str, width: int) -> Sequence[sa.ColumnElement[Any]]:
    """Give a parameter, a JSON array of arrays, as the columns of a table (SQLite)."""
    each = sa.func.json_each(sa.bindparam(name, type_=sa.Text())).table_valued("value", name=name)
    return [sa.func.json_extract(each.c.value, sa.literal_column(f"'$[{place}]'")) for place in range(width)]


def _go_on() -> sa.Executable:
    message_id, fence, seq, upto = _listed("given", 4)
    here = turns.c.message_id == message_id
    return (
        sa.update(turns)
        .where(here, turns.c.fence == fence, turns.c.running, turns.c.last_seq == seq)
        .values(last_seq=upto)
    )


_ROLLBACK: Final = Statement(sa.text("ROLLBACK"))
_BEGIN: Final = Statement(sa.text("BEGIN IMMEDIATE"))
_GO_ON: Final = Statement(_go_on())
_WENT_ON: Final = Statement(
    # Numbered from 1 whenever it was emptied: the last number is how many there are, or were.
    sa.select(sa.func.changes(), sa.select(sa.func.max(recent_events.c.id)).scalar_subquery())
)
_ADD_EVENTS: Final = {
    table: Statement(sa.insert(table).from_select(EVENT, sa.select(*_listed("events", 4))))
    for table in (recent_events, turn_events)
}
