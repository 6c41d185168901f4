from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import settings
from tests.support.certificates import certificate_for

from luxx.testing.upstream import ScriptedUpstream

# A machine that does other things too is no fault of the code: slow examples are told by --durations.
settings.register_profile("luxx", deadline=None)
settings.load_profile("luxx")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give a certificate for localhost, and its key."""
    return certificate_for("localhost", tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """Give an OpenAI-compatible provider that plays what it is told."""
    async with ScriptedUpstream() as upstream:
        yield upstream
