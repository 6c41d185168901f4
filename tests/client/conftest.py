"""A live server, and clients of it: a blocking client runs in a thread beside the server's loop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from tests.http.conftest import SECRET, container_of
from tests.support.live import Live, live

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.models.scripted import ScriptedChatModel
from luxx.client import AsyncClient, Client, Patience
from luxx.container import Container
from luxx.settings import Settings

T = TypeVar("T")

EAGER = Patience(first_pause_seconds=0.005, longest_pause_seconds=0.02, tries=40)
"""Tries again at once: the network of a test is quick to recover."""


@pytest.fixture
def model() -> ScriptedChatModel:
    """Give the model that answers; tests write its script with `then`."""
    return ScriptedChatModel()


@pytest.fixture
def container(tmp_path: Path, model: ScriptedChatModel) -> Container:
    made = container_of(Settings(data_dir=tmp_path, jwt_secret=SECRET), model)
    made.storage.override(MemoryStorage())
    return made


@pytest.fixture
async def served(container: Container) -> AsyncIterator[Live]:
    async with live(container) as running:
        yield running


@pytest.fixture
async def token(served: Live) -> str:
    return (await served.account()).token


@pytest.fixture
async def client(served: Live, token: str) -> AsyncIterator[AsyncClient]:
    """Give a client that is logged in."""
    async with AsyncClient(served.url, token=token, patience=EAGER) as made:
        yield made


async def blocking(url: str, token: str | None, work: Callable[[Client], T], *, patience: Patience = EAGER) -> T:
    """Do `work` with a blocking client, beside this loop."""

    def run() -> T:
        with Client(url, token=token, patience=patience) as made:
            return work(made)

    return await asyncio.to_thread(run)
