"""What a turn begins with that waited for another in its conversation."""

import asyncio
from dataclasses import replace
from typing import Any, Final

import pytest
from tests.support.databases import ask

from luxx.adapters.database import Database
from luxx.application.ports import IdempotencyKey
from luxx.domain.message import Status, TextPart
from luxx.domain.turn import Done
from luxx.testing.contracts.storage_samples import (
    PATIENCE,
    begin,
    leased,
    new_turn,
    running_turn,
    stored_conversation,
    stored_user,
)


async def _waiting_for_a_lock(database: Database) -> None:
    if not database.postgres:
        return  # whoever writes there stands in a queue before anything is read
    asked = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(PATIENCE):
        while not await ask(database, asked):  # noqa: ASYNC110 - the server sends no event when somebody waits
            await asyncio.sleep(0.005)


_TURNS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"key": IdempotencyKey(key="k", fingerprint="f")},
    {"at_most": 5},
)


@pytest.mark.parametrize("changes", _TURNS, ids=["plain", "keyed", "limited"])
async def test_a_turn_that_waited_begins_with_what_was_committed_meanwhile(
    database: Database, changes: dict[str, Any]
) -> None:
    ada = await stored_user(database)
    conversation = await stored_conversation(database, ada)
    first = new_turn(conversation, text="to be deleted")
    lease = await leased(database, first)
    answer = replace(first.answer, status=Status.COMPLETE)
    await database.log.end(lease, Done(message=answer), answer)
    second = replace(new_turn(conversation), **changes)
    async with database.new_unit() as unit:
        await unit.messages.delete(ada.id, first.user_message.id)
        await unit.conversations.update(replace(conversation, system_prompt="Be brief."))
        waiting = asyncio.create_task(begin(database, second))
        await _waiting_for_a_lock(database)
        await unit.commit()
    found = await waiting
    assert found.conversation.system_prompt == "Be brief."
    assert found.history == [answer, second.user_message]


@pytest.mark.parametrize("changes", _TURNS, ids=["plain", "keyed", "limited"])
async def test_a_turn_that_waited_is_told_the_answer_that_ended_meanwhile(
    on_postgres: Database, changes: dict[str, Any]
) -> None:
    """The statement that begins it sees what was there when it came, and the answer was still being written then."""
    ada = await stored_user(on_postgres)
    first, lease = await running_turn(on_postgres, ada)
    answer = replace(first.answer, parts=(TextPart(text="At last."),), status=Status.COMPLETE)
    async with on_postgres.new_unit() as unit:
        conversation = await unit.conversations.hold(ada.id, first.conversation_id)
        second = replace(new_turn(conversation), **changes)
        waiting = asyncio.create_task(begin(on_postgres, second))
        await _waiting_for_a_lock(on_postgres)
        await on_postgres.log.end(lease, Done(message=answer), answer)
    assert (await waiting).history == [first.user_message, answer, second.user_message]
