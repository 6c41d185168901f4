"""The whole service with this model."""

from collections.abc import AsyncIterator

import pytest
from litestar import Litestar
from luxx.client import AsyncClient, Done, ToolReturned
from luxx.container import Container
from luxx.testing import ScriptedUpstream
from provider_wire import KEY, call, reply, text

from messages_model import MessagesSettings
from messages_model.service import app, register


@pytest.fixture
async def luxx_container(luxx_container: Container, settings: MessagesSettings) -> AsyncIterator[Container]:
    """Give the container of the plugin's `luxx_app`, with our model registered."""
    model = register(luxx_container, settings)
    yield luxx_container
    await model.aclose()


async def test_a_turn_with_a_tool_call_runs_on_this_model(luxx_client: AsyncClient, provider: ScriptedUpstream) -> None:
    provider.play(reply(*call(1, "calculate", '{"expression": "6*7"}'), reason="tool_use"), reply(*text("It is 42.")))
    conversation = await luxx_client.create_conversation()
    events = [event async for event in luxx_client.stream(conversation.id, "What is 6*7?")]
    end = events[-1]
    assert isinstance(end, Done)
    assert end.message.content == "It is 42."
    assert end.message.usage is not None
    assert end.message.usage.total_tokens == 2 * (7 + 5)
    (returned,) = [event for event in events if isinstance(event, ToolReturned)]
    assert returned.success


async def test_the_application_takes_its_provider_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, provider: ScriptedUpstream, tmp_path: object
) -> None:
    monkeypatch.setenv("MESSAGES_BASE_URL", provider.url)
    monkeypatch.setenv("MESSAGES_API_KEY", KEY)
    monkeypatch.setenv("LUXX_DATA_DIR", str(tmp_path))
    made = app()
    assert isinstance(made, Litestar)
    async with made.lifespan():
        pass


def test_the_key_is_not_shown(settings: MessagesSettings) -> None:
    assert KEY not in repr(settings)
