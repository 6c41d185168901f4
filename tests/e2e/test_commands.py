"""The operator's commands, run as an operator runs them."""

import asyncio
import json
import os
import pty
import socket
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.http.conftest import SECRET, container_of
from tests.support.certificates import certificate_for
from tests.support.far_end import FarEnd, far_end, tls_of
from tests.support.live import live

import luxx
from luxx.adapters.models.local.weights import LocalModelUnusable
from luxx.adapters.models.scripted import ScriptedChatModel
from luxx.entrypoints.cli import launch
from luxx.settings import Settings
from luxx.testing.upstream import ScriptedUpstream

SOURCE = Path(luxx.__file__).parent.parent
PASSWORD = "correct horse battery staple"


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody with a shell, in a directory of their own."""

    directory: Path
    environment: dict[str, str]

    def luxx(self, *arguments: str, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {name: text for name, text in os.environ.items() if not name.startswith("LUXX_")}
        return subprocess.run(
            [sys.executable, "-m", "luxx.entrypoints.cli", *arguments],
            cwd=self.directory,
            env=clean | {"PYTHONPATH": str(SOURCE), "LUXX_PASSWORD_MEMORY_KIB": "128"} | self.environment | environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def well(self, *arguments: str, given: str = "") -> str:
        done = self.luxx(*arguments, given=given)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        return done.stdout

    def users(self) -> list[dict[str, Any]]:
        return list(json.loads(self.well("user", "list", "--json")))


@pytest.fixture
def alone(tmp_path: Path) -> Operator:
    """Somebody who has set nothing."""
    directory = tmp_path / "alone"
    directory.mkdir()
    return Operator(directory, {})


@pytest.fixture(params=["sqlite", "postgres"])
def operator(request: pytest.FixtureRequest, tmp_path: Path) -> Operator:
    url = str(request.getfixturevalue(f"{request.param}_url"))
    return Operator(tmp_path, {"LUXX_DATABASE_URL": url, "LUXX_JWT_SECRET": SECRET, "LUXX_DATA_DIR": str(tmp_path)})


async def log_in(operator: Operator, model: ScriptedChatModel, username: str, password: str) -> tuple[int, str]:
    settings = Settings(
        data_dir=operator.directory, database_url=operator.environment["LUXX_DATABASE_URL"], jwt_secret=SECRET
    )
    async with live(container_of(settings, model)) as server:
        answer = await server.http.post("/api/auth/login", json={"username": username, "password": password})
        token = answer.json().get("data", {}).get("access_token", "")
    return answer.status_code, token


async def status_of(operator: Operator, model: ScriptedChatModel, token: str) -> int:
    settings = Settings(
        data_dir=operator.directory, database_url=operator.environment["LUXX_DATABASE_URL"], jwt_secret=SECRET
    )
    async with live(container_of(settings, model)) as server:
        return (await server.http.get("/api/auth/me", headers={"Authorization": f"Bearer {token}"})).status_code


async def test_an_account_is_made_listed_disabled_enabled_promoted_and_given_a_password(operator: Operator) -> None:
    model = ScriptedChatModel()
    assert operator.users() == []
    said = operator.well("user", "create", "Zo\u00eb", "zoe@example.org", given=f"{PASSWORD}\n")
    assert "Zo\u00eb" in said
    operator.well("user", "create", "root", "root@example.org", "--admin", given=PASSWORD)
    zoe, root = operator.users()
    assert (zoe["username"], zoe["email"], zoe["role"], zoe["is_active"]) == (
        "Zo\u00eb",
        "zoe@example.org",
        "user",
        True,
    )
    assert root["role"] == "admin"
    status, token = await log_in(operator, model, "zo\u00eb", PASSWORD)
    assert status == 200
    operator.well("user", "disable", "ZO\u00cb")
    assert await status_of(operator, model, token) == 403
    operator.well("user", "enable", "zo\u00eb")
    operator.well("user", "promote", "zo\u00eb")
    assert operator.users()[0] == zoe | {"role": "admin"}
    assert await status_of(operator, model, token) == 200
    operator.well("user", "password", "zo\u00eb", given="another battery of horses\r\n")
    assert await status_of(operator, model, token) == 401
    assert (await log_in(operator, model, "zo\u00eb", PASSWORD))[0] == 401
    assert (await log_in(operator, model, "zo\u00eb", "another battery of horses"))[0] == 200
    assert "admin  active    Zo\u00eb  <zoe@example.org>" in operator.well("user", "list")


def test_what_cannot_be_done_is_told_in_a_sentence(alone: Operator) -> None:
    alone.well("user", "create", "ada", "ada@example.org", given=PASSWORD)
    before = alone.users()
    for arguments, given, said in (
        (("create", "ADA", "other@example.org"), PASSWORD, "is taken"),
        (("create", "a", "nowhere"), "short", "username must have at least 3 characters"),
        (("create", "bob", "bob@example.org"), "", "There is no password on standard input"),
        (("disable", "nobody"), "", "There is no user 'nobody'"),
        (("password", "ada"), "12345678", "password is one of the most common passwords"),
    ):
        done = alone.luxx("user", *arguments, given=given)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert PASSWORD not in done.stderr
    assert alone.users() == before


def test_a_terminal_that_cannot_show_a_name_gets_it_escaped(alone: Operator) -> None:
    """What was done is done: it must not end in a traceback that looks as if it were not."""
    done = alone.luxx("user", "create", "王小明", "wang@example.org", given=PASSWORD, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"'\u738b\u5c0f\u660e'" in done.stdout
    listed = alone.luxx("user", "list", PYTHONIOENCODING="ascii")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert json.loads(alone.luxx("user", "list", "--json", PYTHONIOENCODING="latin-1").stdout) == alone.users()


def test_a_password_is_no_argument(alone: Operator) -> None:
    """Arguments are seen by everybody on the machine."""
    done = alone.luxx("user", "create", "ada", "ada@example.org", PASSWORD)
    assert done.returncode == 2
    assert alone.luxx("user", "create", "ada", "ada@example.org", "--password", PASSWORD).returncode == 2


# Makes the terminal the program's own: so Ctrl-C in it becomes a signal, and passwords are asked for there.
AT_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize(("keys", "status"), [(b"\x03", 130), (b"\x04", 1)], ids=["Ctrl-C", "Ctrl-D"])
def test_who_gives_no_answer_to_a_question_ends_the_command(alone: Operator, keys: bytes, status: int) -> None:
    master, slave = pty.openpty()
    command = (sys.executable, "-m", "luxx.entrypoints.cli", "user", "create", "ada", "ada@example.com")
    with subprocess.Popen(
        [sys.executable, "-c", AT_TERMINAL, *command],
        cwd=alone.directory,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    ) as asking:
        os.close(slave)
        seen = b""
        while b"Password: " not in seen:
            seen += os.read(master, 1024)
        os.write(master, keys)
        with suppress(OSError):  # so Linux says that nobody has the other side open
            while more := os.read(master, 1024):
                seen += more
    os.close(master)
    assert asking.returncode == status
    assert b"Traceback" not in seen


async def test_a_backup_is_a_whole_database_made_while_others_write(alone: Operator) -> None:
    alone.well("user", "create", "ada", "ada@example.org", given=PASSWORD)
    database = alone.directory / ".luxx" / "luxx.db"
    target = alone.directory / "backup.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as writing:
        writing.execute("BEGIN IMMEDIATE")
        writing.execute("UPDATE users SET username = 'half done'")
        alone.well("db", "backup", str(target))
        writing.execute("ROLLBACK")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(one.name for one in alone.directory.iterdir()) == [".luxx", "backup.db"]
    restored = Operator(alone.directory, {"LUXX_DATABASE_URL": f"sqlite:///{target}"})
    assert restored.users() == alone.users()
    again = alone.luxx("db", "backup", str(target))
    assert again.returncode == 1
    assert "is there already" in again.stderr


def test_a_backup_of_nothing_is_refused_and_makes_nothing(alone: Operator) -> None:
    done = alone.luxx("db", "backup", "backup.db")
    assert done.returncode == 1
    assert "nothing to back up" in done.stderr
    assert list(alone.directory.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere/x.db", "nowhere/x.db cannot be written: No such file or directory"),
        ("file/x.db", "file/x.db cannot be written: Not a directory"),
        ("dangling", "dangling is there already: name another file, or move it away"),
    ],
)
def test_a_backup_that_cannot_be_written_is_told_by_the_name_that_was_given(
    alone: Operator, target: str, said: str
) -> None:
    alone.well("db", "upgrade")
    (alone.directory / "file").touch()
    (alone.directory / "dangling").symlink_to("absent")
    done = alone.luxx("db", "backup", target)
    assert (done.returncode, done.stderr) == (1, f"luxx: {said}\n")


def test_a_backup_of_postgres_is_left_to_pg_dump(alone: Operator, postgres_url: str) -> None:
    done = alone.luxx("db", "backup", "backup.db", LUXX_DATABASE_URL=postgres_url, LUXX_JWT_SECRET=SECRET)
    assert done.returncode == 2
    assert "pg_dump" in done.stderr
    assert not (alone.directory / "backup.db").exists()


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str]]:
    """Give verdict and text by the name of the check."""
    lines = [line.split(": ", 1) for line in done.stdout.splitlines()]
    return {head.split(maxsplit=1)[1]: (head.split()[0], text) for head, text in lines}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("user", "list"), ("db", "upgrade")])
def test_a_database_below_no_directory_is_told_in_a_sentence(alone: Operator, command: tuple[str, ...]) -> None:
    done = alone.luxx(*command, LUXX_DATABASE_URL="sqlite:////nonexistent/x.db")
    assert done.returncode == 1
    assert "There is no directory /nonexistent for the database" in done.stderr
    assert "--port" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("user", "list"), ("db", "upgrade"), ("db", "current")])
@pytest.mark.parametrize(
    ("named", "why"), [("file", "File exists"), ("file/below", "Not a directory"), ("dangling", "File exists")]
)
def test_a_data_directory_that_is_none_is_told_as_a_setting_to_mend(
    alone: Operator, command: tuple[str, ...], named: str, why: str
) -> None:
    (alone.directory / "file").touch()
    (alone.directory / "dangling").symlink_to("nowhere")
    done = alone.luxx(*command, LUXX_DATA_DIR=named)
    assert done.returncode == 2
    wanted = "must name a directory, or a place where one can be made"
    assert done.stderr.endswith(f"Bad settings:\n  LUXX_DATA_DIR {wanted}, not {named} ({why})\n")


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("db", "current"), ("db", "upgrade"), ("user", "list")])
def test_why_the_database_cannot_be_reached_is_told(alone: Operator, command: tuple[str, ...]) -> None:
    url = "postgresql://nobody@127.0.0.1:1/none"
    done = alone.luxx(*command, LUXX_DATABASE_URL=url, LUXX_JWT_SECRET=SECRET)
    assert done.returncode == 1
    assert "(ConnectionRefusedError: " in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_of_a_port_that_is_taken_it_is_told_what_to_do(
    alone: Operator, workers: str, request: pytest.FixtureRequest
) -> None:
    given = {"LUXX_JWT_SECRET": SECRET}
    if workers == "2":
        given["LUXX_DATABASE_URL"] = str(request.getfixturevalue("postgres_url"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = alone.luxx("serve", "--workers", workers, "--port", port, **given)
    assert done.returncode == 1
    assert port in done.stderr
    assert "stop what listens there, or give another --host or --port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_local_model_without_its_engine_is_refused_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr(launch, "find_weights", lambda _: pytest.fail("it looks for weights"))
    for wanted in (True, Path("model.gguf")):
        with pytest.raises(LocalModelUnusable, match="needs xllamacpp: install luxx with the extra `local`"):
            launch.weights_for(wanted)
    assert launch.weights_for(local=False) is None


def test_a_process_that_stops_does_not_wait_for_what_takes_no_notice_of_it(tmp_path: Path) -> None:
    """Tools of others have bare excepts in their loops; whoever sent SIGTERM would have to kill the process."""
    program = """
