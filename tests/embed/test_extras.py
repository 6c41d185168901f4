"""Each extra brings what it says: its programs run where nothing else is installed."""

import asyncio
import os
import re
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


MISSING = {
    "from luxx.client import Client": "luxx.client needs {}: install luxx with the extra `client`",
    "import luxx.adapters.database": (
        "luxx.adapters.database needs {}: install luxx with the extra `sqlite` or `postgres`"
    ),
    "from luxx.container import Container": "luxx.container needs {}: install luxx with the extra `server`",
    "from luxx.settings import Settings; Settings.from_env()": (
        "Settings.from_env needs dotenv: install luxx with the extra `server`"
    ),
    "import luxx.adapters.models.openai": (
        "luxx.adapters.models.openai needs certifi: install luxx with the extra `openai`"
    ),
    "import luxx.entrypoints.http.app": ("luxx.entrypoints.http.app needs {}: install luxx with the extra `server`"),
    "import luxx.entrypoints.http.event_stream": (
        "luxx.entrypoints.http.event_stream needs msgspec: install luxx with the extra `client`"
    ),
    "import luxx.entrypoints.http.text": (
        "luxx.entrypoints.http.text needs msgspec: install luxx with the extra `client`"
    ),
    "import luxx.adapters.tools.declare": (
        "luxx.adapters.tools.declare needs msgspec: install luxx with the extra `tools`"
    ),
    "import luxx.adapters.tools.resources": (
        "luxx.adapters.tools.resources needs {}: install luxx with the extra `tools`"
    ),
    "from luxx.testing import serving": "luxx.testing.serving needs uvicorn: install luxx with the extra `server`",
    "import luxx.testing.contracts": "luxx.testing.contracts needs {}: install luxx with the extra `testing`",
}
"""What is said where nothing but Luxx is installed; the brackets stand for whichever package is looked for first."""

TELL = """
import sys
for line in sys.stdin:
    try:
        exec(line)
    except ImportError as error:
        print(error)
"""


def test_an_import_without_its_extra_says_what_to_install(tmp_path: Path) -> None:
    python = environment(tmp_path / "env", "luxx")
    done = run(python, "-c", TELL, place=tmp_path, given="\n".join(MISSING))
    said = done.stdout.splitlines()
    assert len(said) == len(MISSING), done.stdout + done.stderr
    for line, expected in zip(said, MISSING.values(), strict=True):
        assert re.fullmatch(re.escape(expected).replace(r"\{\}", r"\w+"), line)


def test_postgres_without_its_driver_says_what_to_install(tmp_path: Path) -> None:
    python = environment(tmp_path / "env", "luxx[sqlite]")
    line = "from luxx.adapters.database import Database; Database('postgresql://127.0.0.1/luxx')"
    done = run(python, "-c", TELL, place=tmp_path, given=line)
    assert done.stdout == "A postgresql:// URL needs asyncpg: install luxx with the extra `postgres`\n"


@pytest.mark.parametrize("command", ["serve", "doctor", "db upgrade", "user list", "chat"])
def test_a_command_without_its_extra_says_what_to_install(command: str, tmp_path: Path) -> None:
    python = environment(tmp_path / "env", "luxx")
    done = run(python, "-m", "luxx.entrypoints.cli", *command.split(), place=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    extra = "the extras `chat` and `server`" if command == "chat" else "the extra `server`"
    said = rf"luxx: `luxx {command.split(maxsplit=1)[0]}` needs \w+: install luxx with {extra}\n"
    assert re.fullmatch(said, done.stderr)


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


def test_a_deployment_is_put_under_chaos_with_the_extra_for_testing_alone(tmp_path: Path) -> None:
    python = environment(tmp_path / "env", "luxx[testing]")
    command = (python, "-m", "luxx.testing.chaos", "--seconds", "1")
    done = run(*command, "--url", "http://127.0.0.1:9", place=tmp_path)
    assert (done.returncode, done.stdout.partition(":")[0]) == (2, "nothing answers at http"), done.stderr
    done = run(*command, place=tmp_path)
    said = r"luxx\.testing\.chaos without --url needs \w+: install luxx with the extra `server`\n"
    assert (done.returncode, bool(re.match(said, done.stdout))) == (2, True), done.stderr
