"""A run: processes, proxies, clients, and somebody who disturbs them."""

import asyncio
import contextlib
import json
import random
import secrets
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import httpx

from luxx.extras import needs
from luxx.testing.chaos.aftermath import look_after
from luxx.testing.chaos.answers import body_of
from luxx.testing.chaos.callers import Play
from luxx.testing.chaos.clients import ChaosClient
from luxx.testing.chaos.processes import NotStarted, ServiceProcess, UpstreamProcess
from luxx.testing.chaos.record import Tally
from luxx.testing.fault_proxy import NONE, FaultProxy, Faults
from luxx.testing.postgres import ThrowawayPostgres

Storage = Literal["sqlite", "postgres"]

LEASE: Final = 3.0
GRACE: Final = 2.0
_PATIENCE: Final = 90.0
_EXIT_SECONDS: Final = 20.0
_TO_CLIENTS: Final = Faults(
    reset=0.08, truncate=0.05, stall=0.05, slice_=0.15, latency=0.3, stall_s=1.5, latency_s=0.02
)
_TO_MODEL: Final = Faults(reset=0.04, truncate=0.04, stall=0.02, slice_=0.2, latency=0.2, stall_s=1.0, latency_s=0.01)


class NotLuxx(Exception):
    """No Luxx answers at an address; the text tells what does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run found; `log` holds the last words of the processes, for whoever looks for the fault."""

    title: str
    tally: Tally
    summary: str
    log: str = ""
    promises: tuple[str, ...]


def settings_for(storage_url: str, llm_url: str) -> dict[str, str]:
    """Give the environment of a process under chaos: every deadline is short, so that much happens in a minute."""
    return {
        "LUXX_DATABASE_URL": storage_url,
        "LUXX_JWT_SECRET": secrets.token_hex(32),
        "LUXX_LLM_BASE_URL": llm_url,
        "LUXX_LLM_CONNECT_SECONDS": "2",
        "LUXX_LLM_FIRST_TOKEN_SECONDS": "2",
        "LUXX_LLM_IDLE_SECONDS": "2",
        "LUXX_LLM_TOTAL_SECONDS": "20",
        "LUXX_LLM_RETRIES": "1",
        "LUXX_LEASE_SECONDS": str(LEASE),
        "LUXX_HEARTBEAT_SECONDS": "1",
        "LUXX_GRACE_SECONDS": str(GRACE),
    }


@asynccontextmanager
async def _storage_url(storage: Storage, directory: Path) -> AsyncIterator[str]:
    if storage == "sqlite":
        yield f"sqlite:///{directory / 'luxx.db'}"
        return
    server = ThrowawayPostgres()
    await asyncio.to_thread(server.__enter__)
    try:
        url = server.url(await asyncio.to_thread(server.create_database))
        from luxx.adapters.database import Database  # noqa: PLC0415  # what only asks others needs no storage

        database = Database(url)
        await database.upgrade()
        await database.close()
        yield url
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


@dataclass(slots=True)
class _Site:
    """One process of the service, and the proxy that clients reach it by."""

    service: ServiceProcess
    proxy: FaultProxy
    up: bool = True

    async def start(self) -> None:
        await self.service.start()
        self.proxy.target_port = self.service.port
        self.up = True


class Disturber:
    """Kills, stops and restarts processes, one at a time, and cuts connections."""

    def __init__(self, sites: Sequence[_Site], upstream: FaultProxy, tally: Tally, *, seed: int) -> None:
        self._sites: Final = sites
        self._upstream: Final = upstream
        self._tally: Final = tally
        self._random: Final = random.Random(f"{seed}/disturber")  # noqa: S311 - to be repeatable
        self._done: Final[list[str]] = []

    def told(self) -> str:
        """Tell what was done, how often."""
        return ", ".join(f"{self._done.count(act)} × {act}" for act in dict.fromkeys(self._done)) or "nothing done"

    async def run(self, until: float) -> None:
        """Disturb until then; everything runs again when this returns."""
        while time.monotonic() < until:
            await asyncio.sleep(self._random.uniform(0.1, 1.5))
            site = self._random.choice(self._sites)
            act = self._random.choices(("kill", "term", "stop", "cut", "cut upstream"), (4, 2, 3, 2, 1))[0]
            self._done.append(act)
            match act:
                case "kill":
                    await self._kill(site)
                case "term":
                    await self._term(site)
                case "stop":
                    await self._stop(site)
                case "cut":
                    self._tally.fault(*["P2", "P3", "P5"] * site.proxy.cut())
                case _:
                    self._tally.fault(*["P8"] * self._upstream.cut())

    async def _kill(self, site: _Site) -> None:
        self._tally.fault("P1", "P2", "P3", "P5", "P13")
        site.up = False
        await site.service.kill()
        await asyncio.sleep(self._random.uniform(0, 2))
        await site.start()

    async def _term(self, site: _Site) -> None:
        self._tally.fault("P1", "P2", "P3", "P5", "P10")
        site.service.signal(signal.SIGTERM)
        await asyncio.sleep(self._random.uniform(0, 0.5))
        site.up = False
        try:
            async with asyncio.timeout(_EXIT_SECONDS):
                status = await site.service.wait()
        except TimeoutError:
            self._tally.check("P10", False, "hung", f"no exit within {_EXIT_SECONDS:g} s:\n{site.service.said}")
            await site.service.kill()
        else:
            self._tally.check("P10", status == 0, "lost", f"exit status {status}:\n{site.service.said}")
        await site.start()

    async def _stop(self, site: _Site) -> None:
        self._tally.fault("P1", "P2", "P3", "P6", "P13")
        site.service.signal(signal.SIGSTOP)
        # Sometimes longer than a lease: then the other process takes over what this one thinks it has.
        await asyncio.sleep(self._random.choice((0.2, 0.8, LEASE * 2)))
        site.service.signal(signal.SIGCONT)


