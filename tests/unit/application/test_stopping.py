"""Turns that end before their answer does."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.support.until import until
from tests.unit.application.house import OWNER, PATIENCE, FunctionTool, Gate, House, opened, steps_in
from tests.unit.application.logs import FullLog, OverLog, UnendingLog

from luxx.adapters.models.scripted import Cue, calling, spoken
from luxx.application.observer import Observers, TurnRecord
from luxx.application.ports import ModelEnd, ModelText, Renewal
from luxx.application.run_turn import Stop
from luxx.domain.errors import ModelUnavailable, NotFound, Overloaded, StorageUnavailable
from luxx.domain.message import Json, Problem, Status, TextPart, ToolCallPart
from luxx.domain.turn import Done, Failed, Text, fold

INTERRUPTED = Problem(code="interrupted", message="The answer was interrupted: the process that wrote it ended.")


async def test_a_cancel_in_mid_text_keeps_the_text_and_closes_the_models_stream(house: House) -> None:
    gate = Gate()
    house.model.then([ModelText("Half "), ModelText("an"), gate, ModelText(" answer"), ModelEnd("stop")])
    message_id = await house.send(await house.conversation())
    await gate.wait_reached()
    reader = asyncio.ensure_future(house.events(message_id))
    answer = await house.cancel_turn(user_id=OWNER, message_id=message_id)
    assert (answer.status, answer.content, answer.error) == (Status.CANCELLED, "Half an", None)
    assert answer == await house.stored(message_id)
    assert house.model.open_streams == 0
    events = await reader
    assert events[-1] == Done(message=answer)
    assert fold(events).parts == answer.parts


async def test_a_cancel_before_the_first_token_stores_an_empty_answer(house: House) -> None:
    gate = Gate()
    house.model.then([gate, ModelText("never")], spoken("again"))
    conversation = await house.conversation()
    message_id = await house.send(conversation)
    await gate.wait_reached()
    answer = await house.cancel_turn(user_id=OWNER, message_id=message_id)
    assert (answer.status, answer.parts) == (Status.CANCELLED, ())
    assert house.model.open_streams == 0
    assert (await house.answer(conversation)).content == "again", "the conversation is free"


async def test_a_cancel_in_mid_tool_cancels_every_tool_and_keeps_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luxx.application.run_turn.LET_GO_S", 2 * PATIENCE)  # it takes no second cancel
    started, stopped = [Gate(), Gate()], []

    async def hang(arguments: Mapping[str, Json]) -> Json:
        try:
            await started[arguments["n"]]()
        except asyncio.CancelledError:
            for _ in range(100):
                await asyncio.sleep(0)  # it may clean up before the answer is said to have ended
            stopped.append(arguments["n"])
            raise

    async with opened(tools=[FunctionTool("hang", hang)]) as house:
        house.model.then(calling(("hang", {"n": 0}), ("hang", {"n": 1}), text="Wait:"))
        message_id = await house.send(await house.conversation())
        for gate in started:
            await gate.wait_reached()
        answer = await house.cancel_turn(user_id=OWNER, message_id=message_id)
        assert sorted(stopped) == [0, 1]
        assert answer.status is Status.CANCELLED
        assert answer.parts == (
            TextPart(text="Wait:"),
            ToolCallPart(id="call_1", name="hang", arguments={"n": 0}),
            ToolCallPart(id="call_2", name="hang", arguments={"n": 1}),
        )


async def test_what_a_model_raises_while_it_is_stopped_is_no_failure(house: House) -> None:
    gate = Gate()

    async def stubborn() -> None:
        try:
            await gate()
        except asyncio.CancelledError:
            raise ModelUnavailable("closed") from None

    house.model.then([ModelText("Half"), stubborn])
    message_id = await house.send(await house.conversation())
    await gate.wait_reached()
    answer = await house.cancel_turn(user_id=OWNER, message_id=message_id)
    assert (answer.status, answer.content, answer.error) == (Status.CANCELLED, "Half", None)


@pytest.mark.parametrize("deaf_for", [1, 1000])
async def test_a_model_that_takes_no_notice_of_being_stopped_holds_up_neither_its_turn_nor_the_end(
    deaf_for: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Models of others have bare excepts around what they try again."""
    monkeypatch.setattr("luxx.application.run_turn.LET_GO_S", 0.05)
    reached, freed = asyncio.Event(), asyncio.Event()

    async def deaf() -> None:
        for _ in range(deaf_for):
            reached.set()
            with suppress(asyncio.CancelledError):
                await freed.wait()
                return
        await freed.wait()

    async with opened() as house:
        house.model.then([ModelText("Half"), deaf, ModelText(" and more"), ModelEnd("stop")], spoken("again"))
        conversation = await house.conversation()
        message_id = await house.send(conversation)
        await reached.wait()
        answer = await house.cancel_turn(user_id=OWNER, message_id=message_id)
        assert (answer.status, answer.content, answer.error) == (Status.CANCELLED, "Half", None)
        assert ("takes no notice of being stopped" in caplog.text) is (deaf_for > 2)
        freed.set()
        assert (await house.answer(conversation)).content == "again"
        await until(lambda: not house.model.open_streams)
        assert await house.stored(message_id) == answer, "what comes too late is lost"
        assert fold(await house.events(message_id)).parts == answer.parts


