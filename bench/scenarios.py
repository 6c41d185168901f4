"""The scenarios: each runs its configurations in turn, round after round, and adds to the record.

Everything that is not measured (accounts, conversations, rows) is made before the clock runs.
"""

import asyncio
import contextlib
import itertools
import json
import os
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.answers import Answer, fast, paced, wide
from bench.figures import Histogram
from bench.load import Address, Caller, Faulty, Wave, closed_loop, every, one_by_one, request, wave
from bench.proc import Cores, cpu_of, foreign, machine, pss_of, stolen
from bench.processes import PASSWORD, Account, Bare, Direct, Luxx, Process, Served, bare, bare_beside, luxx
from bench.record import Record, Steal
from bench.rows import Rows, fill_postgres, fill_sqlite
from luxx.testing.postgres import ThrowawayPostgres

SETTLED_SECONDS: Final = 0.3
"""After the last byte the end of a turn is still being written: it belongs to the streams before."""
GAP_LIMIT: Final = 0.050


class Scale(msgspec.Struct, frozen=True):
    """How much is done: everything that makes a run long or short."""

    rounds: int
    tokens: int
    """Of a paced answer, 50 a second."""
    sends: int
    seconds: float
    """Of a loop of requests."""
    capacity_steps: Sequence[int]
    stalled: int
    calls: int
    starts: int
    rows: int


FULL: Final = Scale(
    rounds=3,
    tokens=500,
    sends=60,
    seconds=2.0,
    capacity_steps=(100, 200, 300, 400, 500, 600),
    stalled=200,
    calls=100,
    starts=5,
    rows=1_000_000,
)
QUICK: Final = Scale(
    rounds=2,
    tokens=250,
    sends=20,
    seconds=1.0,
    capacity_steps=(),
    stalled=50,
    calls=40,
    starts=1,
    rows=20_000,
)


class Bench:
    """What the scenarios run on."""

    def __init__(
        self,
        *,
        record: Record,
        scale: Scale,
        cores: Cores,
        place: Path,
        upstream: Process,
        upstream_address: Address,
        nginx: Direct | None,
        database: ThrowawayPostgres,
    ) -> None:
        self.record: Final = record
        self.scale: Final = scale
        self.cores: Final = cores
        self.place: Final = place
        self.upstream: Final = upstream
        self.upstream_address: Final = upstream_address
        self.nginx: Final = nginx
        self.database: Final = database
        self.direct: Final = Direct(name="direct", address=upstream_address, processes=[upstream], settings={})
        self._numbers: Final = itertools.count(1)

    @contextmanager
    def measured(self, scenario: str) -> Iterator[None]:
        """Note what the hypervisor took meanwhile, and what programs used that are none of ours."""
        before, used = machine(), cpu_of([os.getpid()])
        yield
        after, used = machine(), cpu_of([os.getpid()]) - used
        steal = Steal(scenario=scenario, share=stolen(before, after), foreign=foreign(before, after, used))
        self.record.steals.append(steal)

    def service(self, name: str, *, postgres: bool, count: int = 1, url: str | None = None) -> Any:
        """Run the service on a database of its own (a context manager)."""
        if postgres and url is None:
            url = self.database.url(self.database.create_database())
        return luxx(
            name,
            place=self.place,
            cores=self.cores,
            upstream=self.upstream_address,
            database=url,
            database_pid=self.database.process_id if postgres else None,
            count=count,
        )

    async def streams(
        self, scenario: str, served: Served, answer: Answer, streams: int, *, over: float = 0.0
    ) -> tuple[Wave, dict[str, float]]:
        """Run streams together; gives the wave and its figures, and adds them to the record."""
        jobs = await served.jobs(answer, streams, over=over)
        await asyncio.sleep(SETTLED_SECONDS)
        before = served.cpu(), served.database_cpu(), cpu_of([self.upstream.pid])
        with self.measured(scenario):
            found = await wave(jobs)
            await asyncio.sleep(SETTLED_SECONDS)
        after = served.cpu(), served.database_cpu(), cpu_of([self.upstream.pid])
        service, database, upstream = (late - early for early, late in zip(before, after, strict=True))
        micro = 1e6 / found.tokens
        figures = {
            "cpu_us": service * micro,
            "database_us": database * micro,
            "upstream_us": upstream * micro,
            "load_us": found.cpu * micro,
            "tokens_per_cpu_s": found.tokens / max(service, 0.01),
            "tokens_per_s": found.tokens / found.wall,
            "wall_s": found.wall,
            "first_p50_ms": found.first.percentile(50) * 1e3,
            "first_p99_ms": found.first.percentile(99) * 1e3,
            "gap_p50_ms": found.gaps.percentile(50) * 1e3,
            "gap_p99_ms": found.gaps.percentile(99) * 1e3,
        }
        self.record.add(scenario, served.name, figures)
        return found, figures


