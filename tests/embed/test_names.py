"""The names that embedders import: there, few, and documented."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

PACKAGES = (
    "luxx.application",
    "luxx.adapters.database",
    "luxx.adapters.memory",
    "luxx.adapters.models",
    "luxx.testing",
    "luxx.testing.contracts",
)
ROOT = Path(__file__).parents[2]
PAGES = [Path(__file__).parents[2] / "docs" / name for name in ("embedding.md", "testing.md")]


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_offers_is_there_in_order_and_documented(package: str) -> None:
    module = import_module(package)
    assert module.__doc__
    assert sorted(module.__all__, key=_place) == module.__all__
    silent = []
    for name in module.__all__:
        found = getattr(module, name)
        # A dataclass that says nothing of itself is given its signature as a docstring.
        if inspect.isclass(found) and (not found.__doc__ or found.__doc__.startswith(f"{name}(")):
            silent.append(name)
        if inspect.isfunction(found) and not found.__doc__:
            silent.append(name)
    assert silent == []


def _place(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def test_the_test_kit_has_no_other_names_and_says_so() -> None:
    testing = import_module("luxx.testing")
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = testing.nothing_such


def test_the_test_kit_loads_what_is_asked_for_only() -> None:
    program = (
        "import sys, luxx.testing; luxx.testing.FixedClock; "
        "sys.exit(str([name for name in sys.modules if name.startswith('luxx.')]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "['luxx.testing', 'luxx.testing.fixed']"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_and_name_that_a_page_speaks_of_is_there(page: Path) -> None:
    found = re.findall(r"`(luxx(?:\.[A-Za-z_]+)+)`", page.read_text(encoding="utf-8"))
    assert found
    for dotted in found:
        assert _exists(dotted), f"{page.name} speaks of {dotted}"


def _stable(modules: str, names: str) -> Iterator[tuple[str, str]]:
    """Give each name that a row of the table of stable names stands for, with its module."""
    for module in re.findall(r"`([\w.]+)`", modules):
        found = import_module(module)
        if names == "all in `__all__`":
            named = list(found.__all__)
        elif names == "all without an underscore":
            named = [name for name in vars(found) if not name.startswith("_")]
        else:
            named = re.findall(r"`(\w+)`", names.partition(";")[0])
        yield from ((module, name) for name in named)


def test_what_the_documents_import_is_stable_and_there() -> None:
    text = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")
    _, _, table = text.partition("## Stable names")
    rows = re.findall(r"(?m)^\| (`luxx[^|]+) \| ([^|]+) \|$", table)
    stable = {pair for row in rows for pair in _stable(*row)}
    for module, name in stable:
        assert _exists(f"{module}.{name}")
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    used = {
        (node.module, name.name)
        for page in pages
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "luxx"
        for name in node.names
    }
    assert len(used) > 50
    assert used - stable == set()


def _exists(dotted: str) -> bool:
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing: Any = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        return all((thing := getattr(thing, part, None)) is not None for part in parts[cut:])
    return False
