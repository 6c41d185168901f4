"""Conversations and messages are counted as they come and go; old sessions are found by their end."""

from typing import Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: Final = "0005"
down_revision: Final = "0004"

WORD: Final = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    # On Postgres this locks the table: nobody adds or deletes anything until the counts are there.
    op.add_column("conversations", sa.Column("message_count", sa.BigInteger(), server_default="0", nullable=False))
    counts = op.create_table(
        "conversation_counts",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("scope", WORD, nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_conversation_counts_user_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "scope", name="pk_conversation_counts"),
    )
    conversations = sa.table(
        "conversations",
        sa.column("id", WORD),
        sa.column("user_id", sa.BigInteger()),
        sa.column("project_id", WORD),
        sa.column("message_count", sa.BigInteger()),
    )
    messages = sa.table("messages", sa.column("conversation_id", WORD))
    inside = messages.c.conversation_id == conversations.c.id
    op.execute(
        sa.update(conversations)
        .where(sa.exists().where(inside))
        .values(message_count=sa.select(sa.func.count()).select_from(messages).where(inside).scalar_subquery())
    )
    by_scope = (
        (sa.literal(""), sa.true(), (conversations.c.user_id,)),
        (
            conversations.c.project_id,
            conversations.c.project_id.is_not(None),
            (conversations.c.user_id, conversations.c.project_id),
        ),
    )
    for scope, condition, groups in by_scope:
        found = sa.select(conversations.c.user_id, scope, sa.func.count()).where(condition).group_by(*groups)
        op.execute(sa.insert(counts).from_select(["user_id", "scope", "total"], found))
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"])
