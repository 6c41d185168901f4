"""SIGKILL at any moment: nothing accepted is lost or doubled, and what was seen is stored."""

import asyncio
import random

import httpx
import pytest

from luxx.testing.stream_client import Following
from luxx.testing.upstream import echo
from tests.promises.support import Reader, StartProcesses, elsewhere
from tests.support.live import Account


async def _retried(account: Account, conversation_id: str, content: str, key: str) -> Following:
    """Send again, as a client does whose first try went nowhere."""
    for _ in range(100):
        following = Following()
        try:
            async with account.streaming(conversation_id, content, key=key) as response:
                if response.status_code == 200:
                    await following.read(response)
        except httpx.TransportError:
            pass
        if following.end is not None:
            return following
        await asyncio.sleep(0.05)  # a client's pause between tries
    raise AssertionError("no answer came to its end in 100 tries")


@pytest.mark.parametrize("storage", ["sqlite", "postgres"])
async def test_a_killed_server_loses_and_doubles_nothing_and_keeps_what_was_seen(
    storage: str, request: pytest.FixtureRequest, processes: StartProcesses
) -> None:
    service = await processes(str(request.getfixturevalue(f"{storage}_url")), LUXX_LEASE_SECONDS="1")
    account = await service.account()
    conversation_id = await account.new_conversation()
    draw = random.Random(7)
    sent: list[tuple[str, str, str | None]] = []
    for number, moment in enumerate(("at once", "soon", "later")):
        content = f"message {number} 雪 🙂 [[words:60]] [[delay:0.01]]"
        reader = Reader(account, conversation_id, content, key=f"key {number}")
        if moment == "later":
            await reader.seen(draw.randint(3, 9))
        else:
            await asyncio.sleep(0 if moment == "at once" else draw.uniform(0.002, 0.02))
        await service.all[0].kill()
        await reader.broken_off()
        await service.all[0].start()
        account = elsewhere(account, await service.http())
        again = await _retried(account, conversation_id, content, f"key {number}")
        seen = reader.following
        assert seen.message_id in {None, again.message_id}
        assert again.events[: len(seen.events)] == seen.events
        sent.append((content, seen.text, again.message_id))

    messages = await account.messages(conversation_id)
    assert [one["content"] for one in messages if one["role"] == "user"] == [content for content, _, _ in sent]
    answers = [one for one in messages if one["role"] == "assistant"]
    for (content, seen_text, message_id), answer in zip(sent, answers, strict=True):
        assert answer["id"] == message_id
        assert answer["status"] in {"complete", "interrupted"}
        assert answer["content"].startswith(seen_text)
        assert echo(content).startswith(answer["content"])
    assert any(answer["status"] == "interrupted" for answer in answers)
