"""What processes cost, read from /proc: CPU time, memory, and what the hypervisor took."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

PROC: Final = Path("/proc")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Stat(msgspec.Struct, frozen=True):
    """A line of /proc/<pid>/stat: `cpu` is in seconds, user and system, with the children that it has waited for."""

    parent: int
    cpu: float


def read_stat(line: str) -> Stat:
    """Read it from behind the name, which may hold spaces and brackets."""
    fields = line.rpartition(")")[2].split()
    return Stat(parent=int(fields[1]), cpu=sum(map(int, fields[11:15])) / _TICKS)


def read_pss(text: str) -> int:
    """Give the KiB of /proc/<pid>/smaps_rollup; raises ValueError where it names none."""
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise ValueError("smaps_rollup holds no line Pss")


class Machine(msgspec.Struct, frozen=True):
    """The machine's time so far, in seconds over all cores."""

    total: float
    idle: float
    steal: float


def read_machine(text: str) -> Machine:
    """Read the first line of /proc/stat."""
    numbers = [int(word) / _TICKS for word in text.splitlines()[0].split()[1:9]]
    return Machine(total=sum(numbers), idle=numbers[3] + numbers[4], steal=numbers[7])


def machine() -> Machine:
    return read_machine((PROC / "stat").read_text())


def stolen(since: Machine, until: Machine) -> float:
    """Give the share of the machine's time that the hypervisor gave to others, 0 to 1."""
    return (until.steal - since.steal) / max(until.total - since.total, 1e-9)


def foreign(since: Machine, until: Machine, own: float) -> float:
    """Give the share of the machine's time that was used beyond `own` CPU seconds and what was stolen, 0 to 1."""
    busy = (until.total - until.idle - until.steal) - (since.total - since.idle - since.steal)
    return max(0.0, busy - own) / max(until.total - since.total, 1e-9)


def tree(root: int) -> Sequence[int]:
    """Give a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            stat = _stat(int(entry.name))
            if stat is not None:
                children.setdefault(stat.parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _stat(pid: int) -> Stat | None:
    try:
        return read_stat((PROC / str(pid) / "stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None  # it has ended meanwhile


def cpu_of(roots: Iterable[int]) -> float:
    """Give the CPU seconds that process trees have used so far."""
    pids = {pid for root in roots for pid in tree(root)}
    return sum(stat.cpu for stat in map(_stat, pids) if stat is not None)


def pss_of(root: int) -> int:
    """Give the KiB of memory of a process tree; what is shared counts by its share."""
    return sum(read_pss((PROC / str(pid) / "smaps_rollup").read_text()) for pid in tree(root))


class Cores(msgspec.Struct, frozen=True):
    """Who runs where: the measured process on one core, all else on the others; empty where there is but one."""

    measured: frozenset[int]
    others: frozenset[int]

    @property
    def pinned(self) -> bool:
        return bool(self.measured)


def share_out() -> Cores:
    """Give the first core to what is measured."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        return Cores(measured=frozenset(), others=frozenset())
    return Cores(measured=frozenset(available[:1]), others=frozenset(available[1:]))


@contextmanager
def on(cores: Iterable[int]) -> Iterator[None]:
    """Run on these cores; what is started inside stays there."""
    before, wanted = os.sched_getaffinity(0), set(cores)
    if wanted:
        os.sched_setaffinity(0, wanted)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
