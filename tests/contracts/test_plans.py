"""How the databases go about what they are asked: through which indexes, and planned how often."""

import re
from dataclasses import replace
from typing import Any, Final

import pytest
import sqlalchemy as sa

from luxx.adapters.database import Database, conversations, messages
from luxx.adapters.database.conversations import page_of_conversations, rest_of_conversations
from luxx.adapters.database.messages import page_of_messages
from luxx.adapters.database.statements import Statement
from luxx.adapters.database.turns import _TOUCH_IT
from luxx.application.ports import ConversationPlace
from luxx.testing.contracts.storage_samples import moment, new_turn, stored_conversation, stored_user


async def _plan(database: Database, statement: Statement, parameters: dict[str, Any]) -> str:
    compiled = statement.on(postgres=database.postgres)
    arguments = tuple(compiled.arguments(parameters))

    def explain(connection: sa.Connection) -> list[Any]:
        if not database.postgres:
            return list(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled.text}", arguments))
        connection.exec_driver_sql("SET enable_seqscan = off")
        connection.exec_driver_sql("SET enable_bitmapscan = off")
        return list(connection.exec_driver_sql(f"EXPLAIN {compiled.text}", arguments))

    return "\n".join(" ".join(map(str, row)) for row in await database.run_sync(explain))


_PLACE: Final = {"updated_at": moment(5), "id": "conv_x", "began": moment(9)}
_LIST: Final = {"owner": 1, "limit": 5, "offset": 50}
_ONLY: Final = ("Index Only Scan", "COVERING INDEX", 1)
_INDEX: Final = ("Index", "Index", 1)
_POSITIONS: Final = r"uq_messages_conversation_id_position|INDEX sqlite_autoindex_messages_2 \(conversation_id=\?\)"


@pytest.mark.parametrize(
    ("statement", "parameters", "index", "how"),
    [
        (
            page_of_conversations(in_project=False, skipping=True, deep=False),
            {**_LIST, "scope": ""},
            "by_activity",
            (*_ONLY[:2], 2),
        ),
        (
            page_of_conversations(in_project=True, skipping=True, deep=True),
            {**_LIST, "scope": "p"},
            "in_project",
            (*_ONLY[:2], 3),
        ),
        (
            rest_of_conversations(in_project=True),
            {**_LIST, "scope": "p", **_PLACE},
            "in_project",
            (*_INDEX[:2], 2),
        ),
        (
            rest_of_conversations(in_project=False),
            {**_LIST, "scope": "", **_PLACE},
            "by_activity",
            (*_INDEX[:2], 2),
        ),
        (
            page_of_conversations(in_project=False, skipping=False, deep=False),
            {**_LIST, "scope": ""},
            "by_activity",
            _INDEX,
        ),
        (
            page_of_messages(before=False),
            {"owner": 1, "conversation": "conv_x", "limit": 5, "before": None},
            "messages",
            _INDEX,
        ),
    ],
)
async def test_lists_and_histories_are_read_through_their_indexes_and_nothing_is_counted(
    database: Database, statement: Statement, parameters: dict[str, Any], index: str, how: tuple[str, str, int]
) -> None:
    plan = await _plan(database, statement, parameters)
    steps = [line for line in plan.splitlines() if index in line and "Index Cond" not in line]
    kind = how[0] if database.postgres else how[1]
    assert sum(kind.casefold() in step.casefold() for step in steps) >= how[2], plan
    assert "Seq Scan" not in plan, plan
    assert "Aggregate" not in plan, plan
    assert not re.search(r"SCAN (conversations|messages)", plan), plan


async def test_where_a_conversation_stood_is_looked_up_once_among_its_own_messages(database: Database) -> None:
    parameters = {**_LIST, **_PLACE, "scope": ""}
    plan = await _plan(database, rest_of_conversations(in_project=False), parameters)
    assert len(re.findall(_POSITIONS, plan)) == 1, plan
    assert re.search(r"Backward using uq_messages|CORRELATED SCALAR SUBQUERY", plan), plan


