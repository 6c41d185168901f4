"""Signing up, in and out, and who is calling."""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from tests.support.until import until

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.security.jwt import JwtCodec
from luxx.adapters.system import SortableIds
from luxx.application import Authenticate, LogIn, LogOut, RegisterUser, SignedIn
from luxx.application.passwords import AT_ONCE, HASHED_AT_ONCE, HASHES_WAITING
from luxx.application.ports import TokenClaims
from luxx.domain.errors import Conflict, Forbidden, InvalidInput, LuxxError, Overloaded, RateLimited, Unauthenticated
from luxx.domain.user import Role, User
from luxx.testing import FixedClock

PASSWORD = "correct horse battery"


@dataclass(slots=True)
class PlainHasher:
    """Hashes nothing, and verifies nobody's, when it may; tells what it was asked to hash and to verify."""

    version: int = 1
    hashed: list[str] = field(default_factory=list)
    verified: list[tuple[str, str | None]] = field(default_factory=list)
    may_hash: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_hash.set()

    async def hash(self, password: str) -> str:
        self.hashed.append(password)
        await self.may_hash.wait()
        return f"{self.version}:{password}"

    async def verify(self, password: str, hashed: str | None) -> bool:
        self.verified.append((password, hashed))
        if hashed is None:
            await self.may_hash.wait()
        return hashed is not None and hashed.partition(":")[2] == password

    def outdated(self, hashed: str) -> bool:
        return not hashed.startswith(f"{self.version}:")


class Accounts:
    """The use cases over one memory."""

    def __init__(self) -> None:
        self.clock = FixedClock()
        self.storage = MemoryStorage(clock=self.clock)
        self.hasher = PlainHasher()
        self.tokens = JwtCodec("s" * 32)
        new_unit = self.storage.new_unit
        self.register = RegisterUser(new_unit=new_unit, hasher=self.hasher, clock=self.clock)
        self.log_in = LogIn(
            new_unit=new_unit,
            hasher=self.hasher,
            tokens=self.tokens,
            clock=self.clock,
            new_id=SortableIds(),
            session_for=timedelta(hours=1),
        )
        self.log_out = LogOut(new_unit=new_unit, clock=self.clock)
        self.authenticate = Authenticate(new_unit=new_unit, tokens=self.tokens, clock=self.clock)

    async def ada(self) -> User:
        return await self.register(username="Ada", email="ada@example.org", password=PASSWORD)

    async def ada_in(self) -> SignedIn:
        return await self.log_in(username="ada", password=PASSWORD)

    async def user(self, user_id: int) -> User:
        async with self.storage.new_unit(read_only=True) as unit:
            user = await unit.users.get(user_id)
        assert user is not None
        return user

    async def change(self, user: User) -> None:
        async with self.storage.new_unit() as unit:
            await unit.users.update(user)
            await unit.commit()


@pytest.fixture
def accounts() -> Accounts:
    return Accounts()


async def test_a_new_account_is_an_active_user_named_as_written(accounts: Accounts) -> None:
    user = await accounts.ada()
    assert user == await accounts.user(user.id)
    assert (user.username, user.email, user.role, user.is_active) == ("Ada", "ada@example.org", Role.USER, True)
    assert PASSWORD not in repr(replace(user, password_hash=""))


async def test_the_operator_may_make_an_admin(accounts: Accounts) -> None:
    user = await accounts.register(username="root", email="root@example.org", password=PASSWORD, role=Role.ADMIN)
    assert (await accounts.user(user.id)).role is Role.ADMIN


async def test_every_fault_of_a_registration_is_told_at_once(accounts: Accounts) -> None:
    with pytest.raises(InvalidInput) as refused:
        await accounts.register(username="a", email="nowhere", password="12345678")
    assert [(fault.field, fault.rule) for fault in refused.value.faults] == [
        ("username", "too_short"),
        ("email", "email"),
        ("password", "common"),
    ]
    assert "12345678" not in str(refused.value)


@pytest.mark.parametrize(
    ("username", "email", "code"),
    [("ＡDA", "other@example.org", "username_taken"), ("other", "ADA@Example.org", "email_taken")],
)
async def test_names_and_addresses_are_taken_whatever_their_case_and_width(
    accounts: Accounts, username: str, email: str, code: str
) -> None:
    await accounts.ada()
    with pytest.raises(Conflict) as taken:
        await accounts.register(username=username, email=email, password=PASSWORD)
    assert taken.value.code == code
    assert accounts.hasher.hashed == [PASSWORD], "Ada's: who is refused anyway costs no hash"


