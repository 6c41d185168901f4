"""No word is lost and none doubled, wherever a connection breaks."""

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain, repeat

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.client.conftest import EAGER, blocking
from tests.support.live import Live
from tests.support.until import until
from tests.support.web import web_server

from luxx.adapters import wire
from luxx.adapters.models.scripted import ScriptedChatModel, calling, spoken
from luxx.application.follow_turn import events_of
from luxx.application.ports import ModelEnd, ModelText, ModelThinking
from luxx.client import (
    AsyncClient,
    Client,
    ConnectionLost,
    Done,
    Failed,
    Overloaded,
    Patience,
    Started,
    Stream,
    StreamEvent,
    Text,
    Thinking,
    ToolCalled,
    ToolReturned,
    UnreadableAnswer,
    calls,
)
from luxx.client.following import Following, Frames
from luxx.domain import turn
from luxx.domain.message import Message, Part, Role, Status, TextPart
from luxx.domain.turn import TurnEvent
from luxx.testing.fault_proxy import NONE, FaultProxy, Faults

STORY = " ".join(f"{number}·wörd" for number in range(150))
WORST = Faults(reset=0.6, truncate=0.4, slice_=0.5, within=6000)


def joined(events: Sequence[StreamEvent]) -> tuple[Part, ...]:
    """Fold what a client was given; the fold refuses a tool call or a result that comes twice."""
    answer = turn.Answer()
    for event in events:
        match event:
            case Text(delta=delta):
                answer.add(turn.Text(delta=delta))
            case Thinking(delta=delta):
                answer.add(turn.Thinking(delta=delta))
            case ToolCalled():
                answer.add(turn.ToolCalled(id=event.call_id, name=event.name, arguments=event.arguments))
            case ToolReturned():
                answer.add(
                    turn.ToolReturned(
                        id=event.call_id,
                        name=event.name,
                        success=event.success,
                        result=event.result,
                        error=event.error,
                        duration_ms=event.duration_ms,
                    )
                )
            case _:
                pass
    return answer.parts


def told_to(conversation_id: str, client: Client) -> list[StreamEvent]:
    return list(client.stream(conversation_id, "Tell me"))


def check(events: Sequence[StreamEvent], stored: Message) -> None:
    """Hold what a client was given to what is stored: one start, one end, each word once."""
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Done)
    assert sum(isinstance(event, Started | Done | Failed) for event in events) == 2
    assert events[-1].message == stored
    assert joined(events) == stored.parts


@pytest.fixture
async def proxy(served: Live) -> AsyncIterator[FaultProxy]:
    async with FaultProxy("127.0.0.1", int(served.url.rpartition(":")[2]), seed=11) as between:
        yield between


@pytest.mark.parametrize("kind", ["blocking", "asynchronous"])
async def test_an_answer_is_read_whole_through_a_network_that_breaks_in_many_places(
    kind: str, served: Live, token: str, proxy: FaultProxy, model: ScriptedChatModel
) -> None:
    async def breath() -> None:
        await asyncio.sleep(0.001)

    words = [step for word in STORY.split(" ") for step in (ModelText(f"{word} "), breath)]
    async with AsyncClient(served.url, token=token) as direct:
        for number in range(4):
            model.then(
                (ModelThinking("Hm. " * 20), *calling(("calculate", {"expression": "6*7"}), text="First, ")),
                (*words, ModelEnd("stop")),
            )
            conversation = await direct.create_conversation(thinking_enabled=True)
            proxy.faults = WORST
            if kind == "blocking":
                events = await blocking(proxy.url, token, partial(told_to, conversation.id))
            else:
                async with AsyncClient(proxy.url, token=token, patience=EAGER) as client:
                    events = [event async for event in client.stream(conversation.id, "Tell me")]
            proxy.faults = NONE
            page = await direct.messages(conversation.id)
            assert page.total == 2
            check(events, page.items[-1])
            assert len(model.requests) == 2 * (number + 1), "the message was sent more than once"
    assert proxy.drawn > 8


async def test_a_connection_cut_at_every_event_gives_each_event_once(
    token: str, proxy: FaultProxy, model: ScriptedChatModel
) -> None:
    going_on = asyncio.Queue[None]()
    model.then((*(step for n in range(20) for step in (ModelText(f"{n} "), going_on.get)), ModelEnd("stop")))
    async with AsyncClient(proxy.url, token=token, patience=EAGER) as client:
        conversation = await client.create_conversation()
        events = []
        async for event in client.stream(conversation.id, "Count"):
            events.append(event)
            proxy.cut()
            going_on.put_nowait(None)
        check(events, (await client.messages(conversation.id)).items[-1])
        assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert proxy.drawn >= 20


