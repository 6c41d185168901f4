"""What the accounts of every `UnitOfWork` must do: users, sessions, keys, tries; a part of `UnitOfWorkContract`."""

import asyncio
from dataclasses import replace
from datetime import datetime

import pytest

from luxx.application.ports import PasswordTry, Storage
from luxx.domain.api_key import ApiKey
from luxx.domain.errors import Conflict, NotFound
from luxx.domain.user import Role as UserRole
from luxx.domain.user import Session, User
from luxx.testing.contracts.storage_samples import ODD_TEXT, moment, new_id, new_user, stored_user


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


class AccountsContract:
    """The obligations of `Users`, `Sessions`, `ApiKeys` and `PasswordTries`."""

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

    async def test_a_user_comes_with_the_role_that_was_given(self, storage: Storage) -> None:
        async with storage.new_unit() as unit:
            added = await unit.users.add(replace(new_user(), role=UserRole.ADMIN))
            await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            found = await unit.users.get(added.id)
        assert found == added
        assert added.role is UserRole.ADMIN

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
            assert await unit.users.by_email(user.email.upper()) == user
            assert await unit.users.by_email("nobody@example.com") is None
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
            await unit.users.update(replace(wanted, username="eve", email="eve@example.org", created_at=moment(9)))
            await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.users.get(ada.id) == wanted
            assert await unit.users.by_username("eve") is None

    async def test_a_user_that_does_not_exist_is_not_made_by_an_update(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        async with storage.new_unit() as unit:
            await unit.users.update(replace(ada, id=ada.id + 1, username="bob", email="bob@example.org"))
            await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.users.page() == [ada]

    async def test_a_session_and_a_key_come_also_with_a_user_who_is_disabled(self, storage: Storage) -> None:
        """Whoever asks tells a disabled account from a token that is none."""
        ada = await stored_user(storage)
        disabled, session = replace(ada, is_active=False), _session(ada, "sess_1")
        key = ApiKey(id="key_1", user_id=ada.id, name="k", created_at=moment(), expires_at=None)
        async with storage.new_unit() as unit:
            await unit.sessions.add(session)
            await unit.api_keys.add(key, "digest")
            await unit.users.update(disabled)
            await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.sessions.with_user("sess_1") == (session, disabled)
            assert await unit.api_keys.with_user("digest") == (key, disabled)

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
        ada, bob = await stored_user(storage), await stored_user(storage, "bob")

        async def add_a_letter() -> None:
            async with storage.new_unit() as unit:
                user = await unit.users.hold(ada.id)
                assert user is not None
                await asyncio.sleep(0)
                await unit.users.update(replace(user, password_hash=user.password_hash + "x"))
                await unit.commit()

        await asyncio.gather(*(add_a_letter() for _ in range(8)))
        async with storage.new_unit(read_only=True) as unit:
            changed = await unit.users.get(ada.id)
            assert await unit.users.get(bob.id) == bob
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

    async def test_sessions_and_keys_of_one_moment_are_listed_by_id_highest_first(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        sessions = [_session(ada, f"sess_{n}") for n in (2, 3, 1)]
        keys = [ApiKey(id=f"key_{n}", user_id=ada.id, name="k", created_at=moment()) for n in (2, 3, 1)]
        async with storage.new_unit() as unit:
            for session, key in zip(sessions, keys, strict=True):
                await unit.sessions.add(session)
                await unit.api_keys.add(key, f"digest of {key.id}")
            await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.sessions.live_of(ada.id, moment(1)) == [sessions[1], sessions[0], sessions[2]]
            assert await unit.api_keys.of(ada.id) == [keys[1], keys[0], keys[2]]

    async def test_sessions_and_keys_that_are_taken_or_of_nobody_are_refused(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        session, key = _session(ada, "sess_1"), ApiKey(id="key_1", user_id=ada.id, name="k", created_at=moment())
        async with storage.new_unit() as unit:
            await unit.sessions.add(session)
            await unit.api_keys.add(key, "digest")
            await unit.commit()
        sessions = replace(session, expires_at=moment(7)), replace(session, id="sess_2", user_id=ada.id + 1)
        for refused in sessions:
            async with storage.new_unit() as unit:
                with pytest.raises(Exception):  # noqa: B017, PT011 - each storage has words of its own
                    await unit.sessions.add(refused)
        another = replace(key, id="key_2")
        keys = (replace(key, name="x"), "other"), (another, "digest"), (replace(another, user_id=ada.id + 1), "other")
        for refused_key, digest in keys:
            async with storage.new_unit() as unit:
                with pytest.raises(Exception):  # noqa: B017, PT011 - as above
                    await unit.api_keys.add(refused_key, digest)
        async with storage.new_unit(read_only=True) as unit:
            assert await unit.sessions.live_of(ada.id, moment(1)) == [session]
            assert await unit.api_keys.of(ada.id) == [key]
        async with storage.new_unit() as unit:
            await unit.api_keys.delete(ada.id, key.id)
            await unit.api_keys.add(key, "digest")
            assert await unit.api_keys.with_user("digest") == (key, ada)

    async def test_of_very_many_live_sessions_the_newest_thousand_are_listed(self, storage: Storage) -> None:
        ada = await stored_user(storage)
        async with storage.new_unit() as unit:
            for n in range(1002):
                await unit.sessions.add(_session(ada, f"sess_{n}", at=n))
            await unit.commit()
        async with storage.new_unit(read_only=True) as unit:
            live = [one.id for one in await unit.sessions.live_of(ada.id, moment(1002))]
        assert live == [f"sess_{n}" for n in range(1001, 1, -1)]

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
            await unit.api_keys.used("key_1", moment(20))
            await unit.api_keys.used("key_1", moment(30))
            await unit.api_keys.used("key_none", moment(40))
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
            found = [await unit.api_keys.with_user(f"digest of {key.id}") for key in keys]
            assert found == [None, (keys[1], bob), (keys[2], ada)]

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

    async def test_old_tries_count_for_nothing_however_many_there_are(self, storage: Storage) -> None:
        """They are deleted now and then, some at a time."""
        for n in range(120):
            await _try(storage, account=f"user{n}", peer=f"peer {n}")
        for at in (1, 2, 3):
            await _try(storage, at=at)
        assert await _try(storage, at=70) is None

    async def test_of_both_limits_the_one_that_lasts_longer_is_told(self, storage: Storage) -> None:
        for at in (10, 11, 12):
            await _try(storage, at=at, peer="192.0.2.2")
        for at in range(5):
            await _try(storage, at=at, account=f"user{at}")
        assert await _try(storage, at=20) == moment(10)

    async def test_under_a_lower_limit_as_many_tries_must_grow_old_as_are_too_many(self, storage: Storage) -> None:
        for at in range(4):
            assert await _try(storage, at=at, account_limit=5) is None
        assert await _try(storage, at=5, account_limit=2) == moment(2)

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
