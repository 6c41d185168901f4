"""Passwords changed, sessions ended, keys for programs, and what the operator does, all without HTTP."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.support.until import until
from tests.unit.application.test_accounts import PASSWORD, Accounts

from luxx.adapters.memory.storage import MemoryUnit
from luxx.adapters.system import SortableIds
from luxx.application.accounts import ChangePassword, EndSession, ListSessions
from luxx.application.api_keys import CreateApiKey, DeleteApiKey, ListApiKeys
from luxx.application.operating import ChangeUser, ListUsers, ResetPassword
from luxx.domain.errors import (
    Forbidden,
    InvalidInput,
    NotFound,
    RateLimited,
    StorageUnavailable,
    Unauthenticated,
)
from luxx.domain.user import Role

NEW_PASSWORD = "staple battery horse"


class Credentials(Accounts):
    """The use cases of this module beside those of accounts."""

    def __init__(self) -> None:
        super().__init__()
        new_unit = self.storage.new_unit
        self.change_password = ChangePassword(
            new_unit=new_unit, hasher=self.hasher, clock=self.clock, new_id=SortableIds()
        )
        self.list_sessions = ListSessions(new_unit=new_unit, clock=self.clock)
        self.end_session = EndSession(new_unit=new_unit, clock=self.clock)
        self.create_key = CreateApiKey(new_unit=new_unit, clock=self.clock, new_id=SortableIds())
        self.list_keys = ListApiKeys(new_unit=new_unit)
        self.delete_key = DeleteApiKey(new_unit=new_unit)
        self.list_users = ListUsers(new_unit=new_unit)
        self.change_user = ChangeUser(new_unit=new_unit)
        self.reset_password = ResetPassword(new_unit=new_unit, hasher=self.hasher, clock=self.clock)

    async def code_of(self, token: str) -> str:
        """Tell with which code a token is refused, or that it is good."""
        try:
            await self.authenticate(token=token)
        except (Unauthenticated, Forbidden) as error:
            return error.code
        return "good"


async def test_a_changed_password_ends_the_other_sessions_and_not_this_one() -> None:
    accounts = Credentials()
    ada = await accounts.ada()
    here, there = [await accounts.log_in(username="ada", password=PASSWORD) for _ in range(2)]
    await accounts.change_password(
        user=ada, session_id=here.session.id, current_password=PASSWORD, new_password=NEW_PASSWORD
    )
    assert [await accounts.code_of(one.token) for one in (here, there)] == ["good", "token_revoked"]
    with pytest.raises(Unauthenticated):
        await accounts.log_in(username="ada", password=PASSWORD)
    assert (await accounts.log_in(username="ada", password=NEW_PASSWORD)).user.id == ada.id


async def test_a_password_is_changed_neither_with_a_wrong_one_nor_into_a_bad_one() -> None:
    accounts = Credentials()
    ada = await accounts.ada()
    here = await accounts.log_in(username="ada", password=PASSWORD)
    with pytest.raises(Unauthenticated) as wrong:
        await accounts.change_password(
            user=ada, session_id=here.session.id, current_password="not this one", new_password=NEW_PASSWORD
        )
    assert wrong.value.code == "invalid_credentials"
    with pytest.raises(InvalidInput) as bad:
        await accounts.change_password(
            user=ada, session_id=here.session.id, current_password=PASSWORD, new_password="password"
        )
    assert [(fault.field, fault.rule) for fault in bad.value.faults] == [("new_password", "common")]
    assert (await accounts.log_in(username="ada", password=PASSWORD)).user.id == ada.id


async def test_a_password_can_be_changed_while_a_login_renews_its_hash() -> None:
    accounts = Credentials()
    ada = await accounts.ada()
    here = await accounts.ada_in()
    accounts.hasher.may_hash.clear()
    changing = asyncio.create_task(
        accounts.change_password(
            user=ada, session_id=here.session.id, current_password=PASSWORD, new_password=NEW_PASSWORD
        )
    )
    await until(lambda: NEW_PASSWORD in accounts.hasher.hashed)
    async with accounts.storage.new_unit() as unit:
        await unit.users.update(replace(ada, password_hash=f"2:{PASSWORD}"))
        await unit.commit()
    accounts.hasher.may_hash.set()
    await changing
    assert (await accounts.log_in(username="ada", password=NEW_PASSWORD)).user.id == ada.id


async def test_a_password_is_not_changed_with_one_that_was_changed_meanwhile() -> None:
    accounts = Credentials()
    ada = await accounts.ada()
    here = await accounts.ada_in()
    accounts.hasher.may_hash.clear()
    changing = asyncio.create_task(
        accounts.change_password(
            user=ada, session_id=here.session.id, current_password=PASSWORD, new_password=NEW_PASSWORD
        )
    )
    await until(lambda: NEW_PASSWORD in accounts.hasher.hashed)
    await accounts.change(replace(ada, password_hash="1:another password"))
    accounts.hasher.may_hash.set()
    with pytest.raises(Unauthenticated):
        await changing
    assert (await accounts.user(ada.id)).password_hash == "1:another password"


async def test_ten_wrong_passwords_slow_the_account_down_until_they_are_old() -> None:
    accounts = Credentials()
    await accounts.ada()
    for _ in range(10):
        with pytest.raises(Unauthenticated):
            await accounts.log_in(username="ada", password="wrong", peer="192.0.2.1")
    with pytest.raises(RateLimited) as slowed:
        await accounts.log_in(username="ada", password=PASSWORD, peer="198.51.100.1")
    assert 0 < slowed.value.retry_after <= 300
    accounts.clock.advance(301)
    await accounts.log_in(username="ada", password=PASSWORD, peer="198.51.100.1")


async def test_guesses_at_the_login_do_not_keep_the_owner_from_changing_the_password() -> None:
    accounts = Credentials()
    ada = await accounts.ada()
    here = await accounts.log_in(username="ada", password=PASSWORD)
    # At Ada's account from everywhere, and at everybody's from the address that Ada has too.
    for username, peer in [("ada", f"192.0.2.{n}") for n in range(10)] + [(f"nobody{n}", "here") for n in range(100)]:
        with pytest.raises(Unauthenticated):
            await accounts.log_in(username=username, password="wrong", peer=peer)
    for peer in ("192.0.2.99", "here"):
        with pytest.raises(RateLimited):
            await accounts.log_in(username="ada", password=PASSWORD, peer=peer)
    await accounts.change_password(
        user=ada, session_id=here.session.id, current_password=PASSWORD, new_password=NEW_PASSWORD, peer="here"
    )
    await accounts.log_in(username="ada", password=NEW_PASSWORD, peer="elsewhere")


async def test_who_is_logged_in_has_ten_tries_whatever_was_guessed_at_the_login() -> None:
    accounts = Credentials()
    ada = await accounts.ada()
    here = await accounts.log_in(username="ada", password=PASSWORD)

    async def change(current: str) -> None:
        await accounts.change_password(
            user=ada, session_id=here.session.id, current_password=current, new_password=NEW_PASSWORD
        )

    for number in range(10):
        with pytest.raises(Unauthenticated):
            await accounts.log_in(username="ada", password="wrong", peer=f"192.0.2.{number}")
    for _ in range(10):
        with pytest.raises(Unauthenticated):
            await change("wrong")
    with pytest.raises(RateLimited) as slowed:
        await change(PASSWORD)
    assert 0 < slowed.value.retry_after <= 300
    await accounts.reset_password(username="ada", password=PASSWORD)
    await change(PASSWORD)


@pytest.mark.parametrize("name", ["user 1", "User 1"])
async def test_no_name_at_the_login_stands_for_who_is_logged_in(name: str) -> None:
    accounts = Credentials()
    ada = await accounts.ada()
    here = await accounts.log_in(username="ada", password=PASSWORD)
    for _ in range(10):
        with pytest.raises(Unauthenticated):
            await accounts.log_in(username=name, password="wrong")
    await accounts.change_password(
        user=ada, session_id=here.session.id, current_password=PASSWORD, new_password=NEW_PASSWORD
    )


async def test_sessions_are_listed_and_ended_by_their_owner_alone() -> None:
    accounts = Credentials()
    ada = await accounts.ada()
    here, there = [await accounts.log_in(username="ada", password=PASSWORD) for _ in range(2)]
    listed = await accounts.list_sessions(user_id=ada.id)
    assert {session.id for session in listed} == {here.session.id, there.session.id}
    assert await accounts.list_sessions(user_id=ada.id + 1) == []
    with pytest.raises(NotFound):
        await accounts.end_session(user_id=ada.id + 1, session_id=there.session.id)
    await accounts.end_session(user_id=ada.id, session_id=there.session.id)
    assert [await accounts.code_of(one.token) for one in (here, there)] == ["good", "token_revoked"]


async def test_a_key_is_a_token_until_it_expires_or_is_deleted() -> None:
    accounts = Credentials()
    ada = await accounts.ada()
    lasting = await accounts.create_key(user_id=ada.id, name="ci")
    short = await accounts.create_key(user_id=ada.id, name="today", lasts_for=timedelta(days=1))
    caller = await accounts.authenticate(token=lasting.secret)
    assert (caller.user, caller.key and caller.key.id, caller.session) == (ada, lasting.key.id, None)
    with pytest.raises(Forbidden):
        caller.by_login()
    accounts.clock.advance(24 * 3600)
    assert await accounts.code_of(short.secret) == "token_expired"
    assert await accounts.code_of(lasting.secret + "x") == "unauthenticated"
    noted = {key.name: key.last_used_at for key in await accounts.list_keys(user_id=ada.id)}
    assert noted["ci"] is not None
    with pytest.raises(NotFound):
        await accounts.delete_key(user_id=ada.id + 1, key_id=lasting.key.id)
    await accounts.delete_key(user_id=ada.id, key_id=lasting.key.id)
    assert await accounts.code_of(lasting.secret) == "unauthenticated"


async def test_a_key_is_good_also_where_its_use_cannot_be_noted() -> None:
    accounts = Credentials()
    ada = await accounts.ada()
    key = await accounts.create_key(user_id=ada.id, name="ci")

    def new_unit(*, read_only: bool = False, once: bool = False) -> MemoryUnit:
        if not (read_only or once):
            raise StorageUnavailable("The database only reads.")
        return accounts.storage.new_unit(read_only=read_only, once=once)

    caller = await replace(accounts.authenticate, new_unit=new_unit)(token=key.secret)
    assert caller.user == ada


async def test_keys_that_cannot_be_are_refused_with_what_is_wrong() -> None:
    accounts = Credentials()
    ada = await accounts.ada()
    later = accounts.clock() + timedelta(days=1)
    for wrong, field in (
        ({"name": ""}, "name"),
        ({"name": "x", "expires_at": accounts.clock()}, "expires_at"),
        ({"name": "x", "expires_at": later, "lasts_for": timedelta(days=1)}, "expires_in_days"),
    ):
        with pytest.raises(InvalidInput) as refused:
            await accounts.create_key(user_id=ada.id, **wrong)
        assert [fault.field for fault in refused.value.faults] == [field]
    few = CreateApiKey(new_unit=accounts.storage.new_unit, clock=accounts.clock, new_id=SortableIds(), limit=1)
    await few(user_id=ada.id, name="one")
    with pytest.raises(InvalidInput, match="as many keys"):
        await few(user_id=ada.id, name="two")
    with pytest.raises(Unauthenticated):
        await few(user_id=ada.id + 1, name="nobody's")


async def test_a_disabled_account_is_refused_by_token_by_key_and_by_password_and_can_be_enabled() -> None:
    accounts = Credentials()
    ada = await accounts.ada()
    token = (await accounts.log_in(username="ada", password=PASSWORD)).token
    secret = (await accounts.create_key(user_id=ada.id, name="ci")).secret
    await accounts.change_user(username="ADA", is_active=False)
    assert [await accounts.code_of(one) for one in (token, secret)] == ["account_disabled"] * 2
    with pytest.raises(Forbidden):
        await accounts.log_in(username="ada", password=PASSWORD)
    await accounts.change_user(username="ada", is_active=True)
    assert [await accounts.code_of(one) for one in (token, secret)] == ["good"] * 2


async def test_the_operator_lists_promotes_and_resets() -> None:
    accounts = Credentials()
    ada = await accounts.ada()
    bob = await accounts.register(username="bob", email="bob@example.org", password=PASSWORD)
    assert (await accounts.change_user(username="bob", role=Role.ADMIN)).role is Role.ADMIN
    listed = [user async for user in accounts.list_users()]
    assert [(user.id, user.role) for user in listed] == [(ada.id, Role.USER), (bob.id, Role.ADMIN)]
    token = (await accounts.log_in(username="ada", password=PASSWORD)).token
    await accounts.reset_password(username="ada", password=NEW_PASSWORD)
    assert await accounts.code_of(token) == "token_revoked"
    await accounts.log_in(username="ada", password=NEW_PASSWORD)
    with pytest.raises(InvalidInput):
        await accounts.reset_password(username="ada", password="short")


async def test_what_the_operator_does_to_nobody_says_who_there_is() -> None:
    accounts = Credentials()
    with pytest.raises(NotFound, match="luxx user list"):
        await accounts.change_user(username="nobody", is_active=False)
    with pytest.raises(NotFound, match="luxx user list"):
        await accounts.reset_password(username="nobody", password=NEW_PASSWORD)
