"""The table on the screen, and docs/performance.md: written from the record, whole, and by nobody's hand."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.figures import Spread
from bench.goals import Goal, goals, peer_goals
from bench.processes import root
from bench.record import HIGH_FOREIGN, HIGH_STEAL, Record, read

PAGE: Final = Path("docs/performance.md")
RECORD: Final = Path("build/bench/record.json")
PEERS: Final = Path("build/bench/peers.json")
"""A record of the same form, in which other services stand beside this one."""

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
        parts.append(goal_table(measured))
    if record.surroundings.nginx is None:
        parts.append("There is no nginx on this machine: its rows are left out (apt-get install nginx-light).")
    parts.append(_steal_text(record))
    return "\n\n".join(parts)


def goal_table(found: Sequence[Goal]) -> str:
    """Write goals for a terminal."""
    return _aligned(_goal_rows(found)).replace("**", "")


def _steal_text(record: Record) -> str:
    text = f"The hypervisor gave at most {record.steal:.1%} of the machine's time to others during a run."
    if high := sorted({one.scenario for one in record.steals if one.share > HIGH_STEAL}):
        text += f" THAT IS MUCH (in: {', '.join(high)}): figures of capacity are too low, ratios hold."
    if high := sorted({one.scenario for one in record.steals if one.foreign > HIGH_FOREIGN}):
        text += (
            f" OTHER PROGRAMS USED UP TO {record.foreign:.0%} OF IT (in: {', '.join(high)}):"
            " these figures are not to be trusted."
        )
    return text


def rewrite() -> int:
    """Write the page from what was measured last; gives the exit status."""
    record = read(root() / RECORD)
    if record is None:
        print(f"There is no {RECORD} that can be read: run `make bench` first.", file=sys.stderr)
        return 1
    (root() / PAGE).write_text(page(record, read(root() / PEERS)), encoding="utf-8")
    return 0


# --- the page -----------------------------------------------------------------------------------------

_HEAD: Final = """\
# Performance

What streaming, lists and appends cost, measured by `make bench` and written by it: no number here was typed.
Compare within one table. Ratios hold elsewhere; the figures themselves belong to the machine below, and
`make bench` gives you those of yours in a quarter of an hour.
"""

_METHOD: Final = """\
## How it is measured

- **Everything real.** `luxx serve` as it is installed, on SQLite and on a Postgres of its own, both with durable
  commits. Every answer is stored: each token is committed before it is sent.
- **The provider** (`bench/upstream.py`) is a bare protocol on uvloop that writes bytes made beforehand, one
  `chat.completion.chunk` of some 260 bytes a token. Paced streams get 50 tokens a second, each at its own moment
  within the 20 ms, as answers that began at different times do. The rows `direct` show what the provider and the
  client do with nothing between them: they are not the bottleneck.
- **The service** runs in an environment of its own with what `requirements/server.txt` names: the tools of this
  checkout are not in it.
- **The client** (`bench/load.py`) looks for tokens while the streams run, and afterwards holds every stream to what
  the provider said: each token, in order, the end, and for Luxx the ids and the stored message too. One stream that
  is not whole makes the run a failure.
- **CPU per token** is the user and system time of the service's processes alone, from /proc, from before the first
  request until the ends are stored, divided by the tokens sent. Accepting the request and storing the answer are in
  it. Postgres, the provider and the client are counted apart and shown beside it.
- **A gap** is the time between two reads with new tokens in one stream: merged tokens count as one late read, not
  as several quick ones.
- **The floor** is nginx with `proxy_buffering off` and one worker: it copies bytes and stores nothing.
- **Bare handlers** (`bench/raw.py`) run in the same server (Litestar on uvicorn, uvloop and httptools) on the bare
  driver. The list, in two statements: check the token, read session and user, then 20 rows with the kept count, and
  encode the same JSON (compared before anything is measured). `no reset` leaves out what asyncpg's pool does on
  release by itself. The append: one statement on Postgres that stores both messages, the turn and its first event;
  on SQLite four in one transaction, in one thread. Beside it stands Luxx's own `SendMessage`, up to its commit. The
  stream (`bare sqlite`, `bare postgres`): read session and user, store the messages, ask the provider over the same
  client, store what came at once (in one statement, on SQLite in two), send it. No history, no tools, no deadlines,
  nobody who follows or cancels: it is about the least that storing before sending costs in this server.
- **Rows**: 1 000 users, of whom one has a tenth of all conversations, and a conversation of 10 000 messages.
- **A stalled reader** asks for an answer of 4 MB and never reads. What is told is the memory of the service that
  each of them adds (PSS), to that from which all that is free was given back.
- Configurations take turns, round after round. Tables show the median and, in brackets, the lowest and the highest
  round. Ratios are taken within a round, then their median.
- The measured process has one core for itself; all else runs on the others, where there are others.
- **Steal** is what the hypervisor gave to other guests meanwhile. Where it is high, capacity and wall times suffer,
  and ratios of CPU times hold.

