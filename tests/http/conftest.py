"""A live server for each test: on storage in memory, or on every storage there is."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.live import Account, Live, live

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.models.scripted import ScriptedChatModel
from luxx.adapters.security.argon2 import Argon2Cost, Argon2Hasher
from luxx.container import Container
from luxx.settings import Settings

SECRET = "a secret of more than thirty-two bytes, for tests"


@pytest.fixture
def model() -> ScriptedChatModel:
    """Give the model that answers; tests write its script with `then`."""
    return ScriptedChatModel()


def container_of(settings: Settings, model: ScriptedChatModel) -> Container:
    """Give the parts of a service with a scripted model and hashes that cost nothing."""
    container = Container(settings=settings)
    container.model.override(model)
    container.hasher.override(Argon2Hasher(Argon2Cost(memory_kib=8, passes=1)))
    return container


@pytest.fixture
def container(tmp_path: Path, model: ScriptedChatModel) -> Container:
    """Give the parts of a service that keeps everything in memory."""
    made = container_of(Settings(data_dir=tmp_path, jwt_secret=SECRET), model)
    made.storage.override(MemoryStorage())
    return made


@pytest.fixture
async def served(container: Container) -> AsyncIterator[Live]:
    """Serve from memory."""
    async with live(container) as running:
        yield running


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def storage_url(request: pytest.FixtureRequest) -> str | None:
    """Name a fresh database of each kind; None stands for memory."""
    return None if request.param == "memory" else str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def stored(storage_url: str | None, tmp_path: Path, model: ScriptedChatModel) -> AsyncIterator[Live]:
    """Serve on every storage there is."""
    made = container_of(Settings(data_dir=tmp_path, database_url=storage_url, jwt_secret=SECRET), model)
    if storage_url is None:
        made.storage.override(MemoryStorage())
    async with live(made) as running:
        yield running


@pytest.fixture
async def user(served: Live) -> Account:
    """Give an account of the service in memory."""
    return await served.account()