async def run_own(storage: Storage, *, seconds: float, seed: int, clients: int) -> Result:
    """Start one process on SQLite or two on Postgres, disturb them for so long, and compare."""
    with needs("luxx.testing.chaos without --url", "the extra `server`"):
        import luxx.container  # noqa: F401, PLC0415  # what it starts
    tally = Tally()
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="luxx-chaos-")))
        storage_url = await stack.enter_async_context(_storage_url(storage, directory))
        upstream = await stack.enter_async_context(UpstreamProcess(delay=0.01))
        model = await stack.enter_async_context(
            FaultProxy("127.0.0.1", upstream.port, faults=_TO_MODEL, seed=seed * 1000)
        )
        environ = settings_for(storage_url, f"{model.url}/v1")
        sites = []
        for number in range(1 if storage == "sqlite" else 2):
            environ["LUXX_DATA_DIR"] = str(directory / f"data{number}")
            service = await stack.enter_async_context(ServiceProcess(environ, directory=directory))
            proxy = FaultProxy("127.0.0.1", service.port, faults=_TO_CLIENTS, seed=seed * 1000 + number + 1)
            sites.append(_Site(service, await stack.enter_async_context(proxy)))
        until = time.monotonic() + seconds

        def routes() -> list[str]:
            return [site.proxy.url for site in sites if site.up] or [site.proxy.url for site in sites]

        play = Play(routes=routes, tally=tally, until=until, patience=_PATIENCE, silence=4.0, scripted=True)
        disturber = Disturber(sites, model, tally, seed=seed)
        users = [ChaosClient(number, play, seed=seed) for number in range(clients)]
        for user in users:
            stack.push_async_callback(user.close)

        async def disturb() -> None:
            try:
                await disturber.run(until)
            except NotStarted as failure:
                tally.check("P13", False, "hung", str(failure))
            finally:
                for proxy in (model, *(site.proxy for site in sites)):
                    proxy.faults = NONE

        await asyncio.gather(disturb(), *(user.run() for user in users))
        await look_after(users)
        left = await _open_requests(upstream.port)
        tally.check("P9", left == 0, "hung", f"{left} requests to the model are open at the end")
        drawn = sum(site.proxy.drawn for site in sites)
        tally.fault(*["P3", "P5"] * drawn, *["P8"] * model.drawn)
        broken = f"{drawn} connections of clients and {model.drawn} to the model broken"
        return Result(
            title=f"{storage}, {len(sites)} process{'es' if len(sites) > 1 else ''}",
            tally=tally,
            summary=f"{_counted(users)}; {disturber.told()}; {broken}",
            log="\n\n".join(f"--- process {number}\n{site.service.said}" for number, site in enumerate(sites)),
            promises=("P1", "P2", "P3", "P4", "P5", "P6", "P8", "P9", "P10", "P13", "API"),
        )


async def run_against(urls: Sequence[str], *, seconds: float, seed: int, clients: int, silence: float = 40.0) -> Result:
    """Do to a deployment what clients may do: break off, try again, resume, cancel, send twice and delete.

    Raises `NotLuxx` where one of `urls` is not one.
    """
    for url in urls:
        await _greet(url)
    tally = Tally()
    play = Play(
        routes=lambda: urls,
        tally=tally,
        until=time.monotonic() + seconds,
        patience=300.0,
        silence=silence,
        scripted=False,
    )
    users = [ChaosClient(number, play, seed=seed) for number in range(clients)]
    try:
        await asyncio.gather(*(user.run() for user in users))
        await look_after(users)
    finally:
        for user in users:
            await user.close()
    promises = ("P1", "P2", "P3", "P4", "P5", "P6", "P9", "P12", "P13", "API")
    return Result(title=", ".join(urls), tally=tally, summary=_counted(users), promises=promises)


async def _greet(url: str) -> None:
    """Make sure that a service answers, before every client waits for it in vain."""
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            response = await http.get(f"{url}/api/auth/me", headers={"Accept-Language": "en"})
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise NotLuxx(f"{url} is no address like https://chat.example.com: {error}") from error
    except httpx.TransportError as error:
        raise NotLuxx(f"nothing answers at {url}: {error!r}") from error
    if (response.status_code, _code(response)) != (401, "unauthenticated"):
        told = f"{response.status_code} {response.text[:80]!r}"
        raise NotLuxx(f"{url} is no Luxx: GET /api/auth/me without a token gives {told}, not 401 unauthenticated")


def _code(response: httpx.Response) -> Any:
    error = (body_of(response) or {}).get("error")
    return error.get("code") if isinstance(error, dict) else None


def _counted(users: Sequence[ChaosClient]) -> str:
    sent = [sent for user in users for talk in user.talks for sent in talk.sent]
    events = sum(len(one.events) for one in sent)
    return f"{len(users)} clients, {len(sent)} messages, {sum(one.accepted for one in sent)} accepted, {events} events"


async def _open_requests(port: int) -> int:
    """Ask the provider how many requests it still answers; give it a moment to notice that they ended."""
    left = -1
    for _ in range(50):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /stats HTTP/1.1\r\nHost: upstream\r\n\r\n")
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            size = int(await reader.readuntil(b"\r\n"), 16)
            left = json.loads(await reader.readexactly(size))["open_requests"]
        writer.close()
        await writer.wait_closed()
        if left == 0:
            break
        await asyncio.sleep(0.1)
    return left
