"""How turns begin in every `UnitOfWork`, and how they stand; a part of `UnitOfWorkContract`."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from luxx.application.ports import IdempotencyKey, KeyTaken, Lease, Storage, TooManyTurns
from luxx.domain.errors import Conflict, NotFound
from luxx.domain.message import Problem, Role, Status, TextPart, ThinkingPart, ToolCallPart, Usage
from luxx.domain.turn import Done, Started, Text
from luxx.testing.contracts.storage_samples import (
    LONG,
    ODD_TEXT,
    PATIENCE,
    begin,
    ended_turn,
    following,
    history_of,
    later_in,
    leased,
    moment,
    new_turn,
    new_user,
    size_of,
    stored_conversation,
    stored_user,
)


class TurnsContract:
    """The obligations of `Turns`."""

    async def test_begin_stores_messages_turn_event_and_key_and_touches_the_conversation(
        self, storage: Storage
    ) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        turn = new_turn(conversation, key=IdempotencyKey(key="k", fingerprint=ODD_TEXT), at=moment(500))
        lease = await leased(storage, turn)
        assert (lease.message_id, lease.conversation_id) == (turn.answer.id, conversation.id)
        assert (lease.owner, lease.holder) == (ada.id, turn.holder)
        assert await history_of(storage, conversation) == [turn.user_message, turn.answer]
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
            assert (remembered.fingerprint, remembered.message_id) == (ODD_TEXT, turn.answer.id)
            assert remembered.created_at == moment(500)
            assert await unit.turns.recall(ada.id, "K") is None
            assert await unit.turns.get(ada.id, turn.user_message.id) is None
        logged = await storage.log.read(turn.answer.id)
        assert [(one.seq, one.event) for one in logged] == [
            (1, Started(user_message=turn.user_message, message_id=turn.answer.id))
        ]

    async def test_the_activity_of_a_conversation_is_its_newest_message_whatever_the_times_say(
        self, storage: Storage
    ) -> None:
        """A clock may have been set back since: what was sent last is what the list goes by."""
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada, updated_at=moment(100))
        begun = await begin(storage, new_turn(conversation, at=moment(50)))
        assert begun.conversation == replace(conversation, updated_at=moment(50))
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.conversations.get(ada.id, conversation.id) == begun.conversation

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
            begun = await begin(storage, turn)
            async with storage.new_unit(read_only=True) as unit:
                read = await unit.messages.newest(ada.id, conversation.id, limit=limit, before=turn.answer.id)
                assert begun.conversation == await unit.conversations.get(ada.id, conversation.id)
            assert list(begun.history) == read
            assert [later_in(message) for message in begun.history] == [later_in(message) for message in read]
            assert (begun.answer, begun.lease) == (turn.answer, turn.lease())
            if limit:
                assert begun.history[-1] == turn.user_message
            answer = replace(
                turn.answer,
                parts=(
                    ThinkingPart(text="hm"),
                    ToolCallPart(id="1", name="a", arguments={"n": 9**99}, result=[ODD_TEXT], success=True),
                    ToolCallPart(id="2", name="a", arguments={}, result=None, success=True, later=True),
                    TextPart(text=f"{number}"),
                ),
                status=Status.FAILED if number % 2 else Status.COMPLETE,
                usage=Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3) if number % 3 else None,
                error=Problem(code="model_unavailable", message="断线") if number % 2 else None,
            )
            await storage.log.end(begun.lease, Done(message=answer), answer)
            await ended_turn(storage, other)
            if number == 3:
                async with storage.new_unit() as unit:
                    await unit.messages.delete(ada.id, turn.user_message.id)
                    await unit.commit()

    async def test_a_second_turn_waits_for_the_first_to_end(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation, other = await stored_conversation(storage, ada), await stored_conversation(storage, ada)
        turn = new_turn(conversation)
        lease = await leased(storage, turn)
        with pytest.raises(Conflict) as busy:
            await leased(storage, new_turn(conversation))
        assert busy.value.code == "generation_in_progress"
        await leased(storage, new_turn(other))
        answer = replace(turn.answer, status=Status.COMPLETE)
        await storage.log.end(lease, Done(message=answer), answer)
        await leased(storage, new_turn(conversation))
        async with storage.new_unit(read_only=True) as unit:
            ended = await unit.turns.get(ada.id, turn.answer.id)
            assert ended is not None
            assert not ended.running
            assert await size_of(unit, conversation) == 4

    async def test_of_fifty_that_begin_at_once_in_one_conversation_one_does(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        outcomes = await asyncio.gather(
            *(leased(storage, new_turn(conversation)) for _ in range(50)), return_exceptions=True
        )
        leases = [outcome for outcome in outcomes if isinstance(outcome, Lease)]
        refusals = [outcome.code for outcome in outcomes if isinstance(outcome, Conflict)]
        assert len(leases) == 1
        assert refusals == ["generation_in_progress"] * 49
        assert [message.id for message in await history_of(storage, conversation)][1:] == [leases[0].message_id]

    async def test_of_fifty_that_begin_at_once_with_one_key_one_does(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversations = [await stored_conversation(storage, ada) for _ in range(5)]
        key = IdempotencyKey(key="the key", fingerprint="f")
        outcomes = await asyncio.gather(
            *(leased(storage, new_turn(conversations[n % 5], key=key)) for n in range(50)), return_exceptions=True
        )
        leases = [outcome for outcome in outcomes if isinstance(outcome, Lease)]
        assert len(leases) == 1
        assert sum(isinstance(outcome, KeyTaken) for outcome in outcomes) == 49
        async with storage.new_unit(read_only=True) as unit:
            remembered = await unit.turns.recall(ada.id, "the key")
            counts = [await size_of(unit, conversation) for conversation in conversations]
        assert remembered is not None
        assert remembered.message_id == leases[0].message_id
        assert sorted(counts) == [0, 0, 0, 0, 2]

    async def test_a_repeat_while_the_first_runs_is_known_by_its_key(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        key = IdempotencyKey(key="k", fingerprint="f")
        await leased(storage, new_turn(conversation, key=key))
        with pytest.raises(KeyTaken):
            await leased(storage, new_turn(conversation, key=key))

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
        await leased(storage, new_turn(busy, key=key))
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
            assert [await size_of(unit, one) for one in (busy, idle)] == [2, 0]

    async def test_two_owners_may_use_one_key(self, storage: Storage) -> None:
        answers: dict[int, str] = {}
        for name in ("ada", "bob"):
            owner = await stored_user(storage, name)
            turn = new_turn(await stored_conversation(storage, owner), key=IdempotencyKey(key="k", fingerprint=name))
            await leased(storage, turn)
            answers[owner.id] = turn.answer.id
        async with storage.new_unit(read_only=True) as unit:
            recalled = [await unit.turns.recall(owner, "k") for owner in answers]
        assert [one and (one.fingerprint, one.message_id) for one in recalled] == [
            *zip(("ada", "bob"), answers.values(), strict=True)
        ]

    async def test_a_refused_turn_leaves_its_key_free(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        busy, idle = await stored_conversation(storage, ada), await stored_conversation(storage, ada)
        await leased(storage, new_turn(busy))
        key = IdempotencyKey(key="k", fingerprint="f")
        for refused in (
            new_turn(busy, key=key),
            replace(new_turn(idle, key=key), at_most=1),
            replace(new_turn(idle, key=key), conversation_id="conv_unknown"),
        ):
            with pytest.raises((Conflict, TooManyTurns, NotFound)):
                await leased(storage, refused)
        await leased(storage, new_turn(idle, key=key))

    async def test_of_turns_begun_at_once_no_more_run_than_their_owner_may_have(self, storage: Storage) -> None:
        ada, bob = await stored_user(storage), await stored_user(storage, "bob")
        await ended_turn(storage, await stored_conversation(storage, ada))
        await leased(storage, new_turn(await stored_conversation(storage, bob)))
        turns = [replace(new_turn(await stored_conversation(storage, ada)), at_most=3) for _ in range(10)]
        outcomes = await asyncio.gather(*(leased(storage, turn) for turn in turns), return_exceptions=True)
        assert sum(isinstance(outcome, Lease) for outcome in outcomes) == 3
        assert sum(isinstance(outcome, TooManyTurns) for outcome in outcomes) == 7

    async def test_a_repeat_is_known_by_its_key_also_where_no_more_turns_may_run(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        turn = replace(new_turn(conversation, key=IdempotencyKey(key="k", fingerprint="f")), at_most=1)
        await leased(storage, turn)
        for again in (conversation, await stored_conversation(storage, ada)):
            with pytest.raises(KeyTaken):
                await leased(storage, replace(new_turn(again, key=turn.key), at_most=1))

    async def test_concurrent_turns_leave_messages_in_pairs_and_are_told_whole_ones(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)

        async def send(number: int) -> None:
            while True:
                turn = new_turn(conversation, text=str(number))
                try:
                    begun = await begin(storage, turn)
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
        history = await history_of(storage, conversation)
        assert [message.role for message in history] == [Role.USER, Role.ASSISTANT] * 8
        assert [message.content for message in history[::2]] == [message.content for message in history[1::2]]
        assert {message.content for message in history} == set(map(str, range(8)))

    async def test_a_cancel_is_marked_on_a_running_turn_only(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        conversation = await stored_conversation(storage, ada)
        ended = await ended_turn(storage, conversation)
        turn = new_turn(conversation)
        await leased(storage, turn)
        for message_id in (ended, turn.answer.id):
            async with storage.new_unit() as unit:
                await unit.turns.request_cancel(ada.id, message_id)
        async with storage.new_unit(read_only=True) as unit:
            found = [await unit.turns.get(ada.id, message_id) for message_id in (ended, turn.answer.id)]
        assert [one is not None and one.cancel_requested for one in found] == [False, True]

    async def test_a_unit_ends_with_the_cancel_that_it_asks_for(self, storage: Storage) -> None:
        """Nothing of it is held back until a commit: whoever writes the turn would wait for that."""
        ada = await stored_user(storage)
        lease = await leased(storage, turn := new_turn(await stored_conversation(storage, ada)))
        async with storage.new_unit() as unit:
            await unit.turns.request_cancel(ada.id, turn.answer.id)
            async with asyncio.timeout(PATIENCE):
                renewal = await storage.log.renew(lease.holder, [lease.message_id], LONG)
            assert renewal.to_cancel == {turn.answer.id}
            with pytest.raises(RuntimeError):
                await unit.commit()

    async def test_a_turn_tells_its_last_event_also_when_its_log_is_gone(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        lease = await leased(storage, turn := new_turn(await stored_conversation(storage, ada)))

        async def last_seq() -> int:
            async with storage.new_unit(read_only=True) as unit:
                found = await unit.turns.get(ada.id, turn.answer.id)
            assert found is not None
            return found.last_seq

        assert await last_seq() == 1
        await storage.log.append(lease, Text(delta="a"))
        await anext(following(storage.log, turn.answer.id, after=1))
        assert await last_seq() == 2
        answer = replace(turn.answer, status=Status.COMPLETE)
        await storage.log.end(lease, Done(message=answer), answer)
        assert await last_seq() == 3
        long_ago, soon = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
        assert await storage.log.forget(ended_before=soon, keys_made_before=long_ago) == 1
        assert await last_seq() == 3
        assert await storage.log.read(turn.answer.id, afresh=True) == []