@asynccontextmanager
async def both(bench: Bench) -> AsyncIterator[list[Luxx]]:
    """Run the service on SQLite and on Postgres."""
    with bench.service("sqlite", postgres=False) as one, bench.service("postgres", postgres=True) as other:
        for served in (one, other):
            await served.people(10)
            bench.record.settings[served.name] = {
                name: text.replace(str(bench.place), "…") for name, text in served.settings.items()
            }
        yield [one, other]


def _beside(bench: Bench, services: Sequence[Luxx]) -> list[Served]:
    floor: list[Served] = [] if bench.nginx is None else [bench.nginx]
    return [bench.direct, *floor, *services]


async def hundred(bench: Bench, services: Sequence[Luxx]) -> None:
    """100 paced streams: what a token costs."""
    for _ in range(bench.scale.rounds):
        for served in _beside(bench, services):
            await bench.streams("paced 100", served, paced(bench.scale.tokens), 100, over=1.0)


async def growing(bench: Bench, services: Sequence[Luxx]) -> None:
    """10 and 300 paced streams: what a token costs when there are few and many."""
    for _ in range(max(1, bench.scale.rounds // 2)):
        for streams in (10, 300):
            for served in services:
                await bench.streams(f"paced {streams}", served, paced(bench.scale.tokens), streams, over=1.0)


async def first_token(bench: Bench, services: Sequence[Luxx]) -> None:
    """One stream at a time: how long until its first token."""
    with bare_streams(bench, services) as bares:
        for one in bares:  # what is loaded with the first answers is loaded now
            await one_by_one(await one.jobs(fast(10), 10))
        for _ in range(bench.scale.rounds):
            for served in [*_beside(bench, services), *bares]:
                await one_first_token(bench, served)


async def one_first_token(bench: Bench, served: Served) -> None:
    """Measure one round of it."""
    jobs = await served.jobs(fast(10), bench.scale.sends)
    with bench.measured("first token"):
        times = await one_by_one(jobs)
    figures = {"first_p50_ms": times.percentile(50) * 1e3, "first_p99_ms": times.percentile(99) * 1e3}
    bench.record.add("first token", served.name, figures)


async def hurried(bench: Bench, services: Sequence[Luxx]) -> None:
    """100 streams of a provider that is as fast as it can be: tokens a second."""
    for _ in range(bench.scale.rounds):
        for served in _beside(bench, services):
            await bench.streams("fast 100", served, fast(2000), 100)


async def capacity(bench: Bench, services: Sequence[Luxx]) -> None:
    """More and more paced streams, until one gap in a hundred is 50 ms: the highest number below."""
    for served in services:
        held = 0
        for streams in bench.scale.capacity_steps:
            if not await _held(bench, served, streams):
                break
            held = streams
        if not held and bench.scale.capacity_steps:
            smaller = (streams for streams in (75, 50, 25) if streams < bench.scale.capacity_steps[0])
            for streams in smaller:
                if await _held(bench, served, streams):
                    held = streams
                    break
        bench.record.add("capacity", served.name, {"streams": held})
    if bench.scale.capacity_steps:
        await bench.streams("capacity", bench.direct, paced(200), bench.scale.capacity_steps[-1], over=1.0)


async def _held(bench: Bench, served: Luxx, streams: int) -> bool:
    # Twice, because one hiccup of a shared machine is no limit of the service.
    for _ in range(2):
        with contextlib.suppress(Faulty):
            found, _ = await bench.streams(f"capacity {streams}", served, paced(200), streams, over=1.0)
            if found.gaps.percentile(99) < GAP_LIMIT:
                return True
    return False


async def signing_in(bench: Bench, services: Sequence[Luxx]) -> None:
    """Eight clients sign in in a loop: how long others wait for what they ask."""
    seconds = 2 * bench.scale.seconds
    for _ in range(max(1, bench.scale.rounds // 2)):
        for served in services:
            (account, *_) = await served.people(10)
            asked = request("GET", "/api/auth/me", token=account.token)
            bodies = itertools.cycle(
                [
                    request("POST", "/api/auth/login", body={"username": one.name, "password": PASSWORD})
                    for one in served.accounts[1:9]
                ]
            )
            with bench.measured("signing in"):
                quiet = await every(served.address, asked, pause=0.01, seconds=seconds / 2)
                signing = asyncio.create_task(
                    closed_loop(served.address, bodies.__next__, connections=8, seconds=seconds)
                )
                await asyncio.sleep(0.3)
                busy = await every(served.address, asked, pause=0.01, seconds=seconds - 0.6)
                logins = await signing
            figures = {
                "others_p50_ms": busy.percentile(50) * 1e3,
                "others_p99_ms": busy.percentile(99) * 1e3,
                "quiet_p99_ms": quiet.percentile(99) * 1e3,
                "logins_per_s": logins.rate,
            }
            bench.record.add("signing in", served.name, figures)


# --- starts and memory --------------------------------------------------------------------------------


async def starts(bench: Bench) -> None:
    """From exec to the first 200 of /health/ready, on a database that is up to date; and what it then weighs."""
    urls = {"sqlite": None, "postgres": bench.database.url(bench.database.create_database())}
    for number in range(bench.scale.starts + 1):
        for name, url in urls.items():
            with (
                bench.measured("start"),
                bench.service(f"start-{name}", postgres=url is not None, url=url) as served,
            ):
                ready = served.processes[0].ready
                await asyncio.sleep(0.5)
                fresh = pss_of(served.processes[0].pid) / 1024
                account = await (served.sign_up("ada") if number == 0 else served.log_in("ada"))
                served.accounts.append(account)
                await wave(await served.jobs(fast(10), 1))
                await asyncio.sleep(5)  # idle: memory that nobody uses is given back every two seconds
                used = pss_of(served.processes[0].pid) / 1024
            if number:  # the first one makes the database
                bench.record.add("start", name, {"ready_s": ready, "fresh_mib": fresh, "idle_mib": used})


async def stalled(bench: Bench) -> None:
    """Readers who ask for a long answer and never read: what one of them costs."""
    for name in ("sqlite", "postgres"):
        with bench.service(f"stalled-{name}", postgres=name == "postgres") as served:
            await served.people(1)
            (job,) = await served.jobs(wide(4000), 1)
            await wave([job])
            message = await _newest_message(served)
            path = f"/api/messages/{message}/stream"
            sent = request("GET", path, token=served.accounts[0].token)
            with contextlib.ExitStack() as held:
                await _stall(held, served.address, sent, 10)  # what the first ones load stays
                before = await _settled_pss(served)
                with bench.measured("stalled"):
                    await _stall(held, served.address, sent, bench.scale.stalled)
                    after = await _settled_pss(served)
            bench.record.add("stalled", name, {"reader_kib": (after - before) / bench.scale.stalled})


async def _newest_message(served: Luxx) -> str:
    token = served.accounts[0].token
    caller = await Caller.at(served.address)
    listed = json.loads(await caller.ask(request("GET", "/api/conversations/", token=token)))
    conversation = listed["data"]["items"][0]["id"]
    messages = json.loads(await caller.ask(request("GET", f"/api/messages/{conversation}", token=token)))
    caller.close()
    return str(messages["data"]["items"][-1]["id"])


async def _stall(held: contextlib.ExitStack, address: Address, sent: bytes, number: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(number):
        one = held.enter_context(socket.socket())
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.setblocking(False)
        await loop.sock_connect(one, (address.host, address.port))
        await loop.sock_sendall(one, sent)
        if not await loop.sock_recv(one, 64):
            raise Faulty("a reader was turned away")


async def _settled_pss(served: Luxx) -> int:
    """Wait until the memory neither grows nor is given back, which is done every two seconds; KiB."""
    last, now = 0, pss_of(served.processes[0].pid)
    while abs(now - last) > 256:
        await asyncio.sleep(3)
        last, now = now, pss_of(served.processes[0].pid)
    return now


# --- several processes --------------------------------------------------------------------------------


async def processes(bench: Bench, services: Sequence[Luxx]) -> None:
    """Two processes on one Postgres beside one: tokens a second where there are cores for it, CPU per token else."""
    (single,) = (served for served in services if served.database_pid is not None or served.name == "postgres")
    with bench.service("two processes", postgres=True, count=2) as pair:
        await pair.people(10)
        for _ in range(max(1, bench.scale.rounds // 2)):
            for served in (single, pair):
                await bench.streams("processes", served, paced(bench.scale.tokens), 100, over=1.0)
                await bench.streams("processes, fast", served, fast(2000), 100)


# --- rows ---------------------------------------------------------------------------------------------


@contextmanager
def bare_streams(bench: Bench, services: Sequence[Luxx]) -> Iterator[list[Bare]]:
    """Run the bare handlers on the database of each service."""
    with ExitStack() as running:
        yield [
            running.enter_context(
                bare_beside(served, place=bench.place, cores=bench.cores, upstream=bench.upstream_address)
            )
            for served in services
        ]


class Filled(msgspec.Struct):
    """A service with rows, and who has many and few of them."""

    served: Luxx
    url: str
    many: Account
    few: Account
    rows: Rows


@asynccontextmanager
async def filled(bench: Bench, name: str, *, postgres: bool, rows: int) -> AsyncIterator[Filled]:
    """Run the service on so many conversations."""
    url = bench.database.url(bench.database.create_database()) if postgres else None
    with bench.service(name, postgres=postgres, url=url) as served:
        many, few = await served.sign_up("many"), await served.sign_up("few")
        wanted = Rows(rows=rows, many=many.id, few=few.id)
        if url is not None:
            await fill_postgres(url, wanted)
        else:
            await fill_sqlite(bench.place / name / "luxx.db", wanted)
        yield Filled(served=served, url=url or "", many=many, few=few, rows=wanted)


async def in_turn(cases: Mapping[str, tuple[Address, bytes]], calls: int) -> dict[str, Histogram]:
    """Ask each once, again and again, one request at a time; gives how long each took."""
    callers = {name: await Caller.at(address) for name, (address, _) in cases.items()}
    times = {name: Histogram() for name in cases}
    for number in range(calls + 5):
        for name, (_, sent) in cases.items():
            began = time.perf_counter()
            await callers[name].ask(sent)
            if number >= 5:
                times[name].add(time.perf_counter() - began)
    for caller in callers.values():
        caller.close()
    return times


async def lists(bench: Bench) -> None:
    """Lists on many rows: beside bare handlers, at their deepest page, and against the same on few rows."""
    async with AsyncExitStack() as stack:
        for name, postgres in (("sqlite", False), ("postgres", True)):
            small = await stack.enter_async_context(
                filled(bench, f"small-{name}", postgres=postgres, rows=min(1000, bench.scale.rows))
            )
            large = await stack.enter_async_context(
                filled(bench, f"large-{name}", postgres=postgres, rows=bench.scale.rows)
            )
            if postgres:
                await _beside_bare(bench, large)
            for _ in range(max(1, bench.scale.rounds // 2)):
                await _by_size(bench, name, small, large)


async def _beside_bare(bench: Bench, large: Filled) -> None:
    token = large.few.token
    with bare("raw", place=bench.place, cores=bench.cores, database=large.url, upstream=bench.upstream_address) as (
        process,
        address,
    ):
        ours = request("GET", "/api/conversations/", token=token)
        cases: list[tuple[str, Address, bytes, list[int]]] = [
            ("luxx", large.served.address, ours, [one.pid for one in large.served.processes]),
            ("raw", address, request("GET", "/list/pool", token=token), [process.pid]),
            ("raw, no reset", address, request("GET", "/list/bare", token=token), [process.pid]),
        ]
        bodies = []
        for _, at, sent, _ in cases:
            caller = await Caller.at(at)
            data = json.loads(await caller.ask(sent))["data"]
            bodies.append({**data, "next_cursor": None})
            caller.close()
        if any(body != bodies[0] for body in bodies) or len(bodies[0]["items"]) != 20:
            raise Faulty(f"the bare handler and the service do not give the same list: {bodies}"[:3000])
        for number in range(bench.scale.rounds + 1):
            for name, at, sent, pids in cases:
                used = cpu_of(pids)
                with bench.measured("list"):
                    found = await closed_loop(at, lambda sent=sent: sent, connections=16, seconds=bench.scale.seconds)  # type: ignore[misc]  # mypy cannot infer a bound default
                if number:  # the first round fills caches and prepares statements
                    micro = (cpu_of(pids) - used) * 1e6 / found.count
                    figures = {"per_s": found.rate, "cpu_us": micro, "p50_ms": found.times.percentile(50) * 1e3}
                    bench.record.add("list", name, figures)


async def _by_size(bench: Bench, name: str, small: Filled, large: Filled) -> None:
    last = large.rows.rows // 10 // 20
    caller = await Caller.at(large.served.address)
    before_last = json.loads(
        await caller.ask(request("GET", f"/api/conversations/?page={last - 1}", token=large.many.token))
    )
    caller.close()
    cursor = before_last["data"]["next_cursor"]
    cases: dict[str, tuple[Address, bytes]] = {}
    for size, one in (("small", small), ("large", large)):
        paths = {
            "few": ("/api/conversations/", one.few.token),
            "many": ("/api/conversations/", one.many.token),
            "messages, short": (f"/api/messages/{one.rows.short}", one.few.token),
            "messages, long": (f"/api/messages/{one.rows.long}", one.few.token),
        }
        for case, (path, token) in paths.items():
            cases[f"{case}, {size}"] = (one.served.address, request("GET", path, token=token))
    many = large.many.token
    cases["last by number"] = (
        large.served.address,
        request("GET", f"/api/conversations/?page={last}", token=many),
    )
    cases["last by cursor"] = (
        large.served.address,
        request("GET", f"/api/conversations/?cursor={cursor}", token=many),
    )
    with bench.measured("rows"):
        times = await in_turn(cases, bench.scale.calls)
    bench.record.add("rows", name, {f"{case} ms": found.percentile(50) * 1e3 for case, found in times.items()})


async def appending(bench: Bench) -> None:
    """Store a message and the beginning of its answer: Luxx's own accepting beside the fewest statements."""
    conversations = round(3500 * bench.scale.seconds) * 2 * (bench.scale.rounds + 1)
    for name, postgres in (("sqlite", False), ("postgres", True)):
        async with filled(bench, f"append-{name}", postgres=postgres, rows=20) as one:
            url = one.url or f"sqlite:///{bench.place / f'append-{name}' / 'luxx.db'}"
            identities = await _new_conversations(one, url, conversations)
            left = iter(identities)
            for process in one.served.processes:
                process.stop()  # it would take the turns for those of a process that died
            with bare(
                f"append-raw-{name}",
                place=bench.place,
                cores=bench.cores,
                database=url,
                upstream=bench.upstream_address,
            ) as (process, address):
                for number in range(bench.scale.rounds + 1):
                    for how in ("luxx", "raw"):
                        figures = await _append(bench, (process, address), f"/append/{how}", one.few.id, left)
                        if number:  # the first round fills caches and prepares statements
                            bench.record.add("append", f"{name} {how}", figures)
                    if one.url and not number:
                        await _settled_plans(one.url)


async def _settled_plans(url: str) -> None:
    """Do what the server does by itself after a while: it drops the plans that it made while the tables were empty."""
    import asyncpg  # noqa: PLC0415  # only where there is Postgres

    connection = await asyncpg.connect(url)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


async def _append(
    bench: Bench, handlers: tuple[Process, Address], path: str, owner: int, left: Iterator[str]
) -> dict[str, float]:
    process, address = handlers

    def sent() -> bytes | None:
        identity = next(left, None)
        if identity is None:
            return None
        body = {"user_id": owner, "conversation_id": identity, "content": "Count, please."}
        return request("POST", path, body=body)

    used = cpu_of([process.pid])
    with bench.measured("append"):
        found = await closed_loop(address, sent, connections=16, seconds=bench.scale.seconds)
    if not found.count:
        raise Faulty("there are too few conversations to append to")
    micro = (cpu_of([process.pid]) - used) * 1e6 / found.count
    return {"per_s": found.rate, "cpu_us": micro, "p50_ms": found.times.percentile(50) * 1e3}


async def _new_conversations(one: Filled, url: str, number: int) -> list[str]:
    identities = [f"conv_append{place:020d}" for place in range(number)]
    statement = (
        "INSERT INTO conversations (id, user_id, title, model, temperature, max_tokens, thinking_enabled, created_at,"
        " updated_at, next_position) SELECT {id}, {owner}, 'New', 'fast-10', 1.0, 65536, {false}, {now}, {now}, 1"
        " FROM {numbers}"
    )
    if one.url:
        import asyncpg  # noqa: PLC0415  # only where there is Postgres

        connection = await asyncpg.connect(url)
        await connection.execute(
            statement.format(
                id="'conv_append' || lpad(n::text, 20, '0')",
                owner=one.few.id,
                false="false",
                now="now()",
                numbers=f"generate_series(0, {number - 1}) AS n",
            )
        )
        await connection.close()
        await _settled_plans(one.url)
    else:
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=60)) as file:
            series = f"WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n < {number - 1})"
            file.execute(
                statement.format(
                    id="printf('conv_append%020d', n)",
                    owner=one.few.id,
                    false="0",
                    now="1767225600000000",
                    numbers=f"({series} SELECT n FROM c)",
                )
            )
            file.commit()
    return identities


OnServices = Callable[[Bench, Sequence[Luxx]], Awaitable[None]]
Alone = Callable[[Bench], Awaitable[None]]

STREAMING: Final[Mapping[str, OnServices]] = {
    "hundred": hundred,
    "growing": growing,
    "first": first_token,
    "fast": hurried,
    "capacity": capacity,
    "signing": signing_in,
    "processes": processes,
}
"""Scenarios on the two services that run all the time."""
ALONE: Final[Mapping[str, Alone]] = {"start": starts, "stalled": stalled, "append": appending, "lists": lists}
"""Scenarios that start what they need."""
QUICK_NAMES: Final = ("hundred", "first", "fast", "start", "append", "lists")
