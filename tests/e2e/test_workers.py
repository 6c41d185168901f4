"""`luxx serve --workers`: several processes behind one socket are one service, whatever becomes of each."""

import asyncio
import inspect
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from tests.promises.support import Reader, ended, signed_up
from tests.support.commands import alive
from tests.support.live import Account, events_of
from tests.support.until import until

from luxx.adapters.database import Database
from luxx.adapters.database.turn_log import DatabaseTurnLog
from luxx.entrypoints.cli import serve, workers
from luxx.testing.chaos.processes import NotStarted, ServiceProcess
from luxx.testing.postgres import ThrowawayPostgres
from luxx.testing.upstream import ScriptedUpstream

SECRET = "a secret of more than thirty-two bytes, for tests"
GRACE = 2
TRACES_SECONDS = 10
"""What sending the last traces may take, as docs/operations.md says."""

pytestmark = pytest.mark.asyncio(loop_scope="module")
_numbers = itertools.count()


class Workers(ServiceProcess):
    """The parent, and what its log tells of the workers."""

    @property
    def seen(self) -> list[int]:
        """The process ids of all workers that ever served, in order."""
        return [int(found) for found in re.findall(r"worker (\d+) serves", self.said)]

    async def complete(self, count: int = 2) -> list[int]:
        """Wait until so many workers have begun to serve; gives them."""
        await until(lambda: len(self.seen) >= count, patience=30)
        return self.seen


