"""What every `UnitOfWork` must do. Subclass `UnitOfWorkContract` and give it a `storage` fixture."""

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from luxx.application.ports import (
    ConversationPlace,
    IdempotencyKey,
    KeyTaken,
    Lease,
    PasswordTry,
    Storage,
    TooManyTurns,
    UnitOfWork,
)
from luxx.domain.api_key import ApiKey
from luxx.domain.conversation import Conversation
from luxx.domain.errors import Conflict, NotFound
from luxx.domain.message import Message, Problem, Role, Status, TextPart, ThinkingPart, ToolCallPart, Usage
from luxx.domain.turn import Done, Started
from luxx.domain.user import Role as UserRole
from luxx.domain.user import Session, User
from luxx.testing.contracts.storage_samples import (
    begun,
    moment,
    new_conversation,
    new_id,
    new_turn,
    new_user,
    started,
    stored_conversation,
    stored_user,
)

ODD_TEXT = "naïve 🦉 e\u0301 \u202e\ufeff 'quote\" \\ % _ \r\n\t"


async def _ids(storage: Storage, owner: User, **how: object) -> list[str]:
    arguments = {"project_id": None, "limit": 100, **how}
    async with storage.new_unit(read_only=True) as unit:
        found = await unit.conversations.page(owner.id, **arguments)  # type: ignore[arg-type]  # a mix of types
    return [conversation.id for conversation in found.items]


async def _count(unit: UnitOfWork, owner: User, project_id: str | None) -> int:
    return (await unit.conversations.page(owner.id, project_id=project_id, limit=1)).total


async def _size(unit: UnitOfWork, conversation: Conversation) -> int:
    return (await unit.messages.page(conversation.user_id, conversation.id, limit=1)).total


async def _history(storage: Storage, conversation: Conversation) -> list[Message]:
    async with storage.new_unit(read_only=True) as unit:
        return list(await unit.messages.newest(conversation.user_id, conversation.id, limit=1000))


def _session(owner: User, identity: str, *, at: float = 0) -> Session:
    return Session(id=identity, user_id=owner.id, created_at=moment(at), expires_at=moment(3600 + at))


async def _try(
    storage: Storage, *, account: str = "ada", peer: str = "192.0.2.1", at: float = 0, account_limit: int = 3
) -> datetime | None:
    """Begin a try; the limits are 3 at an account and 5 from a peer within 60 seconds, if not said otherwise."""
    async with storage.new_unit() as unit:
        one = PasswordTry(id=new_id("try"), account=account, peer=peer, at=moment(at))
        found = await unit.tries.begin(one, since=moment(at - 60), account_limit=account_limit, peer_limit=5)
        await unit.commit()
    return found


async def _ended(storage: Storage, conversation: Conversation, *, text: str = "Hello?", at: float = 60) -> str:
    turn = new_turn(conversation, text=text, at=moment(at))
    lease = await begun(storage, turn)
    answer = replace(turn.answer, status=Status.COMPLETE)
    await storage.log.end(lease, Done(message=answer), answer)
    return answer.id


