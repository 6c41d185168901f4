"""Who lives, who is dead, and what becomes of it."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest
from tests.support.until import until
from tests.unit.application.house import OWNER, PATIENCE, Gate, House, opened
from tests.unit.application.logs import OverLog, UnendingLog

from luxx.adapters.models.scripted import spoken
from luxx.application.ports import Renewal
from luxx.domain.errors import StorageUnavailable
from luxx.domain.message import Problem, Status
from luxx.domain.turn import Failed, fold


async def test_a_turn_whose_process_died_is_ended_as_interrupted_with_its_text(house: House) -> None:
    message_id = await house.dead_turn("half ", "an answer")
    reader = asyncio.ensure_future(house.events(message_id))
    await asyncio.sleep(0)
    assert await house.supervisor.reap() == 1
    answer = await house.stored(message_id)
    message = "The answer was interrupted: the process that wrote it ended."
    assert (answer.status, answer.content, answer.model) == (Status.INTERRUPTED, "half an answer", "glm-5")
    assert answer.error == Problem(code="interrupted", message=message)
    events = await reader
    assert events[-1] == Failed(code="interrupted", message=message, message_id=message_id)
    assert fold(events).parts == answer.parts
    house.model.then(spoken("again"))
    async with house.storage.new_unit(read_only=True) as unit:
        conversation = await unit.conversations.get(OWNER, answer.conversation_id)
    assert (await house.answer(conversation)).content == "again", "the conversation is free"


async def test_of_two_that_reap_at_once_each_turn_is_ended_by_one(house: House) -> None:
    dead = [await house.dead_turn(str(number)) for number in range(40)]
    others = [house.another_supervisor(f"other{number}") for number in range(2)]
    assert sum(await asyncio.gather(*(other.reap() for other in others))) == 40
    assert await house.supervisor.reap() == 0
    for message_id in dead:
        ends = [event for event in await house.events(message_id) if isinstance(event, Failed)]
        assert len(ends) == 1


async def test_a_lease_that_runs_is_not_taken(house: House) -> None:
    gate = Gate()
    house.model.then([gate, *spoken("alive")])
    message_id = await house.send(await house.conversation())
    assert await house.another_supervisor().reap() == 0
    gate.opened.set()
    assert (await house.ended(message_id)).content == "alive"


async def test_the_heartbeat_keeps_a_living_turn() -> None:
    lease = timedelta(seconds=0.06)
    async with opened(lease_for=lease) as house:
        gate = Gate()
        house.model.then([gate, *spoken("alive")])
        message_id = await house.send(await house.conversation())
        for _ in range(5):
            house.clock.advance(0.05)
            await until(lambda: house.storage.committed.turns[message_id].lease_until == house.clock() + lease)
            assert await house.another_supervisor().reap() == 0
        gate.opened.set()
        assert (await house.ended(message_id)).content == "alive"


async def test_a_heartbeat_that_fails_each_time_is_told_at_length_once(caplog: pytest.LogCaptureFixture) -> None:
    """As it does where SQLite's file is damaged, until somebody mends it."""
    failures = [*[ValueError("damaged")] * 3, KeyError("other"), None, KeyError("anew")]

    class Failing(OverLog):
        async def renew(self, *of: Any) -> Renewal:
            failure = failures.pop(0) if failures else None
            if failure is not None:
                raise failure
            renewal: Renewal = await self.log.renew(*of)
            return renewal

    async with opened(log=Failing, lease_for=timedelta(seconds=0.06)):
        await until(lambda: not failures)
    told = [(record.getMessage(), bool(record.exc_info)) for record in caplog.records if "heartbeat" in record.message]
    failed, again = ("a heartbeat failed", True), ("a heartbeat failed again: ValueError", False)
    assert told == [failed, again, again, failed, failed]


async def test_the_dead_are_found_without_being_asked_for() -> None:
    async with opened(lease_for=timedelta(seconds=0.06)) as house:
        answer = await house.ended(await house.dead_turn("half"))
        assert (answer.status, answer.content) == (Status.INTERRUPTED, "half")


async def test_old_logs_are_forgotten_and_the_answers_stay() -> None:
    async with opened(lease_for=timedelta(seconds=0.06), keep_log=timedelta(hours=1)) as house:
        house.model.then(spoken("kept"))
        answer = await house.answer()
        house.clock.advance(3601)
        await until(lambda: answer.id not in house.storage.committed.events)
        assert await house.stored(answer.id) == answer


async def test_however_long_it_takes_to_forget_the_dead_are_ended_meanwhile() -> None:
    """After days away, or with logs kept for a shorter time than before, there are millions of rows to forget."""
    asked: list[int] = []

    class SlowlyForgetting(OverLog):
        async def forget(self, **_: object) -> int:
            asked.append(1)
            await asyncio.Event().wait()
            return 0

    short = timedelta(seconds=0.06)
    async with opened(log=SlowlyForgetting, lease_for=short, forget_every=short) as house:
        await until(lambda: bool(asked))
        answer = await house.ended(await house.dead_turn("half"))
        assert (answer.status, answer.content) == (Status.INTERRUPTED, "half")
        await asyncio.sleep(0.2)
    assert asked == [1], "one at a time"
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("luxx")] == []


