"""Conversations over HTTP."""

from datetime import datetime, timedelta
from typing import Any

from tests.support.live import Account, Live

from luxx.adapters.models.scripted import ScriptedChatModel, spoken

FIELDS = [
    "id",
    "user_id",
    "project_id",
    "title",
    "model",
    "system_prompt",
    "temperature",
    "max_tokens",
    "thinking_enabled",
    "created_at",
    "updated_at",
]


async def listed(user: Account, **params: Any) -> dict[str, Any]:
    answer = await user.get("/api/conversations/", params=params)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"success", "data"}
    return dict(answer.json()["data"])


async def test_every_bad_field_is_told_at_once_a_tool_that_there_is_not_too(user: Account) -> None:
    bad = {"max_tokens": 0, "title": "", "tools": ["nope"], "zz": 1}
    made = (await user.post("/api/conversations/", json={})).json()["data"]
    answers = [
        await user.post("/api/conversations/", json=bad),
        await user.call("PUT", f"/api/conversations/{made['id']}", json=bad),
    ]
    for answer in answers:
        assert answer.status_code == 422
        details = answer.json()["error"]["details"]
        assert sorted(detail["field"] for detail in details) == sorted(bad)
    for tools in ("nope", ["nope", 5], 5):
        answer = await user.post("/api/conversations/", json={"tools": tools})
        assert len(answer.json()["error"]["details"]) == 1, tools


async def test_a_parameter_that_a_list_does_not_know_is_told_with_all_that_is_wrong(user: Account) -> None:
    conversation = await user.new_conversation()
    for path, query, fields in (
        ("/api/conversations", "pagesize=3", ["pagesize"]),
        (
            "/api/conversations",
            "page=0&page=1&page_size=x&pagesize=3&Cursor=",
            ["page", "page", "page_size", "pagesize", "Cursor"],
        ),
        (f"/api/messages/{conversation}", "limits=1", ["limits"]),
        ("/api/tools", "categories=data", ["categories"]),
    ):
        answer = await user.get(f"{path}?{query}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "validation_failed"), query
        assert sorted(detail["field"] for detail in answer.json()["error"]["details"]) == sorted(fields)
    for path in ("/api/conversations?_=1764000000", f"/api/conversations/{conversation}?anything=1"):
        assert (await user.get(path)).status_code == 200


async def test_what_an_event_source_adds_to_a_stream_is_passed_over(user: Account, model: ScriptedChatModel) -> None:
    model.then(spoken("Hi"))
    sent = (await user.send(await user.new_conversation(), "Hello?")).json()["data"]
    answer = await user.get(f"/api/messages/{sent['assistant_message']['id']}/stream?lastEventId=1&after=1")
    assert answer.text.startswith("id: 2\n")


async def test_a_conversation_is_made_with_the_defaults_of_the_contract(stored: Live) -> None:
    user = await stored.account()
    answer = await user.post("/api/conversations/", json={})
    assert answer.status_code == 201
    body = answer.json()
    assert (body["success"], body["message"]) == (True, "会话创建成功")
    data = body["data"]
    assert set(data) >= set(FIELDS)
    assert data["id"].startswith("conv_")
    assert {name: data[name] for name in FIELDS} | {"id": "", "created_at": "", "updated_at": ""} == {
        "id": "",
        "user_id": user.user_id,
        "project_id": None,
        "title": "新会话",
        "model": "glm-5",
        "system_prompt": None,
        "temperature": 1.0,
        "max_tokens": 65536,
        "thinking_enabled": False,
        "created_at": "",
        "updated_at": "",
    }
    assert datetime.fromisoformat(data["created_at"]).utcoffset() == timedelta(0)
    read = await user.get(f"/api/conversations/{data['id']}")
    assert (read.status_code, read.json()) == (200, {"success": True, "data": data})


async def test_every_field_is_kept_as_given(stored: Live) -> None:
    user = await stored.account()
    given = {
        "project_id": "项目 1",
        "title": "é" * 255,
        "model": "glm-5-air",
        "system_prompt": "\u2028 \U0001f600 \\ \" '; DROP TABLE users; --\n" + "x" * 60_000,
        "temperature": 0,
        "max_tokens": 1,
        "thinking_enabled": True,
    }
    created = (await user.post("/api/conversations/", json=given)).json()["data"]
    assert {name: created[name] for name in given} == given
    assert (await listed(user))["items"] == [created]


async def test_a_put_changes_the_fields_given_and_no_others(stored: Live) -> None:
    user = await stored.account()
    first = {"project_id": "p", "title": "t", "system_prompt": "s", "temperature": 0.5, "max_tokens": 7}
    created = (await user.post("/api/conversations/", json=first)).json()["data"]
    path = f"/api/conversations/{created['id']}"
    changed = await user.call("PUT", path, json={"title": "u", "thinking_enabled": True})
    assert (changed.status_code, changed.json()["message"]) == (200, "会话更新成功")
    expected = created | {"title": "u", "thinking_enabled": True}
    assert changed.json()["data"] == expected
    cleared = await user.call("PUT", path, json={"project_id": None, "system_prompt": None})
    expected |= {"project_id": None, "system_prompt": None}
    assert cleared.json()["data"] == expected
    assert (await user.call("PUT", path, json={})).json()["data"] == expected
    for refused in ({"title": None}, {"temperature": None}, {"id": "conv_x"}, {"user_id": 1}, {"title": ""}):
        answer = await user.call("PUT", path, json=refused)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "validation_failed"), refused
    assert (await user.get(path)).json()["data"] == expected