async def test_of_registrations_of_a_name_at_once_one_succeeds(accounts: Accounts) -> None:
    accounts.hasher.may_hash.clear()
    racing = [
        asyncio.create_task(accounts.register(username="ada", email=f"{number}@example.org", password=PASSWORD))
        for number in range(2)
    ]
    await until(lambda: len(accounts.hasher.hashed) == 2)
    accounts.hasher.may_hash.set()
    found = await asyncio.gather(*racing, return_exceptions=True)
    assert sorted(type(one).__name__ for one in found) == ["Conflict", "User"]


async def test_few_registrations_hash_at_once_so_many_wait_and_the_others_are_refused(accounts: Accounts) -> None:
    await accounts.ada()
    accounts.hasher.hashed.clear()
    accounts.hasher.may_hash.clear()
    several = [
        asyncio.create_task(
            accounts.register(username=f"user{number}", email=f"{number}@example.org", password=PASSWORD)
        )
        for number in range(HASHED_AT_ONCE + HASHES_WAITING + 5)
    ]
    await until(lambda: sum(one.done() for one in several) == 5)
    assert len(accounts.hasher.hashed) == HASHED_AT_ONCE, "a login waits behind so many, and no more"
    refused = [one.exception() for one in several if one.done()]
    assert [type(one) for one in refused] == [Overloaded] * 5
    several[HASHED_AT_ONCE].cancel()
    await until(several[HASHED_AT_ONCE].done)
    late = asyncio.create_task(accounts.register(username="late", email="late@example.org", password=PASSWORD))
    accounts.hasher.may_hash.set()
    assert (await late).username == "late", "who gives up makes room"
    found = await asyncio.gather(*several, return_exceptions=True)
    assert sum(isinstance(one, User) for one in found) == HASHED_AT_ONCE + HASHES_WAITING - 1


async def test_tries_from_one_peer_hold_up_no_login_from_another(accounts: Accounts) -> None:
    await accounts.ada()
    accounts.hasher.may_hash.clear()
    tries = [
        asyncio.create_task(accounts.log_in(username=f"nobody{number}", password=PASSWORD, peer="192.0.2.1"))
        for number in range(3 * AT_ONCE)
    ]
    await until(lambda: len(accounts.hasher.verified) == AT_ONCE - 1)
    async with asyncio.timeout(10):
        for peer in ("192.0.2.2", "192.0.2.3", ""):
            assert (await accounts.log_in(username="ada", password=PASSWORD, peer=peer)).user.username == "Ada"
    accounts.hasher.may_hash.set()
    assert {type(one) for one in await asyncio.gather(*tries, return_exceptions=True)} == {Unauthenticated}


async def test_a_login_finds_the_user_whatever_the_case_and_lasts_as_long_as_set(accounts: Accounts) -> None:
    ada = await accounts.ada()
    signed_in = await accounts.log_in(username="ADA", password=PASSWORD)
    assert signed_in.user == ada
    assert signed_in.session.expires_at == accounts.clock() + timedelta(hours=1)
    caller = await accounts.authenticate(token=signed_in.token)
    assert (caller.user, caller.session) == (ada, signed_in.session)


async def test_a_password_is_the_same_however_a_keyboard_composes_it(accounts: Accounts) -> None:
    await accounts.register(username="zoe", email="zoe@example.org", password="Zo\u00eb's secret")
    await accounts.log_in(username="zoe", password="Zoe\u0308's secret")


async def test_an_unknown_user_and_a_wrong_password_get_the_same_answer_after_the_same_work(
    accounts: Accounts,
) -> None:
    ada = await accounts.ada()
    raised = []
    for username in ("ada", "nobody"):
        with pytest.raises(Unauthenticated) as refused:
            await accounts.log_in(username=username, password="wrong password")
        raised.append((str(refused.value), refused.value.code))
    assert raised[0] == raised[1]
    assert raised[0][1] == "invalid_credentials"
    assert accounts.hasher.verified == [("wrong password", ada.password_hash), ("wrong password", None)]


async def test_a_disabled_account_is_told_so_with_the_right_password_only(accounts: Accounts) -> None:
    ada = await accounts.ada()
    await accounts.change(replace(ada, is_active=False))
    with pytest.raises(Unauthenticated) as wrong:
        await accounts.log_in(username="ada", password="wrong password")
    assert wrong.value.code == "invalid_credentials"
    with pytest.raises(Forbidden) as disabled:
        await accounts.ada_in()
    assert disabled.value.code == "account_disabled"
    async with accounts.storage.new_unit(read_only=True) as unit:
        assert await unit.sessions.live_of(ada.id, accounts.clock()) == [], (
            "no session is opened for whoever is refused"
        )


