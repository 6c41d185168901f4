"""The tries to sign in, which are counted by account and by peer."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from luxx.adapters.database.connection import Connection
from luxx.adapters.database.rows import columns_of, insert_of, names_of, values_of
from luxx.adapters.database.schema import password_tries
from luxx.adapters.database.statements import Script, Statement
from luxx.application.ports import PasswordTry

_STALE_TRIES: Final = 100
"""Old tries deleted with each new one, at most."""

_TRIES_LOCK: Final = 0x7472696573  # any number: "tries"

_TRY: Final = columns_of(password_tries, PasswordTry)
_NAMES: Final = names_of(PasswordTry)


def _lock_name(postgres: bool) -> sa.Executable:
    if postgres:
        name = sa.bindparam("name", type_=sa.Text())
        return sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, _TRIES_LOCK)))
    return sa.select(sa.null())  # SQLite has one writer at a time anyway


def _standing(column: sa.Column[str], limit: str) -> sa.Executable:
    """Select the try that is the last of as many as the limit allows, counted from the newest."""
    return (
        sa.select(password_tries.c.at)
        .where(column == sa.bindparam(column.name), password_tries.c.at > sa.bindparam("since"))
        .order_by(password_tries.c.at.desc())
        .offset(sa.bindparam(limit, type_=sa.BigInteger()))
        .limit(1)
    )


_LOCK_NAME: Final = Statement(_lock_name)
_DELETE_STALE: Final = Statement(
    sa.delete(password_tries).where(
        password_tries.c.id.in_(
            sa.select(password_tries.c.id)
            .where(password_tries.c.at <= sa.bindparam("since"))
            .order_by(password_tries.c.at)
            .limit(_STALE_TRIES)
            .with_for_update(skip_locked=True)
        )
    )
)
_STANDING: Final = (
    Statement(_standing(password_tries.c.account, "account_limit")),
    Statement(_standing(password_tries.c.peer, "peer_limit")),
)
_ADD_TRY: Final = Statement(insert_of(password_tries, _TRY))
_FORGET_TRIES: Final = Statement(sa.delete(password_tries).where(password_tries.c.account == sa.bindparam("account")))


@dataclass(frozen=True, slots=True)
class DatabasePasswordTries:
    connection: Connection

    async def begin(self, one: PasswordTry, *, since: datetime, account_limit: int, peer_limit: int) -> datetime | None:
        limits = {"account_limit": account_limit - 1, "peer_limit": peer_limit - 1}
        return await self.connection.run(_begin_try({**values_of(one, _NAMES), "since": since, **limits}))

    async def forget(self, account: str) -> None:
        await self.connection.fetch(_LOCK_NAME, {"name": f"account {account}"})
        await self.connection.fetch(_FORGET_TRIES, {"account": account})


def _begin_try(values: Mapping[str, Any]) -> Script[datetime | None]:
    # The account before the peer, in all units alike, so that nobody deadlocks.
    yield _LOCK_NAME, {"name": f"account {values['account']}"}
    yield _LOCK_NAME, {"name": f"peer {values['peer']}"}
    yield _DELETE_STALE, values
    found: list[datetime] = []
    for standing in _STANDING:
        rows = yield standing, values
        found += [at for (at,) in rows]
    if found:
        return max(found)
    yield _ADD_TRY, values
    return None
