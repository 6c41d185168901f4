"""The examples of embedding do what their first lines say."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from luxx.testing import serving
from luxx.testing.stream_client import Event, read_events
from tests.embed.loaded import EXAMPLES, example
from tests.support.environments import environment


def test_the_script_runs_where_nothing_but_luxx_is_installed(tmp_path: Path) -> None:
    printed = subprocess.run(
        [environment(tmp_path / "env", "luxx"), "-W", "error", EXAMPLES / "embed_script.py", "What time is it?"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert "⚙ current_time {'timezone': 'UTC'}" in printed
    assert printed.splitlines()[-1].endswith(", complete")


# --- the stream in a service of one's own -----------------------------------------------------------


@pytest.fixture
async def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the example on a database of its own; gives a client of Ada's."""
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'answers.db'}")
    async with (
        serving(example("embed_fastapi").app) as url,
        httpx.AsyncClient(base_url=url, headers={"X-Key": "ada-key"}, trust_env=False) as http,
    ):
        yield http


async def streamed(http: httpx.AsyncClient, method: str, path: str, **how: Any) -> list[Event]:
    async with http.stream(method, path, **how) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        return [event async for event in read_events(response) if event is not None]


async def test_the_service_streams_resumes_and_repeats_no_question(service: httpx.AsyncClient) -> None:
    asking = {"json": {"question": "What is a lease?"}, "headers": {"Idempotency-Key": "once"}}
    events = await streamed(service, "POST", "/ask", **asking)
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert (events[0].name, events[-1].name) == ("start", "done")
    address = f"/answers/{events[0].data['message_id']}"
    assert await streamed(service, "GET", address, headers={"Last-Event-ID": "2"}) == events[2:]
    again = asking | {
        "json": {"question": "What is a lease?", "conversation_id": events[0].data["user_message"]["conversation_id"]}
    }
    assert await streamed(service, "POST", "/ask", **again) == events


async def test_the_service_knows_its_callers_by_itself_and_shows_nobody_elses_answer(
    service: httpx.AsyncClient,
) -> None:
    events = await streamed(service, "POST", "/ask", json={"question": "What is a lease?"})
    address = f"/answers/{events[0].data['message_id']}"
    assert (await service.get(address, headers={"X-Key": "nobody"})).status_code == 401
    others = await service.get(address, headers={"X-Key": "grace-key"})
    assert (others.status_code, others.json()["code"]) == (404, "message_not_found")
    empty = await service.post("/ask", json={"question": ""})
    assert (empty.status_code, empty.json()["code"]) == (422, "validation_failed")


def test_the_service_needs_nothing_of_the_server(tmp_path: Path) -> None:
    python = environment(tmp_path / "env", "luxx[sqlite]", "fastapi")
    program = "import runpy, sys; print(runpy.run_path(sys.argv[1])['app'].title)"
    done = subprocess.run(
        [python, "-c", program, EXAMPLES / "embed_fastapi.py"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == "FastAPI\n", done.stderr


# --- the worker -------------------------------------------------------------------------------------


async def worker(folder: Path, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *map(str, (EXAMPLES / "queue_worker.py", "--folder", folder, *arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )


async def said(process: asyncio.subprocess.Process) -> str:
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


def read(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(statement).fetchall()


async def until_written(path: Path, count: int) -> None:
    """Wait until the logs hold pieces of so many answers."""
    async with asyncio.timeout(30):
        while read(path, "SELECT count(DISTINCT message_id) FROM recent_events WHERE name = 'text'") != [(count,)]:  # noqa: ASYNC110 - another process writes
            await asyncio.sleep(0.05)


async def test_a_worker_that_is_killed_loses_no_job_and_answers_none_twice(tmp_path: Path) -> None:
    questions = [f"What is {number}, apart from a number?" for number in range(3)]
    await said(await worker(tmp_path, "add", *questions))
    first = await worker(tmp_path, "work", "--lease", "1", "--pause", "30")
    assert first.stdout is not None
    for _ in questions:
        assert b"begun" in await first.stdout.readline()
    await until_written(tmp_path / "answers.db", len(questions))
    first.send_signal(signal.SIGKILL)
    await first.communicate()

    told = await said(await worker(tmp_path, "work", "--lease", "1", "--pause", "0"))
    assert told.count("ended with interrupted") == len(questions)
    assert told.count("done") == len(questions)
    outcomes = read(tmp_path / "jobs.db", "SELECT outcome FROM jobs")
    assert len(outcomes) == len(questions)
    assert all(outcome and outcome != "failed" for (outcome,) in outcomes)
    # What was asked before the kill is asked once more, and what is answered never again.
    assert await said(await worker(tmp_path, "work")) == ""
    found = read(
        tmp_path / "answers.db", "SELECT status, count(*) FROM messages WHERE role = 'assistant' GROUP BY status"
    )
    assert dict(found) == {"interrupted": 3, "complete": 3}
    shown = await said(await worker(tmp_path, "show"))
    assert all(question in shown for question in questions)


async def test_a_worker_that_is_interrupted_ends_without_a_word_and_goes_on_at_the_next_start(tmp_path: Path) -> None:
    await said(await worker(tmp_path, "add", "What is a lease?"))
    first = await worker(tmp_path, "work", "--pause", "30")
    assert first.stdout is not None
    assert b"begun" in await first.stdout.readline()
    await until_written(tmp_path / "answers.db", 1)
    first.send_signal(signal.SIGINT)
    rest, _ = await first.communicate()
    assert (rest, first.returncode) == (b"", 130)
    told = await said(await worker(tmp_path, "work", "--pause", "0"))
    assert told.splitlines()[-2:] == ["job 1: try 1 ended with interrupted", "job 1: done"]
