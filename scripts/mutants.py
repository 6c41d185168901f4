"""Take out one guard at a time in a copy of the tree, and see that the tests notice: `make mutants`.

`mutants.toml` names for each its file, the text to replace, and the tests that should fail then. Prints
`killed N/total`, and ends with 1 if a mutant survives, with 2 if one cannot be tried: its text is no longer there
exactly once, or its tests fail anyway. Arguments are words: only mutants with one of them in the name are tried.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
SECONDS: Final = 300
"""How long the tests of one mutant may take; a guard whose absence makes them hang is missed too."""

PASSED: Final = 0
FAILED: Final = 1
"""What pytest ends with when tests ran; anything else says that they did not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A guard to take out, and the arguments for pytest that name the tests which should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str


def mutants(words: list[str]) -> list[Mutant]:
    listed = tomllib.loads((ROOT / "scripts/mutants.toml").read_text(encoding="utf-8"))["mutant"]
    found = [Mutant(**one) for one in listed]
    return [one for one in found if not words or any(word in one.name for word in words)]


def copied(directory: Path) -> Path:
    """Copy what the tests need."""
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", directory)
    return directory


def run(tree: Path, tests: str) -> int:
    """Run tests in the copy; gives pytest's exit status, `FAILED` where they do not end."""
    # No bytecode: a file changed twice within a second, to the same length, would not be compiled anew.
    environment = os.environ | {"PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *_arguments(tests)]
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return FAILED
    if done.returncode not in {PASSED, FAILED}:
        print(done.stdout.decode(errors="replace")[-2000:], file=sys.stderr)
    return done.returncode


def _arguments(tests: str) -> list[str]:
    paths, _, words = tests.partition(" -k ")
    return [*paths.split(), *(["-k", words] if words else [])]


def verdict(tree: Path, mutant: Mutant) -> str:
    path = tree / mutant.file
    source = path.read_text(encoding="utf-8")
    if source.count(mutant.old) != 1:
        return f"its text is {source.count(mutant.old)} times in {mutant.file}, not once"
    path.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        status = run(tree, mutant.tests)
    finally:
        path.write_text(source, encoding="utf-8")
    return {PASSED: "SURVIVED", FAILED: "killed"}.get(status, f"its tests did not run (pytest ended with {status})")


def main() -> int:
    chosen = mutants(sys.argv[1:])
    verdicts: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="luxx-mutants-") as directory:
        # Postgres runs as another user when we are root, and must find its way in here.
        Path(directory).chmod(0o755)
        tree = copied(Path(directory))
        whole: dict[str, int] = {}
        for mutant in chosen:
            began = time.monotonic()
            if mutant.tests not in whole:
                whole[mutant.tests] = run(tree, mutant.tests)
            if whole[mutant.tests] == PASSED:
                verdicts[mutant.name] = verdict(tree, mutant)
            else:
                verdicts[mutant.name] = f"its tests fail without it too (pytest ended with {whole[mutant.tests]})"
            print(f"{verdicts[mutant.name]:<9} {mutant.name} ({time.monotonic() - began:.0f} s)", flush=True)
    killed = list(verdicts.values()).count("killed")
    survived = list(verdicts.values()).count("SURVIVED")
    print(f"killed {killed}/{len(chosen)}")
    if killed + survived < len(chosen):
        return 2
    return 1 if survived or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
