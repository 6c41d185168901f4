"""`make release` builds the same files each time, and refuses what should not be released."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="a release is made with git")


def loaded() -> Any:
    """Give `scripts/release.py` as a module."""
    spec = importlib.util.spec_from_file_location("release", ROOT / "scripts/release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release: Final = loaded()

FILES: Final = {
    "src/luxx/__init__.py": '"""A package."""\n\n__version__ = "1.2.3"\n',
    "CHANGELOG.md": "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-01-31\n\n- New.\n\n## [1.2.2] - 2026-01-30\n",
    "README.md": "# A package\n",
    "pyproject.toml": """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "luxx"
dynamic = ["version"]
readme = "README.md"
requires-python = ">=3.11"

[tool.hatch.version]
path = "src/luxx/__init__.py"
""",
}


class Project:
    """A package in a repository of its own, ready to be released."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, text in FILES.items():
            self.write(name, text)
        self.git("init", "--quiet")
        self.commit()

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def change(self, name: str, old: str, new: str) -> None:
        text = (self.root / name).read_text(encoding="utf-8")
        assert old in text
        self.write(name, text.replace(old, new))

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "A change", "--date", "2026-01-31T12:00:00Z")

    def git(self, *arguments: str) -> None:
        someone = {f"GIT_{role}_{what}": "someone" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        subprocess.run(["git", *arguments], cwd=self.root, env=os.environ | someone | alone, check=True)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def test_a_tree_in_order_can_be_released(project: Project) -> None:
    assert release.tree_faults(project.root) == []


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda it: it.change("src/luxx/__init__.py", "1.2.3", "1.2.4"), "the newest section of CHANGELOG.md is 1.2.3"),
        (lambda it: it.change("src/luxx/__init__.py", "1.2.3", "1.2"), "'1.2': give it three numbers"),
        (lambda it: it.change("src/luxx/__init__.py", "__version__", "version"), "version '': give it three numbers"),
        (lambda it: it.change("CHANGELOG.md", "[1.2.3] - 2026-01-31", "[1.2.3]"), "gives 1.2.3 no date"),
        (lambda it: it.change("CHANGELOG.md", "2026-01-31", "soon"), "gives 1.2.3 no date"),
        (lambda it: it.change("CHANGELOG.md", "[1.2.2]", "[1.10.0]"), "1.2.3 is not above 1.10.0"),
        (lambda it: it.change("CHANGELOG.md", "[Unreleased]\n", "[Unreleased]\n\n- More.\n"), "unreleased changes"),
        (lambda it: it.write("CHANGELOG.md", "# Changelog\n"), "the newest section of CHANGELOG.md is none"),
        (lambda it: it.git("tag", "v1.2.3"), "there is a tag v1.2.3 already"),
    ],
)
def test_what_is_not_in_order_is_said(project: Project, break_it: Callable[[Project], None], said: str) -> None:
    break_it(project)
    project.git("commit", "--quiet", "--all", "--allow-empty", "--message", "A change")
    faults = release.tree_faults(project.root)
    assert any(said in fault for fault in faults)
    assert not any("committed" in fault for fault in faults)


@pytest.mark.parametrize("name", ["README.md", "a new file"])
def test_what_is_not_committed_keeps_the_tree_from_being_released(project: Project, name: str) -> None:
    project.write(name, "changed")
    (fault,) = release.tree_faults(project.root)
    assert "not everything is committed" in fault
    assert name in fault


def test_all_faults_are_said_at_once(project: Project) -> None:
    project.git("tag", "v1.2.4")
    project.change("src/luxx/__init__.py", "1.2.3", "1.2.4")
    assert len(release.tree_faults(project.root)) == 3


def test_what_is_built_is_the_commit_and_not_what_lies_about(project: Project, tmp_path: Path) -> None:
    project.write("src/luxx/stray.py", "")
    sdist, wheel = release.built(project.root, tmp_path / "place")
    assert release.distribution_faults(project.root, sdist, wheel) == []
    with tarfile.open(sdist) as archive:
        assert "luxx-1.2.3/src/luxx/stray.py" not in archive.getnames()


def test_two_builds_that_differ_are_no_release(project: Project, tmp_path: Path) -> None:
    project.write(
        "hatch_build.py",
        "import pathlib, uuid\n"
        "from hatchling.builders.hooks.plugin.interface import BuildHookInterface\n"
        "class CustomBuildHook(BuildHookInterface):\n"
        "    def initialize(self, version, build_data):\n"
        "        pathlib.Path(self.root, 'src/luxx/stamp.txt').write_text(str(uuid.uuid4()))\n",
    )
    project.change("pyproject.toml", "[tool.hatch.version]", "[tool.hatch.build.hooks.custom]\n\n[tool.hatch.version]")
    project.commit()
    with pytest.raises(SystemExit, match=r"Two builds of one commit differ: luxx-1\.2\.3"):
        release.built(project.root, tmp_path / "place")


def test_a_file_that_the_sdist_leaves_out_and_one_too_many_in_the_wheel_are_named(
    project: Project, tmp_path: Path
) -> None:
    project.write("tests/test_it.py", "")
    project.write("pyproject.toml", FILES["pyproject.toml"] + '[tool.hatch.build.targets.sdist]\nexclude = ["tests"]\n')
    project.change(
        "pyproject.toml",
        "[tool.hatch.version]",
        '[tool.hatch.build.targets.wheel.force-include]\n"README.md" = "luxx/README.md"\n\n[tool.hatch.version]',
    )
    project.commit()
    faults = release.distribution_faults(project.root, *release.built(project.root, tmp_path / "place"))
    assert faults == [
        "luxx-1.2.3.tar.gz lacks tests/test_it.py",
        "luxx-1.2.3-py3-none-any.whl holds luxx/README.md, which is no part of the package",
    ]


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (b"Metadata-Version: 2.4\nName: luxx\nVersion: 1.2.4\n", "its version is 1.2.4, not 1.2.3"),
        (b"Metadata-Version: 2.4\nName: luxx\nVersion: 1.2.3\n", "it has no description"),
        (b"Metadata-Version: 2.4\nName: luxx\nVersion: 1.2.3\nRequires-Dist: not a name\n", "requires-dist"),
        (b"Metadata-Version: 2.4\nName: luxx\n", "version"),
    ],
)
def test_metadata_that_an_index_would_refuse_or_show_wrongly_are_told(metadata: bytes, said: str) -> None:
    faults = release.metadata_faults(metadata, "1.2.3")
    assert any(said in one for one in faults)


def test_the_commit_at_hand_builds_reproducibly_and_completely(tmp_path: Path) -> None:
    """The sdist holds every file of the commit and builds the wheel that the tree builds."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    sdist, wheel = release.built(ROOT, tmp_path)
    assert release.distribution_faults(ROOT, sdist, wheel) == []


def test_nothing_is_built_from_a_tree_that_is_not_in_order(project: Project) -> None:
    """The command itself: it ends with 1, names the faults, and leaves no `dist`."""
    shutil.copytree(ROOT / "scripts", project.root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, project.root / "scripts/release.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "This tree cannot be released" in done.stderr
    assert "not everything is committed" in done.stderr
    assert not (project.root / "dist").exists()