async def test_a_deleted_conversation_is_gone_with_its_messages(stored: Live, model: ScriptedChatModel) -> None:
    user = await stored.account()
    conversation = await user.new_conversation()
    model.then(spoken("hello"))
    sent = (await user.send(conversation, "hi")).json()["data"]
    path = f"/api/conversations/{conversation}"
    deleted = await user.call("DELETE", path)
    assert (deleted.status_code, deleted.json()) == (200, {"success": True, "message": "会话删除成功"})
    for method, gone, code in (
        ("GET", path, "conversation_not_found"),
        ("DELETE", path, "conversation_not_found"),
        ("GET", f"/api/messages/{conversation}", "conversation_not_found"),
        ("GET", f"/api/messages/{sent['assistant_message']['id']}/stream", "message_not_found"),
        ("DELETE", f"/api/messages/{sent['user_message']['id']}", "message_not_found"),
    ):
        answer = await user.call(method, gone)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)
    assert (await listed(user))["total"] == 0


async def test_pages_count_truly_under_the_filter(stored: Live) -> None:
    user, other = await stored.account(), await stored.account()
    ids = [await user.new_conversation(project_id="even" if n % 2 == 0 else "odd") for n in range(7)]
    await other.new_conversation(project_id="even")
    whole = await listed(user)
    assert [item["id"] for item in whole["items"]] == ids[::-1]
    assert {**whole, "items": []} == {"items": [], "total": 7, "page": 1, "page_size": 20, "next_cursor": None}
    second = await listed(user, project_id="even", page=2, page_size=3)
    assert [item["id"] for item in second["items"]] == [ids[0]]
    assert {**second, "items": []} == {"items": [], "total": 4, "page": 2, "page_size": 3, "next_cursor": None}
    beyond = await listed(user, page=2**53 - 1, page_size=100)
    assert (beyond["items"], beyond["total"]) == ([], 7)
    assert (await listed(user, project_id="none"))["total"] == 0


async def test_a_cursor_reads_on_although_the_list_moves(stored: Live, model: ScriptedChatModel) -> None:
    user = await stored.account()
    ids = [await user.new_conversation() for _ in range(6)]
    page = await listed(user, page_size=2)
    seen = [item["id"] for item in page["items"]]
    assert seen == [ids[5], ids[4]]
    # Activity moves one that was seen, and one that was not, to the top.
    model.then(spoken("a"), spoken("b"))
    await user.send(ids[5], "up")
    await user.send(ids[0], "up")
    while page["next_cursor"] is not None:
        page = await listed(user, page_size=2, cursor=page["next_cursor"])
        seen += [item["id"] for item in page["items"]]
        assert page["total"] == 6
    assert seen == ids[::-1]
    top = await listed(user, page_size=2)
    assert [item["id"] for item in top["items"]] == [ids[0], ids[5]]


BAD_QUERIES = [
    ("page=0", ["page"]),
    ("page=-1&page_size=0", ["page", "page_size"]),
    ("page_size=101", ["page_size"]),
    ("page=x", ["page"]),
    ("page=1.0", ["page"]),
    ("page=%201", ["page"]),
    ("page=", ["page"]),
    ("page=1&page=1", ["page"]),
    (f"page={2**53}", ["page"]),
    (f"page={'9' * 5000}", ["page"]),
    ("project_id=", ["project_id"]),
    (f"project_id={'x' * 65}", ["project_id"]),
    ("project_id=%00", ["project_id"]),
    ("cursor=nonsense", ["cursor"]),
    ("cursor=", ["cursor"]),
    (f"cursor={'A' * 513}", ["cursor"]),
    ("cursor=%00", ["cursor"]),
]
"""Queries, and the fields that are wrong in them."""


async def test_a_bad_list_query_is_refused_by_field(user: Account) -> None:
    for query, fields in BAD_QUERIES:
        answer = await user.get(f"/api/conversations/?{query}")
        assert answer.status_code == 422, query
        assert [detail["field"] for detail in answer.json()["error"]["details"]] == fields, query
