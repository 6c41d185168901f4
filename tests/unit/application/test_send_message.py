"""Accepting a message."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.support.until import until
from tests.unit.application.house import OWNER, PATIENCE, Gate, House, opened

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.memory.repositories import MemoryMessages
from luxx.adapters.memory.storage import MemoryUnit
from luxx.adapters.memory.tables import Tables
from luxx.adapters.models.scripted import spoken
from luxx.application.ports import SystemEntry, UserEntry
from luxx.domain.errors import Conflict, Damaged, InvalidInput, NotFound, Overloaded, StorageUnavailable
from luxx.domain.message import CONTENT_LIMIT, Status


async def total(house: House, conversation_id: str) -> int:
    return (await house.list_messages(user_id=OWNER, conversation_id=conversation_id)).total


async def test_when_it_returns_both_messages_are_committed_and_the_answer_is_being_written(house: House) -> None:
    gate = Gate()
    house.model.then([gate, *spoken("Hi")])
    conversation = await house.conversation()
    message_id = await house.send(conversation, "Hello?")
    page = await house.list_messages(user_id=OWNER, conversation_id=conversation.id)
    assert [(one.role.value, one.content, one.status.value) for one in page.items] == [
        ("user", "Hello?", "complete"),
        ("assistant", "", "streaming"),
    ]
    assert page.items[1].id == message_id
    gate.opened.set()
    assert (await house.ended(message_id)).content == "Hi", "nobody followed while it was written"


async def test_sending_is_activity_of_the_conversation(house: House) -> None:
    house.model.then(spoken("Hi"))
    older, newer = await house.conversation(), await house.conversation()
    await house.answer(older)
    page = await house.list_conversations(user_id=OWNER)
    assert [one.id for one in page.items] == [older.id, newer.id]
    assert page.items[0].updated_at == house.clock()


async def test_a_repeat_with_the_same_key_gives_the_first_answer_and_asks_no_model(house: House) -> None:
    house.model.then(spoken("once"))
    conversation = await house.conversation()
    first = await house.answer(conversation, "Hi", idempotency_key="k")
    assert await house.send(conversation, "Hi", idempotency_key="k") == first.id
    assert len(house.model.requests) == 1
    assert await total(house, conversation.id) == 2


async def test_a_repeat_while_the_first_is_written_gives_the_same_answer(house: House) -> None:
    gate = Gate()
    house.model.then([gate, *spoken("once")])
    conversation = await house.conversation()
    first = await house.send(conversation, "Hi", idempotency_key="k")
    assert await house.send(conversation, "Hi", idempotency_key="k") == first
    gate.opened.set()
    await house.ended(first)


async def test_a_repeat_is_known_also_where_no_more_messages_are_taken() -> None:
    async with opened(max_turns=1) as house:
        gate = Gate()
        house.model.then([gate, *spoken("once")])
        conversation = await house.conversation()
        first = await house.send(conversation, "Hi", idempotency_key="k")
        assert await house.send(conversation, "Hi", idempotency_key="k") == first
        gate.opened.set()
        await house.ended(first)


async def test_sends_with_one_key_at_once_make_one_turn(house: House) -> None:
    house.model.then(spoken("once"))
    conversation = await house.conversation()
    sends = (house.send(conversation, "Hi", idempotency_key="k" * 255) for _ in range(8))
    first, *others = await asyncio.gather(*sends)
    assert set(others) == {first}
    await house.ended(first)
    assert len(house.model.requests) == 1
    assert await total(house, conversation.id) == 2


@pytest.mark.parametrize("difference", ["content", "tools", "conversation"])
async def test_a_key_used_for_something_else_is_a_conflict(house: House, difference: str) -> None:
    house.model.then(spoken("once"))
    conversation, other = await house.conversation(), await house.conversation()
    await house.answer(conversation, "Hi", idempotency_key="k")
    with pytest.raises(Conflict) as refused:
        await house.send(
            other if difference == "conversation" else conversation,
            "Hello" if difference == "content" else "Hi",
            tools_enabled=difference != "tools",
            idempotency_key="k",
        )
    assert refused.value.code == "idempotency_conflict"
    assert len(house.model.requests) == 1


async def test_a_key_of_something_else_sent_at_once_is_a_conflict(house: House) -> None:
    house.model.then(spoken("once"))
    conversation = await house.conversation()
    outcomes = await asyncio.gather(
        house.send(conversation, "one", idempotency_key="k"),
        house.send(conversation, "two", idempotency_key="k"),
        return_exceptions=True,
    )
    (refused,) = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
    (accepted,) = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert refused.code == "idempotency_conflict"
    await house.ended(accepted)


async def test_keys_belong_to_their_user(house: House) -> None:
    house.model.then(spoken("mine"), spoken("theirs"))
    mine = await house.answer(content="Hi", idempotency_key="k")
    conversation = await house.create_conversation(user_id=OWNER + 1)
    theirs = await house.send_message(
        user_id=OWNER + 1, conversation_id=conversation.id, content="Hi", idempotency_key="k"
    )
    assert theirs != mine.id
    await house.idle()


async def test_a_second_send_while_an_answer_is_written_is_a_conflict(house: House) -> None:
    gate = Gate()
    house.model.then([gate, *spoken("one")], spoken("two"))
    conversation = await house.conversation()
    message_id = await house.send(conversation)
    with pytest.raises(Conflict) as refused:
        await house.send(conversation, "And?")
    assert refused.value.code == "generation_in_progress"
    assert await total(house, conversation.id) == 2
    gate.opened.set()
    await house.ended(message_id)
    assert (await house.answer(conversation, "And?")).content == "two"


async def test_all_faults_are_told_at_once(house: House) -> None:
    with pytest.raises(InvalidInput) as refused:
        await house.send(await house.conversation(), "", idempotency_key="k" * 256)
    assert [(fault.field, fault.rule) for fault in refused.value.faults] == [
        ("content", "too_short"),
        ("Idempotency-Key", "invalid"),
    ]


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_has_1_to_255_characters(house: House, key: str) -> None:
    with pytest.raises(InvalidInput):
        await house.send(await house.conversation(), "Hi", idempotency_key=key)


async def test_content_that_is_too_long_stores_nothing(house: House) -> None:
    conversation = await house.conversation()
    with pytest.raises(InvalidInput):
        await house.send(conversation, "x" * (CONTENT_LIMIT + 1))
    assert await total(house, conversation.id) == 0


async def test_somebody_elses_conversation_is_absent(house: House) -> None:
    conversation = await house.create_conversation(user_id=OWNER + 1)
    with pytest.raises(NotFound) as absent:
        await house.send(conversation)
    assert absent.value.code == "conversation_not_found"
    assert house.model.requests == []
    assert house.supervisor.running == 0


async def test_a_caller_that_goes_away_while_its_message_is_accepted_leaves_a_running_turn(house: House) -> None:
    house.model.then(spoken("Still here"))
    conversation = await house.conversation()
    async with house.storage.writing:
        sending = asyncio.ensure_future(house.send(conversation))
        await until(lambda: house.supervisor._accepting)
        sending.cancel()
        await asyncio.wait({sending})
        assert sending.cancelled()
    await until(lambda: house.model.requests)
    await house.idle()
    page = await house.list_messages(user_id=OWNER, conversation_id=conversation.id)
    assert [(one.content, one.status) for one in page.items] == [
        ("Hello?", Status.COMPLETE),
        ("Still here", Status.COMPLETE),
    ]


async def test_a_process_that_is_full_refuses_and_has_room_again_later() -> None:
    async with opened(max_turns=1) as house:
        gate = Gate()
        house.model.then([gate, *spoken("one")], spoken("two"))
        message_id = await house.send(await house.conversation())
        other = await house.conversation()
        with pytest.raises(Overloaded) as refused:
            await house.send(other)
        assert refused.value.retry_after > 0
        gate.opened.set()
        await house.ended(message_id)
        await house.idle()
        assert (await house.answer(other)).content == "two"


async def test_messages_being_accepted_count_as_turns() -> None:
    async with opened(max_turns=1) as house:
        house.model.then(spoken("one"))
        one, two = await house.conversation(), await house.conversation()
        outcomes = await asyncio.gather(house.send(one), house.send(two), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [str, Overloaded]
        await house.idle()


async def test_a_refused_send_gives_its_place_back() -> None:
    async with opened(max_turns=1) as house:
        house.model.then(spoken("one"))
        for _ in range(2):
            with pytest.raises(NotFound):
                await house.send_message(user_id=OWNER, conversation_id="conv_none", content="Hi")
        assert (await house.answer()).content == "one"


class Flaky:
    """Opens units of a storage that is away now and then."""

    def __init__(self, storage: MemoryStorage) -> None:
        self.storage = storage
        self.lose_answer_of_commit = False
        self.away = 0

    def __call__(self, *, read_only: bool = False, once: bool = False) -> "MemoryUnit":
        reads = read_only or once
        if reads and self.away:
            self.away -= 1
            raise StorageUnavailable("away")
        return self.storage.new_unit(read_only=read_only, once=once) if reads else FlakyUnit(self)


class FlakyUnit(MemoryUnit):
    """Commits, and may lose the answer to it."""

    def __init__(self, owner: Flaky) -> None:
        super().__init__(owner.storage, read_only=False, once=False)
        self._owner = owner

    def _publish(self, tables: Tables) -> None:
        super()._publish(tables)
        if self._owner.lose_answer_of_commit:
            raise StorageUnavailable("the answer to COMMIT was lost")


async def test_a_message_whose_commit_was_made_and_its_answer_lost_is_answered_all_the_same(house: House) -> None:
    house.model.then(spoken("Here."))
    conversation = await house.conversation(system_prompt="Be brief.")
    flaky = Flaky(house.storage)
    flaky.lose_answer_of_commit, flaky.away = True, 1
    send = replace(house.send_message, new_unit=flaky, history=1)
    message_id = await send(user_id=OWNER, conversation_id=conversation.id, content="Anybody?")
    answer = await house.ended(message_id)
    assert (answer.status, answer.content) == (Status.COMPLETE, "Here.")
    (request,) = house.model.requests
    assert request.entries == (SystemEntry(text="Be brief."), UserEntry(text="Anybody?"))
    assert await total(house, conversation.id) == 2


async def test_where_a_message_before_it_cannot_be_read_then_it_fails_and_keeps_nobody_waiting(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    conversation = await house.conversation()
    flaky = Flaky(house.storage)
    flaky.lose_answer_of_commit = True

    async def newest(*_: object, **__: object) -> None:
        raise Damaged("msg_broken", conversation.id)

    monkeypatch.setattr(MemoryMessages, "newest", newest)
    send = replace(house.send_message, new_unit=flaky)
    message_id = await send(user_id=OWNER, conversation_id=conversation.id, content="Anybody?")
    answer = await house.ended(message_id)
    assert answer.status is Status.FAILED
    assert house.model.requests == []
    assert "msg_broken" in caplog.text, "the operator is told what to mend"


async def test_a_message_that_was_not_stored_when_the_database_went_away_is_refused_and_asks_no_model(
    house: House,
) -> None:
    class Lost(FlakyUnit):
        def _publish(self, tables: Tables) -> None:  # noqa: ARG002 - nothing is committed
            raise StorageUnavailable("the connection broke before COMMIT")

    def new_unit(*, read_only: bool = False, once: bool = False) -> MemoryUnit:
        return house.storage.new_unit(read_only=read_only, once=once) if read_only or once else Lost(flaky)

    flaky = Flaky(house.storage)
    conversation = await house.conversation()
    with pytest.raises(StorageUnavailable):
        await replace(house.send_message, new_unit=new_unit)(
            user_id=OWNER, conversation_id=conversation.id, content="Anybody?"
        )
    assert house.supervisor.running == 0
    assert await total(house, conversation.id) == 0
    assert house.model.requests == []


async def test_a_message_that_never_reached_the_database_is_refused_at_once(house: House) -> None:
    asked: list[dict[str, bool]] = []

    def new_unit(**how: bool) -> MemoryUnit:
        asked.append(how)
        raise StorageUnavailable("away")

    conversation = await house.conversation()
    with pytest.raises(StorageUnavailable):
        await replace(house.send_message, new_unit=new_unit)(
            user_id=OWNER, conversation_id=conversation.id, content="Anybody?"
        )
    assert asked == [{}], "there is nothing to look for"


async def test_a_message_whose_turn_was_ended_while_the_database_was_away_is_stored_and_asks_no_model(
    house: House,
) -> None:
    conversation = await house.conversation()
    flaky = Flaky(house.storage)
    flaky.lose_answer_of_commit, flaky.away = True, 1_000_000
    send = replace(house.send_message, new_unit=flaky)
    sending = asyncio.ensure_future(send(user_id=OWNER, conversation_id=conversation.id, content="Anybody?"))
    await until(lambda: flaky.away < 1_000_000)
    house.clock.advance(house.supervisor.lease_for.total_seconds() + 1)
    assert await house.another_supervisor().reap() == 1
    flaky.away = 0
    message_id = await sending
    await house.idle()
    assert (await house.stored(message_id)).status is Status.INTERRUPTED
    assert house.model.requests == []


async def test_nobody_looks_for_a_message_longer_than_its_lease_leaves_time_to_answer() -> None:
    async with opened(lease_for=timedelta(seconds=0.1)) as house:
        conversation = await house.conversation()
        flaky = Flaky(house.storage)
        flaky.lose_answer_of_commit, flaky.away = True, 1_000_000
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(StorageUnavailable):
                await replace(house.send_message, new_unit=flaky)(
                    user_id=OWNER, conversation_id=conversation.id, content="Anybody?"
                )
        assert house.supervisor.running == 0
