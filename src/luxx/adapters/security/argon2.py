"""Password hashing with argon2id (RFC 9106)."""

import asyncio
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import argon2

R = TypeVar("R")

_NICE: Final = 10


def _let_others_go_first() -> None:
    """Lower the priority of this thread: a login may take a little longer, an event of a stream may not.

    Linux alone has a priority for each thread (nice(2)); elsewhere the whole process would get it.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # forbidden here: then it hashes as it is
            os.nice(_NICE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Argon2Cost:
    """What a hash costs: `memory_kib` KiB, `passes` over it, `lanes` in parallel.

    The default is the least that OWASP's password storage cheat sheet recommends.
    """

    memory_kib: int = 19 * 1024
    passes: int = 2
    lanes: int = 1


class Argon2Hasher:
    """`PasswordHasher` on argon2id. Hashes in threads of its own, one for each core.

    A hash takes its memory and tens of milliseconds: in the shared pool it would keep other work waiting.
    """

    def __init__(self, cost: Argon2Cost | None = None) -> None:
        cost = cost or Argon2Cost()
        self._hasher: Final = argon2.PasswordHasher(
            time_cost=cost.passes, memory_cost=cost.memory_kib, parallelism=cost.lanes, type=argon2.Type.ID
        )
        self._threads: Final = ThreadPoolExecutor(
            max_workers=os.cpu_count() or 1, thread_name_prefix="luxx-argon2", initializer=_let_others_go_first
        )
        # Made ahead: if the first unknown user paid for it, the time would tell that it is unknown.
        self._nobodys: Final = self._hasher.hash("the password of nobody")

    async def hash(self, password: str) -> str:
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, password: str, hashed: str | None) -> bool:
        matches = await self._run(lambda: self._matches(self._nobodys if hashed is None else hashed, password))
        return matches and hashed is not None

    def outdated(self, hashed: str) -> bool:
        return self._hasher.check_needs_rehash(hashed)

    def close(self) -> None:
        """End the threads; hashes under way are finished."""
        self._threads.shutdown()

    def _matches(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except argon2.exceptions.VerifyMismatchError:
            return False
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError, UnicodeEncodeError):
            # What is no hash of ours (an operator's `!`, an import) is made by no password, and refused
            # without any work: in that time it would tell that there is such an account.
            with suppress(argon2.exceptions.VerifyMismatchError):
                self._hasher.verify(self._nobodys, password)
            return False

    async def _run(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
