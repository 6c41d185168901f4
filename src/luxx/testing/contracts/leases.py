"""What the leases of every `TurnLog` must do; a part of `TurnLogContract`."""

import asyncio
from dataclasses import replace

import pytest

from luxx.application.ports import ABSURD_LEASE, Lease, LeaseLost, NewTurn, Renewal, Storage
from luxx.domain.message import Status
from luxx.domain.turn import Done, Text, fold
from luxx.domain.user import User
from luxx.testing.contracts.storage_samples import EXPIRED, LONG, running_turn
from luxx.testing.contracts.turn_log_samples import (
    STEPS,
    a_call,
    all_events,
    check_events,
    end_turn,
    stored_message,
    until_committed,
    until_lost,
)


class LeasesContract:
    """The obligations of a `TurnLog` towards leases: who may write, and how another takes over."""

    async def test_renew_reports_what_is_held_and_what_is_to_cancel(self, storage: Storage, ada: User) -> None:
        turn, ended = await running_turn(storage, ada)
        await end_turn(storage, turn, ended)
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
            await storage.log.append(lease, a_call(number))
        await until_committed(storage, lease.message_id, 3)
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
                await end_turn(storage, turn, void)
            with pytest.raises(LeaseLost):
                await until_lost(storage, void)
        answer = await end_turn(storage, turn, third)
        assert [logged.event for logged in await all_events(storage, first.message_id)][1:] == [Done(message=answer)]

    async def test_renew_does_not_revive_a_void_lease(self, storage: Storage, ada: User) -> None:
        _, lease = await running_turn(storage, ada, holder="slow", lease_for=EXPIRED)
        await storage.log.take_expired("reaper", EXPIRED)
        renewal = await storage.log.renew("slow", [lease.message_id], LONG)
        assert renewal.held == frozenset()
        again = await storage.log.take_expired("third", LONG)
        assert [taken.message_id for taken in again] == [lease.message_id]

    async def test_an_ended_turn_is_never_taken(self, storage: Storage, ada: User) -> None:
        turn, lease = await running_turn(storage, ada, lease_for=EXPIRED)
        await end_turn(storage, turn, lease)
        assert await storage.log.take_expired("reaper", LONG) == []

    async def test_whoever_lost_its_lease_stores_nothing_more(self, storage: Storage, ada: User) -> None:
        turn, old = await running_turn(storage, ada, holder="slow", lease_for=EXPIRED)
        await storage.log.append(old, Text(delta="kept "))
        await until_committed(storage, old.message_id, 2)
        (new,) = await storage.log.take_expired("reaper", LONG)
        with pytest.raises(LeaseLost):
            await until_lost(storage, old)
        with pytest.raises(LeaseLost):
            await end_turn(storage, turn, old, [Text(delta="stolen")])
        assert (await stored_message(storage, ada, turn.answer.id)).status is Status.STREAMING
        await storage.log.append(new, Text(delta="new"))
        answer = await end_turn(storage, turn, new, [Text(delta="kept "), Text(delta="new")])
        events = await all_events(storage, old.message_id)
        check_events(events)
        assert [logged.event for logged in events][1:] == [
            Text(delta="kept "),
            Text(delta="new"),
            Done(message=answer),
        ]
        assert await stored_message(storage, ada, answer.id) == answer

    async def test_an_end_under_a_void_lease_stores_nothing(self, storage: Storage, ada: User) -> None:
        turn, old = await running_turn(storage, ada, lease_for=EXPIRED)
        await storage.log.take_expired("reaper", LONG)
        with pytest.raises(LeaseLost):
            await end_turn(storage, turn, old, [Text(delta="x")])
        assert len(await all_events(storage, old.message_id)) == 1
        assert (await stored_message(storage, ada, turn.answer.id)).status is Status.STREAMING

    async def test_a_lost_lease_harms_no_other_turn(self, storage: Storage, ada: User) -> None:
        _, lost = await running_turn(storage, ada, lease_for=EXPIRED)
        await storage.log.take_expired("reaper", LONG)
        others = [await running_turn(storage, ada) for _ in range(3)]

        async def hopeless() -> None:
            with pytest.raises(LeaseLost):
                await until_lost(storage, lost)

        async def fine(turn: NewTurn, lease: Lease) -> None:
            for step in STEPS:
                await storage.log.append(lease, step)
            answer = await end_turn(storage, turn, lease, STEPS)
            events = await all_events(storage, lease.message_id)
            check_events(events)
            assert fold(logged.event for logged in events).parts == answer.parts

        await asyncio.gather(hopeless(), *(fine(*other) for other in others))
        assert len(await all_events(storage, lost.message_id)) == 1

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
            await until_lost(storage, lease)
        with pytest.raises(LeaseLost):
            await end_turn(storage, turn, lease)
        assert await all_events(storage, lease.message_id) == []
