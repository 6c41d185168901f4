"""Each extra brings what it says: its programs run where nothing else is installed."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from litestar import Litestar

from luxx.client import AsyncClient
from luxx.testing import ScriptedChatModel, serving, spoken
from tests.support.environments import closure, environment

PROGRAMS = Path(__file__).parent / "programs"


def run(
    python: Path, *arguments: str | Path, place: Path, given: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a program in an environment, with warnings as errors, and nothing of this process's."""
    return subprocess.run(
        [python, "-W", "error", *arguments],
        cwd=place,
        env={"PATH": os.defpath, "HOME": str(place), **variables},
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_environment_has_what_was_asked_for_and_nothing_else(tmp_path: Path) -> None:
    python = environment(tmp_path / "env", "luxx[sqlite]")
    for name, there in (("alembic", True), ("sqlalchemy", True), ("asyncpg", False), ("pytest", False)):
        assert (run(python, "-c", f"import {name}", place=tmp_path).returncode == 0) == there, name


@pytest.mark.parametrize(
    ("extra", "without"),
    [
        ("sqlite", {"asyncpg", "litestar"}),
        ("postgres", {"httpx", "litestar"}),
        ("openai", {"httpx", "sqlalchemy", "litestar"}),
        ("tools", {"sqlalchemy", "litestar"}),
        ("client", {"sqlalchemy", "litestar", "rich"}),
        ("chat", {"sqlalchemy", "litestar"}),
        ("testing", {"sqlalchemy", "litestar"}),
        ("otel", {"sqlalchemy", "litestar"}),
        ("server", {"xllamacpp", "opentelemetry-sdk", "pytest"}),
    ],
)
def test_an_extra_brings_nothing_of_another(extra: str, without: set[str]) -> None:
    assert closure("luxx") == {"luxx"}
    assert not closure(f"luxx[{extra}]") & without


@pytest.mark.parametrize(
    ("extra", "program"),
    [
        ("", "bare.py"),
        ("[openai]", "model.py"),
        ("[tools]", "tools.py"),
        ("[otel]", "traces.py"),
        ("[local]", "local_model.py"),
        ("[server]", "server.py"),
    ],
)
def test_a_program_runs_with_its_extra_alone(extra: str, program: str, tmp_path: Path) -> None:
    done = run(environment(tmp_path / "env", f"luxx{extra}"), PROGRAMS / program, place=tmp_path)
    assert done.returncode == 0, done.stderr


def test_sqlite_is_used_with_its_extra_alone(tmp_path: Path) -> None:
    python = environment(tmp_path / "env", "luxx[sqlite]")
    done = run(python, PROGRAMS / "storage.py", f"sqlite:///{tmp_path / 'luxx.db'}", place=tmp_path)
    assert done.returncode == 0, done.stderr


def test_postgres_is_used_with_its_extra_alone(tmp_path: Path, postgres_url: str) -> None:
    done = run(environment(tmp_path / "env", "luxx[postgres]"), PROGRAMS / "storage.py", postgres_url, place=tmp_path)
    assert done.returncode == 0, done.stderr


async def test_the_client_talks_with_its_extra_alone(
    tmp_path: Path, luxx_app: Litestar, luxx_model: ScriptedChatModel
) -> None:
    luxx_model.then(spoken("Hello there."), spoken("Hello again."))
    python = environment(tmp_path / "env", "luxx[client]")
    async with serving(luxx_app) as url:
        done = await asyncio.to_thread(run, python, PROGRAMS / "talk.py", url, place=tmp_path)
    assert done.returncode == 0, done.stderr


async def test_the_chat_in_the_terminal_runs_with_its_extra_alone(
    tmp_path: Path, luxx_client: AsyncClient, luxx_model: ScriptedChatModel
) -> None:
    luxx_model.then(spoken("Hello there."))
    python = environment(tmp_path / "env", "luxx[chat]")
    command = (python, "-m", "luxx.entrypoints.cli", "chat", "--url", luxx_client.url)
    done = await asyncio.to_thread(
        run, *command, place=tmp_path, given="Hi\n", LUXX_TOKEN=luxx_client.token or "", PYTHONUTF8="1"
    )
    assert done.returncode == 0, done.stderr
    assert "Hello there." in done.stdout


def test_the_suites_prove_adapters_of_others_with_the_extra_for_testing_alone(tmp_path: Path) -> None:
    python = environment(tmp_path / "env", "luxx[testing]")
    tests = tmp_path / "test_mine.py"
    tests.write_bytes((PROGRAMS / "suites.py").read_bytes())
    tmp_path.joinpath("pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n", encoding="utf-8"
    )
    done = run(python, "-m", "pytest", "-q", tests, place=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "warning" not in done.stdout
