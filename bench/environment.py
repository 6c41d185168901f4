"""Where the service that is measured runs: with what an operator installs, and nothing of the tools beside it."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
LOCK: Final = ROOT / "requirements" / "server.txt"
PLACE: Final = ROOT / "build" / "bench" / "envs" / "luxx"


def prepare(place: Path = PLACE, *, lock: Path = LOCK) -> None:
    """Make the environment anew where the lock has changed; raises `subprocess.CalledProcessError`."""
    if is_current(place, lock=lock):
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    uv = [sys.executable, "-m", "uv", "--quiet"]
    subprocess.run([*uv, "venv", "--clear", "--python", sys.executable, str(place)], check=True)
    python = str(place / "bin" / "python")
    subprocess.run([*uv, "pip", "install", "--python", python, "--require-hashes", "-r", str(lock)], check=True)
    (place / ".lock").write_bytes(lock.read_bytes())


def is_current(place: Path = PLACE, *, lock: Path = LOCK) -> bool:
    """Tell whether the environment is there, and made from this lock."""
    stamp = place / ".lock"
    return stamp.exists() and stamp.read_bytes() == lock.read_bytes()


def command(place: Path = PLACE, *, lock: Path = LOCK) -> tuple[str, ...]:
    """Give the words that start `luxx`: in its environment, if that was prepared, else in this one."""
    python = str(place / "bin" / "python") if is_current(place, lock=lock) else sys.executable
    return (python, "-m", "luxx.entrypoints.cli")


def variables() -> Mapping[str, str]:
    """Give the variables by which that environment finds the sources of this tree."""
    return {"PYTHONPATH": str(ROOT / "src")}
