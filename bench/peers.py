"""One run beside other services: the same work for all, in turn, and a record of the same form as the service's own.

What cannot be installed or started is said, and left out; so is whoever fails at a scenario, in that
scenario and from then on.
"""

import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final

import httpx
import uvloop

from bench import environment, report
from bench.answers import fast, paced
from bench.goals import peer_goals
from bench.load import Address, Faulty, wave
from bench.neighbours import NotInstalled, Pages, litellm, open_webui, pins
from bench.proc import Cores, on, share_out
from bench.processes import Bare, NotStarted, Served, nginx, nginx_version, root, upstream, workplace
from bench.record import Record, surroundings, write
from bench.scenarios import FULL, QUICK, Bench, bare_streams, both, one_first_token
from luxx.testing.postgres import ThrowawayPostgres

RECORD: Final = Path("build/bench/peers.json")
QUICK_RECORD: Final = Path("build/bench/peers-quick.json")
ROUNDS: Final = 3
PACED: Final = paced(500)
HURRIED: Final = fast(2000)
SHORT: Final = fast(10)
MODELS: Final = tuple(answer.model for answer in (PACED, HURRIED, SHORT))
STREAMS: Final = 100

Start = Callable[[Path, Cores, Address], AbstractContextManager[Sequence[Served]]]
Measure = Callable[[Bench, Served], Awaitable[None]]


@contextmanager
def _litellm(place: Path, cores: Cores, provider: Address) -> Iterator[Sequence[Served]]:
    with litellm(place=place, cores=cores, upstream=provider, models=MODELS) as one:
        yield [one]


@contextmanager
def _open_webui(place: Path, cores: Cores, provider: Address) -> Iterator[Sequence[Served]]:
    with open_webui(place=place, cores=cores, upstream=provider, people=STREAMS) as both_ways:
        yield [both_ways.api, both_ways.pages]


PEERS: Final[Mapping[str, Start]] = {"litellm": _litellm, "open-webui": _open_webui}
"""By their names in peers.toml."""


async def _paced(bench: Bench, served: Served) -> None:
    await bench.streams("paced 100", served, PACED, STREAMS, over=1.0)
    if isinstance(served, Pages):
        await served.check_stored(PACED, STREAMS)


async def _hurried(bench: Bench, served: Served) -> None:
    await bench.streams("fast 100", served, HURRIED, STREAMS)
    if isinstance(served, Pages):
        await served.check_stored(HURRIED, STREAMS)


_SCENARIOS: Final[Mapping[str, Measure]] = {"paced 100": _paced, "first token": one_first_token, "fast 100": _hurried}


def main(*, quick: bool) -> int:
    """Measure; gives the exit status: 1 where anything was not measured."""
    environment.prepare()
    cores = share_out()
    began = time.monotonic()
    with (
        on(cores.others),
        workplace() as place,
        ThrowawayPostgres() as database,
        upstream(place, cores) as (provider, address),
        nginx(place=place, cores=cores, upstream=address) as floor,
        ExitStack() as running,
    ):
        record = Record(surroundings=surroundings(cores, root=root(), place=place), quick=quick, rows=0)
        record.surroundings.nginx = nginx_version()
        record.surroundings.sqlite = sqlite3.sqlite_version
        bench = Bench(
            record=record,
            scale=QUICK if quick else FULL,
            cores=cores,
            place=place,
            upstream=provider,
            upstream_address=address,
            nginx=floor,
            database=database,
        )
        peers = [served for name in PEERS for served in _started(bench, name, running)]
        uvloop.run(_all(bench, peers, rounds=1 if quick else ROUNDS))
    record.seconds = time.monotonic() - began
    write(record, root() / (QUICK_RECORD if quick else RECORD))
    print(f"{report.table(record)}\n\n{report.goal_table(peer_goals(record))}")
    if not quick:
        report.rewrite()  # the page shows the newest of both
    for name, fault in record.faults.items():
        print(f"NOT MEASURED {name}: {fault}", file=sys.stderr)
    return 1 if record.faults else 0


def _started(bench: Bench, name: str, running: ExitStack) -> Sequence[Served]:
    """Start a peer, to run until the end; none where it cannot be had."""
    print(f"{name}: {', '.join(pins()[name].requirements)}", file=sys.stderr, flush=True)
    try:
        found = running.enter_context(PEERS[name](bench.place, bench.cores, bench.upstream_address))
    except (NotInstalled, NotStarted, OSError) as error:
        bench.record.faults[name] = str(error)
        print(f"{name} IS LEFT OUT: {error}", file=sys.stderr, flush=True)
        return []
    for served in found:
        bench.record.settings[served.name] = {"version": " ".join(pins()[name].requirements), **served.settings}
    return found


async def _all(bench: Bench, peers: Sequence[Served], *, rounds: int) -> None:
    bench.record.surroundings.postgres = str((await bench.database.execute("SHOW server_version"))[0][0])
    floor: Sequence[Served] = [] if bench.nginx is None else [bench.nginx]
    async with both(bench) as services:
        everybody = [*floor, *services, *peers]
        with bare_streams(bench, services) as bares:
            everybody += bares
            for served in everybody:  # what is loaded with the first answers is loaded now
                await _or_left_out(bench, served, "warm-up", _warm_up)
            for number in range(rounds):
                for scenario, measure in _SCENARIOS.items():
                    for served in everybody:
                        if isinstance(served, Bare) and scenario != "first token":
                            continue  # they store each turn by itself, which is no way to serve many
                        began = time.monotonic()
                        if await _or_left_out(bench, served, scenario, measure):
                            took = time.monotonic() - began
                            print(f"round {number + 1}: {scenario}, {served.name}: {took:.1f} s", file=sys.stderr)


async def _warm_up(bench: Bench, served: Served) -> None:  # noqa: ARG001  # measures nothing
    await wave(await served.jobs(SHORT, 10))


async def _or_left_out(bench: Bench, served: Served, scenario: str, measure: Measure) -> bool:
    """Measure, unless it has failed at this before: what follows would no longer stand beside the others' rounds."""
    key = f"{served.name}, {scenario}"
    if key in bench.record.faults:
        return False
    try:
        await measure(bench, served)
    except (Faulty, httpx.HTTPError, OSError) as error:  # the last two: it broke down, or has gone
        bench.record.faults[key] = str(error) or repr(error)
        print(f"{key} FAILED: {error}", file=sys.stderr, flush=True)
        return False
    return True
