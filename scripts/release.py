"""Build what is released from the commit at hand, and check it: `make release`. Nothing is tagged, nothing uploaded.

First the tree: it is clean, and version, changelog and tags agree; every fault is told at once. Then the
distributions: built twice from the commit in different places, they are the same byte for byte; the sdist holds every
file of the commit, builds that same wheel and passes its own unit tests; their metadata is valid; the wheel and each
of its extras work in clean environments (`check_wheel.py`). What passed is put into `dist/`.
"""

import datetime as dt
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from packaging.metadata import Metadata

ROOT: Final = Path(__file__).parents[1]
SECTION: Final = re.compile(r"^## \[([^\]]+)\](?: - (.*))?$", re.MULTILINE)
VERSION: Final = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", re.ASCII)


def unpack(archive: tarfile.TarFile, place: Path) -> None:
    """Unpack what was made here."""
    # The first patches of Python 3.11 know no filters; from 3.12 on it is asked for one.
    if hasattr(tarfile, "data_filter"):
        archive.extractall(place, filter="data")
    else:
        archive.extractall(place)  # noqa: S202  # as above: our own


def main() -> None:
    if faults := tree_faults(ROOT):
        sys.exit("This tree cannot be released:\n" + "\n".join(f"- {fault}" for fault in faults))
    version = version_of(ROOT)
    with tempfile.TemporaryDirectory(prefix="luxx-release-") as folder:
        place = Path(folder)
        sdist, wheel = built(ROOT, place)
        if faults := distribution_faults(ROOT, sdist, wheel):
            sys.exit("What was built cannot be released:\n" + "\n".join(f"- {fault}" for fault in faults))
        run_tests_of(sdist, place)
        subprocess.run([sys.executable, ROOT / "scripts/check_wheel.py", wheel], check=True)
        dist = ROOT / "dist"
        dist.mkdir(exist_ok=True)
        print()
        for file in (sdist, wheel):
            shutil.copy(file, dist)
            print(f"dist/{file.name}  sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}")
    print(f"""
What is left to you, once `make check` passes on this commit:
  git tag -a v{version} -m 'Luxx {version}' {git(ROOT, "rev-parse", "HEAD")}
  git push origin v{version}
  upload the two files in dist/ to the package index, and the changelog's section as the release's notes""")


def git(root: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True).stdout.rstrip()


