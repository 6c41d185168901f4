"""examples/mount_under_prefix.py: the service below a prefix of another application."""

from collections.abc import AsyncIterator

import httpx
import pytest
from litestar import Litestar

from luxx.adapters.models import ScriptedChatModel, calling, spoken
from luxx.client import AsyncClient, Done, NotFound, Text
from luxx.testing import serving
from tests.embed.loaded import example

PASSWORD = "correct horse battery staple"


@pytest.fixture(params=["starlette", "litestar"])
async def address(request: pytest.FixtureRequest, luxx_app: Litestar) -> AsyncIterator[str]:
    """Serve the service inside another application; gives where that one is."""
    outer = getattr(example("mount_under_prefix"), f"{request.param}_around")(luxx_app)
    async with serving(outer) as url:
        yield url


@pytest.fixture
async def client(address: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(f"{address}/chat") as client:
        await client.register("ada", "ada@example.com", PASSWORD)
        await client.login("ada", PASSWORD)
        yield client


async def test_a_turn_is_streamed_and_resumed_below_the_prefix(
    client: AsyncClient, luxx_model: ScriptedChatModel
) -> None:
    luxx_model.then(calling(("calculate", {"expression": "6*7"})), spoken("It is 42."))
    conversation = await client.create_conversation()
    events = [event async for event in client.stream(conversation.id, "What is 6*7?")]
    assert "".join(event.delta for event in events if isinstance(event, Text)) == "It is 42."
    assert isinstance(events[-1], Done)
    again = [event async for event in client.follow(events[-1].message.id, after=2)]
    assert again == events[2:]


async def test_the_description_names_addresses_below_the_prefix(address: str) -> None:
    async with httpx.AsyncClient() as http:
        document = (await http.get(f"{address}/chat/schema/openapi.json")).json()
        page = (await http.get(f"{address}/chat/schema")).text
        login = f"{address}{document['servers'][0]['url']}/api/auth/login"
        refused = await http.post(login, json={"username": "nobody", "password": PASSWORD})
    assert document["servers"] == [{"url": "/chat"}]
    assert "/api/auth/login" in document["paths"]
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_credentials")
    # Whatever the page asks for, it asks for below the prefix.
    assert "fetch(root" in page
    assert 'fetch("/' not in page
    assert 'href="/' not in page


async def test_the_outer_application_keeps_its_own_pages_and_the_inner_one_its_envelope(
    address: str, client: AsyncClient
) -> None:
    async with httpx.AsyncClient() as http:
        assert (await http.get(address)).text == "Pages of your own."
        assert (await http.get(f"{address}/api/conversations")).status_code == 404
        absent = await http.get(f"{address}/chat/api/nothing")
        assert (absent.status_code, absent.json()["error"]["code"]) == (404, "not_found")
        told = (await http.get(f"{address}/chat/metrics")).text
    assert 'route="/api/auth/login"' in told
    with pytest.raises(NotFound) as caught:
        await client.conversation("conv_absent")
    assert caught.value.code == "conversation_not_found"


async def test_without_a_prefix_the_description_is_as_it_was(luxx_app: Litestar) -> None:
    async with serving(luxx_app) as url, httpx.AsyncClient() as http:
        for path in ("/schema/openapi.json", "//schema/openapi.json/"):
            assert (await http.get(url + path)).json()["servers"] == [{"url": "/"}]
