"""examples/other_model: an adapter in a package of its own, proved with what Luxx ships."""

import os
import subprocess
from pathlib import Path

from tests.embed.loaded import EXAMPLES
from tests.support.environments import environment


def test_an_adapter_of_another_package_is_proved_and_served_where_only_the_extras_are_installed(tmp_path: Path) -> None:
    python = environment(tmp_path / "env", "luxx[server,testing]")
    done = subprocess.run(
        [python, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=EXAMPLES / "other_model",
        env={"PATH": os.defpath, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
