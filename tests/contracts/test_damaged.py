"""A message that was stored and cannot be read: what somebody did to its row by hand."""

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.support.databases import ask

from luxx.adapters.database import Database
from luxx.adapters.models.scripted import ScriptedChatModel, spoken
from luxx.adapters.system import SortableIds, utc_now
from luxx.application import Chat
from luxx.domain.errors import Damaged, DamagedUser
from luxx.domain.message import Status
from luxx.domain.turn import Done, End, Failed
from luxx.testing.contracts.storage_samples import PATIENCE, new_turn

DAMAGES = (
    """parts = '{"broken'""",
    """parts = '[{"type":"picture"}]'""",
    "role = 'system'",
    "status = 'fine'",
    "usage = '7'",
    "error = '[]'",
)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_an_answer_that_would_follow_it_fails_at_once_and_its_id_is_told_to_the_operator(
    database: Database, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    model = ScriptedChatModel(spoken("Yes?"), spoken("I am here."))
    chat = Chat(storage=database, model=model, clock=utc_now, new_id=SortableIds(), default_model="any")
    async with chat:
        ada = (await chat.admit_user(username="ada")).id
        conversation = (await chat.create_conversation(user_id=ada)).id

        async def answered(content: str) -> End:
            sent = await chat.send_message(user_id=ada, conversation_id=conversation, content=content)
            async with asyncio.timeout(PATIENCE):
                _, end = await chat.follow_turn.to_end(user_id=ada, message_id=sent)
            return end

        first = await answered("Hello?")
        assert isinstance(first, Done)
        broken = first.message.id
        await ask(database, f"UPDATE messages SET {damage} WHERE id = '{broken}'", writes=True)
        for _ in range(2):  # the conversation is not stuck: it takes further messages
            with caplog.at_level(logging.ERROR, logger="luxx"):
                caplog.clear()
                end = await answered("Anybody?")
            assert isinstance(end, Failed)
            assert (end.code, broken in end.message) == ("internal_error", False)
            assert f"{broken!r} cannot be read ({damage.partition(' ')[0]}):" in caplog.text
            async with database.new_unit(read_only=True) as unit:
                stored = await unit.messages.get(ada, end.message_id)
            assert stored.status is Status.FAILED
            assert stored.error is not None
        with pytest.raises(Damaged) as caught:
            await chat.list_messages(user_id=ada, conversation_id=conversation)
        assert broken in caught.value.to_operator()
        assert broken not in str(caught.value)
        await chat.delete_message(user_id=ada, message_id=broken)
        last = await answered("And now?")
        assert isinstance(last, Done)
        assert last.message.content == "I am here."
    assert len(model.requests) == 2


@pytest.mark.parametrize("damage", DAMAGES)
async def test_the_answer_of_a_turn_whose_process_is_gone_ends_and_can_be_deleted(
    database: Database, damage: str
) -> None:
    model = ScriptedChatModel(spoken("I am here."))
    chat = Chat(storage=database, model=model, clock=utc_now, new_id=SortableIds(), default_model="any")
    async with chat:
        ada = (await chat.admit_user(username="ada")).id
        conversation = await chat.create_conversation(user_id=ada)
        turn = replace(new_turn(conversation), lease_for=timedelta(0))
        async with database.new_unit() as unit:
            await unit.turns.begin(turn)
        await ask(database, f"UPDATE messages SET {damage} WHERE id = '{turn.answer.id}'", writes=True)
        assert await chat.supervisor.reap() == 1
        await chat.delete_message(user_id=ada, message_id=turn.answer.id)
        sent = await chat.send_message(user_id=ada, conversation_id=conversation.id, content="And now?")
        async with asyncio.timeout(PATIENCE):
            _, end = await chat.follow_turn.to_end(user_id=ada, message_id=sent)
        assert isinstance(end, Done)


async def test_an_account_whose_role_is_none_is_told_to_the_operator_by_its_number(database: Database) -> None:
    chat = Chat(storage=database, model=ScriptedChatModel(), clock=utc_now, new_id=SortableIds(), default_model="any")
    async with chat:
        ada = (await chat.admit_user(username="ada")).id
        await ask(database, f"UPDATE users SET role = 'Admin' WHERE id = {ada}", writes=True)
        async with database.new_unit(once=True) as unit:
            with pytest.raises(DamagedUser) as caught:
                await unit.users.page()
    told = f"The role of the stored user {ada} cannot be read: make it 'user' or 'admin' in its row."
    assert caught.value.to_operator() == told
    assert str(ada) not in str(caught.value)
