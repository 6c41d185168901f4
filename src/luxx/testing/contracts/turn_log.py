"""What every `TurnLog` must do. Subclass `TurnLogContract` and give it a `storage` fixture.

Where several processes can share the data, subclass `SharedTurnLogContract`.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
import pytest_asyncio

from luxx.adapters.system import utc_now
from luxx.application.ports import (
    ABSURD_LEASE,
    IdempotencyKey,
    Lease,
    LeaseLost,
    LoggedEvent,
    NewTurn,
    Renewal,
    Storage,
)
from luxx.domain.message import Message, Problem, Status
from luxx.domain.turn import Done, Failed, Started, Step, Text, Thinking, ToolCalled, ToolReturned, fold
from luxx.domain.user import Session, User
from luxx.testing.contracts.storage_samples import (
    EXPIRED,
    LONG,
    PATIENCE,
    begun,
    following,
    moment,
    new_turn,
    running_turn,
    stored_conversation,
    stored_user,
)

STEPS: Sequence[Step] = (
    Thinking(delta="Let me "),
    Thinking(delta="see. "),
    Text(delta="He"),
    Text(delta="llo 🦉"),
    ToolCalled(id="1", name="calculate", arguments={"expression": "2**200", "deep": [{"a": None}]}),
    ToolCalled(id="2", name="absent", arguments={}),
    ToolReturned(id="2", name="absent", success=False, error=Problem(code="tool_failed", message="否"), duration_ms=0),
    ToolReturned(id="1", name="calculate", success=True, result={"n": 2**200, "f": 0.1, "s": "\u2028"}, duration_ms=7),
    Thinking(delta="now "),
    Text(delta="it is "),
    Text(delta="done."),
)


def _answer(turn: NewTurn, steps: Sequence[Step]) -> Message:
    return replace(turn.answer, parts=fold(steps).parts, status=Status.COMPLETE)


async def _end(storage: Storage, turn: NewTurn, lease: Lease, steps: Sequence[Step] = ()) -> Message:
    answer = _answer(turn, steps)
    await storage.log.end(lease, Done(message=answer), answer)
    return answer


async def _all(storage: Storage, message_id: str) -> list[LoggedEvent]:
    """Give all that is stored; what the log remembers of it beside that must be the same."""
    remembered = list(await storage.log.read(message_id, limit=100_000))
    stored = list(await storage.log.read(message_id, limit=100_000, afresh=True))
    assert stored[: len(remembered)] == remembered
    return stored


async def _until_lost(storage: Storage, lease: Lease) -> None:
    """Append until the loss is noticed."""
    async with asyncio.timeout(PATIENCE):
        while True:
            await storage.log.append(lease, Text(delta="late "))
            await asyncio.sleep(0)


async def _message(storage: Storage, owner: User, message_id: str) -> Message:
    async with storage.new_unit(read_only=True) as unit:
        return await unit.messages.get(owner.id, message_id)


def _check(events: Sequence[LoggedEvent]) -> None:
    """Whatever a reader sees: counted from 1 without gaps, a start first, one end at most and last."""
    assert [logged.seq for logged in events] == list(range(1, len(events) + 1))
    assert isinstance(events[0].event, Started)
    fold(logged.event for logged in events)


class TurnLogContract:
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
        await _end(storage, turn, lease, STEPS)
        events = await _all(storage, lease.message_id)
        _check(events)
        assert fold(logged.event for logged in events).parts == fold(STEPS).parts

    async def test_what_was_appended_is_read_in_order_and_folds_into_the_answer(
        self, storage: Storage, ada: User
    ) -> None:
        turn, lease = await running_turn(storage, ada)
        for step in STEPS:
            await storage.log.append(lease, step)
        answer = await _end(storage, turn, lease, STEPS)
        events = await _all(storage, lease.message_id)
        _check(events)
        assert fold(logged.event for logged in events).parts == answer.parts
        assert events[-1].event == Done(message=answer)
        assert await _message(storage, ada, answer.id) == answer

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
            await _end(storage, turn, lease, steps)

        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(write(turn, lease) for turn, lease in turns))
        for _, lease in turns:
            events = await _all(storage, lease.message_id)
            _check(events)
            assert fold(logged.event for logged in events).parts == fold(steps).parts

    async def test_the_log_is_ready_at_once_for_a_turn_of_which_nothing_waits(
        self, storage: Storage, ada: User
    ) -> None:
        turn, lease = await running_turn(storage, ada)
        async with asyncio.timeout(PATIENCE):
            await storage.log.ready(lease)
            await _end(storage, turn, lease)
            await storage.log.ready(lease)

    async def test_reading_starts_after_a_place_and_stops_at_the_limit(self, storage: Storage, ada: User) -> None:
        turn, lease = await running_turn(storage, ada)
        for number in range(10):
            await storage.log.append(lease, ToolCalled(id=str(number), name="t", arguments={}))
        await _end(storage, turn, lease)
        events = await _all(storage, lease.message_id)
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
        assert [logged.event for logged in await _all(storage, lease.message_id)][1:] == [end]
        assert await _message(storage, ada, turn.answer.id) == failed

    async def test_a_large_step_goes_through(self, storage: Storage, ada: User) -> None:
        turn, lease = await running_turn(storage, ada)
        steps = [Text(delta=f"{number}" + "字" * 200_000) for number in range(4)]
        async with asyncio.timeout(PATIENCE):
            for step in steps:
                await storage.log.append(lease, step)
            answer = await _end(storage, turn, lease, steps)
        assert fold(logged.event for logged in await _all(storage, lease.message_id)).parts == answer.parts

    async def test_nothing_follows_the_end(self, storage: Storage, ada: User) -> None:
        turn, lease = await running_turn(storage, ada)
        await _end(storage, turn, lease)
        before = await _all(storage, lease.message_id)
        with pytest.raises(LeaseLost):
            await _until_lost(storage, lease)
        with pytest.raises(LeaseLost):
            await _end(storage, turn, lease)
        assert await _all(storage, lease.message_id) == before

    async def test_whoever_sees_the_end_finds_the_answer_stored_and_the_conversation_free(
        self, storage: Storage, ada: User
    ) -> None:
        async def one() -> None:
            turn, lease = await running_turn(storage, ada)

            async def reader() -> None:
                async for logged in following(storage.log, lease.message_id):
                    if isinstance(logged.event, Done):
                        assert await _message(storage, ada, lease.message_id) == logged.event.message
                        async with storage.new_unit(read_only=True) as unit:
                            assert await unit.turns.running_in(ada.id, lease.conversation_id) is None

            reading = asyncio.create_task(reader())
            await storage.log.append(lease, Text(delta="x"))
            await _end(storage, turn, lease, [Text(delta="x")])
            await reading

        await asyncio.gather(*(one() for _ in range(5)))

    # --- replay and live ----------------------------------------------------------------------------

    @pytest.mark.parametrize("seed", range(3))
    async def test_readers_see_every_event_once_whenever_they_come(
        self, storage: Storage, ada: User, seed: int
    ) -> None:
        dice = random.Random(seed)  # noqa: S311 - a test to repeat, no secret
        turn, lease = await running_turn(storage, ada)
        steps = [Text(delta=f"{number} ") if dice.random() < 0.8 else _call(number) for number in range(150)]

        async def read(start: float, limit: int) -> list[LoggedEvent]:
            await asyncio.sleep(start)
            return [logged async for logged in following(storage.log, lease.message_id, limit=limit)]

        readers = [asyncio.create_task(read(dice.random() * 0.1, dice.choice([1, 3, 256]))) for _ in range(6)]
        for step in steps:
            await storage.log.append(lease, step)
            if dice.random() < 0.3:
                await asyncio.sleep(dice.random() * 0.004)
        answer = await _end(storage, turn, lease, steps)
        stored = await _all(storage, lease.message_id)
        _check(stored)
        assert fold(logged.event for logged in stored).parts == answer.parts
        for reader in readers:
            assert await reader == stored

    async def test_a_reader_resumes_with_exactly_what_it_missed(self, storage: Storage, ada: User) -> None:
        turn, lease = await running_turn(storage, ada)
        for step in STEPS[:6]:
            await storage.log.append(lease, step)
        halfway = asyncio.create_task(_collect(storage, lease.message_id, after=1))
        for step in STEPS[6:]:
            await storage.log.append(lease, step)
        await _end(storage, turn, lease, STEPS)
        stored = await _all(storage, lease.message_id)
        assert await halfway == stored[1:]
        for after in range(len(stored)):
            assert await _collect(storage, lease.message_id, after=after) == stored[after:]

    async def test_many_turns_at_once_stay_apart(self, storage: Storage, ada: User) -> None:
        async def one(number: int) -> None:
            turn, lease = await running_turn(storage, ada)
            reader = asyncio.create_task(_collect(storage, lease.message_id))
            steps = [Text(delta=f"{number}.{place} ") for place in range(20)]
            for step in steps:
                await storage.log.append(lease, step)
                await asyncio.sleep(0)
            answer = await _end(storage, turn, lease, steps)
            seen = await reader
            _check(seen)
            assert fold(logged.event for logged in seen).parts == answer.parts

        await asyncio.gather(*map(one, range(25)))

    # --- wake-ups and cancels -----------------------------------------------------------------------

    async def test_a_watch_wakes_after_a_commit_and_not_without_end(self, storage: Storage, ada: User) -> None:
        _, lease = await running_turn(storage, ada)
        with storage.log.watch(lease.message_id) as wakeup:
            await storage.log.append(lease, Text(delta="x"))
            assert await wakeup.wait(PATIENCE)
            assert len(await _all(storage, lease.message_id)) == 2
            for _ in range(100):
                if not await wakeup.wait(0.02):
                    break  # wake-ups without cause come to an end
            else:
                pytest.fail("a watch wakes again and again, though nothing is committed")

    async def test_a_watch_wakes_after_the_end_of_a_turn(self, storage: Storage, ada: User) -> None:
        turn, lease = await running_turn(storage, ada)
        with storage.log.watch(lease.message_id) as wakeup:
            await _end(storage, turn, lease)
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

    # --- leases -------------------------------------------------------------------------------------

    async def test_renew_reports_what_is_held_and_what_is_to_cancel(self, storage: Storage, ada: User) -> None:
        turn, ended = await running_turn(storage, ada)
        await _end(storage, turn, ended)
        _, plain = await running_turn(storage, ada)
        _, stopped = await running_turn(storage, ada)
        async with storage.new_unit() as unit:
            await unit.turns.request_cancel(ada.id, stopped.message_id)
        _, there = await running_turn(storage, ada, holder="there")
        _, unnamed = await running_turn(storage, ada)
        named = [lease.message_id for lease in (ended, plain, stopped, there)]
        renewal = await storage.log.renew("here", [*named, "msg_absent"], LONG)
        assert unnamed.message_id not in renewal.held
        assert renewal.held == {plain.message_id, stopped.message_id}
        assert renewal.to_cancel == {stopped.message_id}
        nobody = await storage.log.renew("nobody", named, LONG)
        assert (nobody.held, nobody.to_cancel) == (frozenset(), frozenset())

    async def test_a_lease_that_lasts_absurdly_long_is_taken(self, storage: Storage, ada: User) -> None:
        """It was given by a clock that has been set back since; its process is dead."""
        _, lease = await running_turn(storage, ada, lease_for=2 * ABSURD_LEASE)
        _, long = await running_turn(storage, ada, lease_for=ABSURD_LEASE / 2)
        assert [taken.message_id for taken in await storage.log.take_expired("reaper", LONG)] == [lease.message_id]
        assert (await storage.log.renew("here", [long.message_id], LONG)).held == {long.message_id}

    async def test_a_lease_is_as_long_as_its_process_wants_it_without_being_absurd(
        self, storage: Storage, ada: User
    ) -> None:
        longest = 2 * ABSURD_LEASE
        _, lease = await running_turn(storage, ada, lease_for=longest)
        assert await storage.log.take_expired("reaper", longest) == []
        assert (await storage.log.renew("here", [lease.message_id], longest)).held == {lease.message_id}

    async def test_a_renewed_lease_lasts_as_long_as_was_asked_for(self, storage: Storage, ada: User) -> None:
        _, lease = await running_turn(storage, ada)
        await storage.log.renew("here", [lease.message_id], EXPIRED)
        assert [taken.message_id for taken in await storage.log.take_expired("reaper", LONG)] == [lease.message_id]

    async def test_whoever_takes_a_turn_over_is_told_how_far_it_is_and_that_it_is_to_be_cancelled(
        self, storage: Storage, ada: User
    ) -> None:
        _, lease = await running_turn(storage, ada, holder="dead", lease_for=EXPIRED)
        for number in (1, 2):
            await storage.log.append(lease, _call(number))
        await _appears(storage, lease.message_id, 3)
        async with storage.new_unit() as unit:
            await unit.turns.request_cancel(ada.id, lease.message_id)
        (taken,) = await storage.log.take_expired("reaper", LONG)
        assert taken == replace(lease, holder="reaper", fence=taken.fence, seq=3)
        for _ in range(2):  # told once, it is still to be cancelled
            assert (await storage.log.renew("reaper", [lease.message_id], LONG)).to_cancel == {lease.message_id}
        async with storage.new_unit(read_only=True) as unit:
            turn = await unit.turns.get(ada.id, lease.message_id)
        assert turn is not None
        assert turn.cancel_requested

    async def test_a_renewed_lease_is_not_taken_and_an_expired_one_is(self, storage: Storage, ada: User) -> None:
        _, renewed = await running_turn(storage, ada, lease_for=EXPIRED)
        _, expired = await running_turn(storage, ada, holder="dead", lease_for=EXPIRED)
        await running_turn(storage, ada)
        await storage.log.renew("here", [renewed.message_id, expired.message_id], LONG)
        taken = await storage.log.take_expired("reaper", LONG)
        assert [lease.message_id for lease in taken] == [expired.message_id]
        assert taken[0].fence > expired.fence
        assert taken[0] == replace(expired, holder="reaper", fence=taken[0].fence)
        assert await storage.log.take_expired("reaper", LONG) == []
        assert (await storage.log.renew("reaper", [expired.message_id], LONG)).held == {expired.message_id}
        assert (await storage.log.renew("here", [renewed.message_id], LONG)).held == {renewed.message_id}

    async def test_a_turn_that_its_holder_does_not_name_runs_out(self, storage: Storage, ada: User) -> None:
        _, forgotten = await running_turn(storage, ada, lease_for=EXPIRED)
        _, running = await running_turn(storage, ada, lease_for=EXPIRED)
        await storage.log.renew("here", [running.message_id], LONG)
        taken = await storage.log.take_expired("reaper", LONG)
        assert [lease.message_id for lease in taken] == [forgotten.message_id]

    async def test_a_holder_without_turns_renews_none(self, storage: Storage, ada: User) -> None:
        """As every process does that is at rest."""
        await running_turn(storage, ada)
        assert await storage.log.renew("here", [], LONG) == Renewal(held=frozenset(), to_cancel=frozenset())

    async def test_each_take_over_voids_the_lease_before_whoever_takes_it(self, storage: Storage, ada: User) -> None:
        """Also where the holder is the same: a process that stood still may find its own turns run out."""
        turn, first = await running_turn(storage, ada, lease_for=EXPIRED)
        (second,) = await storage.log.take_expired("here", EXPIRED)
        (third,) = await storage.log.take_expired("here", LONG)
        assert first.fence < second.fence < third.fence
        for void in (first, second):
            with pytest.raises(LeaseLost):
                await _end(storage, turn, void)
            with pytest.raises(LeaseLost):
                await _until_lost(storage, void)
        answer = await _end(storage, turn, third)
        assert [logged.event for logged in await _all(storage, first.message_id)][1:] == [Done(message=answer)]

    async def test_renew_does_not_revive_a_void_lease(self, storage: Storage, ada: User) -> None:
        _, lease = await running_turn(storage, ada, holder="slow", lease_for=EXPIRED)
        await storage.log.take_expired("reaper", EXPIRED)
        renewal = await storage.log.renew("slow", [lease.message_id], LONG)
        assert renewal.held == frozenset()
        again = await storage.log.take_expired("third", LONG)
        assert [taken.message_id for taken in again] == [lease.message_id]

    async def test_an_ended_turn_is_never_taken(self, storage: Storage, ada: User) -> None:
        turn, lease = await running_turn(storage, ada, lease_for=EXPIRED)
        await _end(storage, turn, lease)
        assert await storage.log.take_expired("reaper", LONG) == []

    async def test_whoever_lost_its_lease_stores_nothing_more(self, storage: Storage, ada: User) -> None:
        turn, old = await running_turn(storage, ada, holder="slow", lease_for=EXPIRED)
        await storage.log.append(old, Text(delta="kept "))
        await _appears(storage, old.message_id, 2)
        (new,) = await storage.log.take_expired("reaper", LONG)
        with pytest.raises(LeaseLost):
            await _until_lost(storage, old)
        with pytest.raises(LeaseLost):
            await _end(storage, turn, old, [Text(delta="stolen")])
        assert (await _message(storage, ada, turn.answer.id)).status is Status.STREAMING
        await storage.log.append(new, Text(delta="new"))
        answer = await _end(storage, turn, new, [Text(delta="kept "), Text(delta="new")])
        events = await _all(storage, old.message_id)
        _check(events)
        assert [logged.event for logged in events][1:] == [
            Text(delta="kept "),
            Text(delta="new"),
            Done(message=answer),
        ]
        assert await _message(storage, ada, answer.id) == answer

    async def test_an_end_under_a_void_lease_stores_nothing(self, storage: Storage, ada: User) -> None:
        turn, old = await running_turn(storage, ada, lease_for=EXPIRED)
        await storage.log.take_expired("reaper", LONG)
        with pytest.raises(LeaseLost):
            await _end(storage, turn, old, [Text(delta="x")])
        assert len(await _all(storage, old.message_id)) == 1
        assert (await _message(storage, ada, turn.answer.id)).status is Status.STREAMING

    async def test_a_lost_lease_harms_no_other_turn(self, storage: Storage, ada: User) -> None:
        _, lost = await running_turn(storage, ada, lease_for=EXPIRED)
        await storage.log.take_expired("reaper", LONG)
        others = [await running_turn(storage, ada) for _ in range(3)]

        async def hopeless() -> None:
            with pytest.raises(LeaseLost):
                await _until_lost(storage, lost)

        async def fine(turn: NewTurn, lease: Lease) -> None:
            for step in STEPS:
                await storage.log.append(lease, step)
            answer = await _end(storage, turn, lease, STEPS)
            events = await _all(storage, lease.message_id)
            _check(events)
            assert fold(logged.event for logged in events).parts == answer.parts

        await asyncio.gather(hopeless(), *(fine(*other) for other in others))
        assert len(await _all(storage, lost.message_id)) == 1

    async def test_of_racing_takers_one_gets_a_turn(self, storage: Storage, ada: User) -> None:
        expired = {(await running_turn(storage, ada, lease_for=EXPIRED))[1].message_id for _ in range(12)}
        hauls = await asyncio.gather(
            *(storage.log.take_expired(f"taker {number}", LONG, limit=3) for number in range(12))
        )
        assert all(len(haul) <= 3 for haul in hauls)
        taken = [lease.message_id for haul in hauls for lease in haul]
        rest = [lease.message_id for lease in await storage.log.take_expired("last", LONG, limit=100)]
        assert sorted(taken + rest) == sorted(expired)

    async def test_deleting_the_answer_voids_the_lease(self, storage: Storage, ada: User) -> None:
        turn, lease = await running_turn(storage, ada)
        await storage.log.append(lease, Text(delta="x"))
        async with storage.new_unit() as unit:
            await unit.messages.delete(ada.id, lease.message_id)
            await unit.commit()
        with pytest.raises(LeaseLost):
            await _until_lost(storage, lease)
        with pytest.raises(LeaseLost):
            await _end(storage, turn, lease)
        assert await _all(storage, lease.message_id) == []

    # --- forgetting ---------------------------------------------------------------------------------

    async def test_keys_outlive_the_logs_that_are_forgotten(self, storage: Storage, ada: User) -> None:
        conversation = await stored_conversation(storage, ada)
        turn = new_turn(conversation, key=IdempotencyKey(key="k", fingerprint="f"), at=utc_now())
        lease = await begun(storage, turn)
        answer = await _end(storage, turn, lease, [])
        soon = utc_now() + timedelta(seconds=5)
        assert await storage.log.forget(ended_before=soon, keys_made_before=soon - timedelta(days=1)) == 1
        assert await _all(storage, answer.id) == []
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.turns.recall(ada.id, "k") is not None

    async def test_forget_drops_the_logs_of_ended_turns_and_old_keys_only(self, storage: Storage, ada: User) -> None:
        conversation = await stored_conversation(storage, ada)
        turn = new_turn(conversation, key=IdempotencyKey(key="old", fingerprint="f"))
        lease = await begun(storage, turn)
        await storage.log.append(lease, Text(delta="x"))
        answer = await _end(storage, turn, lease, [Text(delta="x")])
        running = new_turn(conversation, key=IdempotencyKey(key="new", fingerprint="f"), at=utc_now())
        runs_on = await begun(storage, running)
        assert (
            await storage.log.forget(
                ended_before=utc_now() - timedelta(days=1), keys_made_before=utc_now() - timedelta(days=1)
            )
            == 0
        )
        assert len(await _all(storage, answer.id)) == 3
        assert (
            await storage.log.forget(
                ended_before=utc_now() + timedelta(seconds=5), keys_made_before=utc_now() + timedelta(seconds=5)
            )
            == 1
        )
        assert (
            await storage.log.forget(
                ended_before=utc_now() + timedelta(seconds=5), keys_made_before=utc_now() + timedelta(seconds=5)
            )
            == 0
        )
        assert await _all(storage, answer.id) == []
        assert len(await _all(storage, running.answer.id)) == 1
        assert await _message(storage, ada, answer.id) == answer
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.turns.get(ada.id, answer.id) is not None
            assert await unit.turns.recall(ada.id, "old") is None
        await _end(storage, running, runs_on, [])
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
        await begun(storage, new_turn(conversation, key=IdempotencyKey(key="k", fingerprint="f"), at=made))
        await storage.log.forget(ended_before=made, keys_made_before=made)
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.turns.recall(ada.id, "k") is not None


def _call(number: int) -> Step:
    return ToolCalled(id=str(number), name="t", arguments={"number": number})


async def _collect(storage: Storage, message_id: str, *, after: int = 0) -> list[LoggedEvent]:
    return [logged async for logged in following(storage.log, message_id, after=after)]


async def _appears(storage: Storage, message_id: str, count: int) -> None:
    """Wait until so many events are committed."""
    reader = following(storage.log, message_id)
    for _ in range(count):
        await anext(reader)
    await reader.aclose()


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
        reader = asyncio.create_task(_collect(second, lease.message_id))
        for step in (*STEPS, *STEPS, *STEPS):
            if not isinstance(step, ToolCalled | ToolReturned):
                await storage.log.append(lease, step)
                await asyncio.sleep(0.002)
        await _end(storage, turn, lease)
        seen = await reader
        _check(seen)
        assert seen == await _all(storage, lease.message_id)

    async def test_one_process_takes_over_what_another_began(
        self, storage: Storage, second: Storage, ada: User
    ) -> None:
        turn, old = await running_turn(storage, ada, holder="first", lease_for=EXPIRED)
        await storage.log.append(old, Text(delta="kept "))
        await _appears(second, old.message_id, 2)
        (new,) = await second.log.take_expired("second", LONG)
        answer = await _end(second, turn, new, [Text(delta="kept ")])
        with pytest.raises(LeaseLost):
            await _until_lost(storage, old)
        for reader in (storage, second):
            events = await _all(reader, old.message_id)
            _check(events)
            assert [logged.event for logged in events][1:] == [Text(delta="kept "), Done(message=answer)]

    async def test_a_reader_follows_a_turn_across_its_take_over(
        self, storage: Storage, second: Storage, ada: User
    ) -> None:
        turn, old = await running_turn(storage, ada, holder="first", lease_for=EXPIRED)
        await storage.log.append(old, Text(delta="kept "))
        await _appears(storage, old.message_id, 2)
        reader = asyncio.create_task(_collect(storage, old.message_id))
        (new,) = await second.log.take_expired("second", LONG)
        await second.log.append(new, Text(delta="more"))
        answer = await _end(second, turn, new, [Text(delta="kept more")])
        seen = await reader
        _check(seen)
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
            *(begun(place, new_turn(conversation)) for place in (storage, second) for _ in range(10)),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, Lease) for outcome in outcomes) == 1
