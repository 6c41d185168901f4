"""HEAD is answered as GET is, but for the body (RFC 9110, 9.3.2)."""

import asyncio

from tests.http.test_stream import Gate
from tests.support.live import Account, Live, events_of
from tests.support.raw import wire

from luxx.adapters.models.scripted import ScriptedChatModel, spoken
from luxx.entrypoints.http.app import HANDLERS

OF_THE_MOMENT = {"date", "x-request-id", "transfer-encoding"}
"""Headers of one answer alone, and the one that says how a body is sent."""


async def test_head_has_the_status_and_the_headers_of_get(
    served: Live, user: Account, model: ScriptedChatModel
) -> None:
    model.then(spoken("hello"))
    conversation = await user.new_conversation()
    await user.send(conversation, "hi")
    answer = (await user.messages(conversation))[-1]["id"]
    paths = {path for handler in HANDLERS if "GET" in handler.http_methods for path in handler.paths}
    asked = {path.replace("{name:str}", "calculate") for path in paths} - {"/metrics"}  # which counts these requests
    asked = {path.replace("{id:str}", answer if "/stream" in path else conversation) for path in asked}
    async with wire(served.url) as connection:
        for path in sorted(asked):
            for headers in (user.headers.items(), ()):
                get = await connection.ask("GET", path, headers=headers)
                head = await connection.ask("HEAD", path, headers=headers)
                assert head.status == get.status, path
                assert {name: text for name, text in head.headers.items() if name not in OF_THE_MOMENT} == {
                    name: text for name, text in get.headers.items() if name not in OF_THE_MOMENT
                }, path
    assert len(asked) > 10


async def test_head_of_metrics_and_of_the_description(served: Live) -> None:
    async with wire(served.url) as connection:
        for path in ("/metrics", "/schema", "/schema/openapi.json"):
            assert (await connection.ask("HEAD", path)).status == 200
        assert (await connection.ask("GET", "/health/live")).status == 200


async def test_head_of_a_stream_does_not_wait_for_its_end(
    served: Live, user: Account, model: ScriptedChatModel
) -> None:
    gate = Gate()
    model.then((gate,))
    async with user.streaming(await user.new_conversation(), "hi") as response:
        started = await anext(events_of(response))
        async with wire(served.url) as connection, asyncio.timeout(10):
            path = f"/api/messages/{started.data['message_id']}/stream"
            head = await connection.ask("HEAD", path, headers=user.headers.items())
            assert (head.status, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
            assert (await connection.ask("GET", "/health/live")).status == 200


async def test_a_path_that_is_not_read_takes_no_head(served: Live, user: Account) -> None:
    async with wire(served.url) as connection:
        assert (await connection.ask("HEAD", "/api/messages/", headers=user.headers.items())).status == 405
        assert (await connection.ask("HEAD", "/nothing")).status == 404
