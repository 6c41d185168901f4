"""What the messages of every `UnitOfWork` must do; a part of `UnitOfWorkContract`."""

from dataclasses import replace

import pytest

from luxx.application.ports import IdempotencyKey, Storage
from luxx.domain.errors import NotFound
from luxx.domain.message import Problem, Role, Status, TextPart, ThinkingPart, ToolCallPart, Usage
from luxx.domain.turn import Done
from luxx.testing.contracts.storage_samples import (
    ODD_TEXT,
    ended_turn,
    history_of,
    later_in,
    leased,
    new_turn,
    size_of,
    stored_conversation,
    stored_user,
)


class MessagesContract:
    """The obligations of `Messages`."""

    async def test_messages_come_back_as_stored(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        turn = new_turn(conversation, text=ODD_TEXT)
        lease = await leased(storage, turn)
        assert await history_of(storage, conversation) == [turn.user_message, turn.answer]
        answer = replace(
            turn.answer,
            parts=(
                ThinkingPart(text="hm"),
                ToolCallPart(
                    id="1",
                    name="calculate",
                    arguments={"expression": "9**99", "more": [None, {"a": 1.5}]},
                    result={"value": 9**99, "text": ODD_TEXT},
                    success=True,
                    duration_ms=3,
                ),
                ToolCallPart(
                    id="2",
                    name="absent",
                    arguments={},
                    success=False,
                    error=Problem(code="tool_not_found", message="no such tool"),
                    duration_ms=0,
                ),
                ToolCallPart(id="3", name="calculate", arguments={}, result=1, success=True, later=True),
                TextPart(text=ODD_TEXT),
            ),
            status=Status.FAILED,
            model="another",
            usage=Usage(prompt_tokens=1, completion_tokens=2, total_tokens=2**40),
            error=Problem(code="model_unavailable", message="断线"),
        )
        await storage.log.end(lease, Done(message=answer), answer)
        async with storage.new_unit(read_only=True) as unit:
            read = await unit.messages.get(ada.id, answer.id)
            assert read == answer
            assert later_in(read) == [False, False, True]
            assert await unit.messages.get(ada.id, turn.user_message.id) == turn.user_message

    async def test_history_is_in_the_order_of_acceptance_whatever_the_times_say(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        for number, at in enumerate((300, 100, 200, 200)):
            await ended_turn(storage, conversation, text=str(number), at=at)
        history = await history_of(storage, conversation)
        assert [message.role for message in history] == [Role.USER, Role.ASSISTANT] * 4
        assert [message.content for message in history[::2]] == ["0", "1", "2", "3"]
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.messages.newest(ada.id, conversation.id, limit=3) == history[-3:]
            before = history[5].id
            assert await unit.messages.newest(ada.id, conversation.id, limit=2, before=before) == history[3:5]
            assert await unit.messages.newest(ada.id, conversation.id, limit=9, before=before) == history[:5]
            assert await unit.messages.newest(ada.id, conversation.id, limit=9, before=history[0].id) == []
            page = await unit.messages.page(ada.id, conversation.id, limit=2, before=before)
            assert (page.items, page.total) == (history[3:5], 8)
            assert await size_of(unit, conversation) == 8

    async def test_before_must_be_a_message_of_the_conversation(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        here, there = await stored_conversation(storage, ada), await stored_conversation(storage, ada)
        await ended_turn(storage, here)
        elsewhere = await ended_turn(storage, there)
        async with storage.new_unit(read_only=True) as unit:
            for before in (elsewhere, "msg_unknown"):
                with pytest.raises(NotFound) as absent:
                    await unit.messages.newest(ada.id, here.id, limit=5, before=before)
                assert absent.value.code == "message_not_found"

    async def test_deleting_a_message_deletes_that_one_and_its_turn_but_not_its_key(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        first = await ended_turn(storage, conversation)
        turn = new_turn(conversation, key=IdempotencyKey(key="k", fingerprint="f"))
        await leased(storage, turn)
        async with storage.new_unit() as unit:
            await unit.messages.delete(ada.id, turn.answer.id)
            await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            with pytest.raises(NotFound):
                await unit.messages.get(ada.id, turn.answer.id)
            assert await unit.messages.get(ada.id, turn.user_message.id) == turn.user_message
            assert await unit.turns.get(ada.id, turn.answer.id) is None
            assert await unit.turns.running_in(ada.id, conversation.id) is None
            assert await unit.turns.get(ada.id, first) is not None
            remembered = await unit.turns.recall(ada.id, "k")
            assert remembered is not None
            assert remembered.message_id == turn.answer.id
            assert await size_of(unit, conversation) == 3
        assert await storage.log.read(turn.answer.id) == []
        await leased(storage, replace(new_turn(conversation), at_most=1))

    async def test_deleting_the_users_message_leaves_the_answer(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        answer = await ended_turn(storage, conversation)
        question = (await history_of(storage, conversation))[0]
        async with storage.new_unit() as unit:
            await unit.messages.delete(ada.id, question.id)
            await unit.commit()
        assert [message.id for message in await history_of(storage, conversation)] == [answer]
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.turns.get(ada.id, answer) is not None
        assert await storage.log.read(answer) != []
        last = await ended_turn(storage, conversation)
        assert [message.id for message in await history_of(storage, conversation)][::2] == [answer, last]
