"""What the conversations of every `UnitOfWork` must do; a part of `UnitOfWorkContract`."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Any

import pytest

from luxx.application.ports import ConversationPlace, FoundConversations, IdempotencyKey, LeaseLost, Storage
from luxx.domain.conversation import Conversation
from luxx.domain.errors import Conflict, NotFound
from luxx.domain.turn import Done
from luxx.domain.user import User
from luxx.testing.contracts.storage_samples import (
    ODD_TEXT,
    count_of,
    ended_turn,
    history_of,
    leased,
    moment,
    new_conversation,
    new_turn,
    size_of,
    stored_conversation,
    stored_user,
)


async def _page(storage: Storage, owner: User, **how: object) -> FoundConversations:
    arguments = {"project_id": None, "limit": 100, **how}
    async with storage.new_unit(read_only=True) as unit:
        return await unit.conversations.page(owner.id, **arguments)  # type: ignore[arg-type]  # a mix of types


async def _ids(storage: Storage, owner: User, **how: object) -> list[str]:
    return [conversation.id for conversation in (await _page(storage, owner, **how)).items]


async def _walk(
    storage: Storage, owner: User, *, meanwhile: Callable[[], Awaitable[object]], offset: int = 0, **how: object
) -> list[str]:
    """Read from `offset` to the end, page by page; `meanwhile` is done once, after the first page."""
    page = await _page(storage, owner, offset=offset, **how)
    seen = [conversation.id for conversation in page.items]
    await meanwhile()
    while page.rest is not None:
        page = await _page(storage, owner, behind=page.rest, **how)
        assert page.items
        seen += [conversation.id for conversation in page.items]
        assert len(seen) == len(set(seen))
    return seen


async def _nothing() -> None:
    """Let nothing move."""


async def _forget_newest_turn(storage: Storage, conversation: Conversation) -> None:
    for message in (await history_of(storage, conversation))[-2:]:
        async with storage.new_unit() as unit:
            await unit.messages.delete(conversation.user_id, message.id)
            await unit.commit()


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

    async def test_a_choice_of_no_tools_is_none_of_all_tools(self, storage: Storage) -> None:
        """What is stored as nothing would come back as leave to call them all."""
        ada = await stored_user(storage)
        choices: tuple[tuple[str, ...] | None, ...] = (None, (), ("calculate",), ("b", "a", "天气"))
        stored = [await stored_conversation(storage, ada, tools=tools) for tools in choices]
        async with storage.new_unit() as unit:
            for one, tools in zip(stored, reversed(choices), strict=True):
                assert await unit.conversations.get(ada.id, one.id) == one
                await unit.conversations.update(replace(one, tools=tools))
            await unit.commit()
        for one, tools in zip(stored, reversed(choices), strict=True):
            async with storage.new_unit() as unit:
                assert (await unit.conversations.get(ada.id, one.id)).tools == tools
                assert (await unit.turns.begin(new_turn(one))).conversation.tools == tools

    async def test_a_conversation_of_nobody_is_refused_and_the_unit_goes_on(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        nobody = replace(ada, id=ada.id + 1)
        ours, theirs = new_conversation(ada), new_conversation(nobody)
        async with storage.new_unit() as unit:
            with pytest.raises(NotFound, match="There is no user"):
                await unit.conversations.add(theirs)
            await unit.conversations.add(ours)
            await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.conversations.get(ada.id, ours.id) == ours
            assert await count_of(unit, nobody, None) == 0
            with pytest.raises(NotFound):
                await unit.conversations.get(nobody.id, theirs.id)

    async def test_an_id_that_is_taken_is_refused(self, storage: Storage) -> None:
        """Whoever makes ids that repeat is to hear of it, and not to lose what is stored."""
        ada = await stored_user(storage)
        stored, other = [await stored_conversation(storage, ada) for _ in range(2)]
        await ended_turn(storage, stored)
        history, turn = await history_of(storage, stored), new_turn(other)
        question, answer = (replace(message, conversation_id=other.id) for message in history)
        async with storage.new_unit() as unit:
            with pytest.raises(Exception):  # noqa: B017, PT011 - each storage has words of its own
                await unit.conversations.add(replace(stored, title="another"))
        for repeated in (replace(turn, user_message=question), replace(turn, answer=answer)):
            async with storage.new_unit() as unit:
                with pytest.raises(Exception):  # noqa: B017, PT011 - as above
                    await unit.turns.begin(repeated)
        assert await history_of(storage, stored) == history
        assert await history_of(storage, other) == []
        async with storage.new_unit(read_only=True) as unit:
            assert (await unit.conversations.get(ada.id, stored.id)).title == stored.title
            assert await unit.turns.running_in(ada.id, other.id) is None

    async def test_a_page_of_none_tells_the_total(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        for _ in range(2):
            await stored_conversation(storage, ada)
        first = await _page(storage, ada, limit=1)
        for how in ({}, {"offset": 1}, {"behind": first.rest}):
            assert await _page(storage, ada, limit=0, **how) == FoundConversations([], 2, None)

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
                await asyncio.sleep(0)
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

        await asyncio.gather(change(), leased(storage, turn), change())
        async with storage.new_unit(read_only=True) as unit:
            now = await unit.conversations.get(owner.id, stored.id)
        assert (now.title, now.updated_at) == ("changed", turn.user_message.created_at)

    async def test_a_foreign_conversation_is_absent_to_every_method(self, storage: Storage) -> None:
        ada, bob = await stored_user(storage), await stored_user(storage, "bob")
        conversation = await stored_conversation(storage, ada)
        turn = new_turn(conversation, key=IdempotencyKey(key="k", fingerprint="f"))
        await leased(storage, turn)
        answer = turn.answer.id
        for owner, conversation_id in ((bob.id, conversation.id), (ada.id, "conv_unknown"), (ada.id, "conv_\0")):
            async with storage.new_unit() as unit:
                foreign = replace(conversation, id=conversation_id, user_id=owner)
                for attempt in (
                    unit.conversations.get(owner, conversation_id),
                    unit.conversations.hold(owner, conversation_id),
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
        assert [(await _page(storage, ada, offset=offset)).total for offset in (0, 2, 9)] == [len(expected)] * 3

    async def test_list_and_count_are_filtered_by_project(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        inside = [await stored_conversation(storage, ada, project_id="p", updated_at=moment(n)) for n in range(3)]
        await stored_conversation(storage, ada, project_id="P")
        await stored_conversation(storage, ada)
        newest_first = [conversation.id for conversation in reversed(inside)]
        assert await _ids(storage, ada, project_id="p") == newest_first
        assert await _ids(storage, ada, project_id="p", limit=1, offset=1) == newest_first[1:2]
        newest = inside[2].updated_at
        place = ConversationPlace(updated_at=newest, id=inside[2].id, began=newest)
        assert await _ids(storage, ada, project_id="p", behind=place) == newest_first[1:]
        async with storage.new_unit(read_only=True) as unit:
            assert await count_of(unit, ada, "p") == 3
            for absent in ("absent", "", "p ", "p\0", "\ud800"):
                assert await count_of(unit, ada, absent) == 0
            assert await count_of(unit, ada, None) == 5
        assert (await _page(storage, ada, project_id="", behind=place)).total == 0

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

    async def test_the_last_page_tells_of_no_rest(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        stored = [await stored_conversation(storage, ada, updated_at=moment(n)) for n in range(4)]
        page = await _page(storage, ada, limit=3)
        assert page.rest == ConversationPlace(updated_at=moment(1), id=stored[1].id, began=moment(3))
        for last in (
            await _page(storage, ada, limit=4),
            await _page(storage, ada, limit=1, offset=3),
            await _page(storage, ada, limit=1, behind=page.rest),
            await _page(storage, ada, limit=3, offset=4),
            await _page(storage, ada, project_id="none", limit=3),
        ):
            assert last.rest is None

    async def test_reading_on_neither_skips_nor_repeats_what_moves_meanwhile(self, storage: Storage) -> None:
        """The walk goes through the list as it stood when it began, and gives what moved as it is now."""
        ada, bob = await stored_user(storage), await stored_user(storage, "bob")
        stored = [
            await stored_conversation(storage, ada, created_at=moment(n // 3), updated_at=moment(n // 3))
            for n in range(18)
        ]
        for number, at in ((1, 20), (7, 21), (7, 22), (12, 23), (13, 23)):
            await ended_turn(storage, stored[number], at=at)
        foreign = await stored_conversation(storage, bob, created_at=moment(2), updated_at=moment(2))
        first = await _ids(storage, ada, limit=3)
        assert first == [stored[13].id, stored[12].id, stored[7].id]

        async def everything_moves() -> None:
            # Those that were read and those that were not, from their creation, from a message; once, twice.
            for number, at in ((7, 30), (13, 31), (0, 32), (1, 33), (1, 34), (4, 35), (17, 36), (4, 37)):
                await ended_turn(storage, stored[number], at=at)
            await leased(storage, new_turn(stored[9], at=moment(38)))
            await ended_turn(storage, foreign, at=39)
            await stored_conversation(storage, ada, created_at=moment(40), updated_at=moment(40))

        expected = await _ids(storage, ada)
        for limit in (1, 3, 17):
            assert await _walk(storage, ada, limit=limit, meanwhile=_nothing) == expected
        assert await _walk(storage, ada, limit=3, meanwhile=everything_moves) == expected
        moved = await _page(storage, ada, limit=1)
        assert moved.rest == ConversationPlace(updated_at=moment(40), id=moved.items[0].id, began=moment(40))

    async def test_what_moved_is_listed_where_it_stood_as_it_is_now(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        stored = [await stored_conversation(storage, ada, created_at=moment(n), updated_at=moment(n)) for n in range(5)]
        first = await _page(storage, ada, limit=2)
        await ended_turn(storage, stored[1], at=60)
        rest = await _page(storage, ada, limit=2, behind=first.rest)
        assert [(one.id, one.updated_at) for one in rest.items] == [
            (stored[2].id, moment(2)),
            (stored[1].id, moment(60)),
        ]
        assert rest.rest == ConversationPlace(updated_at=moment(1), id=stored[1].id, began=moment(4))
        assert rest.total == 5

    async def test_what_was_made_since_does_not_come_although_its_messages_are_dated_before(
        self, storage: Storage
    ) -> None:
        """As those are that were sent by a process whose clock is behind."""
        ada = await stored_user(storage)
        stored = [await stored_conversation(storage, ada, created_at=moment(n), updated_at=moment(n)) for n in range(3)]
        first = await _page(storage, ada, limit=1)
        made_since = await stored_conversation(storage, ada, created_at=moment(50), updated_at=moment(50))
        for at in (1, 40):
            await ended_turn(storage, made_since, at=at)
        assert await _ids(storage, ada, behind=first.rest) == [stored[1].id, stored[0].id]

    async def test_a_place_of_another_user_or_project_is_a_place_like_any(self, storage: Storage) -> None:
        ada, bob = await stored_user(storage), await stored_user(storage, "bob")
        stored = [
            await stored_conversation(storage, owner, project_id=project_id, created_at=moment(n), updated_at=moment(n))
            for n, (owner, project_id) in enumerate([(ada, "p"), (bob, "p"), (ada, "q"), (bob, "q"), (ada, "p")] * 2)
        ]
        place = (await _page(storage, bob, limit=1)).rest
        for number in (0, 1, 2):
            await ended_turn(storage, stored[number], at=60 + number)
        assert await _ids(storage, ada, behind=place) == [stored[number].id for number in (7, 5, 4, 2, 0)]
        assert await _ids(storage, ada, project_id="p", behind=place) == [stored[number].id for number in (5, 4, 0)]

    async def test_from_any_page_one_reads_on_without_skips_or_repeats(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        async with storage.new_unit() as unit:
            for number in range(450):
                at = moment(number * 7 % 100)
                project_id = "p" if number % 10 else None
                conversation = new_conversation(ada, project_id=project_id, created_at=at, updated_at=at)
                await unit.conversations.add(conversation)
            await unit.commit()
        now = 200
        for project_id, offset in (("p", 1), (None, 50), ("p", 210), (None, 230), (None, 440)):
            expected = await _ids(storage, ada, project_id=project_id, limit=1000)
            movers = [expected[0], expected[offset], expected[-1], expected[(offset + len(expected)) // 2]]

            async def some_move(movers: list[str] = movers) -> None:
                nonlocal now
                for mover in movers:
                    now += 1
                    async with storage.new_unit(read_only=True) as unit:
                        conversation = await unit.conversations.get(ada.id, mover)
                    await ended_turn(storage, conversation, at=now)

            seen = await _walk(storage, ada, project_id=project_id, limit=60, offset=offset, meanwhile=some_move)
            assert seen == expected[offset:], (project_id, offset)

    async def test_reading_on_skips_nothing_that_lost_messages(self, storage: Storage) -> None:
        """Where it stood is told by its messages: without them it comes further behind, but it comes."""
        ada = await stored_user(storage)
        stored = [await stored_conversation(storage, ada, created_at=moment(n), updated_at=moment(n)) for n in range(6)]
        for number, at in ((0, 7), (1, 8), (1, 9), (5, 10)):
            await ended_turn(storage, stored[number], at=at)

        async def messages_go() -> None:
            for number in (0, 1, 5):
                await _forget_newest_turn(storage, stored[number])
            await ended_turn(storage, stored[0], at=60)
            await ended_turn(storage, stored[1], at=61)

        seen = await _walk(storage, ada, limit=1, meanwhile=messages_go)
        assert seen == [stored[number].id for number in (5, 1, 4, 3, 2, 0)]

    async def test_deleting_a_conversation_deletes_all_that_is_in_it(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        doomed, kept = await stored_conversation(storage, ada), await stored_conversation(storage, ada)
        turn = new_turn(doomed, key=IdempotencyKey(key="k", fingerprint="f"))
        lease = await leased(storage, turn)
        other = await ended_turn(storage, kept)
        async with storage.new_unit() as unit:
            await unit.conversations.delete(ada.id, doomed.id)
            await unit.commit()
        with pytest.raises(LeaseLost):
            await storage.log.end(lease, Done(message=turn.answer), turn.answer)
        async with storage.new_unit(read_only=True) as unit:
            for message in (turn.user_message, turn.answer):
                with pytest.raises(NotFound):
                    await unit.messages.get(ada.id, message.id)
            assert await unit.turns.get(ada.id, turn.answer.id) is None
            assert await unit.turns.recall(ada.id, "k") is not None
            assert (await unit.messages.get(ada.id, other)).id == other
        assert await storage.log.read(turn.answer.id) == []
        assert await storage.log.read(other) != []
        await leased(storage, replace(new_turn(kept), at_most=1))
