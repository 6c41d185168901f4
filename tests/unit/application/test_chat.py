"""`Chat`: the use cases assembled, without a container."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from tests.support.chats import Doubling, chat_on
from tests.support.until import until
from tests.unit.application.house import PATIENCE

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.models import ScriptedChatModel, calling, spoken
from luxx.application import ModelEvent, ModelText
from luxx.application.observer import RoundRecord, ToolRecord, TurnRecord, Unobserved
from luxx.domain.errors import Conflict, Forbidden, InvalidInput, NotFound, Overloaded, StorageUnavailable
from luxx.domain.message import Status
from luxx.domain.turn import Done


class Broken(Unobserved):
    """An observer that raises, which no observer may."""

    def turn(self, record: TurnRecord) -> AbstractContextManager[None]:
        raise OSError(record)

    @contextmanager
    def round(self, record: RoundRecord) -> Iterator[None]:
        yield
        raise OSError(record)

    def tool(self, record: ToolRecord) -> AbstractContextManager[None]:
        raise OSError(record)


class Lacking(MemoryStorage):
    """A storage of which something is missing."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    async def missing(self) -> str | None:
        return "Run `luxx db upgrade`."

    async def close(self) -> None:
        self.closed = True


async def test_leaving_ends_what_runs_as_interrupted() -> None:
    storage = MemoryStorage()
    async with chat_on(storage, ScriptedChatModel([ModelText("half"), asyncio.Event()])) as chat:
        await chat.admit_user(username="ada")
        conversation = await chat.create_conversation(user_id=1)
        answer = await chat.send_message(user_id=1, conversation_id=conversation.id, content="Go on")
        async for logged in await chat.follow_turn(user_id=1, message_id=answer):
            if logged.seq == 2:
                break
    async with storage.new_unit(read_only=True) as unit:
        stored = await unit.messages.get(1, answer)
    assert (stored.status, stored.content) == (Status.INTERRUPTED, "half")


async def test_when_it_was_left_a_chat_takes_no_message() -> None:
    async with chat_on(MemoryStorage(), ScriptedChatModel()) as chat:
        await chat.admit_user(username="ada")
        conversation = await chat.create_conversation(user_id=1)
    with pytest.raises(Overloaded, match="This process is stopping"):
        await chat.send_message(user_id=1, conversation_id=conversation.id, content="Hello?")


async def test_before_it_is_entered_a_chat_takes_no_message_and_says_what_to_do() -> None:
    chat = chat_on(MemoryStorage(), ScriptedChatModel())
    ada = await chat.admit_user(username="ada")
    conversation = await chat.create_conversation(user_id=ada.id)
    with pytest.raises(RuntimeError, match="async with"):
        await chat.send_message(user_id=ada.id, conversation_id=conversation.id, content="Hello?")
    assert (await chat.list_messages(user_id=ada.id, conversation_id=conversation.id)).total == 0


async def test_what_is_refused_is_told_in_words_for_whoever_asked() -> None:
    async with chat_on(MemoryStorage(), ScriptedChatModel.saying("Hi.")) as chat:
        ada = await chat.admit_user(username="ada")
        with pytest.raises(InvalidInput, match="tools is not valid: there are no tools to name"):
            await chat.create_conversation(user_id=ada.id, tools=["nope"])
        conversation = await chat.create_conversation(user_id=ada.id, tools=[])
        answer = await chat.send_message(user_id=ada.id, conversation_id=conversation.id, content="Hello?")
        await chat.follow_turn.to_end(user_id=ada.id, message_id=answer)
        question = (await chat.list_messages(user_id=ada.id, conversation_id=conversation.id)).items[0]
        for wrong in ("x", question.id):
            with pytest.raises(NotFound, match=f"There is no answer with the id '{wrong}'"):
                await chat.follow_turn(user_id=ada.id, message_id=wrong)
        with pytest.raises(NotFound, match=f"There is no answer with the id '{question.id}'"):
            await chat.cancel_turn(user_id=ada.id, message_id=question.id)


async def test_a_storage_that_lacks_something_is_closed_and_says_what() -> None:
    storage = Lacking()
    with pytest.raises(StorageUnavailable, match="luxx db upgrade"):
        async with chat_on(storage, ScriptedChatModel()):
            pass
    assert storage.closed


