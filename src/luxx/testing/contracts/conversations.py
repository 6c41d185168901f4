"""What the conversations of every `UnitOfWork` must do; a part of `UnitOfWorkContract`."""

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Any

import pytest

from luxx.application.ports import ConversationPlace, IdempotencyKey, Storage
from luxx.domain.errors import Conflict, NotFound
from luxx.domain.user import User
from luxx.testing.contracts.storage_samples import (
    ODD_TEXT,
    begun,
    count_of,
    ended_turn,
    history_of,
    moment,
    new_conversation,
    new_turn,
    size_of,
    stored_conversation,
    stored_user,
)


async def _ids(storage: Storage, owner: User, **how: object) -> list[str]:
    arguments = {"project_id": None, "limit": 100, **how}
    async with storage.new_unit(read_only=True) as unit:
        found = await unit.conversations.page(owner.id, **arguments)  # type: ignore[arg-type]  # a mix of types
    return [conversation.id for conversation in found.items]


class ConversationsContract:
    """The obligations of `Conversations`."""

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
                assert await count_of(unit, bob, None) == 0
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
        async with storage.new_unit() as unit:
            with pytest.raises(NotFound) as absent:
                await unit.turns.begin(replace(new_turn(conversation), owner=bob.id))
            assert absent.value.code == "conversation_not_found"
        async with storage.new_unit(read_only=True) as unit:
            untouched = await unit.turns.get(ada.id, answer)
            assert untouched is not None
            assert not untouched.cancel_requested
            assert await size_of(unit, conversation) == 2

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
            assert await count_of(unit, ada, "p") == 3
            assert await count_of(unit, ada, "absent") == 0
            assert await count_of(unit, ada, None) == 5

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
                    assert await count_of(unit, owner, project_id) == len(walked)

    async def test_the_total_of_messages_is_right_whatever_is_sent_and_deleted_at_once(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        sent = [await ended_turn(storage, conversation) for _ in range(6)]
        dice = random.Random(12)  # noqa: S311 - no secret

        async def delete(message_id: str) -> None:
            with suppress(NotFound):
                async with storage.new_unit() as unit:
                    await unit.messages.delete(ada.id, message_id)
                    if dice.random() < 0.8:
                        await unit.commit()

        async def send() -> None:
            with suppress(Conflict):
                sent.append(await ended_turn(storage, conversation))

        history = [message.id for message in await history_of(storage, conversation)]
        await asyncio.gather(*(delete(dice.choice(history)) for _ in range(30)), *(send() for _ in range(10)))
        left = len(await history_of(storage, conversation))
        assert 0 < left < 32
        async with storage.new_unit(read_only=True) as unit:
            assert await size_of(unit, conversation) == left

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
        other = await ended_turn(storage, kept)
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
