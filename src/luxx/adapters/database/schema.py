"""The tables, for SQLite and Postgres alike; columns are named as the fields of the domain.

A change here needs a migration in `migrations/versions`; a test compares the two.
"""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class UtcTime(sa.types.TypeDecorator[datetime]):
    """Aware times in UTC to the microsecond: `timestamptz`, in SQLite whole microseconds since 1970.

    Integers compare and index as times do, which text with its optional fractions does not.
    """

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(sa.BigInteger() if dialect.name == "sqlite" else sa.DateTime(timezone=True))

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[datetime | None], Any] | None:
        return _to_integer if dialect.name == "sqlite" else None

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], datetime | None] | None:  # noqa: ARG002 - its shape
        return _from_integer if dialect.name == "sqlite" else None  # from Postgres they come in UTC


def _to_integer(value: datetime | None) -> int | None:
    return None if value is None else (value - _EPOCH) // _MICROSECOND


def _from_integer(value: int | None) -> datetime | None:
    return None if value is None else _EPOCH + timedelta(microseconds=value)


class Duration(sa.types.TypeDecorator[timedelta]):
    """What is added to a `UtcTime`."""

    impl = sa.Interval
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(sa.BigInteger() if dialect.name == "sqlite" else postgresql.INTERVAL())

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[timedelta | None], Any] | None:
        return _to_microseconds if dialect.name == "sqlite" else None


def _to_microseconds(value: timedelta | None) -> int | None:
    return None if value is None else value // _MICROSECOND


class Word(sa.types.TypeDecorator[str]):
    """Ids and keys: compared and sorted by code point, whatever language the server speaks.

    A word that a database cannot hold (with U+0000 or a lone surrogate) is looked up as one that
    nobody stores, so that a crooked id in a request is absent like any other.
    """

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(sa.Text() if dialect.name == "sqlite" else postgresql.TEXT(collation="C"))

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[str | None], str | None]:  # noqa: ARG002 - its shape
        return _word


def _word(value: str | None) -> str | None:
    if value is None or (value.isascii() and "\0" not in value):
        return value
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


