"""A turn in the database at the URL that is given."""

import asyncio
import sys

from one_turn import answer  # type: ignore[import-not-found]  # it lies beside this program

from luxx.adapters.database import Database


async def main() -> None:
    database = Database(sys.argv[1])
    await database.upgrade()
    assert await answer(database) == "Hello there."


asyncio.run(main())
