"""The stream: its bytes, its order, and going on after anything."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import pytest
from tests.http.conftest import SECRET, container_of
from tests.support.live import Account, Event, Live, events_of, live
from tests.support.raw import request_bytes, wire
from tests.support.until import until

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.models.scripted import ScriptedChatModel, calling, spoken
from luxx.application.ports import ModelEnd, ModelText, ModelThinking
from luxx.domain.errors import ModelTimeout
from luxx.settings import Settings

EVENT = re.compile(rb"id: ([1-9][0-9]*)\nevent: ([a-z_]+)\ndata: ([^\r\n]+)\n\n")
ODD = (
    "line\nfeed",
    "carriage\r\nreturn\r",
    "\u2028\u2029\u0085\x0b\x0c",
    "data: x\n\nevent: done\n\n: y",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "e\u0301",
    "\ufeff",
    "\x00nul\x00",
    "half \ud83d of a pair",
    '"\\/\b\t<script>',
    "\u202ethe other way",
    "中文",
)
AS_STORED = "".join(ODD).replace("\0", "\ufffd").replace("\ud83d", "\ufffd")


class Gate:
    """A place in a model's script where it waits for the test."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.opened.wait()


async def raw_stream(user: Account, url: str, conversation: str, **body: Any) -> tuple[dict[str, str], bytes]:
    """Send and read the stream as bytes; gives headers and body."""
    sent = json.dumps({"conversation_id": conversation, "content": "hi"} | body).encode()
    headers = [*user.headers.items(), ("Content-Type", "application/json"), ("X-Request-ID", "mine")]
    async with wire(url) as connection:
        answer = await connection.ask("POST", "/api/messages/stream", headers=headers, body=sent)
        assert answer.status == 200
        assert (await connection.ask("GET", "/health/live")).status == 200
    return dict(answer.headers), answer.body


async def test_the_bytes_are_those_of_the_contract(served: Live, user: Account, model: ScriptedChatModel) -> None:
    conversation = await user.new_conversation(thinking_enabled=True)
    model.then(
        (ModelThinking("hm\n"), *calling(("calculate", {"expression": "1+1"}), ("nothing", {}), text="a\nb")),
        (*(ModelText(delta) for delta in ODD), ModelEnd("stop")),
    )
    headers, body = await raw_stream(user, served.url, conversation)
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-request-id"] == "mine"
    assert "content-length" not in headers
    assert len(body.decode("utf-8").splitlines()) == body.count(b"\n"), "a line break that only some clients see"
    matches = list(EVENT.finditer(body))
    assert b"".join(match[0] for match in matches) == body
    assert [int(match[1]) for match in matches] == list(range(1, len(matches) + 1))
    names = [match[2].decode() for match in matches]
    data = [json.loads(match[3]) for match in matches]
    assert (names[0], names[-1]) == ("start", "done")
    assert set(names[1:-1]) == {"thinking", "text", "tool_call", "tool_result"}
    keys = {
        "start": {"user_message", "message_id"},
        "thinking": {"delta"},
        "text": {"delta"},
        "tool_call": {"id", "name", "arguments"},
        "tool_result": {"id", "name", "success", "result", "error", "duration_ms"},
        "done": {"message"},
    }
    assert all(set(one) == keys[name] for name, one in zip(names, data, strict=True))
    text = "".join(one["delta"] for name, one in zip(names, data, strict=True) if name == "text")
    assert text == "a\nb" + AS_STORED
    results = {one["name"]: one for name, one in zip(names, data, strict=True) if name == "tool_result"}
    assert results["calculate"]["success"] is True
    assert results["calculate"]["error"] is None
    assert results["nothing"]["success"] is False
    assert results["nothing"]["error"]["code"] == "tool_not_found"
    stored = await user.messages(conversation)
    assert data[0] == {"user_message": stored[0], "message_id": stored[1]["id"]}
    assert data[-1] == {"message": stored[1]}


async def test_odd_characters_stream_and_are_stored_alike_everywhere(stored: Live, model: ScriptedChatModel) -> None:
    user = await stored.account()
    conversation = await user.new_conversation()
    model.then((*(ModelText(delta) for delta in ODD), ModelEnd("stop")))
    streamed = await user.stream(conversation, "\u2028\U0001f600\\")
    assert streamed.text == AS_STORED
    question, answer = await user.messages(conversation)
    assert (question["content"], answer["content"]) == ("\u2028\U0001f600\\", AS_STORED)
    again = await user.resume(streamed.message_id)
    assert again.text == AS_STORED


