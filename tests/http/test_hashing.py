"""What a login costs: one hash, off the event loop, at most one per core at once, of the cost that is set."""

import asyncio
import os
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import argon2
from tests.http.conftest import SECRET
from tests.support.live import PASSWORD, Live, live

from luxx.adapters.security.argon2 import Argon2Cost, Argon2Hasher
from luxx.container import Container
from luxx.settings import Settings

CHEAP = Argon2Cost(memory_kib=8, passes=1)


@dataclass(slots=True)
class CountingHasher:
    """An argon2 hasher that tells what it was asked for."""

    inner: Argon2Hasher = field(default_factory=lambda: Argon2Hasher(CHEAP))
    hashed: int = 0
    verified: int = 0

    async def hash(self, password: str) -> str:
        self.hashed += 1
        return await self.inner.hash(password)

    async def verify(self, password: str, hashed: str | None) -> bool:
        self.verified += 1
        return await self.inner.verify(password, hashed)

    def outdated(self, hashed: str) -> bool:
        return self.inner.outdated(hashed)


async def log_in(server: Live, username: str, password: str = PASSWORD) -> int:
    body = {"username": username, "password": password}
    return (await server.http.post("/api/auth/login", json=body)).status_code


async def stored_hash(container: Container, user_id: int) -> str:
    async with container.new_unit()(read_only=True) as unit:
        user = await unit.users.get(user_id)
    assert user is not None
    return str(user.password_hash)


async def test_a_login_costs_one_hash_whatever_comes_of_it(container: Container) -> None:
    hasher = CountingHasher()
    container.hasher.override(hasher)
    async with live(container) as server:
        known, disabled = await server.account(), await server.account()
        async with container.new_unit()() as unit:
            held = await unit.users.hold(disabled.user_id)
            assert held is not None
            await unit.users.update(replace(held, is_active=False))
            await unit.commit()
        outcomes = (
            (known.username, PASSWORD, 200),
            (known.username, "wrong password", 401),
            ("nobody-at-all", PASSWORD, 401),
            ("", "", 401),
            ("x" * 1024, "y" * 1024, 401),
            ("\u202e", "\ufb01" * 1024, 401),
            (disabled.username, PASSWORD, 403),
            (disabled.username, "wrong password", 401),
        )
        hasher.hashed = 0
        for username, password, status in outcomes:
            hasher.verified = 0
            assert await log_in(server, username, password) == status
            assert (hasher.verified, hasher.hashed) == (1, 0), (username, password)


async def test_no_more_hashes_run_at_once_than_there_are_cores(container: Container) -> None:
    cores = os.cpu_count() or 1
    lock, seen = threading.Lock(), [0, 0]
    together = threading.Barrier(cores)

    class Counting(argon2.PasswordHasher):
        def verify(self, hash: Any, password: Any) -> Any:  # noqa: A002 - the library's name
            with lock:
                seen[0] += 1
                seen[1] = max(seen)
            together.wait(10)  # as many as there are cores must be able to meet here
            try:
                return super().verify(hash, password)
            finally:
                with lock:
                    seen[0] -= 1

    hasher = Argon2Hasher(CHEAP)
    hasher._hasher = Counting(time_cost=1, memory_cost=8, parallelism=1)  # type: ignore[misc]  # watched only
    container.hasher.override(hasher)
    async with live(container) as server:
        found = await asyncio.gather(*(log_in(server, f"nobody-{n}") for n in range(8 * cores)))
    assert set(found) == {401}
    assert seen[1] == cores


async def test_hashes_are_made_anew_at_login_when_the_settings_change(sqlite_url: str, tmp_path: Path) -> None:
    old = Settings(
        data_dir=tmp_path,
        database_url=sqlite_url,
        jwt_secret=SECRET,
        password_memory_kib=128,
        password_passes=1,
        password_lanes=1,
    )
    async with live(Container(settings=old)) as server:
        user = await server.account()
        first = await stored_hash(server.container, user.user_id)
        assert first.startswith("$argon2id$v=19$m=128,t=1,p=1$")
        assert await log_in(server, user.username) == 200
        assert await stored_hash(server.container, user.user_id) == first
    new = replace(old, password_memory_kib=256, password_passes=3, password_lanes=2)
    async with live(Container(settings=new)) as server:
        assert await log_in(server, user.username, "wrong password") == 401
        assert await stored_hash(server.container, user.user_id) == first
        assert await log_in(server, user.username) == 200
        assert (await stored_hash(server.container, user.user_id)).startswith("$argon2id$v=19$m=256,t=3,p=2$")
        assert await log_in(server, user.username) == 200


async def test_the_default_settings_are_what_owasp_asks_for_at_least() -> None:
    settings = Settings()
    cost = settings.password_memory_kib, settings.password_passes, settings.password_lanes
    assert cost == (19 * 1024, 2, 1)
