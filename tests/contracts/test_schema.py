"""The schema: made by migrations, looked at before anything is served, found at a URL."""

import asyncio
import errno
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from tests.support.databases import ask

from luxx.adapters.database import Database, SchemaState, migrate
from luxx.adapters.database.backup import copy_sqlite
from luxx.adapters.database.schema import metadata
from luxx.domain.errors import StorageUnavailable
from luxx.testing.contracts.storage_samples import new_user
from luxx.testing.postgres import ThrowawayPostgres


async def test_the_migrations_make_the_schema_that_the_code_uses(database: Database) -> None:
    def differences(connection: sa.Connection) -> list[Any]:
        def differ(_context: Any, _found: Any, _wanted: Any, found: Any, wanted: Any) -> bool:
            # To Postgres a VARCHAR without a length is TEXT.
            spelt = [kind.compile(connection.dialect).replace("VARCHAR", "TEXT") for kind in (found, wanted)]
            return bool(spelt[0] != spelt[1])

        def here(table: Any, *_: Any) -> bool:
            return bool(table.info.get("only_on", connection.dialect.name) == connection.dialect.name)

        options = {"compare_type": differ, "compare_server_default": True, "include_object": here}
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, metadata))

    assert await database.run_sync(differences) == []


async def test_a_database_is_missing_then_current_and_stale_for_another_version(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'new.db'}")
    assert await database.schema_state() is SchemaState.MISSING
    await database.upgrade()
    assert await database.schema_state() is SchemaState.CURRENT
    await database.upgrade()
    await ask(database, "UPDATE alembic_version SET version_num = '0000'", writes=True)
    assert await database.schema_state() is SchemaState.STALE
    assert "luxx db upgrade" in (await database.missing() or "")
    await database.close()


async def test_a_database_of_a_newer_version_is_said_to_be_so_and_left_alone(database: Database) -> None:
    await ask(database, "UPDATE alembic_version SET version_num = '9999'", writes=True)
    assert await database.schema_state() is SchemaState.NEWER
    for look in (database.check, database.upgrade):
        with pytest.raises(StorageUnavailable, match="newer version than this one"):
            await look()


async def test_a_file_that_is_taken_away_is_not_made_again_but_by_an_upgrade(sqlite_url: str) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    database = Database(sqlite_url)
    await database.check()
    await database.close()
    for left in path.parent.glob(f"{path.name}*"):
        left.unlink()
    assert await database.schema_state() is SchemaState.MISSING
    for read_only in (True, False):
        with pytest.raises(StorageUnavailable) as caught:
            async with database.new_unit(read_only=read_only) as unit:
                await unit.users.page()
        assert caught.value.reason == "OperationalError: unable to open database file"
    assert list(path.parent.glob(f"{path.name}*")) == []
    await database.upgrade()
    await database.check()
    await database.close()


def overwrite(path: Path, where: slice) -> None:
    content = bytearray(path.read_bytes())
    content[where] = b"\xff" * (where.stop - where.start)
    path.write_bytes(content)


@pytest.mark.parametrize("damaged", [slice(0, 4096), slice(100, 4096)], ids=["another file", "a damaged one"])
async def test_a_file_that_is_no_sound_database_is_said_to_be_so(sqlite_url: str, damaged: slice) -> None:
    overwrite(Path(sqlite_url.removeprefix("sqlite:///")), damaged)
    database = Database(sqlite_url)
    for look in (database.check, database.upgrade):
        with pytest.raises(StorageUnavailable) as caught:
            await look()
        assert caught.value.reason.startswith("DatabaseError: ")
    await database.close()


def test_the_newest_revision_is_the_end_of_the_migrations() -> None:
    scripts = Path(migrate.__file__).with_name("migrations")
    assert [migrate.newest_revision()] == ScriptDirectory(str(scripts)).get_heads()