import asyncio, sys
from luxx.entrypoints.cli import launch, leaving, serve
from luxx.settings import Settings

async def deaf():
    while True:
        try:
            await asyncio.sleep(0.1)
        except BaseException:
            pass

async def stops(settings, *, host, port):
    asyncio.create_task(deaf(), name="tool deaf")
    await asyncio.sleep(0.1)
    return 3

serve.serve = stops
leaving.STOP_SECONDS = 0.1
sys.exit(launch.run(Settings.from_env(), host="", port=0))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(SOURCE), "LUXX_JWT_SECRET": SECRET},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "left behind: tool deaf" in done.stderr


def test_the_doctor_finds_a_fresh_place_well_and_changes_nothing(alone: Operator) -> None:
    done = alone.luxx("doctor", "--port", free_port())
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    found = findings(done)
    assert list(found) == ["settings", "data directory", "database", "schema", "model", "sandbox", "port"]
    assert {verdict for verdict, _ in found.values()} == {"ok"}
    assert list(alone.directory.iterdir()) == []


def test_the_doctor_tells_of_a_tool_that_cannot_be_loaded(alone: Operator) -> None:
    info = alone.directory / "found" / "broken_tool-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-tool\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[luxx.tools]\nbroken = no_such_module\n")
    done = alone.luxx("doctor", "--port", free_port(), PYTHONPATH=f"{SOURCE}{os.pathsep}{info.parent}")
    assert (done.returncode, done.stderr) == (1, "")
    assert "FAIL  settings: the entry point broken of broken-tool cannot be loaded" in done.stdout
    assert "ok    schema" in done.stdout


