"""Cancel closes the upstream request within a second, from any process, and keeps what arrived."""

import asyncio
import time
from collections.abc import Mapping

from luxx.application import Toolbox
from luxx.domain.message import Json
from luxx.domain.tool import ToolSpec
from luxx.testing.upstream import ScriptedUpstream, words_of
from tests.promises.support import Reader, StartServer, elsewhere, signed_up
from tests.support.live import Live


async def test_a_cancel_at_another_process_stops_the_model_within_a_second(
    pair: tuple[Live, Live], upstream: ScriptedUpstream
) -> None:
    here = await signed_up(pair[0].http, "ada")
    there = elsewhere(here, pair[1].http)
    for prompt, count in (("one two three four [[stall:3]]", 3), ("slow [[mute]]", 0)):
        conversation_id = await here.new_conversation()
        reader = Reader(here, conversation_id, prompt)
        message_id = await reader.seen(1)
        await upstream.until_open(1)
        while count and len(reader.following.text) < len("".join(words_of(prompt)[:count])):
            await reader.seen(len(reader.following.events) + 1)
        began = time.monotonic()
        cancelling = asyncio.create_task(there.post(f"/api/messages/{message_id}/cancel"))
        await upstream.until_open(0, within_s=1)
        response = await cancelling
        assert time.monotonic() - began < 1
        message = response.json()["data"]
        assert (message["status"], message["content"]) == ("cancelled", "".join(words_of(prompt)[:count]))
        following = await reader.task
        assert following.end is not None
        assert (following.end.name, following.end.data["message"]) == ("done", message)
        assert (await there.messages(conversation_id))[-1] == message


class Sleeper:
    """A tool that takes for ever."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(name="sleep", description="Sleeps.", category="data", parameters={"type": "object"})

    async def run(self, arguments: Mapping[str, Json]) -> Json:  # noqa: ARG002 - a tool's signature
        self.began.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def test_a_cancel_stops_the_running_tool(serve: StartServer) -> None:
    tool = Sleeper()
    served = await serve(None, toolbox=Toolbox([tool]))
    account = await served.account()
    reader = Reader(account, await account.new_conversation(), "wait [[tool:sleep {}]]")
    message_id = await reader.seen(2)
    async with asyncio.timeout(5):
        await tool.began.wait()
    response = await account.post(f"/api/messages/{message_id}/cancel")
    assert tool.cancelled.is_set()
    message = response.json()["data"]
    assert message["status"] == "cancelled"
    assert [(part["name"], part["success"]) for part in message["parts"]] == [("sleep", None)]
    following = await reader.task
    assert following.end is not None
    assert following.end.data["message"] == message
