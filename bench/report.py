"""The table on the screen, and docs/performance.md: written from the record, whole, and by nobody's hand."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.figures import Spread
from bench.goals import Goal, goals
from bench.processes import root
from bench.record import HIGH_STEAL, Record, read

PAGE: Final = Path("docs/performance.md")
RECORD: Final = Path("build/bench/record.json")

_STREAMS: Final[Mapping[str, str]] = {
    "cpu_us": "CPU, µs a token",
    "database_us": "Postgres, µs a token",
    "tokens_per_s": "tokens a second",
    "first_p50_ms": "first token p50, ms",
    "gap_p99_ms": "gap p99, ms",
    "upstream_us": "provider, µs a token",
    "load_us": "client, µs a token",
}
_TABLES: Final[Sequence[tuple[str, str, Mapping[str, str]]]] = (
    ("paced 100", "100 streams paced at 50 tokens/s", _STREAMS),
    ("paced 10", "10 streams paced at 50 tokens/s", _STREAMS),
    ("paced 300", "300 streams paced at 50 tokens/s", _STREAMS),
    ("first token", "One stream at a time", {"first_p50_ms": "first token p50, ms", "first_p99_ms": "p99, ms"}),
    ("fast 100", "100 streams of a provider as fast as it can be", _STREAMS),
    ("capacity", "Streams on a core with p99 gap < 50 ms", {"streams": "streams", "gap_p99_ms": "gap p99, ms"}),
    ("list", "Lists of 20, 16 connections", {"per_s": "requests/s", "cpu_us": "CPU, µs each", "p50_ms": "p50, ms"}),
    (
        "append",
        "Appending a message, 16 connections",
        {"per_s": "a second", "cpu_us": "CPU, µs each", "p50_ms": "p50, ms"},
    ),
    (
        "rows",
        "One request at a time, median ms",
        {
            "few, small ms": "few, 1 000 rows",
            "few, large ms": "few, all rows",
            "many, small ms": "many, 1 000 rows",
            "many, large ms": "many, all rows",
            "last by number ms": "many, last page by number",
            "last by cursor ms": "by cursor",
            "messages, short, large ms": "messages of 200",
            "messages, long, large ms": "of 10 000",
        },
    ),
    (
        "signing in",
        "Eight clients sign in in a loop",
        {
            "others_p50_ms": "others p50, ms",
            "others_p99_ms": "p99, ms",
            "quiet_p99_ms": "p99 before, ms",
            "logins_per_s": "sign-ins a second",
        },
    ),
    ("start", "Start", {"ready_s": "ready, s", "fresh_mib": "PSS then, MiB", "idle_mib": "after an answer, MiB"}),
    ("stalled", "Stalled readers", {"reader_kib": "each, KiB"}),
    ("processes", "Two processes on one Postgres, 100 paced streams", _STREAMS),
    ("processes, fast", "Two processes on one Postgres, fast provider", _STREAMS),
)


def number(value: float) -> str:
    """Write a figure with three digits that count."""
    if math.isnan(value):
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def spread_text(found: Spread | None) -> str:
    """Write a median with its range."""
    if found is None:
        return "–"
    if len(found.rounds) == 1:
        return number(found.median)
    return f"{number(found.median)} ({number(found.low)}–{number(found.high)})"


def _cells(record: Record, scenario: str, names: Mapping[str, str]) -> Iterator[list[str]]:
    configs = record.figures[scenario]
    kept = [name for name in names if any(name in figures for figures in configs.values())]
    yield ["", *(names[name] for name in kept)]
    for config in configs:
        yield [config, *(spread_text(record.spread(scenario, config, name)) for name in kept)]


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    lines = [head, ["---"] * len(head), *rest]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _goal_rows(found: Sequence[Goal]) -> list[list[str]]:
    rows = [["", "on", "must", "aim", "measured", ""]]
    rows += [
        [goal.text, goal.config, goal.asked(goal.must), goal.asked(goal.aim), goal.shown(goal.value), goal.state]
        for goal in found
    ]
    return rows


def table(record: Record) -> str:
    """Write all figures and goals for a terminal."""
    parts = [
        f"{title}\n{_aligned(list(_cells(record, scenario, names)))}"
        for scenario, title, names in _TABLES
        if scenario in record.figures
    ]
    measured = [goal for goal in goals(record) if goal.value is not None]
    if measured:
        parts.append(_aligned(_goal_rows(measured)).replace("**", ""))
    if record.surroundings.nginx is None:
        parts.append("There is no nginx on this machine: its rows are left out (apt-get install nginx-light).")
    parts.append(_steal_text(record))
    return "\n\n".join(parts)


def _steal_text(record: Record) -> str:
    high = sorted({one.scenario for one in record.steals if one.share > HIGH_STEAL})
    text = f"The hypervisor gave at most {record.steal:.1%} of the machine's time to others during a run."
    if high:
        text += f" THAT IS MUCH (in: {', '.join(high)}): figures of capacity are too low, ratios hold."
    return text


def write(record: Record, path: Path) -> None:
    """Write the page."""
    path.write_text(page(record), encoding="utf-8")


def rewrite() -> int:
    """Write the page from what was measured last; gives the exit status."""
    record = read(root() / RECORD)
    if record is None:
        print(f"There is no {RECORD} that can be read: run `make bench` first.", file=sys.stderr)
        return 1
    write(record, root() / PAGE)
    return 0


def page(record: Record) -> str:
    """Write docs/performance.md."""
    return f"# Performance\n\n{table(record)}\n"