class UnitOfWorkContract:
    """The obligations of the port `UnitOfWork` and of the repositories in it."""

    @pytest.fixture
    def storage(self) -> Storage:
        """Give an opened storage with nothing in it; close it after the test."""
        raise NotImplementedError

    # --- transactions -------------------------------------------------------------------------------

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
            assert [await _count(unit, ada, project_id) for project_id in (None, "p")] == [1, 0]

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
            before = await _count(reader, ada, None)
            async with storage.new_unit() as writer:
                await writer.conversations.add(new_conversation(ada))
                await writer.conversations.delete(ada.id, first.id)
                await writer.commit()
            assert await _count(reader, ada, None) == before == 1
            assert await reader.conversations.get(ada.id, first.id) == first

    async def test_a_unit_for_one_read_takes_one_and_no_write(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        async with storage.new_unit(once=True) as unit:
            assert await unit.users.get(ada.id) == ada
            with pytest.raises(RuntimeError):
                await unit.users.get(ada.id)
            with pytest.raises(RuntimeError):
                await unit.commit()

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

    # --- users and sessions -------------------------------------------------------------------------

    async def test_a_user_comes_back_as_stored(self, storage: Storage) -> None:
        async with storage.new_unit() as unit:
            added = await unit.users.add(new_user("Łukasz-李", "Łukasz@EXAMPLE.org"))
            await unit.commit()
        assert (added.username, added.email) == ("Łukasz-李", "Łukasz@EXAMPLE.org")
        assert added.created_at == moment()
        assert added.is_active
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.users.get(added.id) == added
            assert await unit.users.get(added.id + 1) is None

    async def test_users_are_numbered_upwards(self, storage: Storage) -> None:
        numbers = [(await stored_user(storage, name)).id for name in ("ada", "bob", "cyd")]
        assert numbers == sorted(set(numbers))
        assert numbers[0] >= 1

    @pytest.mark.parametrize(
        ("stored", "asked"),
        [("ada", "ADA"), ("STRASSE", "straße"), ("\uff21da", "ada"), ("Σίσυφος", "ΣΊΣΥΦΟΣ"), ("\ufb01sh", "FISH")],
    )
    async def test_names_and_addresses_are_compared_by_their_key(
        self, storage: Storage, stored: str, asked: str
    ) -> None:
        async with storage.new_unit() as unit:
            user = await unit.users.add(new_user(stored, f"{stored}@example.org"))
            await unit.commit()
        async with storage.new_unit() as unit:
            assert await unit.users.by_username(asked) == user
            with pytest.raises(Conflict) as taken:
                await unit.users.add(new_user(asked, "other@example.org"))
            assert taken.value.code == "username_taken"
        async with storage.new_unit() as unit:
            with pytest.raises(Conflict) as taken:
                await unit.users.add(new_user("other", f"{asked}@EXAMPLE.org"))
            assert taken.value.code == "email_taken"

    async def test_of_two_that_register_a_name_at_once_one_succeeds(self, storage: Storage) -> None:
        async def register(number: int) -> bool:
            async with storage.new_unit() as unit:
                try:
                    await unit.users.add(new_user("AdA" if number % 2 else "aDa", f"{number}@example.org"))
                except Conflict:
                    return False
                await unit.commit()
                return True

        assert sum(await asyncio.gather(*map(register, range(10)))) == 1

    async def test_update_changes_hash_role_and_activity_and_nothing_else(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        wanted = replace(ada, password_hash="new", role=UserRole.ADMIN, is_active=False)  # noqa: S106 - a sample
        async with storage.new_unit() as unit:
            await unit.users.update(replace(wanted, username="eve", email="eve@example.org"))
            await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.users.get(ada.id) == wanted
            assert await unit.users.by_username("eve") is None

    async def test_a_session_comes_with_its_user(self, storage: Storage) -> None:
        ada, bob = await stored_user(storage), await stored_user(storage, "bob")
        sessions = [
            Session(id=new_id("sess"), user_id=user.id, created_at=moment(1), expires_at=moment(3600.000001))
            for user in (ada, bob)
        ]
        async with storage.new_unit() as unit:
            for session in sessions:
                await unit.sessions.add(session)
            await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.sessions.with_user(sessions[0].id) == (sessions[0], ada)
            assert await unit.sessions.with_user(sessions[1].id) == (sessions[1], bob)
            assert await unit.sessions.with_user("sess_unknown") is None

    async def test_a_session_is_revoked_once_and_for_good(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        session = Session(id=new_id("sess"), user_id=ada.id, created_at=moment(), expires_at=moment(60))
        async with storage.new_unit() as unit:
            await unit.sessions.add(session)
            await unit.sessions.revoke(session.id, moment(5))
            await unit.sessions.revoke(session.id, moment(9))
            await unit.sessions.revoke("sess_unknown", moment(9))
            await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            found = await unit.sessions.with_user(session.id)
        assert found == (replace(session, revoked_at=moment(5)), ada)

    async def test_of_two_that_hold_a_user_the_second_sees_what_the_first_did(self, storage: Storage) -> None:
        ada = await stored_user(storage)

        async def add_a_letter() -> None:
            async with storage.new_unit() as unit:
                user = await unit.users.hold(ada.id)
                assert user is not None
                await unit.users.update(replace(user, password_hash=user.password_hash + "x"))
                await unit.commit()

        await asyncio.gather(*(add_a_letter() for _ in range(8)))
        async with storage.new_unit(read_only=True) as unit:
            changed = await unit.users.get(ada.id)
        assert changed == replace(ada, password_hash=ada.password_hash + "x" * 8)

    async def test_users_are_listed_by_number_page_by_page(self, storage: Storage) -> None:
        users = [await stored_user(storage, name) for name in ("cleo", "ada", "bob")]
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.users.page() == users
            assert await unit.users.page(limit=2) == users[:2]
            assert await unit.users.page(after=users[1].id) == users[2:]
            assert await unit.users.page(after=users[2].id) == []

    async def test_nobody_that_is_not_there_is_held(self, storage: Storage) -> None:
        async with storage.new_unit() as unit:
            assert await unit.users.hold(1) is None

    async def test_live_sessions_are_listed_newest_first_and_each_owner_sees_their_own(self, storage: Storage) -> None:
        ada, bob = await stored_user(storage), await stored_user(storage, "bob")
        sessions = [_session(owner, f"sess_{n}", at=n) for n, owner in enumerate((ada, ada, bob, ada, ada))]
        async with storage.new_unit() as unit:
            for session in sessions:
                await unit.sessions.add(session)
            await unit.sessions.revoke("sess_3", moment(5))
            await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.sessions.live_of(ada.id, moment(10)) == [sessions[4], sessions[1], sessions[0]]
            assert await unit.sessions.live_of(bob.id, moment(10)) == [sessions[2]]
            assert await unit.sessions.live_of(ada.id, sessions[1].expires_at) == [sessions[4]]

    async def test_a_session_is_ended_by_its_owner_alone_and_once(self, storage: Storage) -> None:
        ada, bob = await stored_user(storage), await stored_user(storage, "bob")
        async with storage.new_unit() as unit:
            for n in range(2):
                await unit.sessions.add(_session(ada, f"sess_{n}"))
            await unit.commit()
        async with storage.new_unit() as unit:
            with pytest.raises(NotFound):
                await unit.sessions.revoke_one_of(bob.id, "sess_0", moment(5))
            await unit.sessions.revoke_one_of(ada.id, "sess_0", moment(5))
            for absent in ("sess_0", "sess_none", ODD_TEXT + "\0\ud800"):
                with pytest.raises(NotFound):
                    await unit.sessions.revoke_one_of(ada.id, absent, moment(6))
            with pytest.raises(NotFound):
                await unit.sessions.revoke_one_of(ada.id, "sess_1", _session(ada, "any").expires_at)
            await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            assert [one.id for one in await unit.sessions.live_of(ada.id, moment(7))] == ["sess_1"]
            found = await unit.sessions.with_user("sess_0")
            assert found is not None
            assert found[0].revoked_at == moment(5)

    async def test_all_sessions_of_one_owner_are_ended_but_the_one_to_keep(self, storage: Storage) -> None:
        ada, bob = await stored_user(storage), await stored_user(storage, "bob")
        async with storage.new_unit() as unit:
            for n, owner in enumerate((ada, ada, ada, bob)):
                await unit.sessions.add(_session(owner, f"sess_{n}"))
            await unit.sessions.revoke("sess_2", moment(1))
            await unit.sessions.revoke_all_of(ada.id, moment(5), but="sess_1")
            await unit.commit()

        async def live(owner: User) -> list[str]:
            async with storage.new_unit(read_only=True) as unit:
                return [one.id for one in await unit.sessions.live_of(owner.id, moment(7))]

        assert (await live(ada), await live(bob)) == (["sess_1"], ["sess_3"])
        async with storage.new_unit() as unit:
            await unit.sessions.revoke_all_of(ada.id, moment(6))
            await unit.commit()
        assert (await live(ada), await live(bob)) == ([], ["sess_3"])
        async with storage.new_unit(read_only=True) as unit:
            found = [await unit.sessions.with_user(f"sess_{n}") for n in range(3)]
        assert [one[0].revoked_at for one in found if one] == [moment(5), moment(6), moment(1)]

    # --- keys ---------------------------------------------------------------------------------------

    async def test_a_key_is_found_with_its_user_by_its_digest_alone(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        key = ApiKey(id="key_1", user_id=ada.id, name=ODD_TEXT, created_at=moment(), expires_at=moment(60))
        async with storage.new_unit() as unit:
            await unit.api_keys.add(key, "digest")
            await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.api_keys.with_user("digest") == (key, ada)
            assert [await unit.api_keys.with_user(other) for other in ("DIGEST", "", "key_1")] == [None] * 3
        async with storage.new_unit() as unit:
            await unit.api_keys.used("key_1", moment(30))
            await unit.api_keys.used("key_none", moment(30))
            await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.api_keys.of(ada.id) == [replace(key, last_used_at=moment(30))]

    async def test_keys_are_listed_and_deleted_by_their_owner_alone(self, storage: Storage) -> None:
        ada, bob = await stored_user(storage), await stored_user(storage, "bob")
        keys = [
            ApiKey(id=f"key_{n}", user_id=owner.id, name="k", created_at=moment(n))
            for n, owner in enumerate((ada, bob, ada))
        ]
        async with storage.new_unit() as unit:
            for key in keys:
                await unit.api_keys.add(key, f"digest of {key.id}")
            await unit.commit()
        async with storage.new_unit() as unit:
            assert await unit.api_keys.of(ada.id) == [keys[2], keys[0]]
            for absent in ("key_1", "key_none", ODD_TEXT + "\0\ud800"):
                with pytest.raises(NotFound):
                    await unit.api_keys.delete(ada.id, absent)
            await unit.api_keys.delete(ada.id, "key_0")
            with pytest.raises(NotFound):
                await unit.api_keys.delete(ada.id, "key_0")
            await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.api_keys.of(ada.id) == [keys[2]]
            assert await unit.api_keys.of(bob.id) == [keys[1]]
            assert await unit.api_keys.with_user("digest of key_0") is None

    # --- tries at passwords -------------------------------------------------------------------------

    async def test_tries_are_taken_up_to_the_limit_of_their_account(self, storage: Storage) -> None:
        assert [await _try(storage, at=at) for at in (0, 1, 2)] == [None] * 3
        assert await _try(storage, at=3, peer="192.0.2.2") == moment(0)
        assert await _try(storage, at=3, account="bob") is None

    async def test_tries_are_taken_up_to_the_limit_of_their_peer(self, storage: Storage) -> None:
        assert [await _try(storage, at=at, account=f"user{at}") for at in range(5)] == [None] * 5
        assert await _try(storage, at=5, account="another") == moment(0)
        assert await _try(storage, at=5, account="another", peer="192.0.2.2") is None

    async def test_a_refused_try_does_not_count(self, storage: Storage) -> None:
        for at in (0, 1, 2):
            await _try(storage, at=at)
        for at in range(10, 20):
            assert await _try(storage, at=at) == moment(0)
        assert await _try(storage, at=60) is None

    async def test_room_is_made_by_one_old_try_after_the_other(self, storage: Storage) -> None:
        for at in (0, 20, 40):
            await _try(storage, at=at)
        assert await _try(storage, at=59) == moment(0)
        assert await _try(storage, at=60) is None
        assert await _try(storage, at=61) == moment(20)

    async def test_of_both_limits_the_one_that_lasts_longer_is_told(self, storage: Storage) -> None:
        for at in (10, 11, 12):
            await _try(storage, at=at, peer="192.0.2.2")
        for at in range(5):
            await _try(storage, at=at, account=f"user{at}")
        assert await _try(storage, at=20) == moment(10)

    async def test_forgetting_an_account_makes_room_for_it_and_for_its_peer_alone(self, storage: Storage) -> None:
        for at in (0, 1, 2):
            await _try(storage, at=at)
        for at in (3, 4):
            await _try(storage, at=at, account="bob")
        async with storage.new_unit() as unit:
            await unit.tries.forget("ada")
            await unit.commit()
        assert [await _try(storage, at=at) for at in (5, 6, 7)] == [None] * 3
        assert await _try(storage, at=8, account="bob") == moment(3)

    async def test_of_tries_at_once_no_more_are_taken_than_the_limit_says(self, storage: Storage) -> None:
        found = await asyncio.gather(*(_try(storage, at=n / 100, peer=f"peer {n % 3}") for n in range(24)))
        assert found.count(None) == 3

    # --- conversations ------------------------------------------------------------------------------

    async def test_a_conversation_comes_back_as_stored(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(
            storage,
            ada,
            project_id="p/1",
            title=ODD_TEXT,
            system_prompt="",
            temperature=0.1,
            max_tokens=2**31 - 1,
            thinking_enabled=True,
            updated_at=moment(0.000001),
        )
        async with storage.new_unit(read_only=True) as unit:
            found = await unit.conversations.get(ada.id, conversation.id)
        assert found == conversation
        assert found.created_at.tzinfo is UTC

    async def test_update_stores_all_fields_but_owner_id_and_creation(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        stored = await stored_conversation(storage, ada, project_id="p")
        wanted = replace(
            stored,
            project_id=None,
            title="new",
            model="other",
            system_prompt="Be brief.",
            temperature=0.5,
            max_tokens=5,
            thinking_enabled=True,
            updated_at=moment(7),
        )
        async with storage.new_unit() as unit:
            await unit.conversations.update(replace(wanted, created_at=moment(99)))
            await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.conversations.get(ada.id, stored.id) == wanted

    async def test_of_two_that_hold_a_conversation_the_second_sees_what_the_first_did(self, storage: Storage) -> None:
        owner = await stored_user(storage)
        stored = await stored_conversation(storage, owner)

        async def change(**changes: Any) -> None:
            async with storage.new_unit() as unit:
                held = await unit.conversations.hold(owner.id, stored.id)
                await unit.conversations.update(replace(held, **changes))
                await unit.commit()

        for number in range(10):
            title, temperature = f"title {number}", number / 10
            await asyncio.gather(change(title=title), change(temperature=temperature))
            async with storage.new_unit(read_only=True) as unit:
                now = await unit.conversations.get(owner.id, stored.id)
            assert (now.title, now.temperature) == (title, temperature)

    async def test_a_change_beside_a_sent_message_keeps_its_activity(self, storage: Storage) -> None:
        owner = await stored_user(storage)
        stored = await stored_conversation(storage, owner)
        turn = new_turn(stored)

        async def change() -> None:
            async with storage.new_unit() as unit:
                held = await unit.conversations.hold(owner.id, stored.id)
                await unit.conversations.update(replace(held, title="changed"))
                await unit.commit()

        await asyncio.gather(change(), begun(storage, turn), change())
        async with storage.new_unit(read_only=True) as unit:
            now = await unit.conversations.get(owner.id, stored.id)
        assert (now.title, now.updated_at) == ("changed", turn.user_message.created_at)

    async def test_a_foreign_conversation_is_absent_to_every_method(self, storage: Storage) -> None:
        ada, bob = await stored_user(storage), await stored_user(storage, "bob")
        conversation = await stored_conversation(storage, ada)
        turn = new_turn(conversation, key=IdempotencyKey(key="k", fingerprint="f"))
        await begun(storage, turn)
        answer = turn.answer.id
        for owner, conversation_id in ((bob.id, conversation.id), (ada.id, "conv_unknown"), (ada.id, "conv_\0")):
            async with storage.new_unit() as unit:
                foreign = replace(conversation, id=conversation_id, user_id=owner)
                for attempt in (
                    unit.conversations.get(owner, conversation_id),
                    unit.conversations.update(foreign),
                    unit.conversations.delete(owner, conversation_id),
                    unit.messages.newest(owner, conversation_id, limit=5),
                    unit.messages.page(owner, conversation_id, limit=5),
                ):
                    with pytest.raises(NotFound) as absent:
                        await attempt
                    assert absent.value.code == "conversation_not_found"
                assert await unit.turns.running_in(owner, conversation_id) is None
                assert await _count(unit, bob, None) == 0
                assert not (await unit.conversations.page(bob.id, project_id=None, limit=5)).items
                await unit.commit()
        for owner, message_id in ((bob.id, answer), (ada.id, "msg_unknown"), (ada.id, "msg_\0")):
            async with storage.new_unit() as unit:
                for reading in (unit.messages.get(owner, message_id), unit.messages.delete(owner, message_id)):
                    with pytest.raises(NotFound) as absent:
                        await reading
                    assert absent.value.code == "message_not_found"
                assert await unit.turns.get(owner, message_id) is None
                assert await unit.turns.recall(bob.id, "k") is None
                await unit.turns.request_cancel(owner, message_id)
                await unit.commit()
        async with storage.new_unit() as unit:
            with pytest.raises(NotFound) as absent:
                await unit.turns.begin(replace(new_turn(conversation), owner=bob.id))
            assert absent.value.code == "conversation_not_found"
        async with storage.new_unit(read_only=True) as unit:
            untouched = await unit.turns.get(ada.id, answer)
            assert untouched is not None
            assert not untouched.cancel_requested
            assert await _size(unit, conversation) == 2

    async def test_the_list_is_by_activity_then_id_newest_first(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        old = await stored_conversation(storage, ada, updated_at=moment(1))
        twins = [await stored_conversation(storage, ada, updated_at=moment(3)) for _ in range(3)]
        close = await stored_conversation(storage, ada, updated_at=moment(3) + timedelta(microseconds=1))
        expected = [close.id, *sorted((twin.id for twin in twins), reverse=True), old.id]
        assert await _ids(storage, ada) == expected
        assert await _ids(storage, ada, limit=2) == expected[:2]
        assert await _ids(storage, ada, limit=2, offset=2) == expected[2:4]
        assert await _ids(storage, ada, offset=len(expected)) == []

    async def test_list_and_count_are_filtered_by_project(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        inside = [await stored_conversation(storage, ada, project_id="p", updated_at=moment(n)) for n in range(3)]
        await stored_conversation(storage, ada, project_id="P")
        await stored_conversation(storage, ada)
        newest_first = [conversation.id for conversation in reversed(inside)]
        assert await _ids(storage, ada, project_id="p") == newest_first
        assert await _ids(storage, ada, project_id="p", limit=1, offset=1) == newest_first[1:2]
        place = ConversationPlace(updated_at=inside[2].updated_at, id=inside[2].id)
        assert await _ids(storage, ada, project_id="p", behind=place) == newest_first[1:]
        async with storage.new_unit(read_only=True) as unit:
            assert await _count(unit, ada, "p") == 3
            assert await _count(unit, ada, "absent") == 0
            assert await _count(unit, ada, None) == 5

    async def test_a_page_is_the_same_from_whichever_end_it_is_counted(self, storage: Storage) -> None:
        ada, bob = await stored_user(storage), await stored_user(storage, "bob")
        async with storage.new_unit() as unit:
            for number in range(450):
                project_id = "p" if number % 10 else None
                await unit.conversations.add(
                    new_conversation(ada, project_id=project_id, updated_at=moment(number * 7 % 100))
                )
                if number % 9 == 0:
                    await unit.conversations.add(new_conversation(bob))
            await unit.commit()
        for project_id in (None, "p"):
            everything = await _ids(storage, ada, project_id=project_id, limit=1000)
            last = len(everything)
            for offset in (
                0,
                1,
                199,
                200,
                201,
                202,
                225,
                226,
                300,
                last - 21,
                last - 20,
                last - 1,
                last,
                last + 1,
                2**31,
            ):
                found = await _ids(storage, ada, project_id=project_id, limit=20, offset=offset)
                assert found == everything[offset : offset + 20], offset

    async def test_totals_are_right_whatever_is_added_moved_and_deleted_at_once(self, storage: Storage) -> None:
        """Counted by walking through the pages; what is refused, undone or done twice changes no total."""
        ada, bob = await stored_user(storage), await stored_user(storage, "bob")
        dice = random.Random(11)  # noqa: S311 - no secret
        projects = (None, "p", "q")
        stored = [
            await stored_conversation(storage, dice.choice((ada, bob)), project_id=dice.choice(projects))
            for _ in range(12)
        ]

        async def disturb() -> None:
            owner, one = dice.choice((ada, bob)), dice.choice(stored)
            with suppress(NotFound, Conflict):
                async with storage.new_unit() as unit:
                    match dice.randrange(4):
                        case 0:
                            await unit.conversations.add(new_conversation(owner, project_id=dice.choice(projects)))
                        case 1:
                            await unit.conversations.update(
                                replace(one, user_id=owner.id, project_id=dice.choice(projects))
                            )
                        case 2:
                            await unit.conversations.delete(owner.id, one.id)
                        case _:
                            await unit.turns.begin(replace(new_turn(one), owner=owner.id))
                            return
                    if dice.random() < 0.8:
                        await unit.commit()

        await asyncio.gather(*(disturb() for _ in range(120)))
        for owner in (ada, bob):
            for project_id in projects:
                walked = await _ids(storage, owner, project_id=project_id, limit=1000)
                async with storage.new_unit(read_only=True) as unit:
                    assert await _count(unit, owner, project_id) == len(walked)

    async def test_the_total_of_messages_is_right_whatever_is_sent_and_deleted_at_once(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        sent = [await _ended(storage, conversation) for _ in range(6)]
        dice = random.Random(12)  # noqa: S311 - no secret

        async def delete(message_id: str) -> None:
            with suppress(NotFound):
                async with storage.new_unit() as unit:
                    await unit.messages.delete(ada.id, message_id)
                    if dice.random() < 0.8:
                        await unit.commit()

        async def send() -> None:
            with suppress(Conflict):
                sent.append(await _ended(storage, conversation))

        history = [message.id for message in await _history(storage, conversation)]
        await asyncio.gather(*(delete(dice.choice(history)) for _ in range(30)), *(send() for _ in range(10)))
        left = len(await _history(storage, conversation))
        assert 0 < left < 32
        async with storage.new_unit(read_only=True) as unit:
            assert await _size(unit, conversation) == left

    async def test_reading_on_from_a_place_neither_skips_nor_repeats_what_stands_still(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        stored = [await stored_conversation(storage, ada, updated_at=moment(n // 3)) for n in range(20)]
        movers = {stored[2].id, stored[11].id}
        seen: list[str] = []
        place: ConversationPlace | None = None
        while True:
            async with storage.new_unit(read_only=True) as unit:
                page = (await unit.conversations.page(ada.id, project_id=None, limit=3, behind=place)).items
            if not page:
                break
            seen += [conversation.id for conversation in page]
            place = ConversationPlace(updated_at=page[-1].updated_at, id=page[-1].id)
            if movers:
                async with storage.new_unit() as unit:
                    moved = await unit.conversations.get(ada.id, movers.pop())
                    await unit.conversations.update(replace(moved, updated_at=moment(1000 + len(seen))))
                    await unit.commit()
        still = [conversation.id for conversation in stored if conversation.id not in {stored[2].id, stored[11].id}]
        assert len(seen) == len(set(seen))
        assert set(still) <= set(seen)

    async def test_deleting_a_conversation_deletes_all_that_is_in_it(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        doomed, kept = await stored_conversation(storage, ada), await stored_conversation(storage, ada)
        turn = new_turn(doomed, key=IdempotencyKey(key="k", fingerprint="f"))
        await begun(storage, turn)
        other = await _ended(storage, kept)
        async with storage.new_unit() as unit:
            await unit.conversations.delete(ada.id, doomed.id)
            await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            for message in (turn.user_message, turn.answer):
                with pytest.raises(NotFound):
                    await unit.messages.get(ada.id, message.id)
            assert await unit.turns.get(ada.id, turn.answer.id) is None
            assert await unit.turns.recall(ada.id, "k") is not None
            assert (await unit.messages.get(ada.id, other)).id == other
        assert await storage.log.read(turn.answer.id) == []
        assert await storage.log.read(other) != []

    # --- messages -----------------------------------------------------------------------------------

    async def test_messages_come_back_as_stored(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        turn = new_turn(conversation, text=ODD_TEXT)
        lease = await begun(storage, turn)
        assert await _history(storage, conversation) == [turn.user_message, turn.answer]
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
                TextPart(text=ODD_TEXT),
            ),
            status=Status.FAILED,
            usage=Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3),
            error=Problem(code="model_unavailable", message="断线"),
        )
        await storage.log.end(lease, Done(message=answer), answer)
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.messages.get(ada.id, answer.id) == answer
            assert await unit.messages.get(ada.id, turn.user_message.id) == turn.user_message

    async def test_history_is_in_the_order_of_acceptance_whatever_the_times_say(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        for number, at in enumerate((300, 100, 200, 200)):
            await _ended(storage, conversation, text=str(number), at=at)
        history = await _history(storage, conversation)
        assert [message.role for message in history] == [Role.USER, Role.ASSISTANT] * 4
        assert [message.content for message in history[::2]] == ["0", "1", "2", "3"]
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.messages.newest(ada.id, conversation.id, limit=3) == history[-3:]
            before = history[5].id
            assert await unit.messages.newest(ada.id, conversation.id, limit=2, before=before) == history[3:5]
            assert await unit.messages.newest(ada.id, conversation.id, limit=9, before=before) == history[:5]
            assert await unit.messages.newest(ada.id, conversation.id, limit=9, before=history[0].id) == []
            assert await _size(unit, conversation) == 8

    async def test_before_must_be_a_message_of_the_conversation(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        here, there = await stored_conversation(storage, ada), await stored_conversation(storage, ada)
        await _ended(storage, here)
        elsewhere = await _ended(storage, there)
        async with storage.new_unit(read_only=True) as unit:
            for before in (elsewhere, "msg_unknown"):
                with pytest.raises(NotFound) as absent:
                    await unit.messages.newest(ada.id, here.id, limit=5, before=before)
                assert absent.value.code == "message_not_found"

    async def test_deleting_a_message_deletes_that_one_and_its_turn_but_not_its_key(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        first = await _ended(storage, conversation)
        turn = new_turn(conversation, key=IdempotencyKey(key="k", fingerprint="f"))
        await begun(storage, turn)
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
            assert await _size(unit, conversation) == 3
        assert await storage.log.read(turn.answer.id) == []

    async def test_deleting_the_users_message_leaves_the_answer(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        answer = await _ended(storage, conversation)
        question = (await _history(storage, conversation))[0]
        async with storage.new_unit() as unit:
            await unit.messages.delete(ada.id, question.id)
            await unit.commit()
        assert [message.id for message in await _history(storage, conversation)] == [answer]
        last = await _ended(storage, conversation)
        assert [message.id for message in await _history(storage, conversation)][::2] == [answer, last]

    # --- turns --------------------------------------------------------------------------------------

    async def test_begin_stores_messages_turn_event_and_key_and_touches_the_conversation(
        self, storage: Storage
    ) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        turn = new_turn(conversation, key=IdempotencyKey(key="k", fingerprint="f"), at=moment(500))
        lease = await begun(storage, turn)
        assert (lease.message_id, lease.conversation_id) == (turn.answer.id, conversation.id)
        assert (lease.owner, lease.holder) == (ada.id, turn.holder)
        assert await _history(storage, conversation) == [turn.user_message, turn.answer]
        async with storage.new_unit(read_only=True) as unit:
            touched = await unit.conversations.get(ada.id, conversation.id)
            assert touched == replace(conversation, updated_at=moment(500))
            running = await unit.turns.running_in(ada.id, conversation.id)
            assert running == await unit.turns.get(ada.id, turn.answer.id)
            assert running is not None
            assert (running.message_id, running.user_message_id) == (turn.answer.id, turn.user_message.id)
            assert running.running
            assert not running.cancel_requested
            remembered = await unit.turns.recall(ada.id, "k")
            assert remembered is not None
            assert (remembered.fingerprint, remembered.message_id) == ("f", turn.answer.id)
            assert remembered.created_at == moment(500)
            assert await unit.turns.recall(ada.id, "K") is None
            assert await unit.turns.get(ada.id, turn.user_message.id) is None
        logged = await storage.log.read(turn.answer.id)
        assert [(one.seq, one.event) for one in logged] == [
            (1, Started(user_message=turn.user_message, message_id=turn.answer.id))
        ]

    async def test_a_turn_begins_with_the_conversation_and_history_that_reading_gives(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        tools, prompt = ("calculate", "天气"), ODD_TEXT * 100
        conversation = await stored_conversation(storage, ada, system_prompt=prompt, tools=tools, project_id="p")
        other = await stored_conversation(storage, ada)
        for number, limit in enumerate((1000, 0, 1, 2, 3, 4, 5, 6, 7, 1000)):
            turn = replace(
                new_turn(conversation, text=f"{number} {ODD_TEXT}", at=moment(500 - number), history=limit),
                key=IdempotencyKey(key=f"{number}", fingerprint="f") if number % 2 else None,
                at_most=9 if number % 3 else 0,
            )
            begun = await started(storage, turn)
            async with storage.new_unit(read_only=True) as unit:
                read = await unit.messages.newest(ada.id, conversation.id, limit=limit, before=turn.answer.id)
                assert begun.conversation == await unit.conversations.get(ada.id, conversation.id)
            assert list(begun.history) == read
            assert (begun.answer, begun.lease) == (turn.answer, turn.lease())
            if limit:
                assert begun.history[-1] == turn.user_message
            answer = replace(
                turn.answer,
                parts=(
                    ThinkingPart(text="hm"),
                    ToolCallPart(id="1", name="a", arguments={"n": 9**99}, result=[ODD_TEXT], success=True),
                    TextPart(text=f"{number}"),
                ),
                status=Status.FAILED if number % 2 else Status.COMPLETE,
                usage=Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3) if number % 3 else None,
                error=Problem(code="model_unavailable", message="断线") if number % 2 else None,
            )
            await storage.log.end(begun.lease, Done(message=answer), answer)
            await _ended(storage, other)
            if number == 3:
                async with storage.new_unit() as unit:
                    await unit.messages.delete(ada.id, turn.user_message.id)
                    await unit.commit()

    async def test_a_second_turn_waits_for_the_first_to_end(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation, other = await stored_conversation(storage, ada), await stored_conversation(storage, ada)
        turn = new_turn(conversation)
        lease = await begun(storage, turn)
        with pytest.raises(Conflict) as busy:
            await begun(storage, new_turn(conversation))
        assert busy.value.code == "generation_in_progress"
        await begun(storage, new_turn(other))
        answer = replace(turn.answer, status=Status.COMPLETE)
        await storage.log.end(lease, Done(message=answer), answer)
        await begun(storage, new_turn(conversation))
        async with storage.new_unit(read_only=True) as unit:
            ended = await unit.turns.get(ada.id, turn.answer.id)
            assert ended is not None
            assert not ended.running
            assert await _size(unit, conversation) == 4

    async def test_of_fifty_that_begin_at_once_in_one_conversation_one_does(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        outcomes = await asyncio.gather(
            *(begun(storage, new_turn(conversation)) for _ in range(50)), return_exceptions=True
        )
        leases = [outcome for outcome in outcomes if isinstance(outcome, Lease)]
        refusals = [outcome.code for outcome in outcomes if isinstance(outcome, Conflict)]
        assert len(leases) == 1
        assert refusals == ["generation_in_progress"] * 49
        assert [message.id for message in await _history(storage, conversation)][1:] == [leases[0].message_id]

    async def test_of_fifty_that_begin_at_once_with_one_key_one_does(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversations = [await stored_conversation(storage, ada) for _ in range(5)]
        key = IdempotencyKey(key="the key", fingerprint="f")
        outcomes = await asyncio.gather(
            *(begun(storage, new_turn(conversations[n % 5], key=key)) for n in range(50)), return_exceptions=True
        )
        leases = [outcome for outcome in outcomes if isinstance(outcome, Lease)]
        assert len(leases) == 1
        assert sum(isinstance(outcome, KeyTaken) for outcome in outcomes) == 49
        async with storage.new_unit(read_only=True) as unit:
            remembered = await unit.turns.recall(ada.id, "the key")
            counts = [await _size(unit, conversation) for conversation in conversations]
        assert remembered is not None
        assert remembered.message_id == leases[0].message_id
        assert sorted(counts) == [0, 0, 0, 0, 2]

    async def test_a_repeat_while_the_first_runs_is_known_by_its_key(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        key = IdempotencyKey(key="k", fingerprint="f")
        await begun(storage, new_turn(conversation, key=key))
        with pytest.raises(KeyTaken):
            await begun(storage, new_turn(conversation, key=key))

    async def test_a_unit_ends_with_the_turn_that_it_begins(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        async with storage.new_unit() as unit:
            await unit.users.add(new_user("bob"))
            lease = (await unit.turns.begin(new_turn(conversation))).lease
            with pytest.raises(RuntimeError):
                await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.users.by_username("bob") is not None
            assert await unit.turns.get(ada.id, lease.message_id) is not None

    async def test_a_unit_in_which_a_turn_was_refused_is_undone(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        busy, idle = await stored_conversation(storage, ada), await stored_conversation(storage, ada)
        key = IdempotencyKey(key="k", fingerprint="f")
        await begun(storage, new_turn(busy, key=key))
        foreign, one_more = replace(new_turn(idle), owner=ada.id + 1), replace(new_turn(idle), at_most=1)
        for refused in (new_turn(busy), new_turn(idle, key=key), foreign, one_more):
            for begins_with_it in (True, False):
                async with storage.new_unit() as unit:
                    if not begins_with_it:
                        await unit.users.add(new_user("bob"))
                    with pytest.raises((Conflict, KeyTaken, NotFound, TooManyTurns)):
                        await unit.turns.begin(refused)
                    with pytest.raises(RuntimeError):
                        await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.users.by_username("bob") is None
            assert await unit.conversations.get(ada.id, idle.id) == idle
            assert await _size(unit, busy) == 2

    async def test_two_owners_may_use_one_key(self, storage: Storage) -> None:
        key = IdempotencyKey(key="k", fingerprint="f")
        for name in ("ada", "bob"):
            conversation = await stored_conversation(storage, await stored_user(storage, name))
            await begun(storage, new_turn(conversation, key=key))

    async def test_of_turns_begun_at_once_no_more_run_than_their_owner_may_have(self, storage: Storage) -> None:
        ada, bob = await stored_user(storage), await stored_user(storage, "bob")
        await _ended(storage, await stored_conversation(storage, ada))
        await begun(storage, new_turn(await stored_conversation(storage, bob)))
        turns = [replace(new_turn(await stored_conversation(storage, ada)), at_most=3) for _ in range(10)]
        outcomes = await asyncio.gather(*(begun(storage, turn) for turn in turns), return_exceptions=True)
        assert sum(isinstance(outcome, Lease) for outcome in outcomes) == 3
        assert sum(isinstance(outcome, TooManyTurns) for outcome in outcomes) == 7

    async def test_a_repeat_is_known_by_its_key_also_where_no_more_turns_may_run(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        turn = replace(new_turn(conversation, key=IdempotencyKey(key="k", fingerprint="f")), at_most=1)
        await begun(storage, turn)
        for again in (conversation, await stored_conversation(storage, ada)):
            with pytest.raises(KeyTaken):
                await begun(storage, replace(new_turn(again, key=turn.key), at_most=1))

    async def test_concurrent_turns_leave_messages_in_pairs_and_are_told_whole_ones(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)

        async def send(number: int) -> None:
            while True:
                turn = new_turn(conversation, text=str(number))
                try:
                    begun = await started(storage, turn)
                except Conflict:
                    await asyncio.sleep(0.001)
                    continue
                *earlier, question = begun.history
                assert question == turn.user_message
                assert [message.status for message in earlier] == [Status.COMPLETE] * len(earlier)
                assert [message.content for message in earlier[::2]] == [message.content for message in earlier[1::2]]
                answer = replace(turn.answer, parts=(TextPart(text=str(number)),), status=Status.COMPLETE)
                await storage.log.end(begun.lease, Done(message=answer), answer)
                return

        await asyncio.gather(*map(send, range(8)))
        history = await _history(storage, conversation)
        assert [message.role for message in history] == [Role.USER, Role.ASSISTANT] * 8
        assert [message.content for message in history[::2]] == [message.content for message in history[1::2]]
        assert {message.content for message in history} == set(map(str, range(8)))

    async def test_a_cancel_is_marked_on_a_running_turn_only(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        ended = await _ended(storage, conversation)
        turn = new_turn(conversation)
        await begun(storage, turn)
        async with storage.new_unit() as unit:
            for message_id in (ended, turn.answer.id):
                await unit.turns.request_cancel(ada.id, message_id)
            await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            found = [await unit.turns.get(ada.id, message_id) for message_id in (ended, turn.answer.id)]
        assert [one is not None and one.cancel_requested for one in found] == [False, True]
