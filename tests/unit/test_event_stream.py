"""The stream as an ASGI application: one writer, one task for who leaves, and nothing left behind."""

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from luxx.adapters.wire import encode_event
from luxx.application.ports import LoggedEvent
from luxx.domain.message import Message, Role, Status, TextPart
from luxx.domain.turn import Done, Failed, Started, Text, Thinking, ToolCalled, ToolReturned, TurnEvent
from luxx.entrypoints.http.event_stream import EventStream, sse
from luxx.entrypoints.http.text import Language

PATIENCE = 5.0
HEARTBEAT = b": heartbeat\n\n"


def message(text: str) -> Message:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    parts = (TextPart(text=text),)
    return Message(
        id="msg_1", conversation_id="conv_1", role=Role.USER, parts=parts, status=Status.COMPLETE, created_at=at
    )


class Client:
    """The other end of a stream: says when it goes, and may stop reading."""

    def __init__(self) -> None:
        self.goes = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self.body: list[bytes] = []
        self.writing = 0
        self.wrote = asyncio.Event()
        self.fault: Exception | None = None

    async def receive(self) -> dict[str, Any]:
        await self.goes.wait()
        if self.fault is not None:
            raise self.fault
        return {"type": "http.disconnect"}

    async def send(self, sent: dict[str, Any]) -> None:
        self.writing += 1
        assert self.writing == 1, "two write at once"
        self.wrote.set()
        await self.reads.wait()
        self.writing -= 1
        self.body.append(sent.get("body", b""))


class Reading:
    """Batches that come when the test puts them there; None is the end."""

    def __init__(self) -> None:
        self.coming: asyncio.Queue[Sequence[LoggedEvent] | None] = asyncio.Queue()
        self.waits = asyncio.Event()
        self.taken = asyncio.Event()
        self.closed = False

    async def batches(self) -> AsyncGenerator[Sequence[LoggedEvent], None]:
        try:
            while True:
                self.waits.set()
                batch = await self.coming.get()
                self.taken.set()
                if batch is None:
                    return
                yield batch
        finally:
            self.closed = True


def stream_of(reading: Reading, *, heartbeat: float = 60.0) -> EventStream:
    return EventStream(reading.batches(), message_id="msg_1", language=Language.EN, heartbeat=heartbeat)


async def run(stream: EventStream, client: Client) -> int:
    """Run a stream to its end; gives how many cancels its task is left with."""
    before = asyncio.all_tasks()
    await stream({"type": "http"}, client.receive, client.send)
    assert asyncio.all_tasks() <= before, "a task was left"
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def test_a_stream_ends_with_its_batches_and_leaves_no_task() -> None:
    client, reading = Client(), Reading()
    reading.coming.put_nowait([LoggedEvent(1, Text(delta="a")), LoggedEvent(2, Text(delta="b"))])
    reading.coming.put_nowait(None)
    assert await run(stream_of(reading), client) == 0
    assert client.body == [
        b"",
        b'id: 1\nevent: text\ndata: {"delta":"a"}\n\nid: 2\nevent: text\ndata: {"delta":"b"}\n\n',
        b"",
    ]


@pytest.mark.parametrize("fault", [None, RuntimeError("the connection is nobody's")])
async def test_a_client_that_goes_ends_the_reading_and_nothing_else(fault: Exception | None) -> None:
    client, reading = Client(), Reading()
    client.fault = fault
    running = asyncio.create_task(run(stream_of(reading), client))
    await asyncio.wait_for(reading.waits.wait(), PATIENCE)
    client.goes.set()
    assert await asyncio.wait_for(running, PATIENCE) == 0, "whoever runs the stream is cancelled with it"
    assert reading.closed


async def test_a_client_that_goes_while_it_does_not_read_ends_the_reading() -> None:
    client, reading = Client(), Reading()
    running = asyncio.create_task(run(stream_of(reading), client))
    await asyncio.wait_for(reading.waits.wait(), PATIENCE)
    client.reads.clear()
    client.wrote.clear()
    reading.coming.put_nowait([LoggedEvent(1, Text(delta="a"))])
    await asyncio.wait_for(client.wrote.wait(), PATIENCE)
    client.goes.set()
    assert await asyncio.wait_for(running, PATIENCE) == 0
    assert reading.closed


@pytest.mark.parametrize("gone", [False, True])
async def test_a_server_that_stops_a_stream_is_obeyed_whether_the_client_goes_or_not(*, gone: bool) -> None:
    client, reading = Client(), Reading()
    running = asyncio.create_task(run(stream_of(reading), client))
    await asyncio.wait_for(reading.waits.wait(), PATIENCE)
    if gone:
        client.goes.set()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, PATIENCE)
    assert reading.closed