def test_the_doctor_finds_a_place_in_use_well(operator: Operator) -> None:
    (operator.directory).chmod(0o700)
    operator.well("db", "upgrade")
    done = operator.luxx("doctor", "--port", free_port())
    assert done.returncode == 0, done.stdout
    assert findings(done)["schema"] == ("ok", "it is current")


def test_a_database_of_a_newer_version_is_no_state_to_start_in(alone: Operator) -> None:
    alone.well("db", "upgrade")
    with closing(sqlite3.connect(alone.directory / ".luxx" / "luxx.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    for command in (("serve", "--port", "0"), ("db", "current"), ("db", "upgrade"), ("user", "list")):
        done = alone.luxx(*command)
        assert done.returncode == 1
        assert "a newer version than this one" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert findings(alone.luxx("doctor", "--port", free_port()))["schema"][0] == "FAIL"


def test_the_doctor_tells_of_a_damaged_database_what_is_wrong_with_it_once(alone: Operator) -> None:
    data = alone.directory / ".luxx"
    data.mkdir(mode=0o700)
    (data / "luxx.db").write_bytes(b"no database" * 1000)
    found = findings(alone.luxx("doctor", "--port", free_port()))
    assert found["database"] == (
        "FAIL",
        "it cannot be read (DatabaseError: file is not a database): is it the right file?",
    )
    assert found["schema"] == ("FAIL", "nobody can tell while the database cannot be read")


async def test_the_doctor_tells_all_that_is_wrong_and_what_to_do(alone: Operator) -> None:
    data = alone.directory / ".luxx"
    data.mkdir(mode=0o755)
    data.chmod(0o755)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = alone.luxx(
            "doctor",
            "--port",
            str(taken.getsockname()[1]),
            LUXX_DATABASE_URL=f"postgresql://luxx:s3cret@127.0.0.1:{free_port()}/luxx",
            LUXX_JWT_SECRET=SECRET,
            LUXX_LLM_BASE_URL=f"http://127.0.0.1:{free_port()}/v1",
        )
    assert (done.returncode, done.stderr) == (1, "")
    found = findings(done)
    assert {name for name, (verdict, _) in found.items() if verdict == "FAIL"} == {
        "data directory",
        "database",
        "schema",
        "model",
        "port",
    }
    assert "chmod go= .luxx" in found["data directory"][1]
    assert "LUXX_DATABASE_URL" in found["database"][1]
    assert "LUXX_LLM_BASE_URL" in found["model"][1]
    assert "--port" in found["port"][1]
    assert "s3cret" not in done.stdout


@pytest.mark.parametrize(("model", "said"), [("scripted", "offers 'scripted'"), ("glm-5", "is not in its list")])
async def test_the_doctor_asks_the_endpoint_for_its_models(alone: Operator, model: str, said: str) -> None:
    async with ScriptedUpstream() as upstream:
        done = await asyncio.to_thread(
            alone.luxx, "doctor", "--port", free_port(), LUXX_LLM_BASE_URL=upstream.url, LUXX_DEFAULT_MODEL=model
        )
    verdict, text = findings(done)["model"]
    assert (done.returncode, verdict) == (0, "ok")
    assert said in text


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"LUXX_LLM_API_KEY": "ключ"}, "the API key must consist of visible ASCII characters"),
        ({"LUXX_LLM_BASE_URL": "http://127.0.0.1:9/v1?key=s3cret"}, "the base URL must have no user, query or"),
        ({"LUXX_LLM_BASE_URL": "http://me:s3cret@127.0.0.1:9/v1"}, "LUXX_LLM_BASE_URL must hold no user name"),
        ({"LUXX_DISABLED_TOOLS": "fetch-page"}, "LUXX_DISABLED_TOOLS names no tool by 'fetch-page'"),
    ],
)
def test_the_doctor_finds_what_the_service_would_refuse_to_start_with(
    alone: Operator, variables: dict[str, str], said: str
) -> None:
    model = {"LUXX_LLM_BASE_URL": f"http://127.0.0.1:{free_port()}/v1"}
    done = alone.luxx("doctor", "--port", free_port(), **model | variables)
    assert (done.returncode, done.stderr) == (1, "")
    verdict, text = findings(done)["settings"]
    assert verdict == "FAIL"
    assert said in text
    assert "s3cret" not in done.stdout


