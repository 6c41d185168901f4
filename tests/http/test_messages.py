"""The plain send, the list and the deletion of messages."""

import asyncio
from datetime import datetime
from typing import Any

import pytest
from tests.support.live import Account, Live

from luxx.adapters.models.scripted import ScriptedChatModel, calling, spoken
from luxx.application.ports import ModelEnd, ModelText
from luxx.domain.errors import ModelRateLimited, ModelRejected, ModelTimeout, ModelUnavailable
from luxx.domain.message import Usage

FIELDS = [
    "id",
    "conversation_id",
    "role",
    "content",
    "parts",
    "status",
    "model",
    "usage",
    "error",
    "created_at",
]


async def test_a_plain_send_gives_both_messages_as_they_are_stored(stored: Live, model: ScriptedChatModel) -> None:
    user = await stored.account()
    conversation = await user.new_conversation(model="glm-5-air")
    usage = Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)
    model.then(
        calling(("calculate", {"expression": "6*7"}), text="Let me see. ", usage=usage),
        spoken("It is 42.", usage=usage),
    )
    answer = await user.send(conversation, "six times seven?")
    assert answer.status_code == 201
    assert set(answer.json()) == {"success", "data"}
    data = answer.json()["data"]
    assert set(data) == {"user_message", "assistant_message"}
    question, reply = data["user_message"], data["assistant_message"]
    assert list(question) == list(reply) == FIELDS
    assert question | {"id": "", "created_at": ""} == {
        "id": "",
        "conversation_id": conversation,
        "role": "user",
        "content": "six times seven?",
        "parts": [{"type": "text", "text": "six times seven?"}],
        "status": "complete",
        "model": None,
        "usage": None,
        "error": None,
        "created_at": "",
    }
    assert (reply["role"], reply["status"], reply["model"], reply["error"]) == (
        "assistant",
        "complete",
        "glm-5-air",
        None,
    )
    assert reply["content"] == "Let me see. It is 42."
    assert reply["usage"] == {"prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 10}
    before, called, after = reply["parts"]
    call = dict(called)
    assert (before, after) == ({"type": "text", "text": "Let me see. "}, {"type": "text", "text": "It is 42."})
    assert isinstance(call.pop("duration_ms"), int)
    assert call.pop("result")["value"] == 42
    assert call == {
        "type": "tool_call",
        "id": "call_1",
        "name": "calculate",
        "arguments": {"expression": "6*7"},
        "success": True,
        "error": None,
    }
    assert question["id"] < reply["id"]
    assert datetime.fromisoformat(question["created_at"]).tzinfo is not None
    assert await user.messages(conversation) == [question, reply]


async def test_without_tools_the_model_is_offered_none(served: Live, model: ScriptedChatModel) -> None:
    user = await served.account()
    conversation = await user.new_conversation()
    model.then(spoken("a"), spoken("b"))
    await user.send(conversation, "one", tools_enabled=False)
    await user.send(conversation, "two")
    assert not model.requests[0].tools
    assert model.requests[1].tools


@pytest.mark.parametrize(
    ("error", "expected", "retry_after"),
    [
        (ModelUnavailable("upstream said: secret"), (502, "model_unavailable"), None),
        (ModelTimeout("upstream said: secret"), (504, "model_timeout"), None),
        (ModelRateLimited("upstream said: secret", retry_after=119.5), (429, "model_rate_limited"), "120"),
        (ModelRateLimited("upstream said: secret", retry_after=0), (429, "model_rate_limited"), "1"),
        (ModelRateLimited("upstream said: secret", retry_after=1e9), (429, "model_rate_limited"), "3600"),
        (ModelRateLimited("upstream said: secret"), (429, "model_rate_limited"), "10"),
        (ModelRejected("upstream said: secret"), (502, "model_rejected"), None),
        (RuntimeError("upstream said: secret"), (500, "internal_error"), None),
        (None, (502, "model_unavailable"), None),
    ],
)
async def test_a_failing_model_leaves_the_question_and_what_arrived_of_the_answer(
    stored: Live,
    model: ScriptedChatModel,
    *,
    error: Exception | None,
    expected: tuple[int, str],
    retry_after: str | None,
) -> None:
    user = await stored.account()
    conversation = await user.new_conversation()
    model.then((ModelText("Half an "), *(() if error is None else (error,))))
    answer = await user.send(conversation, "tell me")
    code = answer.json()["error"]["code"]
    assert (answer.status_code, code) == expected
    assert answer.headers.get("retry-after") == retry_after
    assert "secret" not in answer.text
    question, reply = await user.messages(conversation)
    assert (question["content"], question["status"]) == ("tell me", "complete")
    assert (reply["content"], reply["status"]) == ("Half an ", "failed")
    assert reply["error"]["code"] == code
    assert "secret" not in str(reply)
    # The conversation is free again.
    model.then(spoken("whole"))
    assert (await user.send(conversation, "again")).status_code == 201


async def test_one_answer_at_a_time_in_a_conversation_and_others_are_free(
    stored: Live, model: ScriptedChatModel
) -> None:
    user = await stored.account()
    busy, free = await user.new_conversation(), await user.new_conversation()
    started, gate = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        started.set()
        await gate.wait()

    model.then((wait, *spoken("slow")), spoken("quick"))
    first = asyncio.create_task(user.send(busy, "one"))
    await started.wait()
    for path in ("/api/messages/", "/api/messages/stream"):
        refused = await user.post(path, json={"conversation_id": busy, "content": "two"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "generation_in_progress")
    assert (await user.send(free, "three")).status_code == 201
    streaming = (await user.messages(busy))[-1]
    assert streaming["status"] == "streaming"
    gate.set()
    assert (await first).status_code == 201
    assert [message["content"] for message in await user.messages(busy)] == ["one", "slow"]


async def test_a_repeated_key_gives_the_first_outcome_and_calls_no_model(
    stored: Live, model: ScriptedChatModel
) -> None:
    user, other = await stored.account(), await stored.account()
    conversation, second = await user.new_conversation(), await user.new_conversation()
    model.then(spoken("only once"))
    first = await user.send(conversation, "hi", key="k" * 255)
    again = await user.send(conversation, "hi", key="k" * 255)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    streamed = await user.stream(conversation, "hi", key="k" * 255)
    assert streamed.end.data["message"] == first.json()["data"]["assistant_message"]
    assert len(model.requests) == 1
    for target, content, more in (
        (conversation, "other", {}),
        (second, "hi", {}),
        (conversation, "hi", {"tools_enabled": False}),
    ):
        refused = await user.send(target, content, key="k" * 255, **more)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "idempotency_conflict")
    # Another account's key is another key.
    model.then(spoken("theirs"))
    theirs = await other.send(await other.new_conversation(), "hi", key="k" * 255)
    assert theirs.status_code == 201


async def test_a_key_repeated_at_once_starts_one_turn(stored: Live, model: ScriptedChatModel) -> None:
    user = await stored.account()
    conversation = await user.new_conversation()
    model.then(spoken("only once"))
    answers = await asyncio.gather(*(user.send(conversation, "hi", key="same") for _ in range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert len(model.requests) == 1


async def test_a_key_whose_answer_was_deleted_says_so_and_calls_no_model(
    stored: Live, model: ScriptedChatModel
) -> None:
    user = await stored.account()
    conversation = await user.new_conversation()
    model.then(spoken("only once"))
    answer = (await user.send(conversation, "hi", key="k")).json()["data"]["assistant_message"]["id"]
    body = {"conversation_id": conversation, "content": "hi"}
    await user.call("DELETE", f"/api/messages/{answer}")
    for path in ("/api/messages/", "/api/messages/stream"):
        for speech, words in (("en", "answer to this message was deleted"), ("zh", "这条消息的回复已被删除")):
            headers = {"Idempotency-Key": "k", "Accept-Language": speech}
            again = await user.post(path, json=body, headers=headers)
            assert (again.status_code, again.json()["error"]["code"]) == (404, "message_not_found")
            assert words in again.json()["message"]
            assert answer not in again.text
    await user.call("DELETE", f"/api/conversations/{conversation}")
    for path in ("/api/messages/", "/api/messages/stream"):
        gone = await user.post(path, json=body, headers={"Idempotency-Key": "k"})
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "conversation_not_found")
    assert len(model.requests) == 1


async def test_the_failure_of_a_keyed_send_is_an_outcome_too(served: Live, model: ScriptedChatModel) -> None:
    user = await served.account()
    conversation = await user.new_conversation()
    model.then((ModelTimeout("slow"),))
    for _ in range(2):
        answer = await user.send(conversation, "hi", key="k")
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "model_timeout")
    assert len(model.requests) == 1


async def test_the_list_gives_the_newest_oldest_first_and_pages_back(stored: Live, model: ScriptedChatModel) -> None:
    user = await stored.account()
    conversation = await user.new_conversation()
    for number in range(4):
        model.then(spoken(f"answer {number}"))
        await user.send(conversation, f"question {number}")

    async def page(**params: Any) -> dict[str, Any]:
        answer = await user.get(f"/api/messages/{conversation}", params=params)
        assert answer.status_code == 200
        assert set(answer.json()) == {"success", "data"}
        return dict(answer.json()["data"])

    whole = await page()
    assert {**whole, "items": []} == {"items": [], "total": 8, "has_more": False}
    contents = [message["content"] for message in whole["items"]]
    assert contents == [f"{kind} {number}" for number in range(4) for kind in ("question", "answer")]
    newest = await page(limit=3)
    assert (newest["items"], newest["total"], newest["has_more"]) == (whole["items"][5:], 8, True)
    older = await page(limit=3, before=newest["items"][0]["id"])
    assert (older["items"], older["has_more"]) == (whole["items"][2:5], True)
    oldest = await page(limit=3, before=older["items"][0]["id"])
    assert (oldest["items"], oldest["has_more"]) == (whole["items"][:2], False)
    for query in ("limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "before=%00", "limit="):
        refused = await user.get(f"/api/messages/{conversation}?{query}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "validation_failed"), query
    elsewhere = await user.new_conversation()
    refused = await user.get(f"/api/messages/{elsewhere}", params={"before": whole["items"][0]["id"]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "message_not_found")


async def test_deleting_a_message_leaves_the_others(stored: Live, model: ScriptedChatModel) -> None:
    user = await stored.account()
    conversation = await user.new_conversation()
    model.then(spoken("one"), spoken("two"))
    for content in ("first", "second"):
        await user.send(conversation, content)
    messages = await user.messages(conversation)
    for gone in (messages[1], messages[0]):
        deleted = await user.call("DELETE", f"/api/messages/{gone['id']}")
        assert (deleted.status_code, deleted.json()) == (200, {"success": True, "message": "消息删除成功"})
        again = await user.call("DELETE", f"/api/messages/{gone['id']}")
        assert (again.status_code, again.json()["error"]["code"]) == (404, "message_not_found")
    assert await user.messages(conversation) == messages[2:]


@pytest.mark.parametrize("path", ["/api/messages/", "/api/messages/stream"])
async def test_what_is_wrong_before_the_first_event_is_an_ordinary_error(user: Account, path: str) -> None:
    conversation = await user.new_conversation()
    for body, expected in (
        ({"conversation_id": "conv_nothing", "content": "hi"}, (404, "conversation_not_found")),
        ({"conversation_id": conversation, "content": ""}, (422, "validation_failed")),
        ({"conversation_id": conversation, "content": "x" * 200_001}, (422, "validation_failed")),
        ({"conversation_id": conversation, "content": "a\0b"}, (422, "validation_failed")),
        ({"conversation_id": conversation, "content": "hi", "tools": True}, (422, "validation_failed")),
        ({}, (422, "validation_failed")),
    ):
        answer = await user.post(path, json=body)
        assert answer.headers["content-type"] == "application/json"
        assert (answer.status_code, answer.json()["error"]["code"]) == expected
    for keys in (["x" * 256], [""], ["a", "b"], ["clé"], ["ключ"], ["a\tb"]):
        named = [*user.headers.items(), *(("Idempotency-Key", key) for key in keys)]
        headers = [(name.encode(), value.encode()) for name, value in named]
        sent = {"conversation_id": conversation, "content": "hi"}
        answer = await user.http.post(path, json=sent, headers=headers)
        assert answer.status_code == 422
        assert [detail["field"] for detail in answer.json()["error"]["details"]] == ["Idempotency-Key"]
    assert await user.messages(conversation) == []


async def test_the_longest_message_is_taken_to_the_last_character(stored: Live, model: ScriptedChatModel) -> None:
    user = await stored.account()
    conversation = await user.new_conversation()
    content = "\U0001f600" * 200_000
    model.then((ModelText("ok"), ModelEnd("stop")))
    assert (await user.send(conversation, content)).status_code == 201
    assert (await user.messages(conversation))[0]["content"] == content