def test_a_service_whose_schema_is_current_does_without_the_migrations_library(sqlite_url: str) -> None:
    """It costs a third of a second at each start, and a tenth of the memory."""
    code = (
        "import asyncio, sys\n"
        "from luxx.adapters.database import Database\n"
        f"database = Database({sqlite_url!r})\n"
        "asyncio.run(database.upgrade())\n"
        "print('alembic' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


async def test_processes_that_start_together_migrate_once(postgres: ThrowawayPostgres) -> None:
    url = postgres.url(postgres.create_database())
    databases = [Database(url) for _ in range(4)]
    await asyncio.gather(*(database.upgrade() for database in databases))
    assert await databases[0].schema_state() is SchemaState.CURRENT
    for database in databases:
        await database.close()


async def test_an_upgrade_waits_for_another_one_however_long_that_takes(
    postgres: ThrowawayPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = postgres.create_database()
    await postgres.execute(f"ALTER DATABASE {name} SET statement_timeout = '100ms'")
    monkeypatch.setattr("luxx.adapters.database.postgres._UPGRADE_LOCK", "100ms")
    database = Database(postgres.url(name))
    other = await database.own_connection()
    await other.execute(f"BEGIN; SELECT pg_advisory_xact_lock({migrate._LOCK})")
    upgrading = asyncio.create_task(database.upgrade())
    await asyncio.sleep(0.5)  # longer than both limits, which must not count here
    assert not upgrading.done()
    await other.close()
    await upgrading
    assert await database.schema_state() is SchemaState.CURRENT
    await database.close()


def test_a_backup_can_be_made_where_files_have_one_name_only(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on FAT, which memory sticks have, and on some shares."""

    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    target = tmp_path / "stick" / "backup.db"
    target.parent.mkdir()
    copy_sqlite(sqlite_url, target)
    assert [one.name for one in target.parent.iterdir()] == ["backup.db"]
    with pytest.raises(FileExistsError):
        copy_sqlite(sqlite_url, target)


def test_a_backup_that_finds_no_room_leaves_nothing(sqlite_url: str, tmp_path: Path) -> None:
    code = (
        "import pathlib, resource, sys\n"
        "from luxx.adapters.database.backup import copy_sqlite\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "copy_sqlite(sys.argv[1], pathlib.Path(sys.argv[2]))\n"
    )
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as database:
        # More than is kept in memory until the end of the copy.
        database.execute("CREATE TABLE large AS SELECT randomblob(8000000) AS content")
        database.commit()
    room = tmp_path / "room"
    room.mkdir()
    command = [sys.executable, "-c", code, sqlite_url, str(room / "backup.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "cannot be copied" in done.stderr
    assert list(room.iterdir()) == []


@pytest.fixture
def common_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(path: Path) -> set[int]:
    files = list(path.parent.glob(f"{path.name}*"))
    assert len(files) == 3, "the database, its log, and the index of that"
    return {stat.S_IMODE(one.stat().st_mode) for one in files}


async def modes_in_use(path: Path, *, shown_at: Path | None = None) -> set[int]:
    """Tell the modes of a database's files while it is in use."""
    database = Database(f"sqlite:///{path}")
    try:
        await database.upgrade()
        async with database.new_unit() as unit:
            await unit.users.add(new_user())
            await unit.commit()
        return modes(shown_at or path)
    finally:
        await database.close()


@pytest.mark.usefixtures("common_umask")
async def test_the_files_of_a_new_database_are_their_owners_alone(tmp_path: Path) -> None:
    assert await modes_in_use(tmp_path / "luxx.db") == {0o600}


@pytest.mark.usefixtures("common_umask")
async def test_a_new_database_behind_a_link_is_its_owners_alone(tmp_path: Path) -> None:
    os.symlink(tmp_path / "there.db", tmp_path / "luxx.db")  # noqa: PTH211 - pathlib's must not be called here
    assert await modes_in_use(tmp_path / "luxx.db", shown_at=tmp_path / "there.db") == {0o600}


@pytest.mark.usefixtures("common_umask")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
async def test_a_database_that_is_there_keeps_its_mode(sqlite_url: str, mode: int) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    os.chmod(path, mode)  # noqa: PTH101 - as above
    assert await modes_in_use(path) == {mode}


@pytest.mark.parametrize("url", ["", "luxx.db", "sqlite://", "sqlite:///", "sqlite:///:memory:", "mysql://x/y"])
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="sqlite:///"):
        Database(url)


async def test_the_usual_spellings_of_a_postgres_url_are_understood(postgres_url: str) -> None:
    for scheme in ("postgres", "postgresql", "postgresql+asyncpg"):
        database = Database(postgres_url.replace("postgresql", scheme, 1))
        assert await database.schema_state() is SchemaState.CURRENT
        await database.close()
