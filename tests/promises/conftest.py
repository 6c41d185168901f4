"""Services to hold to their promises: in this loop, two on one database, or as processes."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.security.argon2 import Argon2Cost, Argon2Hasher
from luxx.application import Toolbox
from luxx.container import Container
from luxx.settings import Settings
from luxx.testing.chaos.processes import ServiceProcess
from luxx.testing.chaos.run import settings_for
from luxx.testing.upstream import ScriptedUpstream
from tests.promises.support import Processes, SettingsOf, StartProcesses
from tests.support.live import Live, live

SECRET = "a secret of more than thirty-two bytes, for tests"


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """Give the model provider; prompts steer it."""
    async with ScriptedUpstream() as provider:
        yield provider


@pytest.fixture
def settings_of(tmp_path: Path, upstream: ScriptedUpstream) -> SettingsOf:
    """Make settings with the scripted provider behind them."""

    def make(url: str | None, **values: object) -> Settings:
        given = {"data_dir": tmp_path, "database_url": url, "jwt_secret": SECRET, "llm_base_url": upstream.url}
        return Settings(**(given | {"llm_retries": 0} | values))  # type: ignore[arg-type]  # tests know the fields

    return make


def made(settings: Settings) -> Container:
    """Give the parts of a service; passwords cost nothing."""
    container = Container(settings=settings)
    container.hasher.override(Argon2Hasher(Argon2Cost(memory_kib=8, passes=1)))
    if settings.database_url is None:
        container.storage.override(MemoryStorage())
    return container


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def any_url(request: pytest.FixtureRequest) -> str | None:
    """Give a database of each kind; None is storage in memory."""
    return None if request.param == "memory" else str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def served(any_url: str | None, settings_of: SettingsOf) -> AsyncIterator[Live]:
    """Serve on every storage there is."""
    async with live(made(settings_of(any_url))) as running:
        yield running


@pytest.fixture
async def serve(settings_of: SettingsOf) -> AsyncIterator[Callable[..., object]]:
    """Serve with settings of the test's own."""
    async with AsyncExitStack() as stack:

        async def start(url: str | None, *, toolbox: Toolbox | None = None, **values: object) -> Live:
            container = made(settings_of(url, **values))
            if toolbox is not None:
                container.toolbox.override(toolbox)
            return await stack.enter_async_context(live(container))

        yield start


@pytest.fixture
async def pair(postgres_url: str, settings_of: SettingsOf) -> AsyncIterator[tuple[Live, Live]]:
    """Serve twice on one Postgres."""
    async with live(made(settings_of(postgres_url))) as one, live(made(settings_of(postgres_url))) as other:
        yield one, other


@pytest.fixture
async def processes(tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[StartProcesses]:
    """Start the service as so many processes on one database; short leases, a grace of two seconds."""
    async with AsyncExitStack() as stack:

        async def start(url: str, count: int = 1, **environ: str) -> Processes:
            settings = settings_for(url, upstream.url) | environ
            started = [
                await stack.enter_async_context(
                    ServiceProcess(settings | {"LUXX_DATA_DIR": str(tmp_path / f"data{number}")}, directory=tmp_path)
                )
                for number in range(count)
            ]
            return await stack.enter_async_context(Processes(started))

        yield start