async def test_an_answer_whose_work_is_cancelled_from_without_is_interrupted_and_not_whole(house: House) -> None:
    """Whoever cancels all tasks of a loop means these too."""
    gate = Gate()
    house.model.then([ModelText("Half"), gate])
    message_id = await house.send(await house.conversation())
    await gate.wait_reached()
    (work,) = [task for task in asyncio.all_tasks() if task.get_name() == f"work of {message_id}"]
    work.cancel()
    answer = await house.ended(message_id)
    assert (answer.status, answer.content, answer.error) == (Status.INTERRUPTED, "Half", INTERRUPTED)


class Ends(Observers):
    """Keeps what it is told of turns that ended."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, str | None]] = []

    @contextmanager
    def turn(self, record: TurnRecord) -> Iterator[None]:
        yield
        self.told.append((record.outcome, record.error))


@pytest.mark.parametrize("at_the_end", [False, True])
async def test_of_a_turn_that_was_taken_over_it_is_told_that_it_was_lost_and_no_fault(
    at_the_end: bool, caplog: pytest.LogCaptureFixture
) -> None:
    gate, ends = Gate(), Ends()
    async with opened(run={"observer": ends}) as house:
        house.model.then([ModelEnd("stop"), gate] if at_the_end else [gate, *spoken("mine")])
        await house.send(await house.conversation())
        await gate.wait_reached()
        house.clock.advance(3601)
        assert await house.another_supervisor().reap() == 1
        gate.opened.set()
        await house.idle()
    assert ends.told == [("lost", None)]
    assert [record.levelname for record in caplog.records if record.levelname != "WARNING"] == []


async def test_of_a_turn_whose_end_was_not_stored_before_its_process_ended_it_is_told_that_it_was_interrupted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ends = Ends()
    async with opened(
        log=lambda log: UnendingLog(log, *[StorageUnavailable("away")] * 1000), run={"observer": ends}
    ) as house:
        house.model.then(spoken("All of it"))
        message_id = await house.send(await house.conversation())
        await until(lambda: message_id in house.run_turn.unstored)
        await house.supervisor.drain(grace=0)
    assert ends.told == [("interrupted", StorageUnavailable.code)]
    assert f"the end of the turn {message_id} could not be stored" in caplog.text
    assert [record.levelname for record in caplog.records if record.levelname != "WARNING"] == []


async def test_of_a_turn_that_was_cancelled_it_is_told_that_it_was() -> None:
    gate, ends = Gate(), Ends()
    async with opened(run={"observer": ends}) as house:
        house.model.then([gate])
        message_id = await house.send(await house.conversation())
        await gate.wait_reached()
        await house.cancel_turn(user_id=OWNER, message_id=message_id)
        await house.idle()
    assert ends.told == [("cancelled", None)]


async def test_a_step_that_found_no_room_in_the_log_is_not_in_the_answer_either() -> None:
    """The stored answer is what the events join to, also where a turn is stopped while the log is full."""
    logs: list[FullLog] = []

    def full(log: object) -> FullLog:
        logs.append(FullLog(log))
        return logs[0]

    async with opened(log=full) as house:
        house.model.then(spoken("never seen"))
        message_id = await house.send(await house.conversation())
        await logs[0].waiting.wait()
        answer = await house.cancel_turn(user_id=OWNER, message_id=message_id)
        assert answer.status is Status.CANCELLED
        assert fold(await house.events(message_id)).parts == answer.parts == ()


@pytest.mark.parametrize("cues", [[ModelText("Half")], []], ids=["in mid-text", "before the first token"])
async def test_leaving_the_supervisor_stores_what_runs_as_interrupted(cues: list[Cue]) -> None:
    gate = Gate()
    async with opened() as house:
        house.model.then([*cues, gate])
        message_id = await house.send(await house.conversation())
        await gate.wait_reached()
    answer = await house.stored(message_id)
    assert (answer.status, answer.error) == (Status.INTERRUPTED, INTERRUPTED)
    assert answer.content == ("Half" if cues else "")
    assert (await house.events(message_id))[-1] == Failed(
        code="interrupted", message=INTERRUPTED.message, message_id=message_id
    )
    assert house.model.open_streams == 0


async def test_draining_refuses_new_turns_and_lets_running_ones_finish(house: House) -> None:
    gate = Gate()
    house.model.then([ModelText("Still "), gate, ModelText("here"), ModelEnd("stop")])
    message_id = await house.send(await house.conversation())
    await gate.wait_reached()
    draining = asyncio.ensure_future(house.supervisor.drain(grace=60))
    await until(lambda: house.supervisor.draining)
    with pytest.raises(Overloaded) as refused:
        await house.send(await house.conversation())
    assert refused.value.code == "overloaded"
    gate.opened.set()
    await draining
    answer = await house.stored(message_id)
    assert (answer.status, answer.content) == (Status.COMPLETE, "Still here")


async def test_draining_waits_for_what_is_being_accepted_also_where_it_is_refused(house: House) -> None:
    async with house.storage.writing:
        sending = asyncio.ensure_future(
            house.send_message(user_id=OWNER, conversation_id="conv_none", content="Anybody?")
        )
        await until(lambda: house.supervisor._accepting)
        draining = asyncio.ensure_future(house.supervisor.drain(grace=2 * PATIENCE))
        await asyncio.sleep(0)
        assert not draining.done()
    async with asyncio.timeout(PATIENCE):
        await draining
    with pytest.raises(NotFound):
        await sending


async def test_a_turn_accepted_while_draining_ran_out_of_time_does_not_outlive_it(house: House) -> None:
    """Its commit was under way when the grace ended: it starts afterwards, and must be stopped as the others were."""
    gate = Gate()
    house.model.then([gate])
    conversation = await house.conversation()
    async with house.storage.writing:
        sending = asyncio.ensure_future(house.send(conversation))
        await until(lambda: house.supervisor._accepting)
        draining = asyncio.ensure_future(house.supervisor.drain(grace=0.01))
        await until(lambda: house.supervisor.draining)
        await asyncio.wait({draining}, timeout=0.05)
        assert not draining.done(), "the turn being accepted is waited for"
    async with asyncio.timeout(5):
        await draining
    answer = await house.stored(await sending)
    assert answer.status is Status.INTERRUPTED


async def test_a_turn_that_was_taken_over_stores_nothing_and_closes_its_stream(house: House) -> None:
    gate = Gate()
    house.model.then([ModelText("mine"), gate, ModelText(" no longer"), ModelEnd("stop")])
    message_id = await house.send(await house.conversation())
    await gate.wait_reached()
    house.clock.advance(3601)
    assert await house.another_supervisor().reap() == 1
    before = await house.events(message_id)
    gate.opened.set()
    await house.idle()
    assert await house.events(message_id) == before
    assert isinstance(before[-1], Failed)
    answer = await house.stored(message_id)
    assert (answer.status, answer.content) == (Status.INTERRUPTED, "mine")
    assert house.model.open_streams == 0


async def test_a_turn_taken_over_just_before_its_end_keeps_the_end_that_was_stored(house: House) -> None:
    gate = Gate()
    house.model.then([ModelText("mine"), ModelEnd("stop"), gate])
    message_id = await house.send(await house.conversation())
    await gate.wait_reached()
    house.clock.advance(3601)
    assert await house.another_supervisor().reap() == 1
    gate.opened.set()
    await house.idle()
    assert (await house.stored(message_id)).status is Status.INTERRUPTED
    assert isinstance((await house.events(message_id))[-1], Failed)


async def test_the_heartbeat_stops_a_silent_turn_that_was_taken_over() -> None:
    gate = Gate()
    async with opened(lease_for=timedelta(seconds=0.03)) as house:
        house.model.then([gate])
        message_id = await house.send(await house.conversation())
        await gate.wait_reached()
        house.clock.advance(1)
        assert await house.another_supervisor().reap() == 1
        await house.idle()
        assert house.model.open_streams == 0
        assert (await house.stored(message_id)).status is Status.INTERRUPTED


async def test_the_heartbeat_finds_a_cancel_whose_announcement_was_lost() -> None:
    gate = Gate()
    async with opened(lease_for=timedelta(seconds=0.03)) as house:
        house.model.then([ModelText("Half"), gate])
        message_id = await house.send(await house.conversation())
        await gate.wait_reached()
        async with house.storage.new_unit() as unit:
            await unit.turns.request_cancel(OWNER, message_id)
        answer = await house.ended(message_id)
        assert (answer.status, answer.content) == (Status.CANCELLED, "Half")


async def test_a_turn_whose_conversation_is_deleted_stops_and_leaves_nothing(house: House) -> None:
    """The row went without a cancel, as it does where the cancel was not answered in time."""
    gate = Gate()
    house.model.then([ModelText("Half"), gate, ModelText("more"), ModelEnd("stop")])
    conversation = await house.conversation()
    message_id = await house.send(conversation)
    await gate.wait_reached()
    async with house.storage.new_unit() as unit:
        await unit.conversations.delete(OWNER, conversation.id)
        await unit.commit()
    gate.opened.set()
    await house.idle()
    assert house.model.open_streams == 0
    assert await house.log.read(message_id) == []
    with pytest.raises(NotFound):
        await house.stored(message_id)


async def test_a_turn_whose_conversation_is_deleted_at_its_end_ends_quietly(house: House) -> None:
    gate = Gate()
    house.model.then([ModelEnd("stop"), gate])
    conversation = await house.conversation()
    await house.send(conversation)
    await gate.wait_reached()
    async with house.storage.new_unit() as unit:
        await unit.conversations.delete(OWNER, conversation.id)
        await unit.commit()
    gate.opened.set()
    await house.idle()
    async with house.storage.new_unit(read_only=True) as unit:
        assert await unit.turns.running_in(OWNER, conversation.id) is None


async def test_an_answer_that_is_deleted_at_its_end_ends_quietly_and_stays_deleted(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    house.model.then([ModelEnd("stop"), gate])
    conversation = await house.conversation()
    message_id = await house.send(conversation, "Hello?")
    await gate.wait_reached()
    async with house.storage.new_unit() as unit:
        await unit.messages.delete(OWNER, message_id)
        await unit.commit()
    gate.opened.set()
    await house.idle()
    page = await house.list_messages(user_id=OWNER, conversation_id=conversation.id)
    assert [message.content for message in page.items] == ["Hello?"]
    assert [record.getMessage() for record in caplog.records] == [
        f"the turn {message_id} was taken over or deleted before its end"
    ]


async def test_an_end_that_cannot_be_stored_is_stored_once_it_can(caplog: pytest.LogCaptureFixture) -> None:
    """The turn lives meanwhile: what its process holds is not given up for its lease to run out."""
    logs: list[UnendingLog] = []

    def unending(log: Any) -> UnendingLog:
        logs.append(UnendingLog(log, *[StorageUnavailable("The disk is full.")] * 1000))
        return logs[0]

    async with opened(log=unending) as house:
        house.model.then(spoken("All of it"))
        message_id = await house.send(await house.conversation())
        with pytest.raises(StorageUnavailable, match="cannot be stored now"):
            await house.events(message_id)
        assert house.supervisor.running == 1
        logs[0].errors.clear()
        await house.idle()
        answer = await house.stored(message_id)
        assert (answer.status, answer.content) == (Status.COMPLETE, "All of it")
        assert not house.run_turn.unstored
    assert caplog.text.count("waits for the storage: The disk is full.") == 1


async def test_an_end_that_could_not_be_stored_before_the_process_ended_is_stored_as_interrupted() -> None:
    async with opened(log=lambda log: UnendingLog(log, *[StorageUnavailable("away")] * 1000)) as house:
        house.model.then(spoken("All of it"))
        message_id = await house.send(await house.conversation())
        await until(lambda: message_id in house.run_turn.unstored)
        await house.supervisor.drain(grace=0)
        assert not house.run_turn.unstored
        assert (await house.stored(message_id)).status is Status.STREAMING
        house.log.errors.clear()  # type: ignore[attr-defined]  # the storage is back
        house.clock.advance(3601)
        assert await house.supervisor.reap() == 1
        answer = await house.stored(message_id)
        assert (answer.status, answer.content) == (Status.INTERRUPTED, "All of it")


async def test_a_fault_at_the_end_of_a_turn_does_not_stop_other_turns(caplog: pytest.LogCaptureFixture) -> None:
    async with opened(log=lambda log: UnendingLog(log, ZeroDivisionError())) as house:
        house.model.then(spoken("one"), spoken("two"))
        await house.send(await house.conversation())
        await house.idle()
        assert "could not be ended" in caplog.text
        assert (await house.answer()).content == "two"


async def test_stopping_a_turn_twice_or_one_of_another_process_changes_nothing(house: House) -> None:
    gate = Gate()
    house.model.then([gate])
    message_id = await house.send(await house.conversation())
    await gate.wait_reached()
    house.supervisor.stop("msg_elsewhere", Stop.CANCELLED)
    assert house.supervisor.running == 1
    house.supervisor.stop(message_id, Stop.CANCELLED)
    house.supervisor.stop(message_id, Stop.INTERRUPTED)
    assert (await house.ended(message_id)).status is Status.CANCELLED


async def test_a_cancel_of_a_turn_that_has_ended_gives_it_as_it_is(house: House) -> None:
    house.model.then(spoken("whole"))
    answer = await house.answer()
    assert await house.cancel_turn(user_id=OWNER, message_id=answer.id) == answer
    assert await house.stored(answer.id) == answer


async def test_a_users_message_is_no_answer_that_could_be_cancelled(house: House) -> None:
    house.model.then(spoken("whole"))
    conversation = await house.conversation()
    await house.answer(conversation)
    question = (await house.list_messages(user_id=OWNER, conversation_id=conversation.id)).items[0]
    with pytest.raises(NotFound) as absent:
        await house.cancel_turn(user_id=OWNER, message_id=question.id)
    assert absent.value.code == "message_not_found"


async def test_nobody_cancels_somebody_elses_turn(house: House) -> None:
    gate = Gate()
    house.model.then([gate, *spoken("whole")])
    message_id = await house.send(await house.conversation())
    with pytest.raises(NotFound) as absent:
        await house.cancel_turn(user_id=OWNER + 1, message_id=message_id)
    assert absent.value.code == "message_not_found"
    gate.opened.set()
    assert (await house.ended(message_id)).status is Status.COMPLETE


async def test_a_cancel_that_nobody_answers_gives_the_answer_as_it_stands() -> None:
    """The process that ran it is gone: the reaper will end it."""
    async with opened(patience=0.02) as house:
        message_id = await house.dead_turn("seen")
        answer = await house.cancel_turn(user_id=OWNER, message_id=message_id)
        assert answer.status is Status.STREAMING
        assert answer.content == "seen"
        house.clock.advance(1)
        assert await house.supervisor.reap() == 1
        buried = await house.stored(message_id)
        assert buried.status is Status.CANCELLED
        assert buried.content == "seen"


async def test_an_event_is_seen_once_by_a_reader_of_a_cancelled_turn(house: House) -> None:
    gate = Gate()
    house.model.then([ModelText("a"), gate])
    message_id = await house.send(await house.conversation())
    await gate.wait_reached()
    await asyncio.gather(*(house.cancel_turn(user_id=OWNER, message_id=message_id) for _ in range(3)))
    events = await house.events(message_id)
    assert len(steps_in(events, Done)) == 1
    assert len(steps_in(events, Text)) == 1


async def test_a_cancel_that_meets_the_end_gives_the_answer_as_it_ended(house: House) -> None:
    gate = Gate()
    house.model.then([ModelText("All of it"), gate, ModelEnd("stop")])
    message_id = await house.send(await house.conversation())
    await gate.wait_reached()

    opened_units = 0

    @asynccontextmanager
    async def new_unit(**how: bool) -> AsyncIterator[Any]:
        """Open a unit; before the second the turn ends: between what is looked at first and what comes next."""
        nonlocal opened_units
        opened_units += 1
        if opened_units == 2:
            gate.opened.set()
            await house.idle()
        async with house.storage.new_unit(**how) as unit:
            yield unit

    cancel = replace(house.cancel_turn, new_unit=new_unit)  # type: ignore[arg-type]  # over one
    async with asyncio.timeout(PATIENCE):
        answer = await cancel(user_id=OWNER, message_id=message_id)
    assert (answer.status, answer.content) == (Status.COMPLETE, "All of it")


class SlowRenewals(OverLog):
    """Takes longer for a heartbeat than for a take-over, once it is `slow`."""

    slow = False

    async def renew(self, *given: Any) -> Renewal:
        if self.slow:
            await asyncio.sleep(0.02)
        renewal: Renewal = await self.log.renew(*given)
        return renewal


async def test_a_process_that_was_stopped_for_longer_than_a_lease_takes_over_nothing_that_lives() -> None:
    gate = Gate()
    async with opened(lease_for=timedelta(seconds=0.3), log=SlowRenewals) as house:
        house.model.then([ModelText("Still "), gate, ModelText("here"), ModelEnd("stop")])
        message_id = await house.send(await house.conversation())
        await gate.wait_reached()
        assert isinstance(house.log, SlowRenewals)
        house.log.slow = True
        time.sleep(0.45)  # noqa: ASYNC251  # as if the whole process were stopped
        house.clock.advance(0.45)
        await asyncio.sleep(0.3)  # three times in which it may take something over: nothing tells that it did not
        gate.opened.set()
        answer = await house.ended(message_id)
    assert (answer.status, answer.content) == (Status.COMPLETE, "Still here")
