"""A dead process's turns are ended by the living, and a stopped one that wakes up adds nothing."""

import asyncio
import signal
import time

from luxx.testing.upstream import ScriptedUpstream
from tests.promises.support import Reader, StartProcesses, ended

PROMISED = 30.0


async def test_the_living_end_what_the_dead_and_the_stopped_left_behind(
    postgres_url: str, processes: StartProcesses, upstream: ScriptedUpstream
) -> None:
    service = await processes(
        postgres_url, 2, LUXX_LLM_IDLE_SECONDS="60", LUXX_LLM_TOTAL_SECONDS="60", LUXX_LEASE_SECONDS="2"
    )
    one = service.all[0]
    here = await service.account(0)
    there = await service.elsewhere(here, 1)
    conversations = [await here.new_conversation() for _ in range(3)]
    # This one lives at the other process all the while, for several leases: nobody takes it away.
    alive = Reader(there, conversations[0], "alive [[words:160]] [[delay:0.05]]")
    talking = Reader(here, conversations[1], "talking [[words:1000]] [[delay:0.02]]")
    silent = Reader(here, conversations[2], "silent [[stall:2]]")
    await asyncio.gather(alive.seen(2), talking.seen(5), silent.seen(2))

    one.signal(signal.SIGSTOP)
    began = time.monotonic()
    stored = [await ended(there, conversation_id, within=PROMISED) for conversation_id in conversations[1:]]
    assert time.monotonic() - began < PROMISED
    for reader, message in zip((talking, silent), stored, strict=True):
        assert (message["status"], message["error"]["code"]) == ("interrupted", "interrupted")
        assert message["content"].startswith(reader.following.text)
    logs = [await there.resume(message["id"]) for message in stored]
    assert [log.text for log in logs] == [message["content"] for message in stored]
    assert [log.end.data["code"] for log in logs] == ["interrupted", "interrupted"]
    new = await there.stream(conversations[1], "free again")
    assert new.text == "free again"

    one.signal(signal.SIGCONT)
    # The stopped one notices by itself: it lets go of the model, and its readers are told the end.
    await asyncio.gather(talking.task, silent.task)
    await upstream.until_open(1, within_s=5)
    assert [reader.following.text for reader in (talking, silent)] == [log.text for log in logs]
    for account in (here, there):
        again = [await account.resume(message["id"]) for message in stored]
        assert [each.events for each in again] == [each.events for each in logs]
        assert (await account.messages(conversations[1]))[1] == stored[0]
        assert (await account.messages(conversations[2]))[1] == stored[1]
    assert (await here.stream(conversations[2], "here too")).text == "here too"

    doomed = Reader(here, conversations[1], "doomed [[words:1000]] [[delay:0.02]]")
    await doomed.seen(4)
    await one.kill()
    began = time.monotonic()
    message = await ended(there, conversations[1], within=PROMISED)
    assert time.monotonic() - began < PROMISED
    await doomed.broken_off()
    assert message["status"] == "interrupted"
    assert message["content"].startswith(doomed.following.text)
    assert (await there.stream(conversations[1], "free once more")).end.name == "done"

    finished = await alive.task
    assert finished.end is not None
    assert finished.end.name == "done"
    assert finished.end.data["message"]["status"] == "complete"
