"""Resume gives exactly the missing suffix."""

import asyncio

from luxx.testing.stream_client import Following
from tests.promises.support import Reader, elsewhere, signed_up
from tests.support.live import Account, Event, Live, events_of

PROMPT = 'so it goes [[think:3]] [[tool:calculate {"expression": "6*7"}]] [[words:12]] [[delay:0.02]]'


async def _resumed(account: Account, message_id: str, after: int) -> tuple[int, list[Event]]:
    return after, (await account.resume(message_id, after=after)).events


async def test_a_stream_cut_at_every_event_goes_on_exactly_there_live_and_finished_on_either_process(
    pair: tuple[Live, Live],
) -> None:
    here = await signed_up(pair[0].http, "ada")
    there = elsewhere(here, pair[1].http)
    conversation_id = await here.new_conversation(thinking_enabled=True)
    whole: list[Event] = []
    resuming: list[asyncio.Task[tuple[int, list[Event]]]] = []
    async with here.streaming(conversation_id, PROMPT) as response:
        async for event in events_of(response):
            whole.append(event)
            message_id = whole[0].data["message_id"]
            if event.name not in {"done", "error"}:
                resuming += [
                    asyncio.create_task(_resumed(account, message_id, len(whole))) for account in (here, there)
                ]
    for after, events in await asyncio.gather(*resuming):
        assert events == whole[after:]
    assert {event.name for event in whole} == {"start", "thinking", "text", "tool_call", "tool_result", "done"}
    for after in range(len(whole)):
        for account in (here, there):
            assert await _resumed(account, whole[0].data["message_id"], after) == (after, whole[after:])


async def test_only_the_owner_may_resume(pair: tuple[Live, Live]) -> None:
    ada = await signed_up(pair[0].http, "ada")
    eve = await signed_up(pair[1].http, "eve")
    reader = Reader(ada, await ada.new_conversation(), "mine [[stall:1]]")
    message_id = await reader.seen(2)
    for method, path in (("GET", f"/api/messages/{message_id}/stream"), ("POST", f"/api/messages/{message_id}/cancel")):
        refused = await eve.call(method, path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "message_not_found")
    assert (await ada.post(f"/api/messages/{message_id}/cancel")).json()["data"]["status"] == "cancelled"
    await reader.task


async def test_who_has_seen_the_end_is_told_the_end_and_nothing_else(served: Live) -> None:
    account = await served.account()
    whole = await account.stream(await account.new_conversation(), "hello")
    path = f"/api/messages/{whole.message_id}/stream"
    for after in (len(whole.events), len(whole.events) + 7):
        following = Following(after=after)
        async with account.http.stream("GET", path, params={"after": after}, headers=account.headers) as response:
            await following.read(response)
        (end,) = following.events
        assert (end.id, end.name, end.data) == (after, whole.end.name, whole.end.data)
