"""Where the service that is measured runs: with what an operator installs, and nothing of the tools beside it."""

import subprocess
import sys
import venv
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
    venv.create(place, clear=True)
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--disable-pip-version-check", "--require-hashes", "-r", str(lock)], check=True)
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
