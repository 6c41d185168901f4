"""`luxx db`"""

import asyncio

from luxx.adapters.database import Database
from luxx.settings import Settings


def run(settings: Settings, action: str) -> int:
    """Bring the schema up to date, or tell how it stands; gives the exit status."""
    return asyncio.run(_run(settings, action))


async def _run(settings: Settings, action: str) -> int:
    if settings.database_url is None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.storage_url, pool_size=1)
    try:
        if action == "upgrade":
            await database.upgrade()
        missing = await database.missing()
    finally:
        await database.close()
    print(missing or "The schema is current.")
    return 1 if missing else 0
