"""Build the wheel, install it with the locked dependencies in a clean environment, and start it: `make wheel`."""

import os
import re
import subprocess
import sys
import tempfile
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, **options: object) -> None:
    subprocess.run(command, check=True, **options)  # type: ignore[call-overload]  # options are passed on as they are


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="luxx-wheel-") as folder:
        place = Path(folder)
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", place, ROOT)
        (wheel,) = place.glob("*.whl")
        venv.create(place / "env", with_pip=True)
        python = place / "env/bin/python"
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        # First without any dependency: the use cases must not need one.
        run(*pip, "--no-deps", wheel)
        run(python, "-I", "-c", "import luxx.application, luxx.adapters.memory", cwd=place)
        run(*pip, "--require-hashes", "-r", ROOT / "requirements/server.txt")
        start(place)
    print(f"{wheel.name} starts and answers in a clean environment")


def start(place: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "LUXX_DATA_DIR": str(place / "data")}
    process = subprocess.Popen(
        [place / "env/bin/luxx", "serve", "--port", "0"], stderr=subprocess.PIPE, text=True, cwd=place, env=environment
    )
    assert process.stderr is not None  # noqa: S101  # it is a pipe
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"listens on (http://\S+)", line):
                with urllib.request.urlopen(f"{found[1]}/health/ready", timeout=10) as answer:  # noqa: S310  # loopback
                    print(answer.read().decode())
                break
        else:
            sys.exit(f"luxx serve did not start:\n{''.join(lines)}")
    finally:
        process.terminate()
        process.communicate(timeout=60)
        if process.returncode != 0:
            sys.exit(f"luxx serve ended with {process.returncode}")


if __name__ == "__main__":
    main()