async def test_thinking_is_told_only_where_it_is_on(user: Account, model: ScriptedChatModel) -> None:
    model.then((ModelThinking("secretly"), *spoken("x")), (ModelThinking("openly"), *spoken("x")))
    off = await user.stream(await user.new_conversation(), "hi")
    on = await user.stream(await user.new_conversation(thinking_enabled=True), "hi")
    assert off.names == ["start", "text", "done"]
    assert [part["type"] for part in off.end.data["message"]["parts"]] == ["text"]
    assert on.names == ["start", "thinking", "text", "done"]
    assert on.end.data["message"]["parts"][0] == {"type": "thinking", "text": "openly"}


async def test_going_on_from_any_event_gives_the_rest_and_nothing_else(stored: Live, model: ScriptedChatModel) -> None:
    user = await stored.account()
    gates = [Gate() for _ in range(4)]
    model.then(
        (*(cue for number, gate in enumerate(gates) for cue in (ModelText(f"{number} "), gate)), ModelEnd("stop"))
    )
    conversation = await user.new_conversation()
    sending = asyncio.create_task(user.stream(conversation, "count"))
    for gate in gates:
        await gate.reached.wait()
        gate.opened.set()
    whole = await sending
    message_id = whole.message_id
    for after in range(len(whole.events)):
        for headers, params in (
            ({"Last-Event-ID": str(after)}, {}),
            ({}, {"after": str(after)}),
            ({"Last-Event-ID": ""}, {"after": str(after)}),
            ({"Last-Event-ID": str(after)}, {"after": "1"}),
        ):
            path = f"/api/messages/{message_id}/stream"
            async with user.http.stream("GET", path, headers=user.headers | headers, params=params) as response:
                assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
                events = [event async for event in events_of(response)]
            assert events == whole.events[after:]
    for after in (len(whole.events), 10**9, 2**53 - 1):
        for headers, params in (({}, {"after": str(after)}), ({"Last-Event-ID": str(after)}, {})):
            path = f"/api/messages/{message_id}/stream"
            answer = await user.http.get(path, headers=user.headers | headers, params=params)
            assert answer.status_code == 200
            # Every stream has its end: who has seen it is given it again.
            assert f"id: {after}\nevent: done\n" in answer.text
            assert answer.text.count("event: ") == 1


BAD_PLACES: list[tuple[str, list[tuple[str, str]], str]] = [
    ("after=-1", [], "after"),
    ("after=x", [], "after"),
    (f"after={2**53}", [], "after"),
    ("after=1&after=1", [], "after"),
    ("", [("Last-Event-ID", "x")], "Last-Event-ID"),
    ("", [("Last-Event-ID", "-1")], "Last-Event-ID"),
    ("", [("Last-Event-ID", "9" * 50)], "Last-Event-ID"),
    ("", [("Last-Event-ID", str(2**53))], "Last-Event-ID"),
    ("", [("Last-Event-ID", "1"), ("Last-Event-ID", "2")], "Last-Event-ID"),
]
"""Queries and headers, and the one that is wrong."""


async def test_a_place_that_can_be_none_is_refused(user: Account) -> None:
    for query, headers, field in BAD_PLACES:
        answer = await user.http.get(f"/api/messages/msg_x/stream?{query}", headers=[*user.headers.items(), *headers])
        assert answer.status_code == 422, (query, headers)
        assert [detail["field"] for detail in answer.json()["error"]["details"]] == [field]


async def test_a_reader_who_comes_late_catches_up_and_follows_live(stored: Live, model: ScriptedChatModel) -> None:
    user = await stored.account()
    gate = Gate()
    model.then((ModelText("before "), gate, ModelText("after"), ModelEnd("stop")))
    conversation = await user.new_conversation()
    async with user.streaming(conversation, "hi") as response:
        events = events_of(response)
        seen = [await anext(events), await anext(events)]
        assert [event.name for event in seen] == ["start", "text"]
        late = asyncio.create_task(user.resume(seen[0].data["message_id"]))
        later = asyncio.create_task(user.resume(seen[0].data["message_id"], after=2))
        listed = (await user.messages(conversation))[-1]
        assert (listed["status"], listed["content"]) == ("streaming", "before ")
        gate.opened.set()
        seen += [event async for event in events]
    assert (await late).events == seen
    assert (await later).events == seen[2:]


