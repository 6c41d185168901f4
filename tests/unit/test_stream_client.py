"""The client that believes nothing: each breach of the contract is noticed, and named."""

import json
from typing import Any

import httpx
import pytest

from luxx.testing.stream_client import ContractBroken, Following

USER = {"id": "msg_1", "content": "?"}
CALL = {"id": "call_1", "name": "calculate", "arguments": {"expression": "6*7"}}
RESULT = {"id": "call_1", "name": "calculate", "success": True, "result": {"text": "42"}, "error": None}
PARTS = [
    {"type": "thinking", "text": "hm"},
    {"type": "tool_call", **CALL, "result": {"text": "42"}, "success": True, "error": None, "duration_ms": 3},
    {"type": "text", "text": "It is 42."},
]
MESSAGE = {"id": "msg_2", "content": "It is 42.", "parts": PARTS}
WHOLE: list[tuple[str, Any]] = [
    ("start", {"user_message": USER, "message_id": "msg_2"}),
    ("thinking", {"delta": "hm"}),
    ("tool_call", CALL),
    ("tool_result", RESULT | {"duration_ms": 3}),
    ("text", {"delta": "It "}),
    ("text", {"delta": "is 42."}),
    ("done", {"message": MESSAGE}),
]


def sse(events: list[tuple[str, Any]]) -> str:
    return "".join(
        f"id: {number}\nevent: {name}\ndata: {json.dumps(data)}\n\n" for number, (name, data) in enumerate(events, 1)
    )


def without(name: str) -> str:
    return sse([event for event in WHOLE if event[0] != name])


def with_done(**changed: Any) -> str:
    return sse([*WHOLE[:-1], ("done", {"message": MESSAGE | changed})])


async def read(text: str, *, kind: str = "text/event-stream; charset=utf-8", at_most: int | None = None) -> bool:
    response = httpx.Response(200, headers={"content-type": kind}, content=text.encode())
    return await Following().read(response, at_most=at_most)


async def test_a_whole_stream_is_read_to_its_end() -> None:
    assert await read(sse(WHOLE))
    assert await read(": heartbeat\n\n" + sse(WHOLE))


async def test_a_reader_that_stops_early_finds_no_fault() -> None:
    assert not await read(sse(WHOLE), at_most=3)


async def test_an_error_without_a_number_is_no_end() -> None:
    assert not await read(sse(WHOLE[:3]) + 'event: error\ndata: {"code": "overloaded"}\n\n')


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (without("tool_result"), "events joined"),
        (without("tool_call"), "events joined"),
        (without("thinking"), "events joined"),
        (with_done(parts=[]), "events joined"),
        (with_done(content="It was 42."), "text joined"),
        (with_done(id="msg_3"), "done is about msg_3"),
        (sse(WHOLE[:-1]), "closed without an end; its last event was 6"),
        ("", "closed without an end; its last event was 0"),
        (sse(WHOLE) + 'event: error\ndata: {"code": "overloaded"}\n\n', "came after the end"),
        (sse(WHOLE[:1]) + 'id: 2\nevent: text\ndata: {"delta":\ndata: "a"}\n\n', "more than one line"),
        (sse(WHOLE[:1]) + "id: 2\nevent: text\ndata: {\n\n", "no JSON"),
        (sse(WHOLE[:1]) + 'id: 2\nevent: text\ndata: {"text": "a"}\n\n', "text 2 lacks"),
        (sse(WHOLE[:1]) + 'id: 2\nevent: text\ndata: "a"\n\n', "text 2 lacks"),
        (sse(WHOLE[:1]) + 'id: two\nevent: text\ndata: {"delta": "a"}\n\n', "the id 'two'"),
    ],
)
async def test_a_breach_is_told(text: str, told: str) -> None:
    with pytest.raises(ContractBroken, match=told):
        await read(text)


async def test_what_is_no_event_stream_is_told() -> None:
    for kind in ("text/html", "application/json", ""):
        with pytest.raises(ContractBroken, match="not text/event-stream"):
            await read(sse(WHOLE), kind=kind)