class Names(sa.types.TypeDecorator[Sequence[str]]):
    """A list of names, as JSON text."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Sequence[str] | None, dialect: sa.Dialect) -> str | None:  # noqa: ARG002 - its shape
        return None if value is None else json.dumps(value, ensure_ascii=False)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> tuple[str, ...] | None:  # noqa: ARG002 - its shape
        return None if value is None else tuple(json.loads(value))


metadata: Final = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

users: Final = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
    sa.Column("username", sa.Text, nullable=False),
    sa.Column("username_key", Word, nullable=False, unique=True),
    sa.Column("email", sa.Text, nullable=False),
    sa.Column("email_key", Word, nullable=False, unique=True),
    sa.Column("password_hash", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("is_active", sa.Boolean, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
)

sessions: Final = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", Word, primary_key=True),
    sa.Column("user_id", sa.BigInteger, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("expires_at", UtcTime, nullable=False),
    sa.Column("revoked_at", UtcTime),
    sa.Index("ix_sessions_user_id", "user_id", "created_at", "id"),
    sa.Index("ix_sessions_expires_at", "expires_at"),
)

api_keys: Final = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", Word, primary_key=True),
    sa.Column("user_id", sa.BigInteger, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("digest", Word, nullable=False, unique=True),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("expires_at", UtcTime),
    sa.Column("last_used_at", UtcTime),
    sa.Index("ix_api_keys_user_id", "user_id", "created_at", "id"),
)

password_tries: Final = sa.Table(
    "password_tries",
    metadata,
    sa.Column("id", Word, primary_key=True),
    sa.Column("account", Word, nullable=False),
    sa.Column("peer", Word, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Index("ix_password_tries_account", "account", "at"),
    sa.Index("ix_password_tries_peer", "peer", "at"),
    sa.Index("ix_password_tries_at", "at"),
)

conversations: Final = sa.Table(
    "conversations",
    metadata,
    sa.Column("id", Word, primary_key=True),
    sa.Column("user_id", sa.BigInteger, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    sa.Column("project_id", Word),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("system_prompt", sa.Text),
    sa.Column("temperature", sa.Double, nullable=False),
    sa.Column("max_tokens", sa.BigInteger, nullable=False),
    sa.Column("thinking_enabled", sa.Boolean, nullable=False),
    sa.Column("tools", Names),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    # Handed out under the row's lock: this is what puts concurrent sends in an order.
    sa.Column("next_position", sa.BigInteger, nullable=False, server_default="1"),
    # Kept by whatever adds or deletes messages, in the same transaction: to count them takes ever longer.
    sa.Column("message_count", sa.BigInteger, nullable=False, server_default="0"),
    # Read backwards they give the newest first; one row value is compared with another.
    sa.Index("ix_conversations_by_activity", "user_id", "updated_at", "id"),
    sa.Index("ix_conversations_in_project", "user_id", "project_id", "updated_at", "id"),
)

# How many conversations a user has, and in each project (`scope`; "" stands for all). Kept like `message_count`.
conversation_counts: Final = sa.Table(
    "conversation_counts",
    metadata,
    sa.Column("user_id", sa.BigInteger, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("scope", Word, primary_key=True),
    sa.Column("total", sa.BigInteger, nullable=False),
)

messages: Final = sa.Table(
    "messages",
    metadata,
    sa.Column("id", Word, primary_key=True),
    sa.Column("conversation_id", Word, sa.ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("parts", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("model", sa.Text),
    sa.Column("usage", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.UniqueConstraint("conversation_id", "position"),
)

turns: Final = sa.Table(
    "turns",
    metadata,
    sa.Column("message_id", Word, sa.ForeignKey("messages.id", ondelete="CASCADE"), primary_key=True),
    # No foreign keys: the turn goes with its answer, and the answer with its conversation.
    sa.Column("conversation_id", Word, nullable=False),
    sa.Column("user_id", sa.BigInteger, nullable=False),
    sa.Column("user_message_id", Word, nullable=False),
    sa.Column("running", sa.Boolean, nullable=False),
    sa.Column("holder", Word, nullable=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("lease_until", UtcTime, nullable=False),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("last_seq", sa.BigInteger, nullable=False),
    sa.Column("log_kept", sa.Boolean, nullable=False),
    sa.Column("started_at", UtcTime, nullable=False),
    sa.Column("ended_at", UtcTime),
)

# Their predicates name columns that change once in a turn, never on a commit of the log: those
# updates stay within the row's page.
sa.Index(
    "uq_turns_running",
    turns.c.conversation_id,
    unique=True,
    sqlite_where=turns.c.running,
    postgresql_where=turns.c.running,
)
sa.Index("ix_turns_ended", turns.c.ended_at, sqlite_where=turns.c.log_kept, postgresql_where=turns.c.log_kept)

turn_events: Final = sa.Table(
    "turn_events",
    metadata,
    sa.Column("message_id", Word, sa.ForeignKey("turns.message_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    # The events of a turn lie together, in order.
    sqlite_with_rowid=False,
)

# On SQLite only. Events as they came, of all turns together, until there are enough to be put with their turns' others
# in `turn_events`. There, each turn's next event changes another page of the file, each of which a commit
# writes anew; here, the events of a hundred turns share three. One small table, with no index to keep.
recent_events: Final = sa.Table(
    "recent_events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("message_id", Word, sa.ForeignKey("turns.message_id", ondelete="CASCADE"), nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    info={"only_on": "sqlite"},
)

idempotency_keys: Final = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("user_id", sa.BigInteger, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("key", Word, primary_key=True),
    sa.Column("fingerprint", sa.Text, nullable=False),
    # No foreign key: a key outlives the message that it stands for.
    sa.Column("message_id", Word, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Index("ix_idempotency_keys_created_at", "created_at"),
)