async def test_an_event_is_sent_when_nothing_else_is_waiting(stored: Live, model: ScriptedChatModel) -> None:
    user = await stored.account()
    gates = [Gate() for _ in range(3)]
    model.then((*(cue for gate in gates for cue in (ModelText("x"), gate)), ModelEnd("stop")))
    async with user.streaming(await user.new_conversation(), "hi") as response:
        events = events_of(response)
        assert (await anext(events)).name == "start"
        for gate in gates:
            # The model waits until this event has been read.
            assert await anext(events) == Event(gates.index(gate) + 2, "text", {"delta": "x"})
            gate.opened.set()
        assert [event.name async for event in events] == ["done"]


async def test_a_client_that_goes_away_does_not_stop_the_answer(stored: Live, model: ScriptedChatModel) -> None:
    user = await stored.account()
    gate = Gate()
    model.then((ModelText("one "), gate, ModelText("two"), ModelEnd("stop")))
    conversation = await user.new_conversation()
    async with user.streaming(conversation, "hi") as response:
        events = events_of(response)
        message_id = (await anext(events)).data["message_id"]
        await anext(events)
    await gate.reached.wait()
    gate.opened.set()
    rest = await user.resume(message_id, after=2)
    assert rest.end.data["message"]["content"] == "one two"
    assert (await user.messages(conversation))[-1]["status"] == "complete"


async def test_a_client_that_leaves_a_plain_send_does_not_stop_the_answer(
    user: Account, model: ScriptedChatModel
) -> None:
    gate = Gate()
    model.then((gate, *spoken("done anyway")))
    conversation = await user.new_conversation()
    sending = asyncio.create_task(user.send(conversation, "hi"))
    await gate.reached.wait()
    sending.cancel()
    await asyncio.wait({sending})
    gate.opened.set()
    [_, answer] = await user.messages(conversation)
    assert (await user.resume(answer["id"])).text == "done anyway"


async def test_a_cancel_keeps_what_had_arrived_and_ends_every_reader(stored: Live, model: ScriptedChatModel) -> None:
    user = await stored.account()
    model.then((ModelText("so far"), asyncio.Event(), ModelText("never")))
    conversation = await user.new_conversation()
    async with user.streaming(conversation, "hi") as response:
        events = events_of(response)
        message_id = (await anext(events)).data["message_id"]
        await anext(events)
        second = asyncio.create_task(user.resume(message_id))
        cancelled = await user.post(f"/api/messages/{message_id}/cancel")
        assert cancelled.status_code == 200
        assert set(cancelled.json()) == {"success", "data"}
        message = cancelled.json()["data"]
        [end] = [event async for event in events]
    assert (message["status"], message["content"], message["error"]) == ("cancelled", "so far", None)
    assert (end.name, end.data) == ("done", {"message": message})
    assert (await second).end.data == {"message": message}
    assert (await user.messages(conversation))[-1] == message
    await until(lambda: not model.open_streams)
    again = await user.post(f"/api/messages/{message_id}/cancel")
    assert (again.status_code, again.json()["data"]) == (200, message)
    question = (await user.messages(conversation))[0]
    no_answer = await user.post(f"/api/messages/{question['id']}/cancel")
    assert (no_answer.status_code, no_answer.json()["error"]["code"]) == (404, "message_not_found")
    no_turn = await user.get(f"/api/messages/{question['id']}/stream")
    assert (no_turn.status_code, no_turn.json()["error"]["code"]) == (404, "message_not_found")


@pytest.mark.parametrize("what", ["conversation", "answer", "question"])
async def test_deleting_in_the_middle_ends_the_stream_and_stops_the_model(
    stored: Live, model: ScriptedChatModel, what: str
) -> None:
    user = await stored.account()
    model.then((ModelText("so far"), asyncio.Event()))
    conversation = await user.new_conversation()
    async with user.streaming(conversation, "hi") as response:
        events = events_of(response)
        start = await anext(events)
        await anext(events)
        path = {
            "conversation": f"/api/conversations/{conversation}",
            "answer": f"/api/messages/{start.data['message_id']}",
            "question": f"/api/messages/{start.data['user_message']['id']}",
        }[what]
        assert (await user.call("DELETE", path)).status_code == 200
        rest = [event async for event in events]
    # Either end is true, as the reader was before or behind the deletion; there is exactly one.
    assert [event.id for event in rest] == [3]
    assert rest[0].name in {"done", "error"}
    if rest[0].name == "error":
        assert rest[0].data["code"] == "message_not_found"
    await until(lambda: not model.open_streams)
    if what != "conversation":
        left = [message["role"] for message in await user.messages(conversation)]
        assert left == (["user"] if what == "answer" else ["assistant"])
        model.then(spoken("free again"))
        assert (await user.send(conversation, "next")).status_code == 201


