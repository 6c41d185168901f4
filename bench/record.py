"""What was measured, kept as JSON: every figure of every round, and what it was measured on."""

import importlib.metadata
import math
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from bench.figures import Spread, ratios, spread
from bench.proc import Cores

HIGH_STEAL: Final = 0.05
"""From here on capacity figures say more about the neighbours than about the service."""
_LIBRARIES: Final = (
    "uvloop",
    "httptools",
    "uvicorn",
    "litestar",
    "msgspec",
    "sqlalchemy",
    "asyncpg",
    "httpx",
)


class Surroundings(msgspec.Struct):
    """The machine and the versions."""

    date: str
    commit: str
    machine: str
    cores: int
    pinned: bool
    memory_mib: int
    kernel: str
    disk: str
    """The file system of the databases, and how long it takes to make a write durable."""
    python: str
    libraries: dict[str, str]
    postgres: str | None = None
    nginx: str | None = None
    sqlite: str | None = None


HIGH_FOREIGN: Final = 0.05
"""From here on programs that are not part of the measurement get in its way."""


class Steal(msgspec.Struct):
    """Shares of the machine's time that went to others while a scenario ran once.

    `share` is what the hypervisor took, `foreign` what programs used that are not part of the measurement.
    """

    scenario: str
    share: float
    foreign: float = 0.0


class Record(msgspec.Struct):
    """Figures by scenario, configuration and name, one for each round."""

    surroundings: Surroundings
    quick: bool
    rows: int
    settings: dict[str, dict[str, str]] = {}
    figures: dict[str, dict[str, dict[str, list[float]]]] = {}
    steals: list[Steal] = []
    faults: dict[str, str] = {}
    seconds: float = 0.0

    def add(self, scenario: str, config: str, figures: Mapping[str, float]) -> None:
        """Add what one round gave; what it did not give (NaN) is left out."""
        kept = self.figures.setdefault(scenario, {}).setdefault(config, {})
        for name, value in figures.items():
            if not math.isnan(value):
                kept.setdefault(name, []).append(value)

    def rounds(self, scenario: str, config: str, name: str) -> Sequence[float]:
        """Give a figure's rounds; none where it was not measured."""
        return self.figures.get(scenario, {}).get(config, {}).get(name, ())

    def spread(self, scenario: str, config: str, name: str) -> Spread | None:
        """Give a figure's median, lowest and highest; None where it was not measured."""
        rounds = self.rounds(scenario, config, name)
        return spread(rounds) if rounds else None

    def median(self, scenario: str, config: str, name: str) -> float | None:
        found = self.spread(scenario, config, name)
        return None if found is None else found.median

    def ratio(self, those: tuple[str, str, str], to: tuple[str, str, str]) -> Spread | None:
        """Compare two figures round by round, each (scenario, configuration, name)."""
        one, other = self.rounds(*those), self.rounds(*to)
        shared = min(len(one), len(other))
        return ratios(one[:shared], other[:shared]) if shared else None

    @property
    def steal(self) -> float:
        """The highest share that was stolen while anything was measured."""
        return max((one.share for one in self.steals), default=0.0)

    @property
    def foreign(self) -> float:
        """The highest share that foreign programs used while anything was measured."""
        return max((one.foreign for one in self.steals), default=0.0)


def surroundings(cores: Cores, *, root: Path, place: Path | None = None) -> Surroundings:
    """Look around; `place` is where the databases are, by itself the directory for temporary files."""
    place = place or Path(tempfile.gettempdir())
    return Surroundings(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=_commit(root),
        machine=_model(),
        cores=os.cpu_count() or 1,
        pinned=cores.pinned,
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        kernel=platform.release(),
        disk=f"{_file_system(place)}, fsync {_fsync_ms(place):.2g} ms",
        python=platform.python_version(),
        libraries={name: version for name in _LIBRARIES if (version := _version(name)) is not None},
    )


def _file_system(place: Path) -> str:
    """Give the type of the file system that is mounted nearest above."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    above = [one for one in mounts if place.resolve().is_relative_to(one[1])]
    return max(above, key=lambda one: len(one[1]))[2] if above else "unknown"


def _fsync_ms(place: Path) -> float:
    """Give the median of some small writes made durable, as a commit does."""
    times = []
    with tempfile.TemporaryFile(dir=place) as file:
        for _ in range(50):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit(root: Path) -> str:
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said.stdout.strip()


def _model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def write(record: Record, path: Path) -> None:
    """Keep it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


def read(path: Path) -> Record | None:
    """Read what was kept; None where there is nothing, or a record of another form."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.ValidationError):
        return None
