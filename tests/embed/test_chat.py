"""`luxx.application.Chat`: the use cases assembled, without a container."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from luxx.adapters.database import Database
from luxx.adapters.memory import MemoryStorage
from luxx.adapters.models import ScriptedChatModel, calling, spoken
from luxx.adapters.system import SortableIds, utc_now
from luxx.application import Chat, ChatModel, Storage
from luxx.domain.errors import Conflict, InvalidInput, StorageUnavailable
from luxx.domain.tool import ToolSpec
from luxx.domain.turn import Done, ToolReturned


class Doubling:
    spec = ToolSpec(name="double", description="Twice a number.", category="mine", parameters={"type": "object"})

    async def run(self, arguments: Any) -> int:
        return 2 * int(arguments["number"])


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def any_closed_storage(request: pytest.FixtureRequest) -> Storage:
    """Give every storage there is, not opened yet."""
    if request.param == "memory":
        return MemoryStorage()
    return Database(request.getfixturevalue(f"{request.param}_url"), pool_size=5)


def chat_on(storage: Storage, model: ChatModel, **options: Any) -> Chat:
    parts: dict[str, Any] = {"clock": utc_now, "new_id": SortableIds(), "default_model": "any"} | options
    return Chat(storage=storage, model=model, **parts)


async def test_a_chat_answers_and_calls_tools_on_every_storage(any_closed_storage: Storage) -> None:
    model = ScriptedChatModel(calling(("double", {"number": 21})), spoken("It is 42."))
    async with chat_on(any_closed_storage, model, tools=[Doubling()]) as chat:
        ada = await chat.admit_user(username="ada")
        conversation = await chat.create_conversation(user_id=ada.id)
        answer = await chat.send_message(user_id=ada.id, conversation_id=conversation.id, content="Twice 21?")
        events = [logged.event async for logged in await chat.follow_turn(user_id=ada.id, message_id=answer)]
        page = await chat.list_messages(user_id=ada.id, conversation_id=conversation.id)
    assert [event.result for event in events if isinstance(event, ToolReturned)] == [42]
    assert isinstance(events[-1], Done)
    assert [message.content for message in page.items] == ["Twice 21?", "It is 42."]
    assert conversation.model == "any"


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
