"""What every `UnitOfWork` must do. Subclass `UnitOfWorkContract` and give it a `storage` fixture."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from luxx.application.ports import Storage, UnitOfWork
from luxx.testing.contracts.accounts import AccountsContract
from luxx.testing.contracts.conversations import ConversationsContract
from luxx.testing.contracts.messages import MessagesContract
from luxx.testing.contracts.storage_samples import (
    begun,
    count_of,
    new_conversation,
    new_turn,
    new_user,
    stored_conversation,
    stored_user,
)
from luxx.testing.contracts.turns import TurnsContract


class UnitOfWorkContract(AccountsContract, ConversationsContract, MessagesContract, TurnsContract):
    """The obligations of the port `UnitOfWork` and of the repositories in it."""

    @pytest.fixture
    def storage(self) -> Storage:
        """Give an opened storage with nothing in it; close it after the test."""
        raise NotImplementedError

    async def test_leaving_without_commit_undoes_everything(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        async with storage.new_unit() as unit:
            await unit.users.add(new_user("bob"))
            await unit.conversations.update(replace(conversation, title="changed"))
            await unit.conversations.add(new_conversation(ada, project_id="p"))
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.users.by_username("bob") is None
            assert await unit.conversations.get(ada.id, conversation.id) == conversation
            assert [await count_of(unit, ada, project_id) for project_id in (None, "p")] == [1, 0]

    async def test_an_exception_undoes_everything_and_is_passed_on(self, storage: Storage) -> None:
        async def fail() -> None:
            async with storage.new_unit() as unit:
                await unit.users.add(new_user("bob"))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.users.by_username("bob") is None

    async def test_a_cancelled_unit_undoes_everything_and_blocks_nobody(self, storage: Storage) -> None:
        inside = asyncio.Event()

        async def hang() -> None:
            async with storage.new_unit() as unit:
                await unit.users.add(new_user("bob"))
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(hang())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        bob = await asyncio.wait_for(stored_user(storage, "bob"), 10)
        assert bob.username == "bob"

    async def test_a_read_only_unit_refuses_to_commit(self, storage: Storage) -> None:
        async with storage.new_unit(read_only=True) as unit:
            with pytest.raises(RuntimeError):
                await unit.commit()

    async def test_a_read_only_unit_sees_one_state_while_others_write(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        first = await stored_conversation(storage, ada)
        async with storage.new_unit(read_only=True) as reader:
            before = await count_of(reader, ada, None)
            async with storage.new_unit() as writer:
                await writer.conversations.add(new_conversation(ada))
                await writer.conversations.delete(ada.id, first.id)
                await writer.commit()
            assert await count_of(reader, ada, None) == before == 1
            assert await reader.conversations.get(ada.id, first.id) == first

    async def test_a_unit_for_one_read_takes_one_and_no_write(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        async with storage.new_unit(once=True) as unit:
            assert await unit.users.get(ada.id) == ada
            with pytest.raises(RuntimeError):
                await unit.users.get(ada.id)
            with pytest.raises(RuntimeError):
                await unit.commit()

    @pytest.mark.parametrize("how", [{"read_only": True}, {"once": True}])
    async def test_a_unit_for_reading_changes_nothing(self, storage: Storage, how: dict[str, bool]) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        running = await begun(storage, new_turn(await stored_conversation(storage, ada)))
        writes: list[Callable[[UnitOfWork], Awaitable[object]]] = [
            lambda unit: unit.users.add(new_user("bob")),
            lambda unit: unit.users.update(replace(ada, is_active=False)),
            lambda unit: unit.conversations.update(replace(conversation, title="changed")),
            lambda unit: unit.conversations.delete(ada.id, conversation.id),
            lambda unit: unit.messages.delete(ada.id, running.message_id),
            lambda unit: unit.turns.begin(new_turn(conversation)),
            lambda unit: unit.turns.request_cancel(ada.id, running.message_id),
        ]
        for write in writes:
            with pytest.raises(Exception):  # noqa: B017, PT011 - each storage has words of its own
                async with storage.new_unit(**how) as unit:
                    await write(unit)
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.users.page() == [ada]
            assert await unit.conversations.get(ada.id, conversation.id) == conversation
            assert await unit.turns.running_in(ada.id, conversation.id) is None
            turn = await unit.turns.get(ada.id, running.message_id)
        assert turn is not None
        assert not turn.cancel_requested

    async def test_nobody_sees_what_is_not_committed(self, storage: Storage) -> None:
        async with storage.new_unit() as writer:
            await writer.users.add(new_user("bob"))
            async with storage.new_unit(read_only=True) as reader:
                assert await reader.users.by_username("bob") is None
            await writer.commit()
        async with storage.new_unit(read_only=True) as reader:
            assert await reader.users.by_username("bob") is not None

    async def test_a_unit_sees_its_own_writes(self, storage: Storage) -> None:
        async with storage.new_unit() as unit:
            user = await unit.users.add(new_user("bob"))
            assert await unit.users.get(user.id) == user
