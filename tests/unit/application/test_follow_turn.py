"""Reading a turn: what is there, what comes, and what is left of it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.application.house import OWNER, PATIENCE, FunctionTool, Gate, House, echo, failing, opened
from tests.unit.application.logs import LateLog, OverLog

from luxx.adapters.models.scripted import calling, spoken
from luxx.application.follow_turn import BATCH, BATCH_EVENTS, FollowTurn, events_of
from luxx.application.ports import LoggedEvent, ModelEnd, ModelText, ModelThinking, UnitOfWork
from luxx.domain.errors import NotFound, Overloaded, StorageUnavailable
from luxx.domain.message import Status
from luxx.domain.turn import Done, Failed, Started, Text, ToolReturned, fold

TOOLS = [FunctionTool("echo", echo), FunctionTool("broken", failing(ZeroDivisionError()))]


async def test_a_finished_turn_gives_from_every_place_exactly_what_is_missing() -> None:
    async with opened(tools=TOOLS) as house:
        house.model.then(calling(("echo", {}), ("broken", {}), text="So:"), spoken("that is it"))
        answer = await house.answer()
        everything = await house.read(answer.id)
        assert [logged.seq for logged in everything] == list(range(1, len(everything) + 1))
        assert isinstance(everything[0].event, Started)
        assert everything[-1].event == Done(message=answer)
        for after in range(len(everything) + 2):
            # A reader that has seen the end gets it again: every stream has one.
            missing = everything[after:] or [LoggedEvent(after, everything[-1].event)]
            assert await house.read(answer.id, after) == missing


async def test_many_readers_of_a_running_turn_each_get_exactly_what_they_miss() -> None:
    async with opened(tools=TOOLS) as house:
        gates = [Gate(), Gate()]
        house.model.then(
            [ModelThinking("Hm"), ModelText("a"), gates[0], *calling(("echo", {}))],
            [gates[1], ModelText("b"), ModelText("c"), ModelEnd("stop")],
        )
        message_id = await house.send(await house.conversation(thinking_enabled=True))
        readers: dict[int, asyncio.Future[list[LoggedEvent]]] = {}
        late: dict[int, asyncio.Future[list[LoggedEvent]]] = {}
        for gate, group in zip(gates, (readers, late), strict=True):
            await gate.wait_reached()
            group.update((after, asyncio.ensure_future(house.read(message_id, after))) for after in range(9))
            await asyncio.sleep(0)
            gate.opened.set()
        everything = await house.read(message_id)
        assert len(everything) == 8
        for group in (readers, late):
            for after, reader in group.items():
                assert await reader == (everything[after:] or [LoggedEvent(after, everything[-1].event)]), after
        assert fold(logged.event for logged in everything).parts == (await house.stored(message_id)).parts


async def test_a_reader_sees_each_event_while_the_turn_goes_on(house: House) -> None:
    gates = [Gate(), Gate()]
    house.model.then([ModelText("a"), gates[0], ModelText("b"), gates[1], ModelEnd("stop")])
    message_id = await house.send(await house.conversation())
    async with aclosing(await house.follow_turn(user_id=OWNER, message_id=message_id)) as events:
        assert isinstance((await anext(events)).event, Started)
        assert await anext(events) == LoggedEvent(2, Text(delta="a"))
        gates[0].opened.set()
        assert await anext(events) == LoggedEvent(3, Text(delta="b"))
        gates[1].opened.set()
        assert isinstance((await anext(events)).event, Done)
        with pytest.raises(StopAsyncIteration):
            await anext(events)


async def test_a_reader_that_leaves_does_not_touch_the_turn(house: House) -> None:
    gate = Gate()
    house.model.then([ModelText("a"), gate, *spoken("b")])
    message_id = await house.send(await house.conversation())
    await gate.wait_reached()
    reader = asyncio.ensure_future(house.read(message_id))
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait({reader})
    gate.opened.set()
    assert (await house.ended(message_id)).content == "ab"


async def test_what_is_there_at_once_comes_in_batches_that_double(house: House) -> None:
    house.model.then(spoken("a b c d e f g h"))
    answer = await house.answer()
    batches = [list(batch) async for batch in await house.follow_turn.batches(user_id=OWNER, message_id=answer.id)]
    assert [logged for batch in batches for logged in batch] == await house.read(answer.id)
    assert [len(batch) for batch in batches][:3] == [1, 2, 4]


async def test_batches_grow_up_to_a_limit(house: House) -> None:
    house.model.then(spoken("a " * 4 * BATCH_EVENTS))
    answer = await house.answer()
    batches = [list(batch) async for batch in await house.follow_turn.batches(user_id=OWNER, message_id=answer.id)]
    assert max(map(len, batches)) == BATCH_EVENTS


async def test_of_what_tools_gave_little_is_read_ahead_either() -> None:
    async with opened(tools=TOOLS) as house:
        house.model.then(*[calling(("echo", {}), ("echo", {})) for _ in range(8)], spoken("ok"))
        answer = await house.answer()
        batches = [list(batch) async for batch in await house.follow_turn.batches(user_id=OWNER, message_id=answer.id)]
    given = [sum(isinstance(one.event, ToolReturned) for one in batch) for batch in batches]
    assert (sum(given), max(given)) == (16, 2)


async def test_of_what_is_long_little_is_read_ahead_for_a_reader_who_may_never_take_it(house: House) -> None:
    house.model.then(spoken("x" * 100_000))
    answer = await house.answer()
    batches = [list(batch) async for batch in await house.follow_turn.batches(user_id=OWNER, message_id=answer.id)]
    deltas = [[len(one.event.delta) for one in batch if isinstance(one.event, Text)] for batch in batches]
    assert sum(map(sum, deltas)) == 100_000
    assert max(map(sum, deltas)) <= 2 * BATCH


async def test_where_what_comes_grows_long_less_is_read_ahead_than_before(house: House) -> None:
    house.model.then(spoken("a " * 100 + "x" * 400_000))
    answer = await house.answer()
    batches = [list(batch) async for batch in await house.follow_turn.batches(user_id=OWNER, message_id=answer.id)]
    sizes = [sum(len(one.event.delta) for one in batch if isinstance(one.event, Text)) for batch in batches]
    assert max(map(len, batches)) > 16, "of short ones many come at once"
    assert max(sizes[-6:]) <= 2 * BATCH


async def test_once_the_log_is_forgotten_the_stored_answer_is_told_as_events() -> None:
    async with opened(tools=TOOLS) as house:
        house.model.then(
            [ModelThinking("Hm."), *calling(("echo", {"n": 1}), ("broken", {}), text="So:")],
            [ModelThinking("Ah."), *spoken("that is it")],
        )
        answer = await house.answer(await house.conversation(thinking_enabled=True))
        everything = await house.read(answer.id)
        assert (
            await house.log.forget(
                ended_before=house.clock() + timedelta(seconds=1), keys_made_before=house.clock() + timedelta(seconds=1)
            )
            == 1
        )
        for after in (0, 3):
            replayed = await house.read(answer.id, after)
            assert [logged.seq for logged in replayed] == list(range(1, len(replayed) + 1)), "from 1 on"
            assert (replayed[0].event, replayed[-1].event) == (everything[0].event, everything[-1].event)
            assert fold(logged.event for logged in replayed).parts == answer.parts
        assert await house.follow_turn.to_end(user_id=OWNER, message_id=answer.id) == (
            everything[0].event,
            everything[-1].event,
        )


async def test_a_forgotten_turn_that_failed_or_was_cancelled_ends_as_it_did(house: House) -> None:
    gate = Gate()
    house.model.then([ModelText("half")], [ModelText("half"), gate])
    failed = await house.answer()
    message_id = await house.send(await house.conversation())
    await gate.wait_reached()
    cancelled = await house.cancel_turn(user_id=OWNER, message_id=message_id)
    ends = [(await house.events(one.id))[-1] for one in (failed, cancelled)]
    assert (
        await house.log.forget(
            ended_before=house.clock() + timedelta(seconds=1), keys_made_before=house.clock() + timedelta(seconds=1)
        )
        == 2
    )
    assert [(await house.events(one.id))[-1] for one in (failed, cancelled)] == ends
    assert [type(end) for end in ends] == [Failed, Done]


async def test_a_forgotten_call_without_an_outcome_is_told_without_one() -> None:
    gate = Gate()

    async def hang(_: object) -> None:
        await gate()

    async with opened(tools=[FunctionTool("hang", hang)]) as house:
        house.model.then(calling(("hang", {})))
        message_id = await house.send(await house.conversation())
        await gate.wait_reached()
        answer = await house.cancel_turn(user_id=OWNER, message_id=message_id)
        await house.log.forget(
            ended_before=house.clock() + timedelta(seconds=1), keys_made_before=house.clock() + timedelta(seconds=1)
        )
        assert fold(await house.events(message_id)).parts == answer.parts


async def test_an_answer_that_is_still_written_is_told_without_an_end(house: House) -> None:
    gate = Gate()
    house.model.then([gate, *spoken("x")])
    message_id = await house.send(await house.conversation())
    answer = await house.stored(message_id)
    assert answer.status is Status.STREAMING
    assert [type(event) for event in events_of(answer, answer)] == [Started]
    gate.opened.set()
    await house.ended(message_id)


@pytest.mark.parametrize("log", ["kept", "forgotten"])
async def test_an_answer_is_told_whole_after_its_question_was_deleted_and_the_question_is_not(
    house: House, log: str
) -> None:
    house.model.then(spoken("x"))
    conversation = await house.conversation()
    answer = await house.answer(conversation)
    everything = await house.read(answer.id)
    question = (await house.list_messages(user_id=OWNER, conversation_id=conversation.id)).items[0]
    await house.delete_message(user_id=OWNER, message_id=question.id)
    if log == "forgotten":
        later = house.clock() + timedelta(days=2)
        assert await house.log.forget(ended_before=later, keys_made_before=later) == 1
    started, *rest = await house.read(answer.id)
    assert rest == everything[1:]
    assert isinstance(started.event, Started)
    assert (started.event.user_message.id, started.event.user_message.content) == (question.id, "")


@pytest.mark.parametrize("whose", ["nobody's", "a question", "somebody else's"])
async def test_what_is_no_answer_of_the_user_is_absent_before_the_first_event(house: House, whose: str) -> None:
    house.model.then(spoken("x"))
    conversation = await house.conversation()
    answer = await house.answer(conversation)
    question = (await house.list_messages(user_id=OWNER, conversation_id=conversation.id)).items[0]
    message_id = {"nobody's": "msg_none", "a question": question.id, "somebody else's": answer.id}[whose]
    with pytest.raises(NotFound) as absent:
        await house.follow_turn(user_id=OWNER + (whose == "somebody else's"), message_id=message_id)
    assert absent.value.code == "message_not_found"


async def test_a_turn_that_runs_here_is_followed_without_asking_the_storage_and_by_its_owner_only(house: House) -> None:
    gate = Gate()
    house.model.then([ModelText("a"), gate])
    message_id = await house.send(await house.conversation())

    def closed(*, read_only: bool = False, once: bool = False) -> UnitOfWork:
        raise AssertionError(f"the storage was asked ({read_only=}, {once=})")

    follow = replace(house.follow_turn, new_unit=closed, owner_here=house.supervisor.owner_of)
    async with aclosing(await follow(user_id=OWNER, message_id=message_id)) as events:
        assert isinstance((await anext(events)).event, Started)
    with pytest.raises(AssertionError):
        await follow(user_id=OWNER + 1, message_id=message_id)
    gate.opened.set()


async def test_readers_of_a_turn_that_is_deleted_are_told_so(house: House) -> None:
    gate = Gate()
    house.model.then([ModelText("a"), gate])
    conversation = await house.conversation()
    message_id = await house.send(conversation)
    await gate.wait_reached()
    readers = [asyncio.ensure_future(house.read(message_id, after)) for after in (0, 1, 2)]
    await asyncio.sleep(0)
    async with house.storage.new_unit() as unit:
        await unit.conversations.delete(OWNER, conversation.id)
        await unit.commit()
    for reader in readers:
        last = (await reader)[-1]
        assert last == LoggedEvent(
            3, Failed(code="message_not_found", message="The message was deleted.", message_id=message_id)
        )


async def test_the_readers_of_a_deleted_conversation_all_get_an_end(house: House) -> None:
    gate = Gate()
    house.model.then([ModelText("a"), gate])
    conversation = await house.conversation()
    message_id = await house.send(conversation)
    await gate.wait_reached()
    readers = [asyncio.ensure_future(house.read(message_id)) for _ in range(3)]
    await asyncio.sleep(0)
    await house.delete_conversation(user_id=OWNER, conversation_id=conversation.id)
    for reader in readers:
        events = await reader
        assert [isinstance(logged.event, Done | Failed) for logged in events] == [False] * (len(events) - 1) + [True]
    assert house.model.open_streams == 0


class DeletingLog(OverLog):
    """Awaits `delete`, once, before it reads."""

    delete: Callable[[], Awaitable[None]] | None = None

    async def read(self, message_id: str, **how: Any) -> Sequence[LoggedEvent]:
        if self.delete is not None:
            delete, self.delete = self.delete, None
            await delete()
        found: Sequence[LoggedEvent] = await self.log.read(message_id, **how)
        return found


class BehindLog(OverLog):
    """Knows of no event behind `known` unless it is asked for what is stored."""

    known = 2

    async def read(self, message_id: str, *, afresh: bool = False, **how: Any) -> Sequence[LoggedEvent]:
        found: Sequence[LoggedEvent] = await self.log.read(message_id, **how)
        return found if afresh else [logged for logged in found if logged.seq <= self.known]


@pytest.mark.parametrize("after", [0, 2, 3])
async def test_what_is_stored_is_told_where_this_process_knows_only_the_beginning(after: int) -> None:
    """The answer to the commit of the last words was lost: they are there, and the memory of the log ends before."""
    async with opened(log=BehindLog) as house:
        house.model.then([*map(ModelText, ("one ", "two ", "three")), ModelEnd("stop")])
        message_id = await house.send(await house.conversation())
        await house.idle()
        stored = await house.storage.log.read(message_id)
        assert await house.read(message_id, after) == stored[after:]


async def test_a_log_that_is_forgotten_while_it_is_read_breaks_off_and_is_told_anew() -> None:
    async with opened() as house:
        house.model.then(
            [*map(ModelText, ("many", "words", "that", "are", "not", "all", "read", "at once")), ModelEnd("stop")]
        )
        answer = await house.answer()
        whole = [logged.event for logged in await house.read(answer.id)]
        reader = await house.follow_turn.batches(user_id=OWNER, message_id=answer.id)
        assert len(await anext(reader)) < len(whole)
        house.clock.advance(10)
        assert await house.log.forget(ended_before=house.clock(), keys_made_before=house.clock()) == 1
        with pytest.raises(StorageUnavailable):
            await anext(reader)
        assert fold(await house.events(answer.id)).parts == answer.parts


def late(logs: list[LateLog], log: object) -> LateLog:
    logs.append(LateLog(log))
    return logs[-1]


async def test_an_end_committed_between_looking_and_asking_is_not_missed() -> None:
    logs: list[LateLog] = []
    async with opened(log=lambda log: late(logs, log)) as house:
        gate = Gate()
        house.model.then([ModelText("a"), gate, ModelEnd("stop")])
        message_id = await house.send(await house.conversation())
        await gate.wait_reached()

        async def end_it() -> None:
            gate.opened.set()
            await house.idle()

        logs[0].meanwhile = end_it
        events = await house.read(message_id, 2)
        assert [type(logged.event) for logged in events] == [Done]


async def test_waiting_for_the_end_of_what_was_deleted_meanwhile_says_that_it_is_absent() -> None:
    async with opened(log=DeletingLog) as house:
        assert isinstance(house.log, DeletingLog)
        message_id = await house.dead_turn("half")

        async def delete() -> None:
            async with house.storage.new_unit() as unit:
                await unit.messages.delete(OWNER, message_id)
                await unit.commit()

        house.log.delete = delete
        with pytest.raises(NotFound) as absent:
            await house.ended(message_id)
        assert absent.value.code == "message_not_found"


async def test_a_process_that_leaves_sends_the_readers_of_others_turns_elsewhere(house: House) -> None:
    leaving: list[bool] = []
    follow = replace(house.follow_turn, leaving=lambda: bool(leaving))
    message_id = await house.dead_turn("half")
    async with aclosing(await follow(user_id=OWNER, message_id=message_id)) as events:
        assert [(await anext(events)).seq for _ in range(2)] == [1, 2]
        reading = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        leaving.append(True)
        with pytest.raises(Overloaded):
            await reading


async def test_a_process_that_leaves_gives_the_ends_of_its_own_turns_first() -> None:
    logs: list[LateLog] = []
    async with opened(log=lambda log: late(logs, log)) as house:
        gate = Gate()
        house.model.then([ModelText("a"), gate])
        message_id = await house.send(await house.conversation())
        await gate.wait_reached()
        follow = replace(house.follow_turn, leaving=house.supervisor.drained, ask=60.0)
        logs[0].meanwhile = lambda: house.supervisor.drain(grace=0)
        events = [logged.event async for logged in await follow(user_id=OWNER, message_id=message_id)]
        assert isinstance(events[-1], Failed)
        assert events[-1].code == "interrupted"


async def test_a_reader_woken_by_a_deletion_asks_at_once_and_not_after_its_patience(house: House) -> None:
    gate = Gate()
    house.model.then([ModelText("a"), gate])
    conversation = await house.conversation()
    message_id = await house.send(conversation)
    await gate.wait_reached()
    patient = FollowTurn(new_unit=house.storage.new_unit, log=house.log, poll=3600, ask=3600)
    events = await patient(user_id=OWNER, message_id=message_id)
    seen = [await anext(events) for _ in range(2)]
    reading = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    async with house.storage.new_unit() as unit:
        await unit.conversations.delete(OWNER, conversation.id)
        await unit.commit()
    async with asyncio.timeout(PATIENCE):
        last = await reading
    assert last.seq == len(seen) + 1
    assert isinstance(last.event, Failed)


async def test_a_turn_that_is_deleted_before_its_first_event_was_read_is_absent_and_no_stream_begins_with_an_end(
    house: House,
) -> None:
    gate = Gate()
    house.model.then([ModelText("a"), gate])
    conversation = await house.conversation()
    message_id = await house.send(conversation)
    await gate.wait_reached()
    events = await house.follow_turn(user_id=OWNER, message_id=message_id)
    async with house.storage.new_unit() as unit:
        await unit.conversations.delete(OWNER, conversation.id)
        await unit.commit()
    with pytest.raises(NotFound) as absent:
        await anext(events)
    assert absent.value.code == "message_not_found"