@pytest.mark.parametrize("kind", ["blocking", "asynchronous"])
async def test_a_send_whose_answer_was_lost_is_repeated_and_the_model_is_asked_once(
    kind: str, token: str, proxy: FaultProxy, model: ScriptedChatModel, client: AsyncClient
) -> None:
    model.then(spoken("Once."))
    conversation = await client.create_conversation()
    proxy.faults = Faults(reset=1.0, within=2)

    async def recover() -> None:
        await until(lambda: proxy.drawn >= 2)
        proxy.faults = NONE

    recovering = asyncio.create_task(recover())
    if kind == "blocking":
        sent = await blocking(proxy.url, token, lambda behind: behind.send(conversation.id, "Hi"))
    else:
        async with AsyncClient(proxy.url, token=token, patience=EAGER) as behind:
            sent = await behind.send(conversation.id, "Hi")
    await recovering
    assert sent.assistant_message.content == "Once."
    assert (await client.messages(conversation.id)).items == (sent.user_message, sent.assistant_message)
    assert len(model.requests) == 1


async def test_a_deletion_whose_answer_was_lost_is_repeated_and_is_no_error(
    token: str, proxy: FaultProxy, client: AsyncClient
) -> None:
    conversation = await client.create_conversation()
    proxy.faults = Faults(reset=1.0, within=2)
    async with AsyncClient(proxy.url, token=token, patience=EAGER) as behind:
        deleting = asyncio.create_task(behind.delete_conversation(conversation.id))
        await until(lambda: proxy.drawn >= 2)
        proxy.faults = NONE
        await deleting
    assert (await client.conversations()).total == 0


async def test_what_must_not_happen_twice_is_not_repeated_when_its_answer_was_lost(
    token: str, proxy: FaultProxy, client: AsyncClient
) -> None:
    proxy.faults = Faults(reset=1.0, within=2)
    async with AsyncClient(proxy.url, token=token, patience=EAGER) as behind:
        with pytest.raises(ConnectionLost) as caught:
            await behind.create_conversation()
    assert caught.value.__cause__ is not None
    assert proxy.connections == 1
    assert (await client.conversations()).total == 1


async def test_a_dead_connection_is_dropped_after_a_silence_and_the_stream_goes_on(
    token: str, proxy: FaultProxy, model: ScriptedChatModel, client: AsyncClient
) -> None:
    model.then(spoken(STORY))
    conversation = await client.create_conversation()
    proxy.faults = Faults(stall=1.0, within=2, stall_s=30)
    patience = Patience(silence_seconds=0.2, first_pause_seconds=0.005, tries=40)
    async with AsyncClient(proxy.url, token=token, patience=patience) as behind:

        async def read() -> list[StreamEvent]:
            return [event async for event in behind.stream(conversation.id, "Tell me")]

        reading = asyncio.create_task(read())
        await until(lambda: proxy.connections >= 2)
        proxy.faults = NONE
        check(await reading, (await client.messages(conversation.id)).items[-1])
    assert len(model.requests) == 1


async def test_where_the_log_is_gone_a_reader_from_outside_is_told_everything_from_a_new_start(
    served: Live, model: ScriptedChatModel, client: AsyncClient
) -> None:
    model.then(spoken("One two three"))
    conversation = await client.create_conversation()
    async with client.stream(conversation.id, "Count") as stream:
        stored = await stream.message()
    now = datetime.now(UTC)
    day = timedelta(days=1)
    assert await served.container.log().forget(ended_before=now + day, keys_made_before=now - day) == 1
    check([event async for event in client.follow(stored.id, after=3)], stored)


async def test_a_wait_that_is_given_up_loses_nothing_and_a_closed_stream_stays_closed(
    model: ScriptedChatModel, client: AsyncClient
) -> None:
    going_on = asyncio.Event()
    model.then((ModelText("One "), going_on, ModelText("two"), ModelEnd("stop")))
    conversation = await client.create_conversation()
    stream = client.stream(conversation.id, "Count")
    taken = [await anext(stream), await anext(stream)]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), 0.01)
    going_on.set()
    taken += [event async for event in stream]
    end = taken[-1]
    assert isinstance(end, Done)
    check(taken, end.message)

    stream = client.follow(end.message.id)
    await anext(stream)
    await stream.aclose()
    assert [event async for event in stream] == []