async def test_reading_on_is_planned_once_and_is_cheap_for_whoever_has_most(postgres_url: str) -> None:
    """What Postgres takes for dear it compiles before it runs it, which takes ten times as long as to run it."""
    database = Database(postgres_url, pool_size=1)
    connection = await database.own_connection()
    await connection.execute(
        "INSERT INTO users (id, username, username_key, email, email_key, password_hash, role, is_active, created_at)"
        " SELECT n, n, n, n, n, '', 'user', true, now() FROM generate_series(1, 20) AS n"
    )
    await connection.execute(
        "INSERT INTO conversations (id, user_id, title, model, temperature, max_tokens, thinking_enabled, created_at,"
        " updated_at) SELECT 'conv_' || n, CASE n % 2 WHEN 0 THEN 1 ELSE 1 + n % 20 END, '', '', 1, 1, false,"
        f" '{moment()}', '{moment()}'::timestamptz + n * interval '1 s' FROM generate_series(1, 20000) AS n"
    )
    await connection.execute(
        "INSERT INTO messages (id, conversation_id, position, role, parts, status, created_at)"
        " SELECT id, id, 1, 'user', '[]', 'complete', created_at FROM conversations"
    )
    await connection.execute("ANALYZE")
    for number in range(1, 13):
        place = ConversationPlace(updated_at=moment(1000 * number), id="conv_1", began=moment(20_000 - number))
        async with database.new_unit(once=True) as unit:
            assert (await unit.conversations.page(1, project_id=None, limit=20, behind=place)).rest is not None
    plans = "SELECT custom_plans FROM pg_prepared_statements WHERE statement LIKE 'WITH counted%'"
    ((planned_anew,),) = await database.driver.fetch(Statement(sa.text(plans)), {})
    assert planned_anew == 5  # so often Postgres tries it, whatever comes of it
    compiled = rest_of_conversations(in_project=False).on(postgres=True)
    rows = await connection.fetch(f"EXPLAIN {compiled.text}", *compiled.arguments({**_LIST, **_PLACE, "scope": ""}))
    cost = re.search(r"cost=[0-9.]+\.\.([0-9.]+)", rows[0][0])
    assert cost is not None
    assert float(cost[1]) < 5000
    await connection.close()
    await database.close()


async def test_one_conversation_is_found_by_its_id_however_many_its_owner_has(postgres_url: str) -> None:
    """A plan that is made while the tables are small is kept: it must not go through all that the owner has."""
    database = Database(postgres_url)
    ada = await stored_user(database)
    for _ in range(3):
        await stored_conversation(database, ada)
    connection = await database.own_connection()
    values = {"owner": ada.id, "conversation": "conv_1", "message": "msg_1", "at": moment()}
    mine = (conversations._GET_CONVERSATION, messages._GET_MESSAGE, messages._LOCK_CONVERSATION, _TOUCH_IT)
    for statement in mine:
        compiled = statement.on(postgres=True)
        rows = await connection.fetch(f"EXPLAIN {compiled.text}", *compiled.arguments(values))
        plan = "\n".join(row[0] for row in rows)
        assert "ix_conversations" not in plan, plan
        assert "pk_conversations" in plan, plan
    await connection.close()
    await database.close()


async def test_the_beginning_of_a_turn_is_not_planned_anew_each_time(postgres_url: str) -> None:
    """Postgres plans a statement for its values, again and again, where it expects less work than for any others."""
    database = Database(postgres_url, pool_size=1)
    ada = await stored_user(database)
    long, *others = [await stored_conversation(database, ada) for _ in range(12)]
    connection = await database.own_connection()
    await connection.execute(
        "INSERT INTO messages (id, conversation_id, position, role, parts, status, created_at)"
        f" SELECT 'msg_' || n, '{long.id}', n, 'user', '[]', 'complete', now() FROM generate_series(1, 20000) AS n"
    )
    await connection.execute("ANALYZE")
    await connection.close()
    for conversation in others:
        async with database.new_unit() as unit:
            await unit.turns.begin(replace(new_turn(conversation), history=1))
    plans = "SELECT custom_plans FROM pg_prepared_statements WHERE statement LIKE 'WITH touched%'"
    ((planned_anew,),) = await database.driver.fetch(Statement(sa.text(plans)), {})
    await database.close()
    assert planned_anew == 5  # so often Postgres tries it, whatever comes of it
