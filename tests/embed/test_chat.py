"""`luxx.application.Chat`: the use cases assembled, without a container."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from luxx.adapters.database import Database
from luxx.adapters.memory import MemoryStorage
from luxx.adapters.models import ScriptedChatModel, calling, spoken
from luxx.adapters.system import utc_now
from luxx.application import Storage
from luxx.domain.errors import Conflict, InvalidInput, NotFound, StorageUnavailable
from luxx.domain.turn import Done, ToolReturned
from tests.support.chats import Doubling, chat_on
from tests.unit.application.house import PATIENCE


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def any_closed_storage(request: pytest.FixtureRequest) -> Storage:
    """Give every storage there is, not opened yet."""
    if request.param == "memory":
        return MemoryStorage()
    return Database(request.getfixturevalue(f"{request.param}_url"), pool_size=5)


async def test_a_chat_answers_and_calls_tools_on_every_storage(any_closed_storage: Storage) -> None:
    model = ScriptedChatModel(calling(("double", {"number": 21})), spoken("It is 42."))
    async with chat_on(any_closed_storage, model, tools=[Doubling()]) as chat:
        ada = await chat.admit_user(username="ada")
        conversation = await chat.create_conversation(user_id=ada.id)
        answer = await chat.send_message(user_id=ada.id, conversation_id=conversation.id, content="Twice 21?")
        events = [logged.event async for logged in await chat.follow_turn(user_id=ada.id, message_id=answer)]
        page = await chat.list_messages(user_id=ada.id, conversation_id=conversation.id)
        by_hand = await chat.execute_tool(name="double", arguments={"number": 1})
    assert [event.result for event in events if isinstance(event, ToolReturned)] == [42]
    assert isinstance(events[-1], Done)
    assert [message.content for message in page.items] == ["Twice 21?", "It is 42."]
    assert (conversation.model, by_hand.result) == ("any", 2)


async def test_of_two_chats_on_one_storage_each_goes_on_when_the_other_leaves(any_closed_storage: Storage) -> None:
    if isinstance(any_closed_storage, Database):
        await any_closed_storage.upgrade()
    first, second = (chat_on(any_closed_storage, ScriptedChatModel.saying("Still here.")) for _ in range(2))
    async with AsyncExitStack() as left_last, asyncio.timeout(PATIENCE):
        async with first:
            ada = await first.admit_user(username="ada")
            conversation = await first.create_conversation(user_id=ada.id)
            await left_last.enter_async_context(second)
        answer = await second.send_message(user_id=ada.id, conversation_id=conversation.id, content="Hello?")
        _, end = await second.follow_turn.to_end(user_id=ada.id, message_id=answer)
    assert isinstance(end, Done)
    assert end.message.content == "Still here."
    if isinstance(any_closed_storage, Database):
        assert not any_closed_storage.log._tasks, "the last to leave closes it"


async def test_a_storage_without_its_schema_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match="luxx db upgrade") as caught:
        async with chat_on(Database(f"sqlite:///{tmp_path / 'new.db'}"), ScriptedChatModel()):
            pass
    assert "await database.upgrade()" in str(caught.value)


async def test_a_storage_below_no_directory_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match=f"There is no directory {tmp_path}/none"):
        await Database(f"sqlite:///{tmp_path}/none/new.db").upgrade()


async def test_somebody_admitted_again_has_the_same_account_however_the_name_is_written(
    any_closed_storage: Storage,
) -> None:
    async with chat_on(any_closed_storage, ScriptedChatModel()) as chat:
        first, *others = await asyncio.gather(*(chat.admit_user(username=name) for name in ("ada", "Ada", "ADA")))
        again = await chat.admit_user(username="ada", email="ada@example.com")
        with pytest.raises(InvalidInput) as caught:
            await chat.admit_user(username="a b", email="nowhere")
        await chat.admit_user(username="grace", email="grace@example.com")
        with pytest.raises(Conflict, match="grace@"):
            await chat.admit_user(username="hopper", email="grace@example.com")
    assert {user.id for user in (*others, again)} == {first.id}
    assert again.email.endswith("@users.invalid")
    assert {fault.field for fault in caught.value.faults} == {"username", "email"}


async def test_nobody_has_no_conversation_on_any_storage(any_closed_storage: Storage) -> None:
    async with chat_on(any_closed_storage, ScriptedChatModel()) as chat:
        with pytest.raises(NotFound, match="There is no user with the number 999"):
            await chat.create_conversation(user_id=999)
        assert (await chat.list_conversations(user_id=999)).total == 0


NONSENSE: dict[str, list[Any]] = {
    "title": [None, 5, "", "a\0", "\ud800", ["t"]],
    "model": [5, "", "\udfff"],
    "project_id": [5, "", "\ud800"],
    "system_prompt": [5, b"Be brief."],
    "temperature": [None, "hot", True, float("nan"), 10**400],
    "max_tokens": [None, "5", 1.5, True, 2**70],
    "thinking_enabled": [None, "no", 1],
    "tools": [5, "double", [5], [["double"]], ["nope"], ["\ud800"], b"double"],
}


async def test_a_setting_that_is_none_is_invalid_input_on_every_storage(any_closed_storage: Storage) -> None:
    async with chat_on(any_closed_storage, ScriptedChatModel(), tools=[Doubling()]) as chat:
        ada = await chat.admit_user(username="ada")
        made = await chat.create_conversation(user_id=ada.id)
        for field, values in {**NONSENSE, "model": [None, *NONSENSE["model"]]}.items():
            for value in values:
                with pytest.raises(InvalidInput) as caught:
                    await chat.update_conversation(user_id=ada.id, conversation_id=made.id, **{field: value})
                assert {fault.field.partition(".")[0] for fault in caught.value.faults} == {field}, value
        for field, values in NONSENSE.items():
            for value in values:
                with pytest.raises(InvalidInput):
                    await chat.create_conversation(user_id=ada.id, **{field: value})
        assert list((await chat.list_conversations(user_id=ada.id)).items) == [made]


async def test_a_change_reaches_the_settings_of_that_conversation_alone(any_closed_storage: Storage) -> None:
    """Whoever hands on what a client sent must not let it change which conversation it is, whose, or since when."""
    async with chat_on(any_closed_storage, ScriptedChatModel()) as chat:
        ada, eve = [await chat.admit_user(username=name) for name in ("ada", "eve")]
        mine = await chat.create_conversation(user_id=eve.id, title="mine")
        other = await chat.create_conversation(user_id=eve.id, title="my other")
        hers = await chat.create_conversation(user_id=ada.id, title="hers")
        attacks: list[dict[str, Any]] = [
            {"id": "hijack"},
            {"id": other.id},
            {"id": hers.id},
            {"created_at": hers.created_at},
            {"updated_at": utc_now()},
            {"owner": ada.id},
            {"zz": 1},
            {"__class__": str},
        ]
        for attack in attacks:
            with pytest.raises(InvalidInput) as caught:
                await chat.update_conversation(
                    user_id=eve.id, conversation_id=mine.id, **{"title": "", "temperature": 0.5, **attack}
                )
            told = {(fault.field, fault.rule) for fault in caught.value.faults}
            assert told == {("title", "too_short"), *((name, "unknown") for name in attack)}
        for user_id, conversation_id in ((ada.id, mine.id), (eve.id, hers.id)):
            with pytest.raises(NotFound):
                await chat.update_conversation(user_id=user_id, conversation_id=conversation_id, title="x")
        assert set((await chat.list_conversations(user_id=eve.id)).items) == {mine, other}
        assert list((await chat.list_conversations(user_id=ada.id)).items) == [hers]


async def test_what_a_person_sends_is_text_on_every_storage(any_closed_storage: Storage) -> None:
    nonsense: list[Any] = [None, 5, b"Hello?", ["Hello?"], "", "a\0", "\ud800"]
    async with chat_on(any_closed_storage, ScriptedChatModel()) as chat:
        ada = await chat.admit_user(username="ada")
        made = await chat.create_conversation(user_id=ada.id)
        for content in nonsense:
            with pytest.raises(InvalidInput) as caught:
                await chat.send_message(user_id=ada.id, conversation_id=made.id, content=content)
            assert [fault.field for fault in caught.value.faults] == ["content"], content
        keys: list[Any] = [5, "", "k" * 256, "a\0", "\ud800"]
        for key in keys:
            with pytest.raises(InvalidInput):
                await chat.send_message(user_id=ada.id, conversation_id=made.id, content="Hello?", idempotency_key=key)
        assert (await chat.list_messages(user_id=ada.id, conversation_id=made.id)).total == 0


async def test_numbers_of_pages_are_numbers_on_every_storage(any_closed_storage: Storage) -> None:
    async with chat_on(any_closed_storage, ScriptedChatModel()) as chat:
        ada = await chat.admit_user(username="ada")
        made = await chat.create_conversation(user_id=ada.id)
        nonsense: list[Any] = [None, "1", 1.5, True, 0, -(2**70)]
        for number in nonsense:
            with pytest.raises(InvalidInput):
                await chat.list_conversations(user_id=ada.id, page=number)
            with pytest.raises(InvalidInput):
                await chat.list_conversations(user_id=ada.id, page_size=number)
            with pytest.raises(InvalidInput):
                await chat.list_messages(user_id=ada.id, conversation_id=made.id, limit=number)
            with pytest.raises(InvalidInput):
                await chat.admit_user(username=number)
        for field, values in {"project_id": NONSENSE["project_id"], "cursor": [5, "", b"x", ["x"]]}.items():
            for value in values:
                with pytest.raises(InvalidInput) as caught:
                    await chat.list_conversations(user_id=ada.id, **{field: value})
                assert [fault.field for fault in caught.value.faults] == [field]
        with pytest.raises(InvalidInput):
            await chat.admit_user(username="ada", email=nonsense[2])
