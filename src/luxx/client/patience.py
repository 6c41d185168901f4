"""How long to wait, how often to try, and when to give up."""

import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

from luxx.client.errors import LuxxClientError

LONGEST_SECONDS: Final = 1_000_000.0
"""No wait is longer, whoever asks for it: sockets and clocks refuse infinity, and what is near it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """All waits of a client; times are in seconds.

    - `connect_seconds`: for a connection.
    - `answer_seconds`: without a byte of an ordinary answer.
    - `send_seconds`: for the whole answer of the model, in one try of `send`.
    - `silence_seconds`: without a byte of a stream. The server says something at least every 15 s.
    - `tries`: in a row that brought nothing new. A stream that gave an event, or only a heartbeat, counts anew.
    - `first_pause_seconds`: before the second try; twice as long before each further one, at most
      `longest_pause_seconds`, and at random down to half of it, so that many clients do not come back at once.
    - `longest_wait_seconds`: the longest `Retry-After` that is waited for; where the service asks for
      more, the error is raised at once, with its `retry_after`.

    A service that cannot be reached is given up after 19 s or so with these defaults; `Patience(tries=1)`
    tries nothing again, and with `math.inf` a wait has no end. Raises ValueError for what is no number of
    seconds or of tries.
    """

    connect_seconds: float = 5.0
    answer_seconds: float = 60.0
    send_seconds: float = 900.0
    silence_seconds: float = 40.0
    tries: int = 10
    first_pause_seconds: float = 0.2
    longest_pause_seconds: float = 5.0
    longest_wait_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"tries must be at least 1: {self.tries} would ask for nothing")
        for name, value in asdict(self).items():
            if math.isnan(value) or value < 0:
                raise ValueError(f"{name} must be a number, and at least 0, not {value}")
        for name in ("connect_seconds", "answer_seconds", "send_seconds", "silence_seconds"):
            if not getattr(self, name):
                raise ValueError(f"{name} must be more than 0: nothing comes so soon")


class Tries:
    """Counts what failed in a row."""

    def __init__(self, patience: Patience, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience: Final = patience
        self._clock: Final = clock
        self._failures = 0
        self._since = clock()

    def progressed(self) -> None:
        """Note that something new came."""
        self._failures = 0
        self._since = self._clock()

    def told(self) -> str:
        """Say how often, and for how long, it was tried, the try counted that fails now; nothing of a first one."""
        if not self._failures:
            return ""
        return f" in {self._failures + 1} tries and {self._clock() - self._since:.1f} s"

    def pause_after(self, failure: LuxxClientError) -> float:
        """Give the seconds to wait before the next try; raises `failure` where there is none."""
        self._failures += 1
        patience, asked = self._patience, failure.retry_after or 0.0
        if self._failures >= patience.tries or asked > patience.longest_wait_seconds:
            raise failure
        # The exponent is bounded because 2.0**1024 is too large for a float.
        pause: float = patience.first_pause_seconds * 2.0 ** min(self._failures - 1, 64)
        spread = random.uniform(0.5, 1.0)  # noqa: S311  # nobody need be surprised by it
        return min(max(min(pause, patience.longest_pause_seconds) * spread, asked), LONGEST_SECONDS)