async def test_a_stream_that_was_given_up_says_so_again_until_the_service_is_back(
    token: str, model: ScriptedChatModel, client: AsyncClient, proxy: FaultProxy
) -> None:
    model.then(spoken("One two"))
    stored = (await client.send((await client.create_conversation()).id, "Count")).assistant_message
    proxy.faults = Faults(reset=1.0, within=2)

    def read(there: Client) -> list[StreamEvent]:
        stream = there.follow(stored.id)
        for _ in range(2):
            with pytest.raises(ConnectionLost):
                next(stream, None)
        proxy.faults = NONE
        return list(stream)

    few = Patience(first_pause_seconds=0.001, tries=2)
    check(await blocking(proxy.url, token, read, patience=few), stored)


async def test_a_service_that_does_not_come_back_is_given_up(token: str, proxy: FaultProxy) -> None:
    proxy.faults = Faults(reset=1.0, within=2)
    few = Patience(first_pause_seconds=0.001, tries=4)
    async with AsyncClient(proxy.url, token=token, patience=few) as client:
        with pytest.raises(ConnectionLost):
            await client.me()
        assert proxy.connections == 4
        with pytest.raises(ConnectionLost):
            await anext(client.follow("msg_1"))
        assert proxy.connections == 8


async def test_a_page_of_something_else_is_no_stream() -> None:
    async with web_server() as web, AsyncClient(f"http://127.0.0.1:{web.port}") as client:
        web.pages["*"] = "<p>Log in to the hotel's network</p>"
        with pytest.raises(UnreadableAnswer):
            await anext(client.follow("msg_1"))
        with pytest.raises(UnreadableAnswer):
            await client.me()


# --- the state machine by itself --------------------------------------------------------------------

NOW = datetime(2026, 1, 1, tzinfo=UTC)
QUESTION = Message(
    id="msg_1",
    conversation_id="conv_1",
    role=Role.USER,
    parts=(TextPart(text="?"),),
    status=Status.COMPLETE,
    created_at=NOW,
)
RUSHED = Patience(first_pause_seconds=0, longest_pause_seconds=0, tries=1000)


def frame(event: TurnEvent, id_: int | None) -> bytes:
    name, data = wire.encode_event(event)
    head = "" if id_ is None else f"id: {id_}\n"
    return f"{head}event: {name}\ndata: {data}\n\n".encode()


def answer(parts: Sequence[Part]) -> Message:
    return Message(
        id="msg_2",
        conversation_id="conv_1",
        role=Role.ASSISTANT,
        parts=tuple(parts),
        status=Status.COMPLETE,
        created_at=NOW,
    )


def sending() -> Following:
    return Following(RUSHED, sending=calls.stream("conv_1", "?", tools_enabled=True, idempotency_key="key"))


HEAD = {"content-type": "text/event-stream; charset=utf-8"}

steps = st.lists(
    st.one_of(
        st.builds(lambda text: turn.Text(delta=text), st.text(min_size=1, max_size=5)),
        st.builds(lambda text: turn.Thinking(delta=text), st.text(min_size=1, max_size=5)),
        st.just("tool"),
    ),
    max_size=12,
)


def told(script: Sequence[TurnEvent | str]) -> list[TurnEvent]:
    """Make a turn of a script, its tool calls in pairs that cross."""
    events: list[TurnEvent] = [turn.Started(user_message=QUESTION, message_id="msg_2")]
    open_calls: list[str] = []
    for number, step in enumerate(script):
        if isinstance(step, str):
            open_calls.append(f"call_{number}")
            events.append(turn.ToolCalled(id=open_calls[-1], name="calculate", arguments={"n": number}))
        else:
            events.append(step)
        if len(open_calls) == 2:
            events += [_returned(open_calls.pop()), _returned(open_calls.pop())]
    events += map(_returned, open_calls)
    return [*events, turn.Done(message=answer(turn.fold(events).parts))]


def _returned(call_id: str) -> turn.ToolReturned:
    return turn.ToolReturned(id=call_id, name="calculate", success=True, result={"value": 1}, duration_ms=3)


