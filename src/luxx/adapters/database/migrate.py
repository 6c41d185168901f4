"""Bring a database to the schema of this version. The migrations are part of the package."""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from luxx.adapters.database.schema import metadata
from luxx.adapters.database.statements import Statement

_LOCK: Final = 0x6C757878  # any number that no other program takes: "luxx"
_MIGRATIONS: Final = Path(__file__).with_name("migrations")
_VERSION: Final = sa.table("alembic_version", sa.column("version_num", sa.Text()))


class SchemaState(StrEnum):
    """How a database stands to this version. `STALE`: made by an older one; `NEWER`: by a newer one."""

    CURRENT = "current"
    MISSING = "missing"
    STALE = "stale"
    NEWER = "newer"


def newest_revision() -> str:
    """Tell which schema this version needs; the files of the migrations begin with their revision."""
    names = [path.name for path in (_MIGRATIONS / "versions").iterdir() if path.name[:1].isdigit()]
    return max(names).partition("_")[0]


def _has_version(postgres: bool) -> sa.Select[bool]:
    if postgres:
        return sa.select(sa.func.to_regclass(_VERSION.name).is_not(None))
    tables = sa.table("sqlite_master", sa.column("type"), sa.column("name"))
    return sa.select(sa.exists().where(tables.c.type == "table", tables.c.name == _VERSION.name))


HAS_VERSION: Final = Statement(_has_version)
VERSIONS: Final = Statement(sa.select(_VERSION.c.version_num))


def schema_state(versions: Iterable[str]) -> SchemaState:
    """Compare the revisions that a database says it has with the newest one here."""
    found = set(versions)
    if not found:
        return SchemaState.MISSING
    if max(found) > newest_revision():
        return SchemaState.NEWER
    return SchemaState.CURRENT if found == {newest_revision()} else SchemaState.STALE


def upgrade(connection: sa.Connection) -> None:
    """Run what is missing, in the transaction of `connection`.

    Of processes that start together one does the work, and the others wait for it.
    """
    # Imported only here: a service whose schema is current starts sooner, and smaller, without it.
    from alembic.config import Config  # noqa: PLC0415 - as above
    from alembic.runtime.environment import EnvironmentContext  # noqa: PLC0415 - as above
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - as above

    if connection.dialect.name == "postgresql":
        # Whoever has it may have large tables to rewrite.
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        connection.exec_driver_sql("SET LOCAL lock_timeout TO DEFAULT")
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)

    def steps(revision: Any, _context: object) -> Any:
        return scripts._upgrade_revs("head", revision)  # noqa: SLF001 - how alembic documents it

    with EnvironmentContext(config, scripts, fn=steps) as environment:
        environment.configure(connection=connection, target_metadata=metadata)
        environment.run_migrations()