async def test_a_failure_in_mid_stream_is_told_in_the_readers_language(stored: Live, model: ScriptedChatModel) -> None:
    user = await stored.account()
    model.then((ModelText("half"), ModelTimeout("The model was silent for 60 s.")))
    conversation = await user.new_conversation()
    streamed = await user.stream(conversation, "hi")
    assert streamed.names == ["start", "text", "error"]
    expected = {"code": "model_timeout", "message": "模型响应超时，请稍后再试", "message_id": streamed.message_id}
    assert streamed.end.data == expected
    english = await user.http.get(
        f"/api/messages/{streamed.message_id}/stream", headers=user.headers | {"Accept-Language": "en"}
    )
    last = english.text.strip().split("\n\n")[-1].split("data: ")[1]
    assert json.loads(last) == expected | {"message": "The model was silent for 60 s."}
    [_, stored_answer] = await user.messages(conversation)
    assert stored_answer["error"] == {"code": "model_timeout", "message": expected["message"]}


async def test_a_repeated_key_follows_the_same_turn_from_its_first_event(
    stored: Live, model: ScriptedChatModel
) -> None:
    user = await stored.account()
    gate = Gate()
    model.then((ModelText("one "), gate, ModelText("two"), ModelEnd("stop")))
    conversation = await user.new_conversation()
    first = asyncio.create_task(user.stream(conversation, "hi", key="k"))
    await gate.reached.wait()
    second = asyncio.create_task(user.stream(conversation, "hi", key="k"))
    plain = asyncio.create_task(user.send(conversation, "hi", key="k"))
    gate.opened.set()
    assert (await first).events == (await second).events == (await user.stream(conversation, "hi", key="k")).events
    assert (await plain).json()["data"]["assistant_message"] == (await first).end.data["message"]
    assert len(model.requests) == 1


async def test_a_turn_whose_log_is_gone_is_told_from_what_is_stored(stored: Live, model: ScriptedChatModel) -> None:
    user = await stored.account()
    model.then(calling(("calculate", {"expression": "2"}), text="let me see "), spoken("it is two"))
    conversation = await user.new_conversation()
    whole = await user.stream(conversation, "hi")
    now = stored.container.clock()()
    # Sessions that ended before `keys_made_before` are forgotten, too: this one is needed.
    assert await stored.container.log().forget(ended_before=now.replace(year=2100), keys_made_before=now) == 1
    replay = await user.resume(whole.message_id)
    assert replay.names == ["start", "text", "tool_call", "tool_result", "text", "done"]
    assert replay.events[0] == whole.events[0]
    assert replay.end.data == whole.end.data


@pytest.fixture
async def restless(tmp_path: Path, model: ScriptedChatModel) -> AsyncIterator[Live]:
    """Serve with a heartbeat of a hundredth of a second."""
    settings = replaced(Settings(data_dir=tmp_path, jwt_secret=SECRET), heartbeat_seconds=0.01)
    container = container_of(settings, model)
    container.storage.override(MemoryStorage())
    async with live(container) as running:
        yield running


async def test_silence_is_filled_with_comments_that_change_nothing(restless: Live, model: ScriptedChatModel) -> None:
    user = await restless.account()
    gate = Gate()
    model.then((ModelText("a"), gate, ModelText("b"), ModelEnd("stop")))
    sent = json.dumps({"conversation_id": await user.new_conversation(), "content": "hi"}).encode()
    headers = [*user.headers.items(), ("Content-Type", "application/json")]
    body = b""
    async with wire(restless.url) as connection:
        await connection.send(request_bytes("POST", "/api/messages/stream", headers=headers, body=sent))
        assert (await connection.head())[0] == 200
        async for chunk in connection.chunks():
            body += chunk
            if body.count(b": heartbeat\n\n") == 3:
                gate.opened.set()
    comments = re.findall(rb"(?m)^:.*\n\n", body)
    assert len(comments) >= 3
    without = re.sub(rb"(?m)^:.*\n\n", b"", body)
    events = list(EVENT.finditer(without))
    assert b"".join(match[0] for match in events) == without
    assert [match[2] for match in events] == [b"start", b"text", b"text", b"done"]
