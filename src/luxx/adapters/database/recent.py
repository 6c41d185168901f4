"""The latest events on SQLite, which lie together until they are put with their turns' others."""

from typing import Final

import sqlalchemy as sa

from luxx.adapters.database.schema import recent_events, turn_events, turns
from luxx.adapters.database.statements import Script, Statement, insert_if_new

EVENT: Final = ("message_id", "seq", "name", "data")
"""The columns that `recent_events` and `turn_events` share."""

_PUT_AWAY: Final = Statement(
    # Were one there already, by whatever fault, no commit could be made any more.
    insert_if_new(turn_events, postgres=False).from_select(
        EVENT,
        sa.select(*(recent_events.c[name] for name in EVENT))
        # Whoever deletes turns in the shell of SQLite leaves others: it keeps no foreign keys.
        .where(recent_events.c.message_id.in_(sa.select(turns.c.message_id)))
        .order_by(recent_events.c.message_id, recent_events.c.seq),
    )
)
_NONE_RECENT: Final = Statement(sa.delete(recent_events))


def put_away() -> Script[None]:
    """Put all recent events with their turns' others; those whose turn is gone go too."""
    yield _PUT_AWAY, {}
    yield _NONE_RECENT, {}