def version_of(root: Path) -> str:
    text = (root / "src/luxx/__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.*)"$', text, re.MULTILINE)
    return found[1] if found else ""


def tree_faults(root: Path) -> list[str]:
    """Tell all that keeps the tree from being released; empty where nothing does."""
    version = version_of(root)
    faults = []
    if not VERSION.fullmatch(version):
        faults.append(f"src/luxx/__init__.py says version {version!r}: give it three numbers, like 1.2.3")
    faults += _changelog_faults((root / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    if changed := git(root, "status", "--porcelain"):
        faults.append(f"not everything is committed:\n{changed}")
    if git(root, "tag", "--list", f"v{version}"):
        faults.append(f"there is a tag v{version} already: raise the version, a release is never changed")
    return faults


def _changelog_faults(text: str, version: str) -> list[str]:
    sections = list(SECTION.finditer(text))
    faults = []
    if sections and sections[0][1].lower() == "unreleased":
        end = sections[1].start() if len(sections) > 1 else len(text)
        if text[sections[0].end() : end].strip():
            faults.append(f"CHANGELOG.md has unreleased changes: move them under ## [{version}] - <date>")
        del sections[0]
    if not sections or sections[0][1] != version:
        newest = sections[0][1] if sections else "none"
        return [*faults, f"the newest section of CHANGELOG.md is {newest}, the version {version}"]
    try:
        dt.date.fromisoformat(sections[0][2] or "")
    except ValueError:
        faults.append(f"CHANGELOG.md gives {version} no date: ## [{version}] - {dt.date(2026, 1, 31)}")
    numbers = [
        tuple(map(int, one[1].split("."))) if VERSION.fullmatch(one[1]) else (0, 0, 0)  # an old one of another form
        for one in sections[:2]
    ]
    if len(numbers) > 1 and numbers[0] <= numbers[1]:
        faults.append(f"version {version} is not above {sections[1][1]}, the one before it in CHANGELOG.md")
    return faults


def built(root: Path, place: Path) -> tuple[Path, Path]:
    """Build sdist and wheel of the commit, twice; gives their paths, or ends if the two builds differ.

    Built is what is committed, whatever else lies in the tree, and stamped with the commit's time. The wheel is built
    once from the sdist, once from the tree.
    """
    stamp = git(root, "log", "-1", "--format=%ct")
    first, second = place / "first", place / "a second one, elsewhere"
    for one, umask in ((first, 0o022), (second, 0o077)):
        _export(root, one / "tree")
        _build(one, one / "tree", "sdist", stamp, umask)
    (sdist,) = first.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        unpack(archive, first / "unpacked")
    (unpacked,) = (first / "unpacked").iterdir()
    _build(first, unpacked, "wheel", stamp, 0o022)
    _build(second, second / "tree", "wheel", stamp, 0o077)
    (wheel,) = first.glob("*.whl")
    different = [one.name for one in (sdist, wheel) if one.read_bytes() != (second / one.name).read_bytes()]
    if different:
        sys.exit(f"Two builds of one commit differ: {', '.join(different)}")
    return sdist, wheel


def _export(root: Path, tree: Path) -> None:
    tree.mkdir(parents=True)
    archive = tree.with_suffix(".tar")
    git(root, "archive", "--output", str(archive), "HEAD")
    with tarfile.open(archive) as files:
        unpack(files, tree)


def _build(place: Path, tree: Path, kind: str, stamp: str, umask: int) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", place, tree],
        env=os.environ | {"SOURCE_DATE_EPOCH": stamp},
        umask=umask,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def distribution_faults(root: Path, sdist: Path, wheel: Path) -> list[str]:
    """Tell what is missing from the distributions or wrong in them; empty where nothing is."""
    tracked = set(git(root, "ls-tree", "-r", "--name-only", "-z", "HEAD").strip("\0").split("\0"))
    with tarfile.open(sdist) as archive:
        files = {one.name.partition("/")[2]: one for one in archive.getmembers() if one.isfile()}
        information = archive.extractfile(files["PKG-INFO"])
        assert information is not None  # noqa: S101  # it is a file
        described = {sdist.name: information.read()}
    with zipfile.ZipFile(wheel) as archive_:
        names = set(archive_.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        described[wheel.name] = archive_.read(metadata)
    package = {name.removeprefix("src/") for name in tracked if name.startswith("src/")}
    within = {name for name in names if not name.startswith(metadata.partition("/")[0])}
    faults = [
        *(f"{sdist.name} lacks {name}" for name in sorted(tracked - files.keys())),
        *(
            f"{sdist.name} holds {name}, which is not in the commit"
            for name in sorted(files.keys() - tracked - {"PKG-INFO"})
        ),
        *(f"{wheel.name} lacks {name}" for name in sorted(package - within)),
        *(f"{wheel.name} holds {name}, which is no part of the package" for name in sorted(within - package)),
    ]
    for name, text in described.items():
        faults += [f"{name}: {fault}" for fault in metadata_faults(text, version_of(root))]
    if described[sdist.name] != described[wheel.name]:
        faults.append("the metadata of sdist and wheel differ")
    return faults


def metadata_faults(text: bytes, version: str) -> list[str]:
    """Tell what a package index would refuse in core metadata, and what it would show wrongly."""
    try:
        metadata = Metadata.from_email(text, validate=True)
    except ExceptionGroup as group:
        return [str(error) for error in group.exceptions]
    faults = []
    if str(metadata.version) != version:
        faults.append(f"its version is {metadata.version}, not {version}")
    if not metadata.description or metadata.description_content_type != "text/markdown":
        faults.append("it has no description in text/markdown: the page at the index would be empty or plain text")
    return faults


def run_tests_of(sdist: Path, place: Path) -> None:
    """Run the unit tests of the sdist on its own code; ends if they fail."""
    with tarfile.open(sdist) as archive:
        unpack(archive, place / "tested")
    (tree,) = (place / "tested").iterdir()
    subprocess.run(
        [sys.executable, "-m", "pytest", "tests/unit", "-q", "-p", "no:cacheprovider"],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree / "src")},
        check=True,
    )


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        # What failed has said why already.
        sys.exit(f"This commit cannot be released: {shlex.join(map(str, error.cmd))} ended with {error.returncode}")
