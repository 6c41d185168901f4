"""Conversations name the tools that they allow."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0002"
down_revision: Final = "0001"


def upgrade() -> None:
    op.add_column("conversations", sa.Column("tools", sa.Text()))
