"""`execute_python`: right values, readable errors, and an end to everything; in each sandbox."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from tests.support.until import until

from luxx.adapters.tools.python.bubblewrap import BubblewrapSandbox, SandboxUnusable
from luxx.adapters.tools.python.monty import MontySandbox
from luxx.adapters.tools.python.sandbox import PythonOutcome, PythonSandbox
from luxx.domain.errors import ToolBroken

from .conftest import Run


def bubblewrap() -> BubblewrapSandbox:
    try:
        sandbox = BubblewrapSandbox()
    except SandboxUnusable as error:
        pytest.skip(str(error))
    probe = asyncio.run(sandbox.run("1", seconds=10)) if _user_namespaces() else None
    if probe is None:
        pytest.skip("this machine allows no user namespaces")
    return BubblewrapSandbox()


def _user_namespaces() -> bool:
    done = subprocess.run(["unshare", "-Ur", "true"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.fixture(params=["monty", "bubblewrap"], scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "bubblewrap":
        bubblewrap()
    return str(request.param)


@pytest.fixture
async def sandbox(kind: str) -> AsyncIterator[MontySandbox | BubblewrapSandbox]:
    opened = MontySandbox(workers=2) if kind == "monty" else BubblewrapSandbox(at_once=2)
    yield opened
    await opened.aclose()


def at_work(sandbox: PythonSandbox) -> frozenset[int]:
    return sandbox.workers.at_work if isinstance(sandbox, MontySandbox) else sandbox.at_work  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("code", "stdout", "value"),
    [
        ("1 + 1", "", 2),
        ("2**100", "", 2**100),
        ("print('北', 3)\nx = [n * n for n in range(4)]\nx", "北 3\n", [0, 1, 4, 9]),
        ("x = 5", "", None),
        ("", "", None),
        ("# nothing", "", None),
        ("(1, {'a': (2, None)})", "", [1, {"a": [2, None]}]),
        ("{1, 2}", "", "{1, 2}"),
        ("float('nan')", "", "nan"),
        ("b'abc'", "", "b'abc'"),
        ("import math\nround(math.pi, 4)", "", 3.1416),
        ("import json, re\njson.loads(re.sub('x', '1', '[x, x]'))", "", [1, 1]),
        ("for i in range(3):\n    print(i)", "0\n1\n2\n", None),
        ("import sys\nprint('e', file=sys.stderr)", "e\n", None),
        ("def f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)\nf(15)", "", 610),
    ],
)
async def test_code_gives_its_output_and_the_value_of_its_last_expression(
    sandbox: PythonSandbox, code: str, stdout: str, value: object
) -> None:
    assert await sandbox.run(code, seconds=10) == PythonOutcome(stdout=stdout, value=value, error=None)


async def test_an_error_is_a_traceback_as_python_prints_it(sandbox: PythonSandbox) -> None:
    outcome = await sandbox.run("def f(x):\n    return 1 / x\n\nprint('before')\nf(0)", seconds=10)
    assert outcome.stdout == "before\n"
    assert outcome.error is not None
    assert outcome.error.startswith("Traceback (most recent call last):")
    assert "line 5, in <module>" in outcome.error
    assert "line 2, in f" in outcome.error
    assert outcome.error.rstrip().endswith("ZeroDivisionError: division by zero")
    assert "luxx" not in outcome.error


async def test_a_syntax_error_names_its_line(sandbox: PythonSandbox) -> None:
    outcome = await sandbox.run("x = 1\nx =", seconds=10)
    assert outcome.error is not None
    assert "line 2" in outcome.error
    assert "SyntaxError" in outcome.error


async def test_nothing_is_kept_from_one_call_to_the_next(sandbox: PythonSandbox) -> None:
    await sandbox.run("x = 5", seconds=10)
    outcome = await sandbox.run("x", seconds=10)
    assert outcome.error is not None
    assert "NameError" in outcome.error


async def test_code_that_does_not_end_is_ended(sandbox: PythonSandbox) -> None:
    started = time.monotonic()
    outcome = await sandbox.run("while True: pass", seconds=0.5)
    assert outcome.error == "TimeoutError: the code ran longer than 0.5 seconds"
    assert time.monotonic() - started < 5
    assert not at_work(sandbox)


async def test_too_much_output_is_cut(sandbox: PythonSandbox) -> None:
    outcome = await sandbox.run("for i in range(100000): print('x' * 100)", seconds=20)
    assert outcome.stdout.endswith("the output was cut here")
    assert len(outcome.stdout) < 101_000


async def test_a_value_that_is_too_large_is_shown_in_part(sandbox: PythonSandbox) -> None:
    outcome = await sandbox.run("['x' * 1000] * 1000", seconds=10)
    assert isinstance(outcome.value, str)
    assert len(outcome.value) <= 500_001


@pytest.fixture
def forger() -> Iterator[str]:
    """A program in the place of bubblewrap, whose answer is nested deeper than anything is read."""
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # as root, the sandbox is started as nobody
        program = Path(directory, "bwrap")
        forged = 'started\\n{"stdout": "", "error": null, "value": ' + "[" * 5_000
        program.write_text(f"#!/bin/sh\ncat >/dev/null\nprintf '%b' '{forged}'\n")
        program.chmod(0o755)
        yield str(program)


async def test_an_answer_nested_too_deep_to_be_read_is_the_code_s_doing(forger: str) -> None:
    outcome = await BubblewrapSandbox(program=forger).run("1", seconds=10)
    assert outcome == PythonOutcome(stdout="", value=None, error="the Python process ended early (status 0)")


async def test_cancelling_ends_the_code(sandbox: PythonSandbox) -> None:
    running = asyncio.create_task(sandbox.run("while True: pass", seconds=30))
    await until(lambda: at_work(sandbox))
    (pid,) = at_work(sandbox)
    await until(lambda: monty_of(pid) or not isinstance(sandbox, MontySandbox))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not exists(pid)
    await until(lambda: not monty_of(pid))


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def monty_of(session: int) -> list[int]:
    """Find the Monty processes in the session that a worker leads."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (entry / "stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
            if int(fields[3]) == session and b"monty\0subprocess" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


PARENT = """
import asyncio, sys
sys.path[:] = {path!r}
from luxx.adapters.tools.python.monty import MontySandbox

async def main():
    sandbox = MontySandbox(workers=1)
    call = asyncio.create_task(sandbox.run("while True: pass", seconds=30))
    while not sandbox.workers.at_work:
        await asyncio.sleep(0.001)
    print(*sandbox.workers.at_work, flush=True)
    await call

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes are left")
async def test_no_interpreter_outlives_a_service_that_was_killed() -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT.format(path=sys.path), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    worker = int(await parent.stdout.readline())

    await until(lambda: monty_of(worker))
    parent.kill()
    await parent.wait()
    await until(lambda: not monty_of(worker))
    await until(lambda: not exists(worker))


def test_a_sandbox_that_cannot_run_here_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SandboxUnusable, match="use the sandbox monty"):
        BubblewrapSandbox()


async def test_a_bubblewrap_that_does_not_start_is_a_failure_of_the_sandbox() -> None:
    sandbox = BubblewrapSandbox(program="/bin/false", python="/usr/bin/python3")
    with pytest.raises(ToolBroken, match="did not start"):
        await sandbox.run("1", seconds=5)


async def test_the_tool_tells_the_model_what_its_sandbox_can_do(tools: Run) -> None:
    run = tools()
    assert await run("execute_python", code="print(1)\n6 * 7") == {"stdout": "1\n", "value": 42, "error": None}
