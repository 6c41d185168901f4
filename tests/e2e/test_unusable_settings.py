"""Settings that are well-formed and cannot work end the service with a sentence, not with a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import luxx

SOURCE = Path(luxx.__file__).parent.parent


def run(directory: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LUXX_")}
    return subprocess.run(
        [sys.executable, "-m", "luxx.entrypoints.cli", *command],
        cwd=directory,
        env=environment | {"PYTHONPATH": str(SOURCE)} | variables,
        input="",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"LUXX_LLM_BASE_URL": "http://127.0.0.1:9/v1", "LUXX_LLM_API_KEY": "ключ"}, "LUXX_LLM_API_KEY: the API key"),
        ({"LUXX_DATABASE_URL": "sqlite:///:memory:"}, "database URL"),
        (
            {"LUXX_FETCH_ALLOW_HOSTS": "10.0.0.0/8:x"},
            "LUXX_FETCH_ALLOW_HOSTS must be host names, addresses or CIDR blocks",
        ),
        (
            {"OTEL_PROPAGATORS": "tracecontext,b4", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
            "Propagator b4 not found",
        ),
        ({"LUXX_DISABLED_TOOLS": "calculate fetch-page"}, "LUXX_DISABLED_TOOLS names no tool by 'fetch-page'"),
    ],
)
def test_a_part_that_cannot_work_with_its_settings_says_so_and_the_service_exits_with_2(
    variables: dict[str, str], said: str, tmp_path: Path
) -> None:
    done = run(tmp_path, "serve", "--port", "0", **variables)
    assert done.returncode == 2, done.stderr
    assert "Bad settings:" in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kept", [b"short", b"\xff" * 64])
def test_a_kept_secret_that_is_none_ends_the_start_and_is_told_by_the_doctor(kept: bytes, tmp_path: Path) -> None:
    """Found out later, it would fail every request of a service that listens."""
    secret = tmp_path / ".luxx" / "jwt_secret"
    secret.parent.mkdir(mode=0o700)
    secret.write_bytes(kept)
    secret.chmod(0o600)
    told = "jwt_secret holds no secret of 32 bytes: delete it"
    done = run(tmp_path, "serve", "--port", "0")
    assert done.returncode == 1, done.stderr
    assert told in done.stderr
    assert "listens" not in done.stderr
    looked = run(tmp_path, "doctor", "--port", "0")
    assert [line for line in looked.stdout.splitlines() if line.startswith("FAIL  data directory") and told in line]


@pytest.mark.parametrize(
    ("command", "module", "cause"),
    [
        (("serve", "--port", "0"), None, "cannot be loaded: ModuleNotFoundError: No module named 'mine'"),
        (("serve", "--port", "0"), "", "names mine, which is neither a tool nor a module with tools"),
        (("chat",), "raise RuntimeError('first\\nsecond')", r"cannot be loaded: RuntimeError: first\nsecond"),
    ],
)
def test_a_tool_of_another_package_that_cannot_be_had_ends_it_with_the_same_sentence_as_the_doctors(
    command: tuple[str, ...], module: str | None, cause: str, tmp_path: Path
) -> None:
    info = tmp_path / "found" / "parrot-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[luxx.tools]\nsay = mine\n", encoding="utf-8")
    if module is not None:
        (info.parent / "mine.py").write_text(module, encoding="utf-8")
    path = f"{SOURCE}{os.pathsep}{info.parent}"
    told = f"the entry point say of parrot {cause}"
    done = run(tmp_path, *command, PYTHONPATH=path)
    assert done.returncode == 2, done.stderr
    assert [line for line in done.stderr.splitlines() if told in line and line.startswith("  ")], done.stderr
    assert "Traceback" not in done.stderr
    assert f"FAIL  settings: {told}" in run(tmp_path, "doctor", "--port", "0", PYTHONPATH=path).stdout