async def test_an_outdated_hash_is_renewed_at_the_next_login(accounts: Accounts) -> None:
    ada = await accounts.ada()
    accounts.hasher.version = 2
    await accounts.ada_in()
    assert (await accounts.user(ada.id)).password_hash == f"2:{PASSWORD}"
    await accounts.ada_in()


async def test_a_login_does_not_renew_a_hash_that_is_current(accounts: Accounts) -> None:
    ada = await accounts.ada()
    await accounts.ada_in()
    assert await accounts.user(ada.id) == ada
    assert accounts.hasher.hashed == [PASSWORD], "once, as it was registered"


async def test_of_logins_at_once_one_renews_the_hash_and_none_is_refused(accounts: Accounts) -> None:
    ada = await accounts.ada()
    accounts.hasher.version = 2
    accounts.hasher.may_hash.clear()
    logins = [asyncio.create_task(accounts.ada_in()) for _ in range(3)]
    await until(lambda: len(accounts.hasher.hashed) == 4)
    accounts.hasher.may_hash.set()
    assert {signed_in.user.id for signed_in in await asyncio.gather(*logins)} == {ada.id}
    assert (await accounts.user(ada.id)).password_hash == f"2:{PASSWORD}"
    async with accounts.storage.new_unit(read_only=True) as unit:
        assert len(await unit.sessions.live_of(ada.id, accounts.clock())) == 3


async def test_a_password_changed_while_a_login_renews_its_hash_opens_no_session_and_counts_as_wrong(
    accounts: Accounts,
) -> None:
    ada = await accounts.ada()
    accounts.hasher.version = 2
    accounts.hasher.may_hash.clear()
    login = asyncio.create_task(accounts.ada_in())
    await until(lambda: len(accounts.hasher.hashed) == 2)
    await accounts.change(replace(ada, password_hash="2:another password"))
    accounts.hasher.may_hash.set()
    with pytest.raises(Unauthenticated):
        await login
    async with accounts.storage.new_unit(read_only=True) as unit:
        assert await unit.sessions.live_of(ada.id, accounts.clock()) == []
    for _ in range(accounts.log_in.limits.account - 1):
        with pytest.raises(Unauthenticated):
            await accounts.ada_in()
    with pytest.raises(RateLimited):
        await accounts.ada_in()


async def failure(accounts: Accounts, token: str) -> LuxxError:
    with pytest.raises(LuxxError) as refused:
        await accounts.authenticate(token=token)
    return refused.value


async def test_a_logout_revokes_that_session_at_once_and_no_other(accounts: Accounts) -> None:
    await accounts.ada()
    one, two = await accounts.ada_in(), await accounts.ada_in()
    await accounts.log_out(session_id=one.session.id)
    assert (await failure(accounts, one.token)).code == "token_revoked"
    assert (await accounts.authenticate(token=two.token)).session == two.session


async def test_a_token_expires_with_its_session(accounts: Accounts) -> None:
    await accounts.ada()
    signed_in = await accounts.ada_in()
    accounts.clock.advance(3599)
    await accounts.authenticate(token=signed_in.token)
    accounts.clock.advance(1)
    assert (await failure(accounts, signed_in.token)).code == "token_expired"


async def test_a_token_that_outlives_its_session_is_expired(accounts: Accounts) -> None:
    await accounts.ada()
    session = (await accounts.ada_in()).session
    claims = TokenClaims(
        user_id=session.user_id,
        session_id=session.id,
        issued_at=session.created_at,
        expires_at=session.expires_at + timedelta(days=1),
    )
    accounts.clock.advance(3600)
    assert (await failure(accounts, accounts.tokens.encode(claims))).code == "token_expired"


async def test_disabling_an_account_and_changing_a_role_bite_at_once(accounts: Accounts) -> None:
    ada = await accounts.ada()
    token = (await accounts.ada_in()).token
    await accounts.change(replace(ada, role=Role.ADMIN))
    assert (await accounts.authenticate(token=token)).user.role is Role.ADMIN
    await accounts.change(replace(ada, is_active=False))
    disabled = await failure(accounts, token)
    assert (type(disabled), disabled.code) == (Forbidden, "account_disabled")


@pytest.mark.parametrize("fault", ["no session", "another user"])
async def test_a_token_of_no_session_of_its_user_is_not_valid(accounts: Accounts, fault: str) -> None:
    await accounts.ada()
    session = (await accounts.ada_in()).session
    claims = TokenClaims(
        user_id=session.user_id + (fault == "another user"),
        session_id="sess_none" if fault == "no session" else session.id,
        issued_at=session.created_at,
        expires_at=session.expires_at,
    )
    refused = await failure(accounts, accounts.tokens.encode(claims))
    assert (type(refused), refused.code) == (Unauthenticated, "unauthenticated")
