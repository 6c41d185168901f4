"""The provider on loopback, and the model that asks it."""

from collections.abc import AsyncIterator

import pytest
from luxx.testing import ScriptedUpstream
from provider_wire import KEY

from messages_model import MessagesChatModel, MessagesSettings


@pytest.fixture
async def provider() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as provider:
        yield provider


@pytest.fixture
def settings(provider: ScriptedUpstream) -> MessagesSettings:
    return MessagesSettings(base_url=provider.url, api_key=KEY)


@pytest.fixture
async def model(settings: MessagesSettings) -> AsyncIterator[MessagesChatModel]:
    model = MessagesChatModel(settings)
    yield model
    await model.aclose()
