"""A heartbeat in every silence."""

import asyncio
import time

from luxx.settings import Settings
from luxx.testing.upstream import ScriptedUpstream
from tests.promises.support import StartServer


def test_the_silence_is_at_most_15_seconds_unless_told_otherwise() -> None:
    assert Settings().heartbeat_seconds == 15


async def test_a_silent_model_is_bridged_by_comments(serve: StartServer, upstream: ScriptedUpstream) -> None:
    served = await serve(None, heartbeat_seconds=0.2)
    account = await served.account()
    beats: list[float] = []
    async with account.streaming(await account.new_conversation(), "quiet [[mute]]") as response:
        async with asyncio.timeout(5):
            async for line in response.aiter_lines():
                if line.startswith((":", "id: 1")):
                    beats.append(time.monotonic())
                if len(beats) == 5:
                    break
    # Read late, the next one follows sooner; four of them take their time all the same.
    assert beats[-1] - beats[0] > 3 * 0.2, beats
    assert upstream.open_requests == 1, "who leaves does not stop the answer"
