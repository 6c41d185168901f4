"""Every endpoint, by both clients."""

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from tests.client.conftest import EAGER
from tests.support.live import PASSWORD, Live

from luxx.adapters.models.scripted import ScriptedChatModel, calling, spoken
from luxx.application.ports import ModelEnd, ModelText, ModelThinking
from luxx.client import (
    AsyncClient,
    Client,
    Conflict,
    Done,
    LuxxClientError,
    NotFound,
    Role,
    Started,
    Status,
    Stream,
    StreamEvent,
    Text,
    Thinking,
    ToolCalled,
    ToolReturned,
    Unauthenticated,
)
from luxx.domain.errors import ModelUnavailable
from luxx.entrypoints.http.app import HANDLERS


class Awaited:
    """A blocking client with the manners of the other: each call runs beside the loop."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        if not callable(method):
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(method, *args, **kwargs)

        return method if name in {"stream", "follow", "all_conversations", "all_messages"} else call


async def walk(items: Any) -> list[Any]:
    if isinstance(items, Iterator):
        return await asyncio.to_thread(list, items)
    return [item async for item in items]


async def anext_of(items: Any) -> Any:
    if isinstance(items, Iterator):
        return await asyncio.to_thread(next, items, None)
    return await anext(items, None)


async def read(stream: Any) -> list[StreamEvent]:
    if isinstance(stream, Stream):
        with stream:
            return await asyncio.to_thread(lambda: list(stream))
    async with stream:
        return [event async for event in stream]


@pytest.fixture(params=["blocking", "asynchronous"])
async def anyone(request: pytest.FixtureRequest, served: Live) -> AsyncIterator[Any]:
    """Give each client in turn, logged in by nobody."""
    if request.param == "blocking":
        with Client(served.url, patience=EAGER) as client:
            yield Awaited(client)
    else:
        async with AsyncClient(served.url, patience=EAGER) as client:
            yield client


@pytest.fixture
async def ada(anyone: Any) -> Any:
    await anyone.register("ada", "ada@example.com", PASSWORD)
    await anyone.login("ada", PASSWORD)
    return anyone


async def test_an_account_is_made_and_its_logins_and_password_are_looked_after(anyone: Any, served: Live) -> None:
    registered = await anyone.register("ada", "ada@example.com", PASSWORD)
    login = await anyone.login("ada", PASSWORD)
    assert (login.user.id, login.user.username, login.user.role) == (registered.id, "ada", "user")
    account = await anyone.me()
    assert (account.username, account.email, account.is_active) == ("ada", "ada@example.com", True)

    async with AsyncClient(served.url) as elsewhere:
        await elsewhere.login("ada", PASSWORD)
        other, current = await anyone.sessions()
        assert (other.current, current.current) == (False, True)
        assert current.expires_at > datetime.now(UTC)
        await anyone.end_session(other.id)
        with pytest.raises(Unauthenticated) as caught:
            await elsewhere.me()
        assert caught.value.code == "token_revoked"

    await anyone.change_password(PASSWORD, "another horse, no battery")
    assert (await anyone.me()).username == "ada"
    await anyone.logout()
    with pytest.raises(Unauthenticated) as caught:
        await anyone.me()
    assert caught.value.code == "unauthenticated"


async def test_an_api_key_is_a_token_until_it_is_deleted(ada: Any, served: Live) -> None:
    made = await ada.create_key("ci", expires_in_days=7)
    (listed,) = await ada.keys()
    assert (listed.id, listed.name, listed.expires_at) == (made.id, "ci", made.expires_at)
    lasting = await ada.create_key("lasting", expires_at=datetime(2100, 1, 1, tzinfo=UTC))
    assert lasting.expires_at == datetime(2100, 1, 1, tzinfo=UTC)
    async with AsyncClient(served.url, token=made.key) as program:
        assert (await program.me()).username == "ada"
        await ada.delete_key(made.id)
        with pytest.raises(Unauthenticated):
            await program.me()


async def test_a_conversation_is_made_read_changed_listed_and_deleted(ada: Any) -> None:
    made = await ada.create_conversation(title="A / B", system_prompt="Be brief.", temperature=0.5, tools=["calculate"])
    assert (made.title, made.system_prompt, made.temperature) == ("A / B", "Be brief.", 0.5)
    assert made.tools == ("calculate",)
    assert await ada.conversation(made.id) == made
    changed = await ada.update_conversation(made.id, system_prompt=None, model="glm-5-air")
    assert (changed.system_prompt, changed.model, changed.title) == (None, "glm-5-air", "A / B")
    assert (await ada.update_conversation(made.id, tools=None)).tools is None

    others = [await ada.create_conversation(project_id="p") for _ in range(2)]
    page = await ada.conversations(page_size=2)
    assert ([item.id for item in page.items], page.total) == ([others[1].id, others[0].id], 3)
    last = await ada.conversations(page_size=2, cursor=page.next_cursor)
    assert ([item.id for item in last.items], last.next_cursor) == ([made.id], None)
    assert (await ada.conversations(project_id="p")).total == 2

    await ada.delete_conversation(made.id)
    with pytest.raises(NotFound) as caught:
        await ada.conversation(made.id)
    assert (caught.value.code, caught.value.status) == ("conversation_not_found", 404)


async def test_a_message_is_sent_and_its_answer_is_stored_listed_and_deleted(
    ada: Any, model: ScriptedChatModel
) -> None:
    model.then(spoken("Hello, Ada."), spoken("Again."))
    conversation = await ada.create_conversation()
    sent = await ada.send(conversation.id, "Hi")
    assert (sent.user_message.content, sent.user_message.role) == ("Hi", Role.USER)
    assert (sent.assistant_message.content, sent.assistant_message.status) == ("Hello, Ada.", Status.COMPLETE)
    await ada.send(conversation.id, "And?")
    page = await ada.messages(conversation.id, limit=3)
    assert ([item.content for item in page.items], page.total, page.has_more) == (
        ["Hello, Ada.", "And?", "Again."],
        4,
        True,
    )
    older = await ada.messages(conversation.id, before=page.items[0].id)
    assert older.items == (sent.user_message,)
    await ada.delete_message(sent.user_message.id)
    assert (await ada.messages(conversation.id)).total == 3


async def test_a_stream_gives_every_kind_of_event_and_can_be_followed_again_from_anywhere(
    ada: Any, model: ScriptedChatModel
) -> None:
    model.then((ModelThinking("Let me see."), *calling(("calculate", {"expression": "6*7"}))), spoken("It is 42."))
    conversation = await ada.create_conversation(thinking_enabled=True)
    events = await read(ada.stream(conversation.id, "What is 6*7?"))
    started, thought, called, returned, *said, done = events
    assert isinstance(started, Started)
    assert started.user_message.content == "What is 6*7?"
    assert isinstance(thought, Thinking)
    assert isinstance(called, ToolCalled)
    assert (called.name, called.arguments) == ("calculate", {"expression": "6*7"})
    assert isinstance(returned, ToolReturned)
    assert (returned.call_id, returned.success, returned.error) == (called.call_id, True, None)
    assert returned.result["value"] == 42
    assert "".join(event.delta for event in said if isinstance(event, Text)) == "It is 42."
    assert isinstance(done, Done)
    assert [event.id for event in events] == list(range(1, len(events) + 1))

    stored = (await ada.messages(conversation.id)).items[-1]
    assert done.message == stored
    for after in range(len(events)):
        assert await read(ada.follow(started.message_id, after=after)) == events[after:]
    assert await read(ada.follow(started.message_id, after=len(events))) == [done]


async def test_an_answer_is_cancelled_and_its_stream_ends_with_what_had_arrived(
    ada: Any, model: ScriptedChatModel
) -> None:
    model.then((ModelText("So far"), asyncio.Event(), ModelEnd("stop")))
    conversation = await ada.create_conversation()
    reading = asyncio.create_task(read(stream := ada.stream(conversation.id, "Go")))
    async with asyncio.timeout(10):
        while stream.last_event_id < 2:  # noqa: ASYNC110  # a thread reads it, and tells no event of this loop
            await asyncio.sleep(0.002)
    assert stream.message_id is not None
    cancelled = await ada.cancel(stream.message_id)
    assert (cancelled.status, cancelled.content) == (Status.CANCELLED, "So far")
    assert (await reading)[-1].message == cancelled  # type: ignore[union-attr]  # it is done
    assert stream.end is not None


async def test_the_whole_answer_of_a_stream_can_be_asked_for_and_raises_what_it_failed_with(
    ada: Any, model: ScriptedChatModel
) -> None:
    model.then(spoken("Hello."), (ModelText("Hel"), ModelUnavailable("gone")))
    conversation = await ada.create_conversation()

    async def answer(stream: Any) -> Any:
        return await asyncio.to_thread(stream.message) if isinstance(stream, Stream) else await stream.message()

    assert (await answer(ada.stream(conversation.id, "Hi"))).content == "Hello."
    with pytest.raises(LuxxClientError) as caught:
        await answer(ada.stream(conversation.id, "Hi"))
    assert getattr(caught.value, "code", None) == "model_unavailable"
    assert (await ada.messages(conversation.id)).items[-1].status is Status.FAILED


async def test_tools_are_listed_read_and_run(ada: Any) -> None:
    listed = await ada.tools(category="data")
    assert set(listed.categorized) == {"data"}
    assert listed.total == len(listed.tools) > 1
    tool = await ada.tool("calculate")
    assert tool in listed.tools
    assert tool.parameters["type"] == "object"
    ran = await ada.execute_tool("calculate", {"expression": "2**10"})
    assert (ran.name, ran.result["value"]) == ("calculate", 1024)


async def test_an_answer_that_is_in_the_way_is_found_followed_and_cancelled(ada: Any, model: ScriptedChatModel) -> None:
    model.then(spoken("Hello"), (ModelText("So far"), asyncio.Event()), spoken("At last."))
    conversation = await ada.create_conversation()
    assert await ada.running_answer(conversation.id) is None
    await ada.send(conversation.id, "Hi")
    assert await ada.running_answer(conversation.id) is None
    async with AsyncClient(ada.url, token=ada.token) as elsewhere, elsewhere.stream(conversation.id, "Go on") as stream:
        await anext(stream)
        await anext(stream)
        with pytest.raises(Conflict) as caught:
            await ada.send(conversation.id, "And this?")
        assert caught.value.code == "generation_in_progress"
        running = await ada.running_answer(conversation.id)
        assert (running.id, running.content) == (stream.message_id, "So far")
        await ada.cancel(running.id)
    assert (await ada.send(conversation.id, "And this?")).assistant_message.content == "At last."


@pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
async def test_lists_are_walked_to_their_end_each_item_once(ada: Any, model: ScriptedChatModel, size: int) -> None:
    made = [(await ada.create_conversation(project_id="p")).id for _ in range(4)]
    await ada.create_conversation()
    found = await walk(ada.all_conversations(project_id="p", page_size=size))
    assert [one.id for one in found] == made[::-1]
    assert await walk(ada.all_conversations(project_id="nothing here")) == []
    model.then(spoken("one"), spoken("two"))
    for content in ("a", "b"):
        await ada.send(made[0], content)
    messages = await walk(ada.all_messages(made[0], page_size=size))
    assert [one.content for one in messages] == ["two", "b", "one", "a"]
    assert await walk(ada.all_messages(made[1])) == []


async def test_a_list_that_moves_while_it_is_walked_gives_nothing_twice(ada: Any, model: ScriptedChatModel) -> None:
    made = [(await ada.create_conversation()).id for _ in range(5)]
    seen: list[str] = []

    async def next_of(items: Any) -> Any:
        return await (asyncio.to_thread(next, items) if isinstance(items, Iterator) else anext(items))

    items = ada.all_conversations(page_size=2)
    seen += [(await next_of(items)).id for _ in range(2)]
    model.then(spoken("moved"))
    await ada.send(made[4], "one that was read moves to the front")
    seen += [one.id for one in await walk(items)]
    assert seen == made[::-1]


async def test_the_server_tells_how_it_is(anyone: Any, served: Live) -> None:
    assert (await anyone.live()).status == "ok"
    assert (await anyone.ready()).checks == {"database": "ok", "turns": "ok"}
    assert "luxx_" in await anyone.metrics()
    assert (await anyone.openapi())["openapi"].startswith("3.1")
    await served.container.supervisor().drain(grace=0)
    ready = await anyone.ready()
    assert (ready.status, ready.checks["turns"]) == ("unavailable", "the server is about to stop")


def made(result: object) -> None:
    """Ask for the first event of a stream; any other call is made by now."""
    if isinstance(result, Iterator):
        next(result)


def test_there_is_a_method_for_every_endpoint() -> None:
    asked: set[tuple[str, str]] = set()

    def answer(request: httpx.Request) -> httpx.Response:
        asked.add((request.method, request.url.path))
        return httpx.Response(404, json={"success": False, "message": "", "error": {"code": "not_found"}})

    made_up: Mapping[type, Any] = {str: "x", Mapping: {}}
    with Client("http://luxx.example", transport=httpx.MockTransport(answer)) as client:
        for name, method in inspect.getmembers(client, inspect.ismethod):
            if name.startswith("_") or name == "close":
                continue
            needed = [one for one in inspect.signature(method).parameters.values() if one.default is one.empty]
            given = [made_up.get(one.annotation, {}) for one in needed]
            with pytest.raises(NotFound):
                made(method(*given))
    routes = {
        (http_method, re.sub(r"\{[^}]*\}", "x", path))
        for handler in HANDLERS
        for path in handler.paths
        for http_method in handler.http_methods
    }
    assert asked - {("GET", "/schema/openapi.json")} == routes - {("HEAD", path) for _, path in routes}


def test_names_and_ids_are_one_step_of_a_path_and_a_prefix_goes_before_it() -> None:
    asked: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path)
        return httpx.Response(404, json={"success": False, "message": "", "error": {"code": "not_found"}})

    with Client("http://luxx.example/chat/", transport=httpx.MockTransport(answer)) as client:
        for call in (lambda: client.tool("../a b?c#d%"), lambda: client.messages("conv_1", before="msg_1")):
            with pytest.raises(NotFound):
                call()
    assert asked == [b"/chat/api/tools/..%2Fa%20b%3Fc%23d%25", b"/chat/api/messages/conv_1?limit=100&before=msg_1"]


@pytest.mark.parametrize("size", [1, 2, 100])
async def test_messages_are_walked_through_to_the_end_while_they_are_deleted(
    ada: Any, model: ScriptedChatModel, size: int
) -> None:
    """A page begins behind a message, and that one may be gone."""
    model.then(*[spoken(f"answer {n}") for n in range(4)])
    conversation = await ada.create_conversation()
    for n in range(4):
        await ada.send(conversation.id, f"question {n}")
    walked = ada.all_messages(conversation.id, page_size=size)
    told = []
    while (message := await anext_of(walked)) is not None:
        told.append(message.content)
        await ada.delete_message(message.id)
    assert told == [f"{kind} {n}" for n in (3, 2, 1, 0) for kind in ("answer", "question")]
    assert (await ada.messages(conversation.id)).total == 0


async def test_a_walk_past_a_deleted_message_gives_each_other_one_once_and_none_that_was_sent_since(
    ada: Any, model: ScriptedChatModel
) -> None:
    model.then(*[spoken(f"answer {n}") for n in range(4)])
    conversation = await ada.create_conversation()
    for n in range(3):
        await ada.send(conversation.id, f"question {n}")
    walked = ada.all_messages(conversation.id, page_size=2)
    first, second = [await anext_of(walked) for _ in range(2)]
    assert [first.content, second.content] == ["answer 2", "question 2"]
    await ada.delete_message(second.id)
    await ada.send(conversation.id, "question 3")
    assert [message.content for message in await walk(walked)] == ["answer 1", "question 1", "answer 0", "question 0"]


async def test_a_walk_through_what_is_gone_says_so(ada: Any, model: ScriptedChatModel) -> None:
    model.then(spoken("answer"))
    conversation = await ada.create_conversation()
    await ada.send(conversation.id, "question")
    walked = ada.all_messages(conversation.id, page_size=1)
    await anext_of(walked)
    await ada.delete_conversation(conversation.id)
    with pytest.raises(NotFound) as caught:
        await walk(walked)
    assert caught.value.code == "conversation_not_found"
