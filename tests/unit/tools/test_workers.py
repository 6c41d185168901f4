"""Worker processes: bounded, killable, replaced, and never left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support import jobs
from tests.support.until import until

from luxx.adapters.tools.workers.pool import WorkerPool
from luxx.domain.errors import ToolBroken, ToolRefused, ToolTimeout

ROOT = Path(__file__).parents[3]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def written_to(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


@pytest.fixture(autouse=True)
def _jobs_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
async def pool() -> AsyncIterator[WorkerPool]:
    opened = WorkerPool(size=2, result_bytes=10_000)
    yield opened
    await opened.aclose()


async def test_a_function_runs_in_another_process_and_its_result_comes_back(pool: WorkerPool) -> None:
    assert await pool.run(5, jobs.echo, {"a": [1, 2.5, "北", None, 10**50]}) == {"a": [1, 2.5, "北", None, 10**50]}
    assert await pool.run(5, jobs.pid) != os.getpid()


async def test_a_worker_stays_warm_between_jobs(pool: WorkerPool) -> None:
    assert await pool.run(5, jobs.pid) == await pool.run(5, jobs.pid)


async def test_a_worker_sees_no_environment_and_no_standard_input(pool: WorkerPool) -> None:
    assert await pool.run(5, jobs.surroundings) == {"environment": [], "directory": "/", "input": ""}


async def test_what_a_job_prints_does_not_disturb_the_protocol(pool: WorkerPool) -> None:
    assert await pool.run(5, jobs.noisy) == "done"


async def test_a_job_past_its_time_is_killed(pool: WorkerPool) -> None:
    started = time.monotonic()
    with pytest.raises(ToolTimeout, match=r"more than 0\.2 seconds"):
        await pool.run(0.2, jobs.spin)
    assert time.monotonic() - started < 3
    assert not pool.processes


async def test_a_job_that_wants_too_much_memory_is_refused_and_the_next_one_runs(pool: WorkerPool) -> None:
    with pytest.raises(ToolRefused, match="more memory"):
        await pool.run(5, jobs.swell, 2**31)
    assert await pool.run(5, jobs.echo, 1) == 1


async def test_a_result_that_is_too_large_is_refused(pool: WorkerPool) -> None:
    with pytest.raises(ToolRefused, match="too large"):
        await pool.run(5, jobs.long_text, 20_000)


async def test_a_job_cannot_write_files(pool: WorkerPool, tmp_path: Path) -> None:
    with pytest.raises(ToolBroken):
        await pool.run(5, jobs.write, str(tmp_path / "x"))
    assert written_to(tmp_path) == 0


@pytest.mark.parametrize(
    ("job", "error", "text"),
    [
        (jobs.refuse, ToolRefused, "no, thank you"),
        (jobs.fail, ToolBroken, "ZeroDivisionError"),
        (jobs.recurse, ToolRefused, "nested too deeply"),
        (jobs.no_json, ToolBroken, "no JSON"),
        (jobs.not_a_number, ToolBroken, "no JSON"),
        (jobs.crash, ToolRefused, "more memory"),
        (jobs.die, ToolBroken, "ended unexpectedly"),
    ],
)
async def test_each_way_to_fail_has_its_error(pool: WorkerPool, job: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        await pool.run(5, job)  # type: ignore[arg-type]  # the parameter is one of many functions
    assert await pool.run(5, jobs.echo, "next") == "next"


async def test_half_a_surrogate_pair_in_a_result_becomes_u_fffd(pool: WorkerPool) -> None:
    assert await pool.run(5, jobs.surrogates) == {"a\ufffdb": ["\ufffd\ufffd", "?"]}


async def test_what_is_nested_too_deeply_is_refused_on_its_way_there_and_back(pool: WorkerPool) -> None:
    """How deep is too deep depends on the stack of either process: all of it is refused, or comes back."""

    async def outcome(job: Callable[[Any], Any], argument: object) -> str:
        try:
            return type(await pool.run(5, job, argument)).__name__
        except ToolRefused as error:
            return str(error)

    found = set()
    for levels in (100, *range(960, 1000), 5_000):
        found |= {await outcome(jobs.nested, levels), await outcome(jobs.echo, jobs.nested(levels))}
    assert "list" in found
    assert all("nested too deeply" in one for one in found - {"list"})


async def test_no_more_jobs_run_at_once_than_there_are_workers(pool: WorkerPool) -> None:
    calls = [asyncio.create_task(pool.run(5, jobs.nap, 0.05)) for _ in range(6)]
    most = 0
    while not all(call.done() for call in calls):
        most = max(most, len(pool.at_work))
        await asyncio.sleep(0.005)
    assert most == 2
    assert len({call.result() for call in calls}) == 2


async def test_cancelling_kills_the_worker_before_it_returns(pool: WorkerPool) -> None:
    call = asyncio.create_task(pool.run(30, jobs.spin))
    await until(lambda: pool.at_work)
    (pid,) = pool.at_work
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not alive(pid)


async def test_a_worker_that_died_while_idle_is_replaced(pool: WorkerPool) -> None:
    pid = await pool.run(5, jobs.pid)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not alive(pid) and not pool.processes)
    assert await pool.run(5, jobs.pid) != pid


async def test_a_worker_that_once_grew_large_is_replaced(pool: WorkerPool) -> None:
    pid = await pool.run(5, jobs.pid)
    await pool.run(5, jobs.touch, 350 * 2**20)
    assert await pool.run(5, jobs.pid) != pid
    assert not alive(pid)


async def test_closing_ends_workers_idle_and_at_work() -> None:
    pool = WorkerPool(size=2)
    await pool.run(5, jobs.pid)
    call = asyncio.create_task(pool.run(30, jobs.spin))
    await until(lambda: pool.at_work)
    pids = pool.processes
    await pool.aclose()
    with pytest.raises(ToolBroken):
        await call
    assert pids
    assert not any(map(alive, pids))
    with pytest.raises(ToolBroken, match="shutting down"):
        await pool.run(5, jobs.pid)


async def test_arguments_that_are_too_large_are_refused_at_once(pool: WorkerPool) -> None:
    with pytest.raises(ToolRefused, match="arguments are too large"):
        await pool.run(5, jobs.echo, "x" * (17 * 2**20))


PARENT = """
import asyncio, sys
sys.path[:] = {path!r}
from luxx.adapters.tools.workers.pool import WorkerPool
from tests.support import jobs

async def main():
    pool = WorkerPool(size=2)
    await asyncio.gather(pool.run(5, jobs.nap, 0.01), pool.run(5, jobs.nap, 0.01))
    call = asyncio.create_task(pool.run(60, jobs.spin))
    while not pool.at_work:
        await asyncio.sleep(0.001)
    print(*pool.processes, flush=True)
    await call

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a worker at work ends with its limits, not at once")
async def test_no_worker_outlives_a_parent_that_was_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT.format(path=sys.path)], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220 - only a test waits
    with parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(alive, pids))
        parent.kill()
    await until(lambda: not any(map(alive, pids)))