def temporary(directory: Path) -> list[Path]:
    """Tell what lies in the directory for temporary files."""
    return list(directory.glob("luxx-*"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as provider:
        yield provider


@pytest.fixture(scope="module")
def database(postgres: ThrowawayPostgres, postgres_template: str) -> str:
    """Name a database for all tests in here."""
    return postgres.create_database(template=postgres_template)


@pytest.fixture(scope="module")
def environ(postgres: ThrowawayPostgres, database: str, upstream: ScriptedUpstream) -> dict[str, str]:
    return {
        "LUXX_DATABASE_URL": postgres.url(database),
        "LUXX_JWT_SECRET": SECRET,
        "LUXX_LLM_BASE_URL": upstream.url,
        "LUXX_PASSWORD_MEMORY_KIB": "128",
        "LUXX_GRACE_SECONDS": str(GRACE),
        "LUXX_LEASE_SECONDS": "3",
        "LUXX_TOOL_WORKERS": "1",
    }


@asynccontextmanager
async def serving(environ: dict[str, str], directory: Path) -> AsyncIterator[Workers]:
    """Serve with two workers, which end with the test whatever it did."""
    async with Workers(environ, directory=directory, arguments=("--workers", "2")) as running:
        await running.complete()
        yield running
    await until(lambda: not any(map(alive, running.seen)), patience=15)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting(environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Workers]:
    """Serve for all tests that leave two workers behind, if not the same."""
    async with serving(environ, tmp_path_factory.mktemp("lasting")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def service(environ: dict[str, str], tmp_path: Path) -> AsyncIterator[Workers]:
    """Serve for a test that ends it, with a directory for temporary files to itself."""
    async with serving(environ | {"TMPDIR": str(tmp_path)}, tmp_path) as running:
        yield running


@asynccontextmanager
async def account_at(service: Workers) -> AsyncIterator[Account]:
    """Give a user whose every request is a connection of its own, so that any worker may get it."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=30, limits=limits) as http:
        yield await signed_up(http, f"user{next(_numbers)}")


async def turn_of(postgres: ThrowawayPostgres, database: str, message_id: str) -> Any:
    """Read the row of an answer that is being written."""
    (row,) = await postgres.execute(
        f"SELECT holder, cancel_requested FROM turns WHERE message_id = '{message_id}'", database=database
    )
    return row


async def holder_of(postgres: ThrowawayPostgres, database: str, message_id: str) -> int:
    """Tell which process writes an answer."""
    return int((await turn_of(postgres, database, message_id))["holder"].split(":")[1])


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a worker for less than its lease: whoever connects meanwhile is answered by the other one."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_any_worker_resumes_and_cancels_what_another_one_writes(
    lasting: Workers, postgres: ThrowawayPostgres, database: str
) -> None:
    async with account_at(lasting) as account:
        conversation = await account.new_conversation()
        reader = Reader(account, conversation, "long [[words:9]] [[stall:3]]")
        message_id = await reader.seen(2)
        holder = await holder_of(postgres, database, message_id)
        assert holder in lasting.seen
        with frozen(holder):
            path = f"/api/messages/{message_id}/stream"
            async with account.http.stream("GET", path, headers=account.headers) as response:
                replayed = events_of(response)
                assert [(await anext(replayed)).name for _ in range(2)] == ["start", "text"]
        with frozen(holder):
            cancelling = asyncio.create_task(account.post(f"/api/messages/{message_id}/cancel"))
            async with asyncio.timeout(2):
                while not (await turn_of(postgres, database, message_id))["cancel_requested"]:
                    pass
        assert (await cancelling).json()["data"]["status"] == "cancelled"
        followed = await reader.task
        assert followed.end is not None
        assert followed.end.name == "done"
        (_, stored) = await account.messages(conversation)
        assert (stored["status"], stored["content"]) == ("cancelled", followed.text)


async def test_a_killed_worker_is_replaced_and_its_readers_resume_to_what_was_stored(
    lasting: Workers, postgres: ThrowawayPostgres, database: str
) -> None:
    async with account_at(lasting) as account:
        conversation = await account.new_conversation()
        reader = Reader(account, conversation, "long [[words:4000]] [[delay:0.01]]")
        message_id = await reader.seen(10)
        known = len(lasting.seen)
        os.kill(await holder_of(postgres, database, message_id), signal.SIGKILL)
        await reader.broken_off()
        seen = reader.following
        assert seen.end is None, "it was over before the worker was killed"
        # What follows is answered by the one that is left.
        headers = account.headers | {"Last-Event-ID": str(seen.last)}
        async with account.http.stream("GET", f"/api/messages/{message_id}/stream", headers=headers) as response:
            for event in [event async for event in events_of(response)]:
                seen.take(event)  # type: ignore[arg-type]  # the two events have the same fields
        assert (seen.events[-1].name, seen.events[-1].data["code"]) == ("error", "interrupted")
        message = await ended(account, conversation, within=5)
        assert (message["status"], message["content"]) == ("interrupted", seen.text)
        await lasting.complete(known + 1)
        assert f"worker {lasting.seen[-1]} serves, 2 of 2" in lasting.said
        assert (await account.stream(conversation, "and on")).end.name == "done"


async def test_one_worker_may_be_stopped_by_itself_and_another_takes_its_place(
    lasting: Workers, postgres: ThrowawayPostgres, database: str
) -> None:
    async with account_at(lasting) as account:
        known = len(lasting.seen)
        reader = Reader(account, await account.new_conversation(), "quick [[words:40]] [[delay:0.03]]")
        os.kill(await holder_of(postgres, database, await reader.seen(2)), signal.SIGTERM)
        assert (await reader.task).events[-1].name == "done"
        await lasting.complete(known + 1)
        assert "a worker ended with the status 0" in lasting.said


async def test_metrics_are_those_of_all_workers(lasting: Workers) -> None:
    async with account_at(lasting) as account:
        before = await counted(account)
        known = len(lasting.seen)
        await asyncio.gather(*(account.get("/api/auth/me") for _ in range(20)))
        os.kill(lasting.seen[-1], signal.SIGKILL)
        await lasting.complete(known + 1)
        await asyncio.gather(*(account.get("/api/auth/me") for _ in range(20)))
        # What a dead worker counted stays counted, and whoever answers knows of all.
        async with asyncio.timeout(10):
            while await counted(account) != before + 40:
                pass  # a request is counted once its answer has been sent


async def counted(account: Account) -> float:
    text = (await account.get("/metrics")).text
    found = re.search(r'luxx_requests_total\{method="GET",route="/api/auth/me",status="200"\} (\S+)', text)
    assert "luxx_turns_running 0.0" in text
    assert "luxx_database_connections_in_use" in text
    return 0.0 if found is None else float(found[1])


async def test_sigterm_drains_every_worker(service: Workers) -> None:
    """Whether the first process alone is told, as by a container engine, or every one, as by systemd."""
    async with account_at(service) as account:
        conversations = [await account.new_conversation() for _ in range(8)]
        quick = [Reader(account, one, "quick [[words:20]] [[delay:0.03]]") for one in conversations[:4]]
        slow = [Reader(account, one, "slow [[words:9]] [[stall:3]]") for one in conversations[4:]]
        await asyncio.gather(*(reader.seen(2) for reader in (*quick, *slow)))
        os.kill(service.seen[0], signal.SIGTERM)
        service.signal(signal.SIGTERM)
        async with asyncio.timeout(GRACE + 10):
            finished = await asyncio.gather(*(reader.task for reader in quick))
            broken = await asyncio.gather(*(reader.task for reader in slow))
            assert await service.wait() == 0
    assert {following.events[-1].name for following in finished} == {"done"}
    assert [following.events[-1].data["code"] for following in broken] == ["interrupted"] * 4
    assert not any(map(alive, service.seen))
    assert 'File "' not in service.said


async def test_workers_get_the_time_that_a_database_that_is_away_may_take_them() -> None:
    """Their last answers wait for it, and then what the log has gathered: to see that would take half a minute."""
    of_the_end = inspect.signature(Database).parameters["patience"].default
    of_the_log = inspect.signature(DatabaseTurnLog.close).parameters["seconds"].default
    assert of_the_end + of_the_log + serve.CLOSING_SECONDS + TRACES_SECONDS <= workers.CLOSING_SECONDS


async def test_a_second_signal_stops_all_at_once(service: Workers) -> None:
    async with account_at(service) as account:
        reader = Reader(account, await account.new_conversation(), "slow [[words:9]] [[stall:3]]")
        await reader.seen(2)
        service.signal(signal.SIGINT)
        await until(lambda: "all workers stop" in service.said)
        async with asyncio.timeout(GRACE):
            service.signal(signal.SIGINT)
            assert await service.wait() == 0
        assert not any(map(alive, service.seen))
        await reader.broken_off()
    assert 'File "' not in service.said


async def test_workers_whose_parent_was_killed_store_their_answers_and_leave_nothing_behind(
    service: Workers, tmp_path: Path
) -> None:
    assert temporary(tmp_path)
    async with account_at(service) as account:
        reader = Reader(account, await account.new_conversation(), "slow [[words:9]] [[stall:3]]")
        await reader.seen(2)
        await service.kill()
        following = await asyncio.wait_for(reader.task, 10)
    assert following.events[-1].data["code"] == "interrupted"
    await until(lambda: not any(map(alive, service.seen)), patience=15)
    with socket.create_server(("127.0.0.1", service.port)):
        pass
    assert not temporary(tmp_path)


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({"LUXX_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/nothing"}, 1, "in a moment. (ConnectionRefusedError: "),
        ({"LUXX_LLM_API_KEY": "ключ"}, 2, "Bad settings:"),
    ],
    ids=["no database", "bad key"],
)
async def test_a_start_that_fails_ends_the_whole(
    environ: dict[str, str], tmp_path: Path, changed: dict[str, str], status: int, said: str
) -> None:
    service = Workers(environ | changed, directory=tmp_path, arguments=("--workers", "2"))
    with pytest.raises(NotStarted):
        await service.start()
    assert await service.wait() == status
    assert service.said.count(said) == 1
    assert service.said.count("no worker can be started") == 1
    assert 'File "' not in service.said


async def test_a_taken_port_is_told(environ: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        service = Workers(environ, directory=tmp_path, arguments=("--workers", "2", "--port", port))
        with pytest.raises(NotStarted):
            await service.start()
    assert await service.wait() == 1
    assert "address already in use" in service.said


@pytest.mark.parametrize(
    ("workers", "said"), [("2", "--workers 2 needs Postgres"), ("0", "from 1 to 256"), ("two", "from 1 to 256")]
)
async def test_workers_that_cannot_be_are_refused(workers: str, said: str, tmp_path: Path) -> None:
    clean = {name: text for name, text in os.environ.items() if not name.startswith("LUXX_")}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "luxx.entrypoints.cli", "serve", "--workers", workers],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / ".luxx").exists()
