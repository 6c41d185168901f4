from collections.abc import AsyncIterator

import pytest
from tests.unit.application.house import House, opened


@pytest.fixture
async def house() -> AsyncIterator[House]:
    """Open a house without tools."""
    async with opened() as house:
        yield house
