"""A database that is used in one event loop, and then in another."""

import asyncio
import gc
import warnings

import pytest

from luxx.adapters.database import Database
from luxx.testing.contracts.storage_samples import stored_user


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_schema_may_be_made_in_a_loop_of_its_own(kind: str, request: pytest.FixtureRequest) -> None:
    """As in a script: `asyncio.run(database.upgrade())`, then `asyncio.run(main())`."""
    database = Database(request.getfixturevalue(f"{kind}_url"))

    async def main() -> str:
        await database.open()
        user = await stored_user(database)
        await database.close()
        return user.username

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # what the first loop left open
        asyncio.run(database.upgrade())
        assert asyncio.run(main()) == "ada"
        asyncio.run(database.schema_state())
        asyncio.run(database.close())
        gc.collect()
