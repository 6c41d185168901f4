"""Answers questions from a queue, without HTTP, and loses none when it is killed.

    python examples/queue_worker.py add "What is a lease?" "And a fence?"
    python examples/queue_worker.py work          # until nothing is left to do
    python examples/queue_worker.py show

Jobs are rows of jobs.db, conversations and answers are in answers.db; --folder says where both are. Each send
has its job's name as idempotency key: a worker that starts again finds the answer that it had begun, follows it
if it is whole, and asks again if the kill interrupted it. Needs luxx[sqlite]. One worker at a time.
"""

# ruff: noqa: INP001, T201 - a program by itself, that prints

import argparse
import asyncio
import sqlite3
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from luxx.adapters.database import Database
from luxx.adapters.models import OfflineChatModel
from luxx.adapters.system import SortableIds, utc_now
from luxx.application import Chat
from luxx.domain.message import Message
from luxx.domain.turn import Done

AT_ONCE = 4
TRIES = 5


@dataclass(frozen=True, slots=True)
class Job:
    id: int
    question: str
    conversation_id: str | None


class Jobs:
    """The queue. Whatever you have takes its place: the worker needs `open_ones`, `begun` and `done`."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS jobs "
            "(id INTEGER PRIMARY KEY, question TEXT NOT NULL, conversation_id TEXT, outcome TEXT)"
        )

    def add(self, question: str) -> None:
        self._db.execute("INSERT INTO jobs (question) VALUES (?)", [question])

    def open_ones(self) -> list[Job]:
        rows = self._db.execute("SELECT id, question, conversation_id FROM jobs WHERE outcome IS NULL ORDER BY id")
        return [Job(*row) for row in rows]

    def begun(self, job: Job, conversation_id: str) -> None:
        self._db.execute("UPDATE jobs SET conversation_id = ? WHERE id = ?", [conversation_id, job.id])

    def done(self, job: Job, outcome: str) -> None:
        self._db.execute("UPDATE jobs SET outcome = ? WHERE id = ?", [outcome, job.id])

    def outcomes(self) -> list[tuple[int, str, str | None]]:
        return self._db.execute("SELECT id, question, outcome FROM jobs ORDER BY id").fetchall()

    def close(self) -> None:
        self._db.close()


async def answered(chat: Chat, user_id: int, job: Job, conversation_id: str) -> Message | None:
    """Send, and wait for the end; None if all tries failed."""
    for number in range(TRIES):
        # The same key finds the answer that an earlier run of this program began.
        message_id = await chat.send_message(
            user_id=user_id,
            conversation_id=conversation_id,
            content=job.question,
            idempotency_key=f"job-{job.id}-{number}",
        )
        _, end = await chat.follow_turn.to_end(user_id=user_id, message_id=message_id)
        if isinstance(end, Done):
            return end.message
        print(f"job {job.id}: try {number + 1} ended with {end.code}", flush=True)
    return None


async def work(chat: Chat, user_id: int, jobs: Jobs, queue: "asyncio.Queue[Job]") -> None:
    while not queue.empty():
        job = queue.get_nowait()
        conversation_id = job.conversation_id
        if conversation_id is None:
            conversation_id = (await chat.create_conversation(user_id=user_id, title=job.question[:80])).id
            jobs.begun(job, conversation_id)
        print(f"job {job.id}: begun", flush=True)
        message = await answered(chat, user_id, job, conversation_id)
        jobs.done(job, "failed" if message is None else message.content)
        print(f"job {job.id}: done", flush=True)


async def run(folder: Path, jobs: Jobs, *, pause: float, lease_for: timedelta) -> None:
    storage = Database(f"sqlite:///{folder / 'answers.db'}")
    await storage.upgrade()
    model = OfflineChatModel(pause_s=pause)
    queue: asyncio.Queue[Job] = asyncio.Queue()
    for job in jobs.open_ones():
        queue.put_nowait(job)
    async with Chat(
        storage=storage, model=model, default_model="offline", clock=utc_now, new_id=SortableIds(), lease_for=lease_for
    ) as chat:
        user = await chat.admit_user(username="worker")
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work(chat, user.id, jobs, queue))


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer questions from a queue.")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the two databases are")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("add", help="put questions into the queue").add_argument("questions", nargs="+")
    working = commands.add_parser("work", help="answer what is in the queue")
    working.add_argument(
        "--lease", type=float, default=15.0, help="an answer whose worker was killed is free 4/3 of these seconds later"
    )
    working.add_argument("--pause", type=float, default=0.02, help="seconds after each word of the offline model")
    commands.add_parser("show", help="print all jobs")
    given = parser.parse_args()
    jobs = Jobs(given.folder / "jobs.db")
    try:
        if given.command == "add":
            for question in given.questions:
                jobs.add(question)
        elif given.command == "work":
            try:
                asyncio.run(run(given.folder, jobs, pause=given.pause, lease_for=timedelta(seconds=given.lease)))
            except KeyboardInterrupt:  # what was begun is stored as interrupted; the next start asks again
                raise SystemExit(130) from None
        else:
            for number, question, outcome in jobs.outcomes():
                print(f"{number}. {question}\n{outcome or '(open)'}\n")
    finally:
        jobs.close()


if __name__ == "__main__":
    main()
