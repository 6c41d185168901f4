"""Tries at passwords are counted."""

from typing import Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: Final = "0003"
down_revision: Final = "0002"

WORD: Final = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
TIME: Final = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "password_tries",
        sa.Column("id", WORD, nullable=False),
        sa.Column("account", WORD, nullable=False),
        sa.Column("peer", WORD, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_password_tries"),
    )
    op.create_index("ix_password_tries_account", "password_tries", ["account", "at"])
    op.create_index("ix_password_tries_peer", "password_tries", ["peer", "at"])
    op.create_index("ix_password_tries_at", "password_tries", ["at"])