```sh
make bench                                                         # all of it, and this page
make bench QUICK=1                                                 # a few minutes; ratios against bench/limits.toml
.venv/bin/python -m bench run --only lists --rows 100000           # one scenario
.venv/bin/python -m bench run --place /dev/shm                     # without a disk
make bench-peers                                                   # LiteLLM and Open WebUI beside it, and this page
```
"""


_PEERS_METHOD: Final = """\
The same provider, client, work and core for all, in turn; each of the others as its makers publish it (Open WebUI
without torch, which computes embeddings and speech), in an environment of its own, as one process with one worker.

- **litellm** is LiteLLM's proxy without a database: it checks a key, and stores nothing.
- **open-webui** is Open WebUI's OpenAI-compatible `/api/chat/completions`, with its users' tokens: it stores nothing.
- **open-webui stored** is what its web page does (`bench/page.py`). Each stream is a new chat of a user who has a
  page open: a socket.io session, to which the tokens come as events, while the message goes by HTTP and names that
  session. The answer is written into its SQLite when it has ended, not while it streams; every stored chat is
  compared with what the provider said. In its favour: the websocket is not compressed, though browsers ask for that;
  nobody reloads the list of chats; titles, tags and follow-up questions, each a further request, are off.
- Open WebUI keeps what its administrator may change in its database, and reads it there for each request, as it comes
  (`ENABLE_PERSISTENT_CONFIG`). Who may use a model is not looked up, in its favour.
- Luxx stores every token before it is sent, in all its rows.

Packages, and all settings that differ from how they come:
"""


def _peer_settings(peers: Record) -> Iterator[str]:
    for name, settings in peers.settings.items():
        if "version" in settings:
            given = ", ".join(f"`{key}={text}`" for key, text in settings.items() if key != "version")
            yield f"- {name}: `{settings['version']}`; {given}"
    yield ""


def write(record: Record, path: Path) -> None:
    """Write the page."""
    path.write_text(page(record, read(root() / PEERS)), encoding="utf-8")


def page(record: Record, peers: Record | None = None) -> str:
    """Write docs/performance.md; `peers` adds what other services gave."""
    parts = [_HEAD, _around(record), "## Goals\n", _goals_text(record, peers)]
    parts += ["## Figures\n", *_sections(record, "###")]
    if peers is not None:
        parts += [
            "## Beside other services\n",
            f"Measured by `make bench-peers` on {peers.surroundings.date}, commit `{peers.surroundings.commit}`.\n",
            f"{_steal_text(peers)}\n",
            *(f"**{name} was not measured:** {text}\n" for name, text in peers.faults.items()),
            *_sections(peers, "###"),
            _PEERS_METHOD,
            *_peer_settings(peers),
        ]
    parts += [_METHOD, _settings_text(record)]
    return "\n".join(parts)


def _around(record: Record) -> str:
    about = record.surroundings
    libraries = ", ".join(f"{name} {version}" for name, version in about.libraries.items())
    pinned = "the measured process alone on one of them" if about.pinned else "shared by all, for there is but one"
    rows = [
        ["measured", ""],
        ["date", about.date],
        ["commit", f"`{about.commit}`"],
        ["machine", f"{about.machine}, {about.cores} cores ({pinned}), {number(about.memory_mib)} MiB"],
        ["kernel, disk", f"Linux {about.kernel}; {about.disk}"],
        ["Python", f"{about.python}; {libraries}"],
        ["Postgres, SQLite", f"{about.postgres or '–'}, {about.sqlite or '–'}"],
        ["nginx", about.nginx or "none on this machine: its rows are missing (`apt-get install nginx-light`)"],
        ["time it took", f"{record.seconds / 60:.0f} min"],
        ["steal", _steal_text(record)],
    ]
    faults = [f"**{name} failed, and is missing or incomplete here:** {text}" for name, text in record.faults.items()]
    return "\n\n".join([_markdown(rows), *faults]) + "\n"


def _goals_text(record: Record, peers: Record | None) -> str:
    found = [*goals(record), *(peer_goals(peers) if peers is not None else ())]
    counts = [
        f"{sum(goal.state == state for goal in found)} {word}"
        for state, word in (
            ("aim met", "reach their aim"),
            ("met", "are met"),
            ("**missed**", "are missed"),
            ("not measured", "were not measured"),
        )
    ]
    return f"Of {len(found)}: {', '.join(counts)}.\n\n{_markdown(_goal_rows(found))}\n"


def _sections(record: Record, level: str) -> Iterator[str]:
    for scenario, title, names in _TABLES:
        if scenario in record.figures:
            yield f"{level} {title}\n\n{_markdown(list(_cells(record, scenario, names)))}\n"


def _settings_text(record: Record) -> str:
    rows = [["setting", *record.settings]]
    names = dict.fromkeys(name for settings in record.settings.values() for name in settings)
    rows += [
        [f"`{name}`", *(_shown_setting(name, settings.get(name)) for settings in record.settings.values())]
        for name in names
    ]
    return (
        "## Settings\n\nAll others are as they come: logs as at `info`, no limit raised. "
        f"Messages are sent with `tools_enabled: false`.\n\n{_markdown(rows)}\n"
    )


def _shown_setting(name: str, value: str | None) -> str:
    if value is None:
        return "–"
    return "…" if name == "LUXX_JWT_SECRET" else f"`{value}`"
