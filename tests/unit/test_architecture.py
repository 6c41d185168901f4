"""What the code base promises about itself."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import luxx

SOURCE = Path(luxx.__file__).parent
ROOT = SOURCE.parent.parent


def modules(*under: str) -> list[Path]:
    return sorted(path for folder in under or (".",) for path in (SOURCE / folder).rglob("*.py"))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, level=level):
                yield "." * level + (module or "")
            case _:
                pass


@pytest.mark.parametrize(
    ("layer", "inward"),
    [("domain", ("luxx.domain",)), ("application", ("luxx.application", "luxx.domain"))],
)
def test_the_inner_layers_import_the_standard_library_and_inwards_only(layer: str, inward: tuple[str, ...]) -> None:
    paths = modules(layer)
    assert len(paths) > 5
    for path in paths:
        for name in imported(parsed(path)):
            own = any(name == one or name.startswith(f"{one}.") for one in inward)
            assert own or name.partition(".")[0] in sys.stdlib_module_names, f"{path.name} imports {name}"


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(SOURCE))
        for path in modules()
        if path.read_text(encoding="utf-8").strip() and ast.get_docstring(parsed(path)) is None
    ]
    assert silent == []


def test_nothing_is_named_for_what_it_is_made_of() -> None:
    """Names say the role or the technology."""
    bad = re.compile(r"^(Abstract|I(?=[A-Z][a-z]))|(Impl|Service|Manager|Helper|Helpers|Utils?)$")
    found = [
        f"{path.relative_to(SOURCE)}: {node.name}"
        for path in modules()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef) and bad.search(node.name)
    ]
    names = {part for path in modules() for part in path.relative_to(SOURCE).with_suffix("").parts}
    found += [name for name in names if re.fullmatch(r"(.*_)?(utils?|helpers?|managers?|services?|common|misc)", name)]
    assert found == []


def test_no_tracked_file_names_a_host_of_a_package_registry() -> None:
    """Locks and scripts must work wherever packages come from."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    # Put together here, so that this file does not name them either.
    hosts = [
        ".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"))
    ]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    found = []
    for name in filter(None, listed.decode().split("\0")):
        path = ROOT / name
        if path.is_file():
            content = path.read_bytes()
            found += [f"{name}: {host}" for host in hosts if host.encode() in content]
    assert found == []