@given(script=steps, data=st.data())
def test_events_are_given_once_wherever_connections_break_and_even_where_the_log_is_gone_meanwhile(
    script: list[TurnEvent | str], data: st.DataObject
) -> None:
    events = told(script)
    done = events[-1]
    assert isinstance(done, turn.Done)
    anew = list(events_of(QUESTION, done.message))
    following = sending()
    taken: list[StreamEvent] = []
    kept = True
    for tries_left in reversed(range(12)):
        after = int(following.request().headers.get("Last-Event-ID", "0"))
        following.opened(HEAD)
        log, behind = (events, after) if kept else (anew, 0)
        sent = b"".join(frame(event, id_) for id_, event in enumerate(log, start=1) if id_ > behind)
        end = data.draw(st.integers(0, len(sent)), label="broken at") if tries_left else len(sent)
        size = data.draw(st.integers(1, 200), label="piece")
        for place in range(0, end, size):
            taken += following.feed(sent[place : min(place + size, end)])
        if following.end is not None:
            break
        following.closed()
        kept = kept and data.draw(st.booleans(), label="kept")
    check(taken, done.message)


@pytest.mark.parametrize("ask", [lambda client: client.stream("conv_1", "?"), lambda client: client.follow("msg_2")])
def test_a_stream_is_asked_for_as_it_is_and_not_compressed(ask: Callable[[Client], Stream]) -> None:
    """A proxy that compresses keeps back what comes until there is enough of it."""

    def answering(request: httpx.Request) -> httpx.Response:
        plain = request.headers["accept-encoding"] == "identity"
        return httpx.Response(200, headers=HEAD, content=whole) if plain else httpx.Response(204)

    whole = b"".join(frame(event, number) for number, event in enumerate(told([turn.Text(delta="a")]), 1))
    with Client("http://127.0.0.1:9", patience=RUSHED, transport=httpx.MockTransport(answering)) as client:
        assert len(list(ask(client))) == 3


def test_an_error_without_an_id_is_no_end_but_a_reason_to_resume() -> None:
    following = sending()
    following.request()
    following.opened(HEAD)
    (started,) = following.feed(frame(turn.Started(user_message=QUESTION, message_id="msg_2"), 1))
    assert isinstance(started, Started)
    trouble = turn.Failed(code="overloaded", message="This server is about to stop.", message_id="msg_2")
    assert list(following.feed(frame(trouble, None))) == []
    assert following.hung_up
    assert following.end is None
    following.closed()
    request = following.request()
    assert (request.method, request.path, request.headers["Last-Event-ID"]) == (
        "GET",
        "/api/messages/msg_2/stream",
        "1",
    )


@pytest.mark.parametrize(
    "foreign",
    [
        b'event: error\ndata: {"message": "upstream timeout"}\n\n',
        b"event: error\ndata: upstream timeout\n\n",
        b"event: text\ndata: hello from the gateway\n\n",
    ],
)
def test_what_something_between_puts_into_a_stream_is_no_part_of_it(foreign: bytes) -> None:
    following = Following(RUSHED, message_id="msg_2", after=1)
    following.request()
    following.opened(HEAD)
    assert list(following.feed(foreign)) == []
    assert following.hung_up == (b"error" in foreign)
    assert following.closed() == 0.0
    following.request()
    assert [event.id for event in following.feed(frame(turn.Text(delta="a"), 2))] == [2]


@pytest.mark.parametrize(
    "event",
    [
        turn.Started(user_message=QUESTION, message_id="msg_9"),
        turn.Done(message=replace(QUESTION, id="msg_9", role=Role.ASSISTANT)),
        turn.Failed(code="interrupted", message="It ended.", message_id="msg_9"),
    ],
)
def test_another_answer_is_not_told_as_this_one(event: TurnEvent) -> None:
    """As by a proxy that keeps answers, or by another service at the same address."""
    following = Following(RUSHED, message_id="msg_2", after=1)
    following.request()
    following.opened(HEAD)
    with pytest.raises(UnreadableAnswer, match="of msg_2 tells msg_9"):
        list(following.feed(frame(event, 1 if isinstance(event, turn.Started) else 2)))
    assert following.end is None


def test_before_the_start_the_message_is_sent_again_with_the_same_key() -> None:
    following = sending()
    first = following.request()
    following.opened(HEAD)
    assert list(following.feed(frame(turn.Started(user_message=QUESTION, message_id="msg_2"), 1)[:-1])) == []
    following.closed()
    assert following.request() == first
    assert first.headers["Idempotency-Key"] == "key"


def test_a_gap_in_the_ids_is_fetched_and_what_came_twice_is_given_once() -> None:
    following = sending()
    following.request()
    following.opened(HEAD)
    start = frame(turn.Started(user_message=QUESTION, message_id="msg_2"), 1)
    assert len(list(following.feed(start + frame(turn.Text(delta="a"), 2) + frame(turn.Text(delta="a"), 2)))) == 2
    assert list(following.feed(frame(turn.Text(delta="c"), 4))) == []
    assert following.hung_up
    following.closed()
    assert following.request().headers["Last-Event-ID"] == "2"


