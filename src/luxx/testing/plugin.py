"""Fixtures for pytest, found by themselves wherever Luxx and pytest are installed together.

    luxx_model      a ScriptedChatModel with an empty script: `luxx_model.then(spoken("Hello"))`
    luxx_container  the parts of a service in memory, with that model; override providers here
    luxx_app        the whole service as a Litestar application of that container, not opened yet
    luxx_client     a `luxx.client.AsyncClient`, logged in, of that application served on loopback
    luxx_url        the address of that application, served on loopback in a thread: for programs that take one
    luxx_token      the token of somebody who is logged in there

All of them live for one test, and a test in which the script of `luxx_model` ran out fails with
`ScriptExhausted`, whatever the service told of it (`luxx_model.exhausted = None` where that was to be). All but
the first need the extra `server`, and the last three also `testing`.
This module imports nothing of Luxx: a test run that uses no fixture of it pays for none.
"""

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from litestar import Litestar

    from luxx.adapters.models.scripted import ScriptedChatModel
    from luxx.client import AsyncClient
    from luxx.container import Container

USERNAME: Final = "tester"
PASSWORD: Final = "correct horse battery staple"  # noqa: S105 - of an account that lives for one test
SECRET: Final = "a secret of more than thirty-two bytes, for tests"  # noqa: S105 - of a service that does

# The suites explain their asserts as any test does.
pytest.register_assert_rewrite("luxx.testing.contracts")


def _asynchronous(function: Callable[..., AsyncIterator[Any]]) -> Callable[..., Any]:
    try:
        import pytest_asyncio  # noqa: PLC0415  # luxx may be installed without its extra for testing
    except ModuleNotFoundError:
        # Then no test can use it either; pytest says so where one tries.
        return pytest.fixture(function)
    made: Callable[..., Any] = pytest_asyncio.fixture(function)
    return made


@contextmanager
def _from_extra(extra: str) -> Iterator[None]:
    from luxx.extras import MissingExtra, needs  # noqa: PLC0415  # see above

    try:
        with needs("This fixture", f"the extra `{extra}`"):
            yield
    except MissingExtra as error:
        raise pytest.UsageError(str(error)) from error


@pytest.fixture
def luxx_model() -> "ScriptedChatModel":
    """Give the model that answers in `luxx_app`: it plays what the test tells it with `then`."""
    from luxx.adapters.models.scripted import ScriptedChatModel  # noqa: PLC0415  # see above

    return ScriptedChatModel()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Fail a test with what its model raised, not with what a service made of that."""
    try:
        yield
    except (Exception, pytest.fail.Exception):
        _fail_where_exhausted(item)
        raise
    _fail_where_exhausted(item)


def _fail_where_exhausted(item: pytest.Item) -> None:
    __tracebackhide__ = True
    model = getattr(item, "funcargs", {}).get("luxx_model")
    exhausted: BaseException | None = getattr(model, "exhausted", None)
    if exhausted is not None:
        raise exhausted.with_traceback(None)


@pytest.fixture
def luxx_container(luxx_model: "ScriptedChatModel", tmp_path: Path) -> "Container":
    """Give the parts of a service that keeps everything in memory and hashes passwords at no cost."""
    with _from_extra("server"):
        from luxx.adapters.memory import MemoryStorage  # noqa: PLC0415  # see above
        from luxx.adapters.security.argon2 import Argon2Cost, Argon2Hasher  # noqa: PLC0415  # see above
        from luxx.container import Container  # noqa: PLC0415  # see above
        from luxx.settings import Settings  # noqa: PLC0415  # see above

    container = Container(settings=Settings(data_dir=tmp_path, jwt_secret=SECRET))
    container.storage.override(MemoryStorage())
    container.model.override(luxx_model)
    container.hasher.override(Argon2Hasher(Argon2Cost(memory_kib=8, passes=1)))
    return container


@pytest.fixture
def luxx_app(luxx_container: "Container") -> "Litestar":
    """Give the whole service; its lifespan opens and closes it, as Litestar's test clients do."""
    from luxx.entrypoints.http.app import create_app  # noqa: PLC0415  # see above

    return create_app(luxx_container)


@_asynchronous
async def luxx_client(luxx_app: "Litestar") -> "AsyncIterator[AsyncClient]":
    """Serve `luxx_app` on loopback, in the test's event loop, and give a client of it, logged in as `tester`."""
    with _from_extra("testing"):
        from luxx.client import AsyncClient  # noqa: PLC0415  # see above
        from luxx.testing.served import serving  # noqa: PLC0415  # see above

    async with serving(luxx_app) as url, AsyncClient(url) as client:
        await client.register(USERNAME, f"{USERNAME}@example.com", PASSWORD)
        await client.login(USERNAME, PASSWORD)
        yield client


@pytest.fixture
def luxx_url(luxx_app: "Litestar", request: pytest.FixtureRequest) -> Iterator[str]:
    """Serve `luxx_app` on loopback, in a thread, and give its address: for programs that block, and those that do not.

    A test takes this or `luxx_client`: an application is served once.
    """
    if "luxx_client" in request.fixturenames:
        raise pytest.UsageError("A test takes luxx_url or luxx_client, not both: an application is served once.")
    with _from_extra("server"):
        from luxx.testing.served import serving_in_thread  # noqa: PLC0415  # see above

    with serving_in_thread(luxx_app) as url:
        yield url


@pytest.fixture
def luxx_token(luxx_url: str) -> str:
    """Register and log in `tester` at `luxx_url`, and give the token."""
    with _from_extra("testing"):
        from luxx.client import Client  # noqa: PLC0415  # see above

    with Client(luxx_url) as client:
        client.register(USERNAME, f"{USERNAME}@example.com", PASSWORD)
        client.login(USERNAME, PASSWORD)
        return client.token or ""