async def test_the_doctor_asks_the_endpoint_as_the_service_does(alone: Operator, tmp_path: Path) -> None:
    """What vouches for its certificate is read where the service reads it; a slash at the end is none too many."""
    certificate = certificate_for("localhost", tmp_path)
    offered = b'{"data": [{"id": "glm-5"}]}'
    asked: list[bytes] = []

    async def offer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(offered), offered))

    async with far_end(FarEnd(offer), tls=tls_of(certificate)[0]) as far:
        settings = {"LUXX_LLM_BASE_URL": f"https://localhost:{far.port}/v1/", "SSL_CERT_FILE": str(certificate[0])}
        done = await asyncio.to_thread(alone.luxx, "doctor", "--port", free_port(), **settings)
    assert "offers 'glm-5'" in findings(done)["model"][1]
    assert asked[0].startswith(b"GET /v1/models ")


def test_the_doctor_names_every_bad_setting(alone: Operator) -> None:
    done = alone.luxx("doctor", LUXX_TOKEN_HOURS="never", LUXX_MAX_TURNS="few")
    assert (done.returncode, done.stderr) == (1, "")
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [
        ["FAIL", "settings:", "LUXX_TOKEN_HOURS"],
        ["FAIL", "settings:", "LUXX_MAX_TURNS"],
    ]
