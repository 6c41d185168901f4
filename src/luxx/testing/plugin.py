"""Fixtures for pytest, found by themselves wherever Luxx and pytest are installed together.

    luxx_model      a ScriptedChatModel with an empty script: `luxx_model.then(spoken("Hello"))`
    luxx_container  the parts of a service in memory, with that model; override providers here
    luxx_app        the whole service as a Litestar application of that container, not opened yet

All of them live for one test. The last two need `luxx[server]`.
This module imports nothing of Luxx: a test run that uses no fixture of it pays for none.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from litestar import Litestar

    from luxx.adapters.models.scripted import ScriptedChatModel
    from luxx.container import Container

SECRET: Final = "a secret of more than thirty-two bytes, for tests"  # noqa: S105 - of a service that does

# The suites explain their asserts as any test does.
pytest.register_assert_rewrite("luxx.testing.contracts")


@pytest.fixture
def luxx_model() -> "ScriptedChatModel":
    """Give the model that answers in `luxx_app`: it plays what the test tells it with `then`."""
    from luxx.adapters.models.scripted import ScriptedChatModel  # noqa: PLC0415  # see above

    return ScriptedChatModel()


@pytest.fixture
def luxx_container(luxx_model: "ScriptedChatModel", tmp_path: Path) -> "Container":
    """Give the parts of a service that keeps everything in memory and hashes passwords at no cost."""
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
