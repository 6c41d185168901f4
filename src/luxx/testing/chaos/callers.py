"""Asking a service that is being disturbed: again and again, until there is a definite answer."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from luxx.testing.chaos.answers import PROXIES, body_of, fault_of, retry_after
from luxx.testing.chaos.record import Tally

MALFORMED: Final = (KeyError, TypeError, AttributeError, ValueError)
"""What comes of an answer that is JSON and has not what it must have."""


@dataclass(slots=True, kw_only=True)
class Play:
    """What all clients of a run share. `routes` gives the roots of the service that may be used now."""

    routes: Callable[[], Sequence[str]]
    tally: Tally
    until: float
    """When no new operation begins, by `time.monotonic()`."""
    patience: float
    """Seconds in which every operation must come to its end."""
    silence: float
    """Seconds without any byte after which a stream counts as broken off; above the heartbeat."""
    scripted: bool
    """Whether the model is the scripted upstream: then prompts steer it, and what it says is known."""
    tokens: dict[int, str] = field(default_factory=dict)
    """Of all users: whoever has another's may see nothing of one."""


class Refused(Exception):
    """The service gave a definite answer that is not the one asked for."""

    def __init__(self, status: int, code: str, text: str, *, wait: float = 0.0) -> None:
        super().__init__(f"{status} {code}: {text}")
        self.status = status
        self.code = code
        self.wait = wait


class Caller:
    """One user of the service, with the requests that every client makes."""

    def __init__(self, number: int, play: Play, *, seed: int) -> None:
        self.number: Final = number
        self.play: Final = play
        self.tally: Final = play.tally
        self.name: Final = f"chaos{seed}x{number}x{time.time_ns() % 10**10}"
        self._random: Final = random.Random(f"{seed}/{number}")  # noqa: S311 - to be repeatable
        self._token = ""
        self._http: Final = httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(play.silence, connect=5))

    async def close(self) -> None:
        await self._http.aclose()

    def _route(self) -> str:
        return self._random.choice(self.play.routes())

    @property
    def _headers(self) -> dict[str, str]:
        # A connection for each request draws its own faults.
        shown = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        if self.play.scripted:  # elsewhere a proxy may give requests ids of its own
            shown["X-Request-ID"] = f"{self.name}-{self._random.getrandbits(64):x}"
        return shown | {"Connection": "close", "Accept-Language": "en"}

    async def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        text: str | None = None,
        status: int = 200,
        token: str | None = None,
        key: str = "",
    ) -> Any:
        """Ask until there is a definite answer; gives its data. `text` is sent as JSON, whatever it is.

        Raises `Refused`, `TimeoutError`.
        """
        headers = self._headers | ({"Idempotency-Key": key} if key else {})
        if token is not None:
            headers.pop("Authorization", None)
            headers |= {"Authorization": f"Bearer {token}"} if token else {}
        if text is not None:
            headers["Content-Type"] = "application/json"
        last = "none came"
        try:
            async with asyncio.timeout(self.play.patience):
                while True:
                    try:
                        response = await self._http.request(
                            method, self._route() + path, json=json, content=text, headers=headers
                        )
                    except httpx.TransportError as error:
                        last = repr(error)
                        await self._pause()
                        continue
                    self._heard(f"{method} {path}", response, status)
                    body = body_of(response)
                    if response.status_code < 300 and body is not None:
                        return body.get("data")
                    refused = refusal_of(response)
                    if refused.code not in {"overloaded", "rate_limited"}:
                        raise refused
                    last = str(refused)
                    await self._pause(refused)
        except TimeoutError:
            told = f"no definite answer to {method} {path} in {self.play.patience:g} s; the last: {last}"
            raise TimeoutError(told) from None

    def _heard(self, asked: str, response: httpx.Response, status: int) -> None:
        fault = fault_of(response, status)
        self.tally.check("API", fault is None, "wrong", f"{asked}: {fault}")

    async def _pause(self, refused: Refused | None = None) -> None:
        # Our own processes ask for whole seconds, in which a run would have done much.
        wait = refused.wait if refused is not None and not self.play.scripted else 0.0
        await asyncio.sleep(wait + self._random.uniform(0.02, 0.3))

    async def must_refuse(
        self, promise: str, who: str, method: str, path: str, expected: tuple[int, str], **options: Any
    ) -> None:
        """Ask for what must be refused in this way."""
        try:
            await self.call(method, path, **options)
        except Refused as refused:
            told = (refused.status, refused.code)
            self.tally.check(promise, told == expected, "wrong", f"{who}, {method} {path}: {refused}")
        else:
            self.tally.check(promise, False, "wrong", f"{who}, {method} {path}: it was not refused")

    async def do_once(self, method: str, path: str) -> None:
        """Do what can be done once."""
        try:
            await self.call(method, path)
        except Refused as refused:
            if refused.status not in {401, 404}:  # by ourselves: the answer was lost
                raise

    def right(self, kept: bool, note: str) -> None:
        self.tally.check("API", kept, "wrong", note)


def refusal_of(response: httpx.Response) -> Refused:
    status, wait = response.status_code, retry_after(response)
    try:
        body = response.json()
        return Refused(status, body["error"]["code"], body["message"], wait=wait)
    except (ValueError, KeyError, TypeError):
        # A proxy in its place tells nothing of what became of the request: try again.
        code = "overloaded" if status in PROXIES else "unreadable"
        return Refused(status, code, response.text[:200], wait=wait)
