"""One turn at a time in a conversation, and messages in a total order."""

import asyncio
import random

from luxx.testing.upstream import Asked, Echo, Reply, ScriptedUpstream
from tests.promises.support import elsewhere, signed_up
from tests.support.live import Account, Live


async def _send_until_taken(account: Account, conversation_id: str, content: str) -> None:
    draw = random.Random(content)
    while True:
        response = await account.send(conversation_id, content)
        if response.status_code == 201:
            return
        assert (response.status_code, response.json()["error"]["code"]) == (409, "generation_in_progress")
        await asyncio.sleep(draw.uniform(0.005, 0.05))  # a client's pause between tries


async def test_concurrent_sends_at_two_processes_take_turns(
    pair: tuple[Live, Live], upstream: ScriptedUpstream
) -> None:
    answer, at_once = Echo(delay_s=0.002), []

    def counted(asked: Asked) -> Reply:
        at_once.append(upstream.open_requests)
        return answer(asked)

    upstream._otherwise = counted
    here = await signed_up(pair[0].http, "ada")
    there = elsewhere(here, pair[1].http)
    conversation_id = await here.new_conversation()
    contents = [f"message {number}" for number in range(30)]
    await asyncio.gather(
        *(
            _send_until_taken((here, there)[number % 2], conversation_id, content)
            for number, content in enumerate(contents)
        )
    )
    messages = await there.messages(conversation_id)
    assert [one["role"] for one in messages] == ["user", "assistant"] * len(contents)
    assert sorted(one["content"] for one in messages[::2]) == sorted(contents)
    assert [one["content"] for one in messages[1::2]] == [one["content"] for one in messages[::2]]
    assert set(at_once) == {0}
    # Each round was shown exactly what came before it: the order is the same for everybody.
    for number, asked in enumerate(upstream.requests):
        assert [one["content"] for one in asked.messages] == [one["content"] for one in messages[: 2 * number + 1]]