async def test_a_send_that_fails_while_the_server_stops_the_stream_is_nobodys_error() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    client, reading = Client(), Reading()

    async def send(sent: dict[str, Any]) -> None:
        await client.send(sent)
        if b"event" in sent.get("body", b""):
            try:
                await asyncio.Event().wait()
            finally:
                raise OSError("The connection is closed.")

    stream = stream_of(reading)
    running = asyncio.create_task(stream({"type": "http"}, client.receive, send))
    await asyncio.wait_for(reading.waits.wait(), PATIENCE)
    client.wrote.clear()
    reading.coming.put_nowait([LoggedEvent(1, Text(delta="a"))])
    await asyncio.wait_for(client.wrote.wait(), PATIENCE)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, PATIENCE)
    del running, stream
    gc.collect()
    assert told == []


async def test_an_error_of_ours_is_raised_once_all_is_closed() -> None:
    async def broken() -> AsyncGenerator[Sequence[LoggedEvent], None]:
        yield [LoggedEvent(1, Text(delta="a"))]
        raise ZeroDivisionError

    stream = EventStream(broken(), message_id="msg_1", language=Language.EN, heartbeat=60.0)
    with pytest.raises(ZeroDivisionError):
        await run(stream, Client())


async def test_silence_is_filled_and_no_comment_is_written_into_another_write() -> None:
    client, reading = Client(), Reading()
    running = asyncio.create_task(run(stream_of(reading, heartbeat=0.001), client))
    async with asyncio.timeout(PATIENCE):
        while client.body.count(HEARTBEAT) < 2:
            client.wrote.clear()
            await client.wrote.wait()
        client.reads.clear()
        client.wrote.clear()
        await client.wrote.wait()  # a comment waits for the client; the event must wait for it
        reading.waits.clear()
        reading.coming.put_nowait([LoggedEvent(1, Text(delta="a"))])
        await reading.taken.wait()
        client.reads.set()
        await reading.waits.wait()
        reading.coming.put_nowait(None)
        assert await running == 0
    written = [piece for piece in client.body if piece not in {b"", HEARTBEAT}]
    assert written == [b'id: 1\nevent: text\ndata: {"delta":"a"}\n\n']


async def test_a_silence_is_filled_as_soon_as_it_was_asked_for() -> None:
    client, reading = Client(), Reading()
    running = asyncio.create_task(run(stream_of(reading, heartbeat=0.05), client))
    await client.wrote.wait()
    await asyncio.sleep(0.1)  # set after the comment's timer, for twice as long: it rings later on the busiest machine
    for _ in range(5):
        await asyncio.sleep(0)
    assert HEARTBEAT in client.body
    reading.coming.put_nowait(None)
    await running


async def test_a_stream_with_comments_leaves_nothing_for_the_garbage_collector() -> None:
    """Which comes seldom in a service: with each stream it would hold its whole request, and its connection."""
    client, reading = Client(), Reading()
    gone = weakref.ref(client)
    gc.collect()
    gc.disable()
    try:
        running = asyncio.create_task(run(stream_of(reading, heartbeat=0.001), client))
        async with asyncio.timeout(PATIENCE):
            while HEARTBEAT not in client.body:
                client.wrote.clear()
                await client.wrote.wait()
            reading.coming.put_nowait(None)
            await running
        del running, client
        await asyncio.sleep(0)
        assert gone() is None
    finally:
        gc.enable()


async def test_a_comment_that_cannot_be_sent_is_nobodys_error() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    client, reading = Client(), Reading()
    refused = asyncio.Event()

    async def send(sent: dict[str, Any]) -> None:
        if sent.get("body") == HEARTBEAT:
            refused.set()
            raise OSError("The connection is closed.")
        await client.send(sent)

    stream = stream_of(reading, heartbeat=0.001)
    running = asyncio.create_task(stream({"type": "http"}, client.receive, send))
    await asyncio.wait_for(refused.wait(), PATIENCE)
    reading.coming.put_nowait(None)
    await asyncio.wait_for(running, PATIENCE)
    del running, stream
    gc.collect()
    assert (client.body, told) == ([b"", b""], [])


EVENTS: list[TurnEvent] = [
    Text(delta="plain"),
    Text(delta="line\nbreaks \r of all \x85 kinds \u2028 and \u2029"),
    Thinking(delta="\U0001f600"),
    ToolCalled(id="1", name="t", arguments={"a": ["ü", 1.5, None]}),
    ToolReturned(id="1", name="t", success=True, result={"x": 2**70}, error=None, duration_ms=3),
    Started(user_message=message("问"), message_id="msg_2"),
    Done(message=message("答")),
    Failed(code="model_timeout", message="The model was silent for 60 s.", message_id="msg_2"),
]


@pytest.mark.parametrize("language", Language)
@pytest.mark.parametrize("event", EVENTS)
def test_an_event_that_was_encoded_before_reads_the_same(event: TurnEvent, language: Language) -> None:
    fresh = sse(LoggedEvent(7, event), language)
    assert sse(LoggedEvent(7, event, encode_event(event)), language) == fresh
    assert len(fresh.splitlines()) == fresh.count("\n") == 4
