"""`luxx.container.running`: opening what a container holds, once."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from luxx.adapters.memory import MemoryStorage
from luxx.container import Container, running
from luxx.domain.errors import StorageUnavailable
from luxx.settings import Settings


class Watched(MemoryStorage):
    """Counts how often it is opened and closed."""

    opened = closed = 0
    lacking: str | None = None

    async def missing(self) -> str | None:
        await asyncio.sleep(0)  # as any database takes its time
        return self.lacking

    async def open(self) -> None:
        self.opened += 1
        await super().open()

    async def close(self) -> None:
        self.closed += 1
        await super().close()


@pytest.fixture
def storage() -> Watched:
    return Watched()


@pytest.fixture
def container(tmp_path: Path, storage: Watched) -> Container:
    made = Container(settings=Settings(data_dir=tmp_path, jwt_secret="a secret of more than thirty-two bytes"))
    made.storage.override(storage)
    return made


async def registered(container: Container, name: str) -> str:
    register = container.register_user()
    return (await register(username=name, email=f"{name}@b.example", password="correct horse battery")).username


async def test_a_container_in_use_is_not_entered_and_nothing_of_it_is_closed(
    container: Container, storage: Watched
) -> None:
    async with running(container):
        with pytest.raises(RuntimeError, match="make a new one"):
            await running(container).__aenter__()
        assert (storage.opened, storage.closed) == (1, 0)
        assert await registered(container, "ada") == "ada"
    with pytest.raises(RuntimeError, match="make a new one"):
        await running(container).__aenter__()
    assert (storage.opened, storage.closed) == (1, 1)


async def test_of_two_that_enter_at_once_one_does(container: Container, storage: Watched) -> None:
    async with AsyncExitStack() as stack:
        entering = (stack.enter_async_context(running(container)) for _ in range(2))
        refused = [one for one in await asyncio.gather(*entering, return_exceptions=True) if one is not None]
        assert [type(one) for one in refused] == [RuntimeError]
        assert (storage.opened, storage.closed) == (1, 0)
        assert await registered(container, "ada") == "ada"


async def test_a_start_that_failed_may_be_tried_again(container: Container, storage: Watched) -> None:
    storage.lacking = "It is away."
    with pytest.raises(StorageUnavailable):
        await running(container).__aenter__()
    storage.lacking = None
    async with running(container):
        assert await registered(container, "ada") == "ada"
