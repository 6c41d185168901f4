"""The hooks for contributors run what is installed, and stop what CI would refuse."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
PROGRAMS: Final = Path(sys.executable).parent
CONFIG: Final = ".pre-commit-config.yaml"
HOOKS: Final[list[dict[str, Any]]] = [
    hook for repo in yaml.safe_load((ROOT / CONFIG).read_text(encoding="utf-8"))["repos"] for hook in repo["hooks"]
]

pytestmark = pytest.mark.skipif(
    shutil.which("git") is None or not (PROGRAMS / "pre-commit").exists(),
    reason="needs git, and the environment that `make setup` builds",
)


class Checkout:
    """A contributor's checkout with one commit, and with no way to the network."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__"))
        for name in (CONFIG, "pyproject.toml"):
            shutil.copy(ROOT / name, root)
        (root / ".gitignore").write_text("/.venv\n__pycache__/\n*_cache/\n", encoding="utf-8")
        (root / ".venv").symlink_to(PROGRAMS.parent)
        someone = {f"GIT_{role}_{what}": "someone" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        self.environment = (
            os.environ
            | someone
            | {
                "GIT_CONFIG_GLOBAL": os.devnull,
                "GIT_CONFIG_SYSTEM": os.devnull,
                "PYTHONPATH": str(root / "src"),  # as if this checkout were the one installed
                "PRE_COMMIT_HOME": str(root / "pre_commit_cache"),
                "HTTPS_PROXY": "http://127.0.0.1:9",
                "HTTP_PROXY": "http://127.0.0.1:9",
            }
        )
        self.run("git", "init", "--quiet")
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", "All")
        assert self.run(PROGRAMS / "pre-commit", "install").returncode == 0

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )

    def commit(self, name: str, text: str) -> subprocess.CompletedProcess[str]:
        """Commit one file with this content, as a contributor does: the hooks run."""
        (self.root / name).write_text(text, encoding="utf-8")
        self.run("git", "add", name)
        return self.run("git", "commit", "--message", "A change")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    root = tmp_path_factory.mktemp("checkout") / "luxx"
    root.mkdir()
    return Checkout(root)


def test_the_configuration_is_valid_and_fetches_nothing(checkout: Checkout) -> None:
    assert checkout.run(PROGRAMS / "pre-commit", "validate-config").returncode == 0
    assert all(hook["language"] == "system" for hook in HOOKS)


def test_hooks_stand_before_commits_and_pushes_after_one_install(checkout: Checkout) -> None:
    assert {"pre-commit", "pre-push"} <= {path.name for path in (checkout.root / ".git/hooks").iterdir()}


def test_a_change_in_order_is_committed(checkout: Checkout) -> None:
    done = checkout.commit("src/luxx/domain/fine.py", '"""A module."""\n\nFINE = 1\n')
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "text", "hook"),
    [
        ("src/luxx/domain/lint.py", '"""A module."""\n\nprint(undefined)\n', "ruff check"),
        ("src/luxx/domain/layout.py", '"""A module."""\n\nNAMES = [\'one\',  "two"]\n', "ruff format"),
        (
            "src/luxx/domain/arrow.py",
            '"""A module."""\n\nfrom luxx.adapters.memory import MemoryStorage\n\n__all__ = ["MemoryStorage"]\n',
            "arrows point inwards",
        ),
        ("notes.md", "A line with a blank at its end \n", "no trailing blanks"),
    ],
)
def test_what_ci_would_refuse_is_not_committed(checkout: Checkout, name: str, text: str, hook: str) -> None:
    try:
        done = checkout.commit(name, text)
        assert done.returncode == 1
        failed = [line for line in (done.stdout + done.stderr).splitlines() if line.endswith("Failed")]
        assert any(line.startswith(hook) for line in failed), done.stdout + done.stderr
    finally:
        checkout.run("git", "rm", "--force", "--quiet", name)


def test_every_program_that_a_hook_runs_is_there() -> None:
    for hook in HOOKS:
        program = Path(hook["entry"].split()[0])
        assert (PROGRAMS / program.name).exists() if program.parts[0] == ".venv" else shutil.which(program), program