async def test_what_could_not_be_buried_is_buried_later(caplog: pytest.LogCaptureFixture) -> None:
    """Storage went away in the middle: the reaper does not keep the turn alive by having taken it."""
    async with opened(log=UnendingLog) as house:
        message_id = await house.dead_turn("half")
        assert await house.supervisor.reap() == 0
        assert "left for later" in caplog.text
        house.clock.advance(3601)
        assert await house.supervisor.reap() == 1
        assert (await house.stored(message_id)).content == "half"


async def test_one_turn_that_cannot_be_buried_does_not_keep_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async with opened(log=lambda log: UnendingLog(log, ZeroDivisionError())) as house:
        dead = [await house.dead_turn() for _ in range(3)]
        assert await house.supervisor.reap() == 2
        assert "could not be ended" in caplog.text
        statuses = [(await house.stored(message_id)).status for message_id in dead]
        assert sorted(statuses) == [Status.INTERRUPTED, Status.INTERRUPTED, Status.STREAMING]


async def test_a_dead_turn_that_is_deleted_while_it_is_buried_counts_as_nobodys() -> None:
    class DeletingLog(OverLog):
        async def take_expired(self, *arguments: object, **options: object) -> object:
            leases = await self.log.take_expired(*arguments, **options)
            for lease in leases:
                async with house.storage.new_unit() as unit:
                    await unit.messages.delete(OWNER, lease.message_id)
                    await unit.commit()
            return leases

    async with opened(log=DeletingLog) as house:
        await house.dead_turn()
        assert await house.supervisor.reap() == 0


@pytest.mark.parametrize("error", [StorageUnavailable("away"), ZeroDivisionError()], ids=["away", "a bug"])
async def test_a_heartbeat_that_fails_is_followed_by_the_next(error: Exception) -> None:
    beats: list[int] = []

    class FaintLog(OverLog):
        async def renew(self, *arguments: object) -> object:
            beats.append(1)
            if len(beats) < 3:
                raise error
            return await self.log.renew(*arguments)

    async with opened(log=FaintLog, lease_for=timedelta(seconds=0.03)) as house:
        gate = Gate()
        house.model.then([gate, *spoken("alive")])
        message_id = await house.send(await house.conversation())
        await until(lambda: len(beats) > 3)
        gate.opened.set()
        assert (await house.ended(message_id)).content == "alive"


async def test_nothing_is_reaped_while_storage_is_away_for_the_heartbeat_nor_right_after() -> None:
    """Others live as this process does, and could not renew their leases either: they get time to."""
    beats: list[int] = []
    back: list[float] = []
    taken: list[float] = []

    class AwayLog(OverLog):
        async def renew(self, *arguments: object) -> object:
            beats.append(1)
            if len(beats) < 23:  # between two looks of the reaper, which comes with each fifth
                assert not taken
                raise StorageUnavailable("away")
            back.append(time.monotonic())
            return await self.log.renew(*arguments)

        async def take_expired(self, *arguments: object, **options: object) -> object:
            taken.append(time.monotonic())
            return await self.log.take_expired(*arguments, **options)

    lease = timedelta(seconds=0.3)
    async with opened(log=AwayLog, lease_for=lease) as house:
        answer = await house.ended(await house.dead_turn("half"))
        assert answer.status is Status.INTERRUPTED
        assert taken[0] - back[0] >= lease.total_seconds() / 3


async def test_a_clock_that_jumps_costs_a_process_none_of_its_own_turns() -> None:
    looked: list[int] = []

    class JumpingLog(OverLog):
        async def renew(self, *arguments: object) -> object:
            renewal = await self.log.renew(*arguments)
            task = asyncio.current_task()
            if task is not None and task.get_name() == "luxx heartbeat":
                house.clock.advance(60)
            return renewal

        async def take_expired(self, *arguments: object, **options: object) -> object:
            looked.append(1)
            return await self.log.take_expired(*arguments, **options)

    async with opened(log=JumpingLog, lease_for=timedelta(seconds=0.15)) as house:
        gate = Gate()
        house.model.then([gate, *spoken("alive")])
        message_id = await house.send(await house.conversation())
        await gate.wait_reached()
        so_far = len(looked)
        await until(lambda: len(looked) > so_far + 2)
        gate.opened.set()
        answer = await house.ended(message_id)
    assert (answer.status, answer.content) == (Status.COMPLETE, "alive")


async def test_a_repeated_key_gives_the_first_answer_although_its_log_was_forgotten_early() -> None:
    async with opened(keep_log=timedelta(seconds=1), lease_for=timedelta(seconds=0.06)) as house:
        house.model.then(spoken("once"))
        conversation = await house.conversation()
        first = await house.answer(conversation, "Hi", idempotency_key="k")
        house.clock.advance(3600)
        async with asyncio.timeout(PATIENCE):
            while await house.log.read(first.id, limit=1):  # noqa: ASYNC110  # forgetting wakes nobody: only asking tells
                await asyncio.sleep(0)
        assert await house.send(conversation, "Hi", idempotency_key="k") == first.id
        assert len(house.model.requests) == 1
