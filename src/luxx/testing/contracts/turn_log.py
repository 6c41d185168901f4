"""What every `TurnLog` must do. Subclass `TurnLogContract` and give it a `storage` fixture.

Where several processes can share the data, subclass `SharedTurnLogContract`.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
import pytest_asyncio

from luxx.adapters.system import utc_now
from luxx.application.ports import IdempotencyKey, Lease, LeaseLost, LoggedEvent, NewTurn, Storage
from luxx.domain.message import Problem, Status
from luxx.domain.turn import Done, Failed, Started, Text, ToolCalled, ToolReturned, fold
from luxx.domain.user import Session, User
from luxx.testing.contracts.leases import LeasesContract
from luxx.testing.contracts.storage_samples import (
    EXPIRED,
    LONG,
    PATIENCE,
    following,
    leased,
    moment,
    new_turn,
    running_turn,
    stored_conversation,
    stored_user,
)
from luxx.testing.contracts.turn_log_samples import (
    STEPS,
    a_call,
    all_events,
    check_events,
    end_turn,
    followed,
    stored_message,
    until_committed,
    until_lost,
)


class TurnLogContract(LeasesContract):
    """The obligations of the port `TurnLog`."""

    @pytest.fixture
    def storage(self) -> Storage:
        """Give an opened storage with nothing in it; close it after the test."""
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def ada(self, storage: Storage) -> User:
        return await stored_user(storage)

    # --- writing and reading ------------------------------------------------------------------------

    async def test_opened_again_it_writes_each_step_once(self, storage: Storage, ada: User) -> None:
        await storage.open()
        turn, lease = await running_turn(storage, ada)
        for step in STEPS:
            await storage.log.append(lease, step)
            await asyncio.sleep(0)
        await end_turn(storage, turn, lease, STEPS)
        events = await all_events(storage, lease.message_id)
        check_events(events)
        assert fold(logged.event for logged in events).parts == fold(STEPS).parts

    async def test_what_was_appended_is_read_in_order_and_folds_into_the_answer(
        self, storage: Storage, ada: User
    ) -> None:
        turn, lease = await running_turn(storage, ada)
        for step in STEPS:
            await storage.log.append(lease, step)
        answer = await end_turn(storage, turn, lease, STEPS)
        events = await all_events(storage, lease.message_id)
        check_events(events)
        assert fold(logged.event for logged in events).parts == answer.parts
        assert events[-1].event == Done(message=answer)
        assert await stored_message(storage, ada, answer.id) == answer

    async def test_steps_reach_readers_without_an_end(self, storage: Storage, ada: User) -> None:
        _, lease = await running_turn(storage, ada)
        reader = following(storage.log, lease.message_id)
        assert isinstance((await anext(reader)).event, Started)
        for delta in ("one", "two", "three"):
            await storage.log.append(lease, Text(delta=delta))
            logged = await anext(reader)
            assert logged.event == Text(delta=delta)
        await reader.aclose()

    async def test_turns_that_wait_before_they_read_on_are_let_on_again_and_again(
        self, storage: Storage, ada: User
    ) -> None:
        turns = [await running_turn(storage, ada) for _ in range(3)]
        steps = [Text(delta=f"{number} ") for number in range(20)]

        async def write(turn: NewTurn, lease: Lease) -> None:
            for step in steps:
                await storage.log.ready(lease)
                await storage.log.append(lease, step)
            await end_turn(storage, turn, lease, steps)

        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(write(turn, lease) for turn, lease in turns))
        for _, lease in turns:
            events = await all_events(storage, lease.message_id)
            check_events(events)
            assert fold(logged.event for logged in events).parts == fold(steps).parts

    async def test_the_log_is_ready_at_once_for_a_turn_of_which_nothing_waits(
        self, storage: Storage, ada: User
    ) -> None:
        turn, lease = await running_turn(storage, ada)
        async with asyncio.timeout(PATIENCE):
            await storage.log.ready(lease)
            await end_turn(storage, turn, lease)
            await storage.log.ready(lease)

    async def test_reading_starts_after_a_place_and_stops_at_the_limit(self, storage: Storage, ada: User) -> None:
        turn, lease = await running_turn(storage, ada)
        for number in range(10):
            await storage.log.append(lease, ToolCalled(id=str(number), name="t", arguments={}))
        await end_turn(storage, turn, lease)
        events = await all_events(storage, lease.message_id)
        assert len(events) == 12
        for after in range(len(events) + 2):
            assert await storage.log.read(lease.message_id, after=after, limit=100) == events[after:]
            for afresh in (False, True):
                few = await storage.log.read(lease.message_id, after=after, limit=3, afresh=afresh)
                assert few == events[after : after + 3]

    async def test_nothing_is_read_of_an_unknown_turn(self, storage: Storage) -> None:
        assert await storage.log.read("msg_unknown") == []
        assert await storage.log.read("msg_unknown", after=7) == []

    async def test_an_end_may_be_the_first_step(self, storage: Storage, ada: User) -> None:
        turn, lease = await running_turn(storage, ada)
        failed = replace(turn.answer, status=Status.FAILED, error=Problem(code="model_timeout", message="slow"))
        end = Failed(code="model_timeout", message="slow", message_id=turn.answer.id)
        await storage.log.end(lease, end, failed)
        assert [logged.event for logged in await all_events(storage, lease.message_id)][1:] == [end]
        assert await stored_message(storage, ada, turn.answer.id) == failed

    async def test_a_large_step_goes_through(self, storage: Storage, ada: User) -> None:
        turn, lease = await running_turn(storage, ada)
        steps = [Text(delta=f"{number}" + "字" * 200_000) for number in range(4)]
        async with asyncio.timeout(PATIENCE):
            for step in steps:
                await storage.log.append(lease, step)
            answer = await end_turn(storage, turn, lease, steps)
        assert fold(logged.event for logged in await all_events(storage, lease.message_id)).parts == answer.parts

    async def test_nothing_follows_the_end(self, storage: Storage, ada: User) -> None:
        turn, lease = await running_turn(storage, ada)
        await end_turn(storage, turn, lease)
        before = await all_events(storage, lease.message_id)
        with pytest.raises(LeaseLost):
            await until_lost(storage, lease)
        with pytest.raises(LeaseLost):
            await end_turn(storage, turn, lease)
        assert await all_events(storage, lease.message_id) == before

    async def test_whoever_sees_the_end_finds_the_answer_stored_and_the_conversation_free(
        self, storage: Storage, ada: User
    ) -> None:
        async def one() -> None:
            turn, lease = await running_turn(storage, ada)

            async def reader() -> None:
                async for logged in following(storage.log, lease.message_id):
                    if isinstance(logged.event, Done):
                        assert await stored_message(storage, ada, lease.message_id) == logged.event.message
                        async with storage.new_unit(read_only=True) as unit:
                            assert await unit.turns.running_in(ada.id, lease.conversation_id) is None

            reading = asyncio.create_task(reader())
            await storage.log.append(lease, Text(delta="x"))
            await end_turn(storage, turn, lease, [Text(delta="x")])
            await reading

        await asyncio.gather(*(one() for _ in range(5)))

    # --- replay and live ----------------------------------------------------------------------------

    @pytest.mark.parametrize("seed", range(3))
    async def test_readers_see_every_event_once_whenever_they_come(
        self, storage: Storage, ada: User, seed: int
    ) -> None:
        dice = random.Random(seed)  # noqa: S311 - a test to repeat, no secret
        turn, lease = await running_turn(storage, ada)
        steps = [Text(delta=f"{number} ") if dice.random() < 0.8 else a_call(number) for number in range(150)]

        async def read(start: float, limit: int) -> list[LoggedEvent]:
            await asyncio.sleep(start)
            return [logged async for logged in following(storage.log, lease.message_id, limit=limit)]

        readers = [asyncio.create_task(read(dice.random() * 0.1, dice.choice([1, 3, 256]))) for _ in range(6)]
        for step in steps:
            await storage.log.append(lease, step)
            if dice.random() < 0.3:
                await asyncio.sleep(dice.random() * 0.004)
        answer = await end_turn(storage, turn, lease, steps)
        stored = await all_events(storage, lease.message_id)
        check_events(stored)
        assert fold(logged.event for logged in stored).parts == answer.parts
        for reader in readers:
            assert await reader == stored

    async def test_a_reader_resumes_with_exactly_what_it_missed(self, storage: Storage, ada: User) -> None:
        turn, lease = await running_turn(storage, ada)
        for step in STEPS[:6]:
            await storage.log.append(lease, step)
        halfway = asyncio.create_task(followed(storage, lease.message_id, after=1))
        for step in STEPS[6:]:
            await storage.log.append(lease, step)
        await end_turn(storage, turn, lease, STEPS)
        stored = await all_events(storage, lease.message_id)
        assert await halfway == stored[1:]
        for after in range(len(stored)):
            assert await followed(storage, lease.message_id, after=after) == stored[after:]

    async def test_many_turns_at_once_stay_apart(self, storage: Storage, ada: User) -> None:
        async def one(number: int) -> None:
            turn, lease = await running_turn(storage, ada)
            reader = asyncio.create_task(followed(storage, lease.message_id))
            steps = [Text(delta=f"{number}.{place} ") for place in range(20)]
            for step in steps:
                await storage.log.append(lease, step)
                await asyncio.sleep(0)
            answer = await end_turn(storage, turn, lease, steps)
            seen = await reader
            check_events(seen)
            assert fold(logged.event for logged in seen).parts == answer.parts

        await asyncio.gather(*map(one, range(25)))

    # --- wake-ups and cancels -----------------------------------------------------------------------

    async def test_a_watch_wakes_after_a_commit_and_not_without_end(self, storage: Storage, ada: User) -> None:
        _, lease = await running_turn(storage, ada)
        with storage.log.watch(lease.message_id) as wakeup:
            await storage.log.append(lease, Text(delta="x"))
            assert await wakeup.wait(PATIENCE)
            assert len(await all_events(storage, lease.message_id)) == 2
            for _ in range(100):
                if not await wakeup.wait(0.02):
                    break  # wake-ups without cause come to an end
            else:
                pytest.fail("a watch wakes again and again, though nothing is committed")

    async def test_a_watch_wakes_after_the_end_of_a_turn(self, storage: Storage, ada: User) -> None:
        turn, lease = await running_turn(storage, ada)
        with storage.log.watch(lease.message_id) as wakeup:
            await end_turn(storage, turn, lease)
            assert await wakeup.wait(PATIENCE)

    async def test_a_watch_wakes_after_a_turn_was_deleted(self, storage: Storage, ada: User) -> None:
        for all_of_it in (False, True):
            _, lease = await running_turn(storage, ada)
            with storage.log.watch(lease.message_id) as wakeup:
                async with storage.new_unit() as unit:
                    if all_of_it:
                        await unit.conversations.delete(ada.id, lease.conversation_id)
                    else:
                        await unit.messages.delete(ada.id, lease.message_id)
                    await unit.commit()
                assert await wakeup.wait(PATIENCE)

    async def test_a_commit_between_reading_and_waiting_is_not_slept_through(self, storage: Storage, ada: User) -> None:
        _, lease = await running_turn(storage, ada)
        with storage.log.watch(lease.message_id) as wakeup, storage.log.watch(lease.message_id) as other:
            await storage.log.append(lease, Text(delta="x"))
            assert await other.wait(PATIENCE)
            assert await wakeup.wait(0.001)

    async def test_a_cancelled_wait_loses_no_wake_up(self, storage: Storage, ada: User) -> None:
        _, lease = await running_turn(storage, ada)
        with storage.log.watch(lease.message_id) as wakeup:
            waiting = asyncio.create_task(wakeup.wait(PATIENCE))
            await asyncio.sleep(0)
            with storage.log.watch(lease.message_id) as other:
                await storage.log.append(lease, Text(delta="x"))
                assert await other.wait(PATIENCE)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
                return  # it had its wake-up before the cancel reached it
            assert await wakeup.wait(PATIENCE)

    async def test_an_announced_cancel_reaches_every_listener(self, storage: Storage) -> None:
        heard: list[tuple[int, str]] = []
        both = asyncio.Event()

        def listener(number: int) -> Callable[[str], None]:
            def hear(message_id: str) -> None:
                heard.append((number, message_id))
                if len(heard) == 2:
                    both.set()

            return hear

        storage.log.on_cancel(listener(1))
        storage.log.on_cancel(listener(2))
        await storage.log.announce_cancel("msg_x")
        await asyncio.wait_for(both.wait(), PATIENCE)
        assert sorted(heard) == [(1, "msg_x"), (2, "msg_x")]

    # --- forgetting ---------------------------------------------------------------------------------

    async def test_keys_outlive_the_logs_that_are_forgotten(self, storage: Storage, ada: User) -> None:
        conversation = await stored_conversation(storage, ada)
        turn = new_turn(conversation, key=IdempotencyKey(key="k", fingerprint="f"), at=utc_now())
        lease = await leased(storage, turn)
        answer = await end_turn(storage, turn, lease, [])
        soon = utc_now() + timedelta(seconds=5)
        assert await storage.log.forget(ended_before=soon, keys_made_before=soon - timedelta(days=1)) == 1
        assert await all_events(storage, answer.id) == []
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.turns.recall(ada.id, "k") is not None

    async def test_forget_drops_the_logs_of_ended_turns_and_old_keys_only(self, storage: Storage, ada: User) -> None:
        conversation = await stored_conversation(storage, ada)
        turn = new_turn(conversation, key=IdempotencyKey(key="old", fingerprint="f"))
        lease = await leased(storage, turn)
        await storage.log.append(lease, Text(delta="x"))
        answer = await end_turn(storage, turn, lease, [Text(delta="x")])
        running = new_turn(conversation, key=IdempotencyKey(key="new", fingerprint="f"), at=utc_now())
        runs_on = await leased(storage, running)
        long_ago, soon = utc_now() - timedelta(days=1), utc_now() + timedelta(seconds=5)
        assert await storage.log.forget(ended_before=long_ago, keys_made_before=long_ago) == 0
        assert len(await all_events(storage, answer.id)) == 3
        assert await storage.log.forget(ended_before=soon, keys_made_before=soon) == 1
        assert await storage.log.forget(ended_before=soon, keys_made_before=soon) == 0
        assert await all_events(storage, answer.id) == []
        assert len(await all_events(storage, running.answer.id)) == 1
        assert await stored_message(storage, ada, answer.id) == answer
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.turns.get(ada.id, answer.id) is not None
            assert await unit.turns.recall(ada.id, "old") is None
        await end_turn(storage, running, runs_on, [])
        soon = utc_now() + timedelta(seconds=5)
        assert await storage.log.forget(ended_before=soon, keys_made_before=soon) == 1, "its turn comes later"

    async def test_forget_deletes_the_sessions_that_expired_and_no_others(self, storage: Storage, ada: User) -> None:
        now = utc_now()
        sessions = [
            Session(id=f"sess_{hours}", user_id=ada.id, created_at=moment(), expires_at=now + timedelta(hours=hours))
            for hours in (-2, 0, 2)
        ]
        async with storage.new_unit() as unit:
            for session in sessions:
                await unit.sessions.add(session)
            await unit.sessions.revoke(sessions[2].id, now)
            await unit.commit()
        await storage.log.forget(ended_before=now + timedelta(days=1), keys_made_before=now)
        async with storage.new_unit(read_only=True) as unit:
            found = [await unit.sessions.with_user(session.id) for session in sessions]
        # One that was revoked is kept as long as any: its token is told what it is.
        assert found == [None, (sessions[1], ada), (replace(sessions[2], revoked_at=now), ada)]

    async def test_forget_keeps_keys_made_since(self, storage: Storage, ada: User) -> None:
        conversation = await stored_conversation(storage, ada)
        made = utc_now()
        await leased(storage, new_turn(conversation, key=IdempotencyKey(key="k", fingerprint="f"), at=made))
        await storage.log.forget(ended_before=made, keys_made_before=made)
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.turns.recall(ada.id, "k") is not None


class SharedTurnLogContract(TurnLogContract):
    """What a `TurnLog` must do besides where several processes share the data.

    The fixture `second` gives another instance on the same data, as another process would open it.
    """

    @pytest.fixture
    def second(self) -> Storage:
        """Give another instance on the data of `storage`, opened as another process would."""
        raise NotImplementedError

    async def test_a_reader_in_another_process_sees_every_event_once(
        self, storage: Storage, second: Storage, ada: User
    ) -> None:
        turn, lease = await running_turn(storage, ada)
        reader = asyncio.create_task(followed(second, lease.message_id))
        for step in (*STEPS, *STEPS, *STEPS):
            if not isinstance(step, ToolCalled | ToolReturned):
                await storage.log.append(lease, step)
                await asyncio.sleep(0.002)
        await end_turn(storage, turn, lease)
        seen = await reader
        check_events(seen)
        assert seen == await all_events(storage, lease.message_id)

    async def test_one_process_takes_over_what_another_began(
        self, storage: Storage, second: Storage, ada: User
    ) -> None:
        turn, old = await running_turn(storage, ada, holder="first", lease_for=EXPIRED)
        await storage.log.append(old, Text(delta="kept "))
        await until_committed(second, old.message_id, 2)
        (new,) = await second.log.take_expired("second", LONG)
        answer = await end_turn(second, turn, new, [Text(delta="kept ")])
        with pytest.raises(LeaseLost):
            await until_lost(storage, old)
        for reader in (storage, second):
            events = await all_events(reader, old.message_id)
            check_events(events)
            assert [logged.event for logged in events][1:] == [Text(delta="kept "), Done(message=answer)]

    async def test_a_reader_follows_a_turn_across_its_take_over(
        self, storage: Storage, second: Storage, ada: User
    ) -> None:
        turn, old = await running_turn(storage, ada, holder="first", lease_for=EXPIRED)
        await storage.log.append(old, Text(delta="kept "))
        await until_committed(storage, old.message_id, 2)
        reader = asyncio.create_task(followed(storage, old.message_id))
        (new,) = await second.log.take_expired("second", LONG)
        await second.log.append(new, Text(delta="more"))
        answer = await end_turn(second, turn, new, [Text(delta="kept more")])
        seen = await reader
        check_events(seen)
        assert fold(logged.event for logged in seen).parts == answer.parts

    async def test_takers_in_two_processes_get_each_turn_once(
        self, storage: Storage, second: Storage, ada: User
    ) -> None:
        expired = {(await running_turn(storage, ada, lease_for=EXPIRED))[1].message_id for _ in range(20)}
        hauls = await asyncio.gather(
            *(log.take_expired("taker", LONG, limit=3) for log in (storage.log, second.log) for _ in range(8))
        )
        taken = [lease.message_id for haul in hauls for lease in haul]
        rest = [lease.message_id for lease in await second.log.take_expired("last", LONG, limit=100)]
        assert sorted(taken + rest) == sorted(expired)

    async def test_two_processes_begin_one_turn_in_a_conversation(
        self, storage: Storage, second: Storage, ada: User
    ) -> None:
        conversation = await stored_conversation(storage, ada)
        outcomes = await asyncio.gather(
            *(leased(place, new_turn(conversation)) for place in (storage, second) for _ in range(10)),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, Lease) for outcome in outcomes) == 1
