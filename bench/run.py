"""One whole run: start everything, go through the scenarios, print, keep, compare."""

import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from bench import environment, report
from bench.goals import under_limits
from bench.load import Faulty
from bench.proc import on, share_out
from bench.processes import NotStarted, nginx, nginx_version, root, upstream, workplace
from bench.record import HIGH_FOREIGN, HIGH_STEAL, Record, read, surroundings, write
from bench.scenarios import ALONE, FULL, QUICK, QUICK_NAMES, STREAMING, Bench, both
from luxx.testing.postgres import ThrowawayPostgres

RECORD: Final = Path("build/bench/record.json")
QUICK_RECORD: Final = Path("build/bench/quick.json")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure: None leaves a number to the scale, and all scenarios of it where `only` is empty.

    `place` is the directory for databases; the system's temporary one without it.
    """

    quick: bool = False
    only: Sequence[str] = ()
    rounds: int | None = None
    rows: int | None = None
    place: Path | None = None
    check: bool = False


def main(wanted: Wanted) -> int:
    """Measure; gives the exit status: 1 where a scenario failed or a ratio is under its limit."""
    known = [*STREAMING, *ALONE]
    if unknown := [name for name in wanted.only if name not in known]:
        print(f"There is no scenario {unknown[0]!r}: there are {', '.join(known)}.", file=sys.stderr)
        return 2
    if wanted.place is not None:
        tempfile.tempdir = str(wanted.place)
    environment.prepare()
    names = wanted.only or (QUICK_NAMES if wanted.quick else known)
    record = _measured(wanted, names)
    path = root() / (QUICK_RECORD if wanted.quick else RECORD)
    if wanted.only and (old := read(path)) is not None:
        record = merged(old, record, names)
    write(record, path)
    print(report.table(record))
    if not (wanted.quick or wanted.only):
        report.write(record, root() / report.PAGE)
    for name, fault in record.faults.items():
        print(f"FAILED {name}: {fault}", file=sys.stderr)
    under = under_limits(record) if wanted.check else []
    for line in under:
        print(f"UNDER {line}", file=sys.stderr)
    return 1 if record.faults or under else 0


def _measured(wanted: Wanted, names: Sequence[str]) -> Record:
    scale = QUICK if wanted.quick else FULL
    scale = msgspec.structs.replace(scale, rounds=wanted.rounds or scale.rounds, rows=wanted.rows or scale.rows)
    cores = share_out()
    began = time.monotonic()
    # This process is the client: it, the provider and the database keep off the measured core.
    with (
        on(cores.others),
        workplace() as place,
        ThrowawayPostgres() as database,
        upstream(place, cores) as (provider, address),
        nginx(place=place, cores=cores, upstream=address) as floor,
    ):
        record = Record(surroundings=surroundings(cores, root=root(), place=place), quick=wanted.quick, rows=scale.rows)
        record.surroundings.nginx = nginx_version()
        record.surroundings.sqlite = sqlite3.sqlite_version
        bench = Bench(
            record=record,
            scale=scale,
            cores=cores,
            place=place,
            upstream=provider,
            upstream_address=address,
            nginx=floor,
            database=database,
        )
        uvloop.run(_all(bench, names))
    record.seconds = time.monotonic() - began
    return record


def merged(old: Record, new: Record, names: Sequence[str]) -> Record:
    """Put what was measured anew, in the scenarios of these names, in the place of what an earlier run gave."""
    gone = set(new.figures)
    return msgspec.structs.replace(
        new,
        settings={**old.settings, **new.settings},
        figures={**old.figures, **new.figures},
        steals=[one for one in old.steals if one.scenario not in gone] + new.steals,
        faults={**{name: text for name, text in old.faults.items() if name not in names}, **new.faults},
        seconds=old.seconds + new.seconds,
    )


async def _all(bench: Bench, names: Sequence[str]) -> None:
    bench.record.surroundings.postgres = str((await bench.database.execute("SHOW server_version"))[0][0])
    if any(name in STREAMING for name in names):
        async with both(bench) as services:
            for name, scenario in STREAMING.items():
                if name in names:
                    await _one(bench, name, lambda scenario=scenario: scenario(bench, services))  # type: ignore[misc]  # mypy cannot infer a bound default
    for name, alone in ALONE.items():
        if name in names:
            await _one(bench, name, lambda alone=alone: alone(bench))  # type: ignore[misc]  # as above


async def _one(bench: Bench, name: str, scenario: Callable[[], Awaitable[None]]) -> None:
    began = time.monotonic()
    seen = len(bench.record.steals)
    try:
        await scenario()
    except (Faulty, NotStarted) as error:
        # Others can still be measured; the run as a whole has failed.
        bench.record.faults[name] = str(error)
    runs = bench.record.steals[seen:]
    steal = max((one.share for one in runs), default=0.0)
    foreign = max((one.foreign for one in runs), default=0.0)
    loud = "  THE HYPERVISOR TOOK MUCH: trust ratios only" if steal > HIGH_STEAL else ""
    loud += "  OTHER PROGRAMS RUN HERE: trust nothing" if foreign > HIGH_FOREIGN else ""
    fault = "  FAILED" if name in bench.record.faults else ""
    shares = f"steal at most {steal:.1%}, other programs {foreign:.1%}"
    print(f"{name:10} {time.monotonic() - began:6.1f} s, {shares}{loud}{fault}", file=sys.stderr, flush=True)
