"""Settings that are well-formed and cannot work end the service with a sentence, not with a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"LUXX_LLM_BASE_URL": "http://127.0.0.1:9/v1", "LUXX_LLM_API_KEY": "ключ"}, "LUXX_LLM_API_KEY: the API key"),
        ({"LUXX_DATABASE_URL": "sqlite:///:memory:"}, "database URL"),
        ({"LUXX_FETCH_ALLOW_HOSTS": "10.0.0.0/8:x"}, "10.0.0.0/8:x"),
        ({"LUXX_DISABLED_TOOLS": "calculate fetch-page"}, "LUXX_DISABLED_TOOLS names no tool by 'fetch-page'"),
    ],
)
def test_a_part_that_cannot_work_with_its_settings_says_so_and_the_service_exits_with_2(
    variables: dict[str, str], said: str, tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LUXX_")}
    done = subprocess.run(
        [sys.executable, "-m", "luxx.entrypoints.cli", "serve", "--port", "0"],
        cwd=tmp_path,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Bad settings:" in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
