"""What the service must and should reach, and how the figures of a record stand to it."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from bench.record import Record

LIMITS: Final = Path(__file__).with_name("limits.toml")
FLAT: Final = 1.5
"""Times that differ by no more count as flat: medians of single requests are not closer than that here."""
EQUAL: Final = 1.15
STORAGES: Final = ("sqlite", "postgres")


class Goal(msgspec.Struct, frozen=True):
    """One figure that was promised: `value` is None where it was not measured.

    `key` names it in `limits.toml`; a `more` goal is better when it is higher.
    """

    key: str
    text: str
    config: str
    value: float | None
    must: float
    aim: float | None
    unit: Literal["%", "×", "ms", "s", "MiB", "KiB", "streams"]
    more: bool = False
    ratio: bool = False
    """A ratio holds on any machine; other figures are of this one."""

    @property
    def state(self) -> str:
        if self.value is None:
            return "not measured"
        if self.aim is not None and self._reaches(self.aim):
            return "aim met"
        return "met" if self._reaches(self.must) else "**missed**"

    def _reaches(self, limit: float) -> bool:
        assert self.value is not None
        return self.value >= limit if self.more else self.value <= limit

    def shown(self, value: float | None) -> str:
        """Write a value in the goal's unit."""
        if value is None:
            return "–"
        match self.unit:
            case "%":
                return f"{value:.0%}"
            case "×":
                return f"{value:.2g} ×" if value < 10 else f"{value:.0f} ×"
            case "streams":
                return f"{value:.0f}"
            case _:
                return f"{value:.3g} {self.unit}"

    def asked(self, value: float | None) -> str:
        """Write a limit, with its direction."""
        return "–" if value is None else f"{'≥' if self.more else '≤'} {self.shown(value)}"


def _median_ratio(record: Record, those: tuple[str, str, str], to: tuple[str, str, str]) -> float | None:
    found = record.ratio(those, to)
    return None if found is None else found.median


def goals(record: Record) -> Sequence[Goal]:
    """Give all goals that need no other service, in the order in which they are promised."""
    return [*_streaming(record), *_rows(record), *_standing(record)]


def _streaming(record: Record) -> Iterator[Goal]:
    for storage in STORAGES:
        yield Goal(
            key=f"stream.{storage}",
            text="tokens per CPU-second, 100 paced streams, against nginx",
            config=storage,
            value=_median_ratio(
                record, ("paced 100", storage, "tokens_per_cpu_s"), ("paced 100", "nginx", "tokens_per_cpu_s")
            ),
            must=0.20,
            aim=0.30,
            unit="%",
            more=True,
            ratio=True,
        )
    for storage in STORAGES:
        yield Goal(
            key=f"capacity.{storage}",
            text="paced streams on a core, p99 gap < 50 ms",
            config=storage,
            value=record.median("capacity", storage, "streams"),
            must=300,
            aim=500,
            unit="streams",
            more=True,
        )
    for storage in STORAGES:
        yield Goal(
            key=f"growing.{storage}",
            text="CPU per token at 300 streams against 10",
            config=storage,
            value=_median_ratio(record, ("paced 300", storage, "cpu_us"), ("paced 10", storage, "cpu_us")),
            must=0.99,
            aim=0.5,
            unit="×",
            ratio=True,
        )


def _rows(record: Record) -> Iterator[Goal]:
    yield Goal(
        key="list.postgres",
        text="lists of 20 a second, against a bare asyncpg handler",
        config="postgres",
        value=_median_ratio(record, ("list", "luxx", "per_s"), ("list", "raw", "per_s")),
        must=0.70,
        aim=0.90,
        unit="%",
        more=True,
        ratio=True,
    )
    for last, must, aim in (("last by cursor", 2.0, 1.3), ("last by number", 20.0, 5.0)):
        for storage in STORAGES:
            yield Goal(
                key=f"{last.replace(' ', '-')}.{storage}",
                text=f"deepest page {last.removeprefix('last ')} against the first",
                config=storage,
                value=_median_ratio(record, ("rows", storage, f"{last} ms"), ("rows", storage, "many, large ms")),
                must=must,
                aim=aim,
                unit="×",
                ratio=True,
            )
    for storage in STORAGES:
        yield Goal(
            key=f"append.{storage}",
            text="messages appended a second, against a bare handler",
            config=storage,
            value=_median_ratio(record, ("append", f"{storage} luxx", "per_s"), ("append", f"{storage} raw", "per_s")),
            must=0.60,
            aim=0.85,
            unit="%",
            more=True,
            ratio=True,
        )
    rows = f"{record.rows:,}".replace(",", " ")
    for case, text in (
        ("few", f"first page, {rows} conversations against 1 000: a user like most"),
        ("many", f"first page, {rows} conversations against 1 000: the user who has a tenth of all"),
    ):
        for storage in STORAGES:
            yield Goal(
                key=f"flat-{case}.{storage}",
                text=text,
                config=storage,
                value=_median_ratio(
                    record, ("rows", storage, f"{case}, large ms"), ("rows", storage, f"{case}, small ms")
                ),
                must=FLAT,
                aim=None,
                unit="×",
                ratio=True,
            )
    for storage in STORAGES:
        yield Goal(
            key=f"flat-messages.{storage}",
            text="newest 100 messages, of 10 000 against of 200",
            config=storage,
            value=_median_ratio(
                record, ("rows", storage, "messages, long, large ms"), ("rows", storage, "messages, short, large ms")
            ),
            must=FLAT,
            aim=None,
            unit="×",
            ratio=True,
        )