def test_whoever_lost_a_stream_before_it_told_anything_goes_on_where_it_began() -> None:
    with Client("http://127.0.0.1:9", patience=Patience(tries=1)) as client:
        stream = client.follow("msg_2", after=7)
        with pytest.raises(ConnectionLost):
            next(stream)
        assert stream.last_event_id == 7


@pytest.mark.parametrize("line", [b"data: " + b"x" * 100_000 + b"\n", b"data: x" * 20_000])
def test_an_event_without_end_is_not_kept(line: bytes) -> None:
    frames = Frames(limit=1_000_000)
    with pytest.raises(UnreadableAnswer, match="more than"):
        list(chain.from_iterable(map(frames.feed, repeat(line, 20))))


def test_a_number_beyond_all_numbers_is_no_id() -> None:
    (frame,) = Frames().feed(b"id: " + b"9" * 5000 + b"\nevent: text\ndata: {}\n\n")
    assert frame.id is None


def test_unknown_events_and_fields_are_read_over() -> None:
    following = sending()
    following.request()
    following.opened(HEAD)
    start = frame(turn.Started(user_message=QUESTION, message_id="msg_2"), 1)
    applause = b'id: 2\nevent: applause\ndata: {"hands": 2}\n\n'
    *_, text = following.feed(start + applause + b'id: 3\nevent: text\nretry: 9\ndata: {"delta": "a", "to": 1}\n\n')
    assert text == Text(id=3, delta="a")


def test_heartbeats_are_a_sign_of_life_and_tries_count_anew() -> None:
    now = 0.0
    following = Following(Patience(tries=2, first_pause_seconds=0), message_id="msg_2", clock=lambda: now)
    for _ in range(5):
        following.request()
        following.opened(HEAD)
        now += 15
        assert list(following.feed(b": heartbeat\n\n")) == []
        following.closed()
    following.request()
    following.opened(HEAD)
    trouble = turn.Failed(code="overloaded", message="Not now.", message_id="msg_2")
    list(following.feed(frame(trouble, None)))
    with pytest.raises(Overloaded):
        following.closed()


def test_a_comment_at_once_is_no_sign_of_life_and_tries_come_to_an_end() -> None:
    """Some proxies begin every stream with a comment, whatever is behind them."""
    following = Following(Patience(tries=2, first_pause_seconds=0), message_id="msg_2", clock=lambda: 0.0)
    following.request()
    following.opened(HEAD)
    assert list(following.feed(b": welcome\n\n")) == []
    following.closed()
    following.request()
    following.opened(HEAD)
    assert list(following.feed(b": welcome\n\n")) == []
    with pytest.raises(ConnectionLost):
        following.closed()


async def test_a_stream_that_is_dropped_in_the_middle_is_closed_at_once(
    served: Live, token: str, model: ScriptedChatModel
) -> None:
    """Left to the collector it would be closed at any moment: also while its client holds its locks, for ever."""
    gate = asyncio.Event()
    model.then([ModelText("half"), gate.wait, ModelEnd("stop")])

    def drop(client: Client) -> bool:
        stream = client.stream(client.create_conversation().id, "Hi")
        next(stream)
        left = weakref.ref(stream)
        gc.disable()
        try:
            del stream
            return left() is None
        finally:
            gc.enable()

    assert await blocking(served.url, token, drop)
    gate.set()


def test_a_thread_that_comes_while_another_one_reads_is_turned_away_and_nothing_is_lost() -> None:
    waiting, going_on = threading.Event(), threading.Event()
    opened: list[httpx.Request] = []

    class Body(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield whole[:-40]
            waiting.set()
            going_on.wait(10)
            yield whole[-40:]

    def answering(request: httpx.Request) -> httpx.Response:
        opened.append(request)
        return httpx.Response(200, headers=HEAD, stream=Body())

    events = told([turn.Text(delta="One "), turn.Text(delta="two")])
    whole = b"".join(frame(event, number) for number, event in enumerate(events, 1))
    with (
        Client("http://127.0.0.1:9", transport=httpx.MockTransport(answering)) as client,
        ThreadPoolExecutor(1) as other,
    ):
        stream = client.follow("msg_2")
        reading = other.submit(list, stream)
        assert waiting.wait(10)
        try:
            for _ in range(2):
                with pytest.raises(ValueError, match="already executing"):
                    next(stream)
        finally:
            going_on.set()
        assert [event.id for event in reading.result(10)] == list(range(1, len(events) + 1))
    assert len(opened) == 1
