"""Build the wheel, install it with the locked dependencies in clean environments, and start it: `make wheel`.

Each extra is installed alone, in the locked versions, and must bring what its part of Luxx imports. An argument names
a wheel that is built already.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PARTS: Final = {
    "sqlite": "luxx.adapters.database, alembic",
    "postgres": "luxx.adapters.database, asyncpg",
    "openai": "luxx.adapters.models.openai",
    "client": "luxx.client",
    "chat": "luxx.entrypoints.cli.chat",
    "tools": "luxx.adapters.tools.loading, luxx.adapters.tools.resources",
    "testing": "luxx.testing.contracts, luxx.testing.upstream, luxx.testing.postgres",
    "server": "luxx.entrypoints.http.app, luxx.entrypoints.cli.serve",
    "local": "luxx.entrypoints.cli.launch, luxx.adapters.models.local.server, xllamacpp",
    "otel": "opentelemetry.sdk.trace, opentelemetry.exporter.otlp.proto.http",
}
"""What must be importable with one extra and nothing else."""


def run(*command: str | Path, **options: object) -> None:
    subprocess.run(command, check=True, **options)  # type: ignore[call-overload]  # options are passed on as they are


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="luxx-wheel-") as folder:
        place = Path(folder)
        wheel = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else build(place)
        venv.create(place / "env", with_pip=True)
        python = place / "env/bin/python"
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        # First without any dependency: the use cases must not need one.
        run(*pip, "--no-deps", wheel)
        run(python, "-I", "-c", "import luxx.application, luxx.adapters.memory", cwd=place)
        run(*pip, "--require-hashes", "-r", ROOT / "requirements/server.txt")
        start(place)
        if broken := [extra for extra in extras() if not works(extra, wheel, place)]:
            sys.exit(f"These extras do not bring what their part imports: {', '.join(broken)}")
    print(f"{wheel.name} starts and answers in a clean environment, and each extra brings what its part imports")


def build(place: Path) -> Path:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", place, ROOT)
    (wheel,) = place.glob("*.whl")
    return wheel


def extras() -> list[str]:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    if declared.keys() != PARTS.keys():
        sys.exit(f"PARTS in {Path(__file__).name} and the extras differ: {', '.join(declared.keys() ^ PARTS.keys())}")
    return list(declared)


def locked(place: Path) -> Path:
    """Give the locked versions as constraints: pip takes no hashes there."""
    lines = (ROOT / "requirements/dev.txt").read_text(encoding="utf-8").splitlines()
    constraints = place / "constraints.txt"
    constraints.write_text(
        "\n".join(line.rstrip(" \\") for line in lines if not line.startswith(" ")), encoding="utf-8"
    )
    return constraints


def works(extra: str, wheel: Path, place: Path) -> bool:
    """Install one extra in an environment of its own, and import the part of Luxx that it is for."""
    python = place / extra / "bin/python"
    venv.create(place / extra)
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--constraint", locked(place), f"luxx[{extra}] @ {wheel.as_uri()}")
    done = subprocess.run([python, "-I", "-c", f"import {PARTS[extra]}"], cwd=place, check=False)
    print(f"luxx[{extra}]: {PARTS[extra]}", "cannot all be imported" if done.returncode else "can be imported")
    return done.returncode == 0


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
