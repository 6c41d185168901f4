"""`luxx db`"""

import argparse
import asyncio
import sys

from luxx.adapters.database import Database
from luxx.adapters.database.backup import copy_sqlite
from luxx.domain.errors import StorageUnavailable
from luxx.settings import Settings


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Bring the schema up to date, tell how it stands, or copy the database; gives the exit status."""
    if options.action != "backup":
        return asyncio.run(_run(settings, options.action))
    if settings.on_postgres:
        print("luxx: Postgres brings its own backup: use pg_dump, or base backups with its log", file=sys.stderr)
        return 2
    copy_sqlite(settings.storage_url, options.path)
    print(f"The database is copied to {options.path}.")
    return 0


async def _run(settings: Settings, action: str) -> int:
    if settings.database_url is None:
        settings.make_data_dir()
    database = Database(settings.storage_url, pool_size=1)
    try:
        if action == "upgrade":
            await database.upgrade()
        await database.check()
    except StorageUnavailable as error:
        if action == "upgrade":
            raise
        print(error.to_operator())
        return 1
    finally:
        await database.close()
    print("The schema is current.")
    return 0
