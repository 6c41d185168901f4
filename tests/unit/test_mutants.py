"""To try the list of `make mutants` takes minutes; that it still fits the code and the tests is seen at once."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]


def loaded() -> Any:
    """Give `scripts/mutants.py` as a module."""
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "scripts/mutants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LISTED: Final = loaded().mutants([])


def test_every_guard_stands_once_in_its_file_and_what_is_left_without_it_compiles() -> None:
    assert len(LISTED) > 30
    counts = {}
    for mutant in LISTED:
        source = (ROOT / mutant.file).read_text(encoding="utf-8")
        compile(source.replace(mutant.old, mutant.new), f"{mutant.file}: {mutant.name}", "exec")
        counts[mutant.name] = source.count(mutant.old)
    assert {name: count for name, count in counts.items() if count != 1} == {}


def test_no_two_mutants_have_one_name() -> None:
    assert len({mutant.name for mutant in LISTED}) == len(LISTED)


def test_the_tests_that_should_notice_are_there() -> None:
    """All are collected once, because it takes pytest seconds; so `-k` is done here, by the same rule."""
    named = {mutant.name: mutant.tests.partition(" -k ") for mutant in LISTED}
    files = sorted({path for paths, _, _ in named.values() for path in paths.split()})
    collecting = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    collected = subprocess.run(collecting, cwd=ROOT, capture_output=True, text=True, check=False)
    assert collected.returncode == 0, collected.stdout
    tests = [line for line in collected.stdout.splitlines() if "::" in line]
    missing = [
        name
        for name, (paths, _, words) in named.items()
        if not any(test.partition("::")[0] in paths.split() and chosen(test, words) for test in tests)
    ]
    assert missing == []


def chosen(test: str, words: str) -> bool:
    """Tell whether `pytest -k` takes a test: each word is true that is part of its name, or of its file's."""
    name = test[test.partition("::")[0].rfind("/") + 1 :].lower()
    parts = {word: word.lower() in name for word in re.findall(r"\w+", words)}
    return bool(eval(words or "True", {}, parts))
