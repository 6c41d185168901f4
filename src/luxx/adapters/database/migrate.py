"""Bring a database to the schema of this version. The migrations are part of the package."""

from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from luxx.adapters.database.schema import metadata

_LOCK: Final = 0x6C757878  # any number that no other program takes: "luxx"


class SchemaState(StrEnum):
    """How a database stands to this version. `STALE`: made by an older or a newer one."""

    CURRENT = "current"
    MISSING = "missing"
    STALE = "stale"


def _scripts() -> tuple[Config, ScriptDirectory]:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    return config, ScriptDirectory.from_config(config)


def schema_state(connection: sa.Connection) -> SchemaState:
    """Compare the database's revision with the newest one here."""
    heads = MigrationContext.configure(connection).get_current_heads()
    if not heads:
        return SchemaState.MISSING
    return SchemaState.CURRENT if set(heads) == set(_scripts()[1].get_heads()) else SchemaState.STALE


def upgrade(connection: sa.Connection) -> None:
    """Run what is missing, in the transaction of `connection`, which the caller commits.

    Of processes that start together one does the work, and the others wait for it.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    config, scripts = _scripts()

    def steps(revision: Any, _context: MigrationContext) -> Any:
        return scripts._upgrade_revs("head", revision)  # noqa: SLF001 - how alembic documents it

    with EnvironmentContext(config, scripts, fn=steps) as environment:
        environment.configure(connection=connection, target_metadata=metadata)
        environment.run_migrations()