def _standing(record: Record) -> Iterator[Goal]:
    kinds: list[tuple[str, str, tuple[str, str], float, float | None, Literal["ms", "s", "MiB", "KiB"]]] = [
        ("others", "others' p99 while 8 clients sign in in a loop", ("signing in", "others_p99_ms"), 25, 5, "ms"),
        ("ready", "ready after start", ("start", "ready_s"), 2, 1.2, "s"),
        ("idle", "idle memory (PSS), after its first answer", ("start", "idle_mib"), 110, 80, "MiB"),
        ("stalled", "memory of a stalled reader", ("stalled", "reader_kib"), 64, None, "KiB"),
    ]
    for key, text, (scenario, name), must, aim, unit in kinds:
        for storage in STORAGES:
            value = record.median(scenario, storage, name)
            yield Goal(key=f"{key}.{storage}", text=text, config=storage, value=value, must=must, aim=aim, unit=unit)
    if record.surroundings.cores >= 4:
        yield Goal(
            key="processes",
            text="two processes on one Postgres, tokens per wall second against one",
            config="postgres",
            value=_median_ratio(
                record,
                ("processes, fast", "two processes", "tokens_per_s"),
                ("processes, fast", "postgres", "tokens_per_s"),
            ),
            must=1.7,
            aim=None,
            unit="×",
            more=True,
            ratio=True,
        )
    else:
        yield Goal(
            key="processes",
            text="two processes on one Postgres: CPU per token against one (too few cores for more)",
            config="postgres",
            value=_median_ratio(record, ("processes", "two processes", "cpu_us"), ("processes", "postgres", "cpu_us")),
            must=EQUAL,
            aim=None,
            unit="×",
            ratio=True,
        )


PEER_GOALS: Final[Sequence[tuple[str, str, str, str, Mapping[str, tuple[float, float]]]]] = (
    (
        "peers.stream",
        "tokens per CPU-second, 100 paced streams, against",
        "paced 100",
        "tokens_per_cpu_s",
        {"litellm": (8, 12), "open-webui": (1.5, 2.5), "open-webui stored": (8, 12)},
    ),
    (
        "peers.first",
        "first token, 1 stream, against",
        "first token",
        "first_p50_ms",
        {"litellm": (1 / 5, 1 / 8), "open-webui": (1 / 5, 1 / 8)},
    ),
    (
        "peers.fast",
        "fast provider, 100 streams, tokens a second, against",
        "fast 100",
        "tokens_per_s",
        {"litellm": (15, 30), "open-webui": (3, 6)},
    ),
)
"""What is promised against other services: scenario, figure, and must and aim for each of them."""


def peer_goals(record: Record) -> Sequence[Goal]:
    """Give the goals against other services, from a record in which they stand beside this one."""
    return [
        Goal(
            key=f"{key}.{peer.replace(' ', '-')}.{storage}",
            text=f"{text} {peer}",
            config=storage,
            value=_median_ratio(record, (scenario, storage, name), (scenario, peer, name)),
            must=must,
            aim=aim,
            unit="×",
            more=must > 1,
            ratio=True,
        )
        for key, text, scenario, name, asked in PEER_GOALS
        for peer, (must, aim) in asked.items()
        for storage in STORAGES
    ]


def under_limits(record: Record, limits: Path = LIMITS) -> list[str]:
    """Compare the ratios with the file of limits; gives a line for each that is worse."""
    bounds: dict[str, float] = tomllib.loads(limits.read_text(encoding="utf-8"))["limits"]
    found = {goal.key: goal for goal in goals(record) if goal.ratio}
    if unknown := set(bounds) - set(found):
        raise ValueError(f"{limits.name} names what is not measured: {', '.join(sorted(unknown))}")
    lines = []
    for key, bound in bounds.items():
        goal = found[key]
        if goal.value is None:
            continue
        if (goal.value < bound) if goal.more else (goal.value > bound):
            lines.append(f"{key}: {goal.text} ({goal.config}): {goal.shown(goal.value)}, limit {goal.asked(bound)}")
    return lines