class Slow(MemoryStorage):
    """A storage that takes a moment to close, and tells what was done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []
        self.closing, self.closed = asyncio.Event(), asyncio.Event()

    async def open(self) -> None:
        self.done.append("open")

    async def close(self) -> None:
        self.done.append("closing")
        self.closing.set()
        await self.closed.wait()
        self.done.append("closed")


async def test_a_chat_that_comes_while_the_last_one_closes_the_storage_opens_it_again() -> None:
    storage = Slow()
    first, second = (chat_on(storage, ScriptedChatModel()) for _ in range(2))
    async with asyncio.timeout(PATIENCE):
        await first.__aenter__()
        leaving = asyncio.create_task(first.__aexit__(None, None, None))
        await storage.closing.wait()
        entering = asyncio.create_task(second.__aenter__())
        await asyncio.sleep(0)
        storage.closed.set()
        await asyncio.gather(leaving, entering)
        assert storage.done == ["open", "closing", "closed", "open"]
        await second.__aexit__(None, None, None)
    assert storage.done[4:] == ["closing", "closed"]


async def test_of_two_chats_that_leave_at_once_one_closes_the_storage() -> None:
    storage = Slow()
    storage.closed.set()
    chats = [chat_on(storage, ScriptedChatModel()) for _ in range(2)]
    for chat in chats:
        await chat.__aenter__()
    await asyncio.gather(*(chat.__aexit__(None, None, None) for chat in chats))
    assert storage.done == ["open", "open", "closing", "closed"]


async def test_two_chats_have_names_of_their_own() -> None:
    first, second = (chat_on(MemoryStorage(), ScriptedChatModel()) for _ in range(2))
    assert first.supervisor.holder != second.supervisor.holder
    assert chat_on(MemoryStorage(), ScriptedChatModel(), holder="here").supervisor.holder == "here"


async def test_who_is_admitted_has_one_account_and_no_password() -> None:
    async with chat_on(MemoryStorage(), ScriptedChatModel()) as chat:
        first = await chat.admit_user(username="ada")
        again = await chat.admit_user(username="ADA", email="ada@example.com")
        grace = await chat.admit_user(username="grace", email="grace@example.com")
        with pytest.raises(Conflict) as taken:
            await chat.admit_user(username="hopper", email="grace@example.com")
        with pytest.raises(InvalidInput) as refused:
            await chat.admit_user(username="a b", email="nowhere")
    assert (again, first.email) == (first, "ada@users.invalid")
    assert grace.email == "grace@example.com"
    assert taken.value.code == "email_taken"
    assert {fault.field for fault in refused.value.faults} == {"username", "email"}
    assert not first.password_hash.startswith("$")


async def test_of_those_who_admit_somebody_at_once_all_get_the_same_account() -> None:
    async with chat_on(MemoryStorage(), ScriptedChatModel()) as chat:
        users = await asyncio.gather(*(chat.admit_user(username=name) for name in ("ada", "Ada", "ADA")))
    assert len({user.id for user in users}) == 1


async def test_who_is_disabled_is_not_admitted() -> None:
    storage = MemoryStorage()
    async with chat_on(storage, ScriptedChatModel()) as chat:
        ada = await chat.admit_user(username="ada")
        async with storage.new_unit() as unit:
            await unit.users.update(replace(ada, is_active=False))
            await unit.commit()
        with pytest.raises(Forbidden) as caught:
            await chat.admit_user(username="ada")
    assert caught.value.code == "account_disabled"


async def test_an_observer_that_fails_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    model = ScriptedChatModel(calling(("double", {"number": 21})), spoken("It is 42."))
    async with chat_on(MemoryStorage(), model, tools=[Doubling()], observer=Broken()) as chat:
        ada = await chat.admit_user(username="ada")
        conversation = await chat.create_conversation(user_id=ada.id)
        answer = await chat.send_message(user_id=ada.id, conversation_id=conversation.id, content="Twice 21?")
        async with asyncio.timeout(PATIENCE):
            _, end = await chat.follow_turn.to_end(user_id=ada.id, message_id=answer)
    assert isinstance(end, Done)
    assert end.message.content == "It is 42."
    assert {one.getMessage() for one in caplog.records} == {"an observer failed"}


async def test_a_chat_that_was_left_is_not_entered_again() -> None:
    """What it would say to each message is that its process is stopping: no word of what to do."""
    closed: list[MemoryStorage] = []

    class Closing(MemoryStorage):
        async def close(self) -> None:
            closed.append(self)
            await super().close()

    chat = chat_on(Closing(), ScriptedChatModel())
    async with chat:
        with pytest.raises(RuntimeError, match="make a new one"):
            await chat.__aenter__()
        assert not closed, "it is in use"
    with pytest.raises(RuntimeError, match="make a new one"):
        await chat.__aenter__()


async def test_of_two_that_enter_a_chat_at_once_one_does_and_nothing_of_it_is_closed() -> None:
    class Slow(MemoryStorage):
        closed = 0

        async def missing(self) -> None:
            await asyncio.sleep(0)

        async def close(self) -> None:
            self.closed += 1
            await super().close()

    storage = Slow()
    chat = chat_on(storage, ScriptedChatModel())
    outcomes = await asyncio.gather(chat.__aenter__(), chat.__aenter__(), return_exceptions=True)
    assert sorted(type(one).__name__ for one in outcomes) == ["Chat", "RuntimeError"]
    assert storage.closed == 0
    await chat.__aexit__(None, None, None)
    assert storage.closed == 1


async def test_a_chat_that_is_left_in_a_hurry_leaves_nothing_behind() -> None:
    """Cancelled while its turns come to their end, which takes as long as the model lets it."""
    others, stopping, slow = asyncio.all_tasks(), asyncio.Event(), asyncio.Event()

    class Slow:
        async def stream(self, request: Any) -> AsyncGenerator[ModelEvent, None]:  # noqa: ARG002 - the port's
            try:
                yield ModelText("half")
                await asyncio.Event().wait()
            finally:
                stopping.set()
                await slow.wait()

    async def whole() -> None:
        async with chat_on(MemoryStorage(), Slow()) as chat:
            ada = await chat.admit_user(username="ada")
            conversation = await chat.create_conversation(user_id=ada.id)
            answer = await chat.send_message(user_id=ada.id, conversation_id=conversation.id, content="Hello?")
            await chat.follow_turn.to_end(user_id=ada.id, message_id=answer)

    program = asyncio.create_task(whole())
    await until(lambda: any("luxx turn" in task.get_name() for task in asyncio.all_tasks()))
    program.cancel()
    async with asyncio.timeout(PATIENCE):
        await stopping.wait()
    program.cancel()
    await asyncio.wait({program})
    slow.set()
    await until(lambda: asyncio.all_tasks() == others)
