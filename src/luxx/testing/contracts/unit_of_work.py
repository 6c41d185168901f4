"""What every `UnitOfWork` must do. Subclass `UnitOfWorkContract` and give it a `storage` fixture."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC

import pytest

from luxx.application.ports import IdempotencyKey, PasswordTry, Storage, UnitOfWork
from luxx.domain.api_key import ApiKey
from luxx.domain.turn import Started
from luxx.domain.user import Session
from luxx.testing.contracts.accounts import AccountsContract
from luxx.testing.contracts.conversations import ConversationsContract
from luxx.testing.contracts.messages import MessagesContract
from luxx.testing.contracts.storage_samples import (
    begin,
    count_of,
    leased,
    moment,
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

    async def test_a_unit_is_over_with_its_commit(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        async with storage.new_unit() as unit:
            await unit.users.add(new_user("bob"))
            await unit.commit()
            with pytest.raises(RuntimeError):
                await unit.users.get(ada.id)
            with pytest.raises(RuntimeError):
                await unit.users.add(new_user("cyd"))
            with pytest.raises(RuntimeError):
                await unit.commit()
        async with storage.new_unit() as left:
            await left.users.add(new_user("cyd"))
        unopened = storage.new_unit(), storage.new_unit(read_only=True), storage.new_unit(once=True)
        for closed in (unit, left, *unopened):
            with pytest.raises(RuntimeError):
                await closed.users.get(ada.id)
            with pytest.raises(RuntimeError):
                await closed.commit()
        async with storage.new_unit(read_only=True) as reader:
            assert [user.username for user in await reader.users.page()] == ["ada", "bob"]

    async def test_what_is_kept_of_a_unit_is_over_with_it(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        async with storage.new_unit() as unit:
            committed = unit.users
            await unit.commit()
        async with storage.new_unit() as left_alone:
            abandoned = left_alone.users
        async with storage.new_unit(read_only=True) as reading:
            read = reading.users
        async with storage.new_unit(once=True) as once:
            read_once = once.users
        for kept in (committed, abandoned, read, read_once):
            with pytest.raises(RuntimeError):
                await kept.get(ada.id)
        for kept in (committed, abandoned):
            with pytest.raises(RuntimeError):
                await kept.add(new_user("bob"))
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.users.page() == [ada]

    async def test_times_come_back_in_utc(self, storage: Storage) -> None:
        """An aware time of another zone is equal, and told to clients in another way."""
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        session = Session(id="sess_1", user_id=ada.id, created_at=moment(), expires_at=moment(60))
        key = ApiKey(id="key_1", user_id=ada.id, name="k", created_at=moment(), expires_at=moment(60))
        guess = PasswordTry(id="try_1", account="ada", peer="p", at=moment(5))
        async with storage.new_unit() as unit:
            await unit.sessions.add(session)
            await unit.sessions.revoke(session.id, moment(1))
            await unit.api_keys.add(key, "digest")
            await unit.api_keys.used(key.id, moment(1))
            await unit.tries.begin(guess, since=moment(), account_limit=1, peer_limit=1)
            await unit.commit()
        turn = new_turn(conversation, key=IdempotencyKey(key="k", fingerprint="f"))
        start = await begin(storage, turn)
        await stored_conversation(storage, ada, updated_at=moment(99))
        async with storage.new_unit() as unit:
            times = [await unit.tries.begin(replace(guess, id="try_2"), since=moment(), account_limit=1, peer_limit=1)]
        async with storage.new_unit(read_only=True) as unit:
            read_session, read_key = await unit.sessions.with_user(session.id), await unit.api_keys.with_user("digest")
            page = await unit.conversations.page(ada.id, project_id=None, limit=1)
            remembered = await unit.turns.recall(ada.id, "k")
            assert read_session is not None
            assert read_key is not None
            assert remembered is not None
            assert page.rest is not None
            read = [
                *read_session,
                *read_key,
                *await unit.api_keys.of(ada.id),
                *await unit.users.page(),
                await unit.users.get(ada.id),
                await unit.users.by_username("ada"),
                await unit.conversations.get(ada.id, conversation.id),
                await unit.messages.get(ada.id, turn.answer.id),
                *await unit.messages.newest(ada.id, conversation.id, limit=9),
                *page.items,
                page.rest,
                remembered,
                start.conversation,
                *start.history,
            ]
        for logged in await storage.log.read(turn.answer.id, afresh=True):
            assert isinstance(logged.event, Started)
            read.append(logged.event.user_message)
        names = ("created_at", "updated_at", "expires_at", "revoked_at", "last_used_at", "began")
        times += [getattr(one, name) for one in read for name in names if getattr(one, name, None) is not None]
        assert {at and at.tzinfo for at in times} == {UTC}

    async def test_a_read_only_unit_sees_one_state_while_others_write(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        first = await stored_conversation(storage, ada)
        second = await stored_conversation(storage, ada)
        async with storage.new_unit(read_only=True) as reader:
            before = await count_of(reader, ada, None)
            async with storage.new_unit() as writer:
                await writer.conversations.add(new_conversation(ada))
                await writer.conversations.delete(ada.id, first.id)
                await writer.commit()
            turn = await leased(storage, new_turn(second))
            assert await count_of(reader, ada, None) == before == 2
            assert await reader.conversations.get(ada.id, first.id) == first
            assert await reader.turns.get(ada.id, turn.message_id) is None
            assert await reader.turns.running_in(ada.id, second.id) is None
            assert await reader.messages.newest(ada.id, second.id, limit=5) == []

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
        running = await leased(storage, new_turn(await stored_conversation(storage, ada)))
        session = Session(id="sess_1", user_id=ada.id, created_at=moment(), expires_at=moment(60))
        key = ApiKey(id="key_1", user_id=ada.id, name="k", created_at=moment())
        first, one_more = (PasswordTry(id=id_, account="ada", peer="p", at=moment(5)) for id_ in ("try_1", "try_2"))
        async with storage.new_unit() as unit:
            await unit.sessions.add(session)
            await unit.api_keys.add(key, "digest")
            await unit.tries.begin(first, since=moment(), account_limit=9, peer_limit=9)
            await unit.commit()
        writes: list[Callable[[UnitOfWork], Awaitable[object]]] = [
            lambda unit: unit.users.add(new_user("bob")),
            lambda unit: unit.users.update(replace(ada, is_active=False)),
            lambda unit: unit.sessions.add(replace(session, id="sess_2")),
            lambda unit: unit.sessions.revoke(session.id, moment(1)),
            lambda unit: unit.sessions.revoke_one_of(ada.id, session.id, moment(1)),
            lambda unit: unit.sessions.revoke_all_of(ada.id, moment(1)),
            lambda unit: unit.api_keys.add(replace(key, id="key_2"), "another digest"),
            lambda unit: unit.api_keys.used(key.id, moment(1)),
            lambda unit: unit.api_keys.delete(ada.id, key.id),
            lambda unit: unit.tries.begin(one_more, since=moment(), account_limit=9, peer_limit=9),
            lambda unit: unit.tries.forget("ada"),
            lambda unit: unit.conversations.add(new_conversation(ada)),
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
            assert await unit.sessions.live_of(ada.id, moment(2)) == [session]
            assert await unit.api_keys.of(ada.id) == [key]
            assert await count_of(unit, ada, None) == 2
            assert await unit.conversations.get(ada.id, conversation.id) == conversation
            assert await unit.turns.running_in(ada.id, conversation.id) is None
            turn = await unit.turns.get(ada.id, running.message_id)
        assert turn is not None
        assert not turn.cancel_requested
        async with storage.new_unit() as unit:  # the one that there is fills it, and no other
            assert await unit.tries.begin(one_more, since=moment(), account_limit=1, peer_limit=9) == moment(5)
            assert await unit.tries.begin(one_more, since=moment(), account_limit=2, peer_limit=2) is None

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
