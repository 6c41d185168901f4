"""Interpreters that see Luxx and a few distributions of this environment, as if nothing else were installed."""

import sys
import tomllib
import venv
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import luxx

SOURCE = Path(luxx.__file__).parents[1]


def _project() -> dict[str, Any]:
    text = (SOURCE.parent / "pyproject.toml").read_text(encoding="utf-8")
    return dict(tomllib.loads(text)["project"])


def closure(*requirements: str) -> frozenset[str]:
    """Name all distributions that these requirements bring, by their metadata, Luxx itself among them."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        waiting += _wanted(key[0], requirement.extras)
    return frozenset(name for name, _ in seen)


def _wanted(name: str, extras: Iterable[str]) -> Iterator[Requirement]:
    if name == "luxx":
        # As it stands, not as it was when it was installed here.
        for group in (_project()["dependencies"], *(_project()["optional-dependencies"][extra] for extra in extras)):
            yield from map(Requirement, group)
        return
    for text in distribution(name).requires or ():
        wanted = Requirement(text)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield wanted


@cache
def _owners() -> Counter[str]:
    """Count the distributions that have a part in each name at the top of site-packages."""
    return Counter(top for one in distributions() for top in _tops(one))


def _tops(one: Distribution) -> set[str]:
    return {path.parts[0] for path in one.files or () if path.parts[0] not in {"..", "__pycache__"}}


def environment(place: Path, *requirements: str) -> Path:
    """Make an environment with what these requirements bring, linked from this one; gives its interpreter."""
    venv.create(place, with_pip=False, symlinks=True)
    (packages,) = place.glob("lib/python*/site-packages")
    _install_luxx(packages)
    for name in closure(*requirements) - {"luxx"}:
        one = distribution(name)
        for top in _tops(one):
            if _owners()[top] == 1:
                packages.joinpath(top).symlink_to(str(one.locate_file(top)))
        for path in one.files or ():
            if path.parts[0] == ".." and path.parent.name == "bin":
                place.joinpath("bin", path.name).symlink_to(str(one.locate_file(path)))
            if path.parts[0] not in {"..", "__pycache__"} and _owners()[path.parts[0]] > 1:
                link = packages / path
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(str(one.locate_file(path)))
    return place / "bin" / Path(sys.executable).name


def _install_luxx(packages: Path) -> None:
    """Install as a wheel would, with a record of all files: pytest looks there for what it has to rewrite."""
    packages.joinpath("luxx").symlink_to(SOURCE / "luxx")
    about = packages / f"luxx-{luxx.__version__}.dist-info"
    about.mkdir()
    about.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.4\nName: luxx\nVersion: {luxx.__version__}\n", encoding="utf-8"
    )
    groups = {"console_scripts": _project()["scripts"], **_project()["entry-points"]}
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {at}\n" for name, at in named.items()) for group, named in groups.items()
    ]
    about.joinpath("entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    files = sorted(path.relative_to(SOURCE) for path in SOURCE.joinpath("luxx").rglob("*.py"))
    about.joinpath("RECORD").write_text("".join(f"{path},,\n" for path in files), encoding="utf-8")
