"""Whose it is: every operation of the schema, on what is somebody else's, deleted, or never was."""

import asyncio
from typing import Any

from tests.support.live import Account, Live

from luxx.adapters.models.scripted import ScriptedChatModel, spoken

BODIES = {
    "/api/conversations/{id}": {"title": "mine now"},
    "/api/messages": {"conversation_id": "{id}", "content": "hi"},
    "/api/messages/stream": {"conversation_id": "{id}", "content": "hi"},
}
"""A body for each operation that takes one; in it, `{id}` is the id too."""

OF_CONVERSATIONS = {("get", "/api/messages/{id}"), ("post", "/api/messages"), ("post", "/api/messages/stream")}

NEVER_WERE = [
    "conv_01m82y6wh3q05cwb6ggvhhr3c9",
    "msg_01m82y6wh5vvn37qg8skc1qhq3",
    "1",
    "-1",
    "null",
    "undefined",
    "x" * 128,
    "x" * 129,
    "x" * 3000,
    "%00",
    "a%00b",
    "%ff%fe",
    "%ed%a0%80",
    "%0d%0aX-Evil:%201",
    "%e2%80%ae",
    "..%5c..",
    "%2e%2e",
    "'%20OR%20'1'='1",
    "%25",
    "*",
    "conv_%25",
    "\u4f1a\u8bdd",
]


async def operations(served: Live) -> list[tuple[str, str]]:
    """Give method and path of every operation that names something owned."""
    document = (await served.http.get("/schema/openapi.json")).json()
    found = [(method, path) for path, methods in document["paths"].items() for method in methods]
    owned = [(method, path) for method, path in found if "{id}" in path or path in BODIES]
    assert len(owned) == 9
    return owned


async def belongings(user: Account) -> tuple[str, str]:
    """Give the ids of a conversation and of an answer in it."""
    conversation = await user.new_conversation()
    sent = await user.send(conversation, "mine")
    assert sent.status_code == 201
    return conversation, str(sent.json()["data"]["assistant_message"]["id"])


def _filled(body: dict[str, str], identity: str) -> dict[str, str]:
    return {name: identity if value == "{id}" else value for name, value in body.items()}


async def refusal(user: Account, method: str, path: str, identity: str) -> dict[str, Any]:
    """Ask for what must not be there; gives the body."""
    body = BODIES.get(path) if method in {"post", "put"} else None
    options: dict[str, Any] = {} if body is None else {"json": _filled(body, identity)}
    answer = await user.call(
        method.upper(), path.replace("{id}", identity), headers={"X-Request-ID": "same"}, **options
    )
    assert answer.status_code == 404, (method, path, identity, answer.text)
    return dict(answer.json())


async def test_what_is_not_yours_is_absent_in_every_position(stored: Live, model: ScriptedChatModel) -> None:
    model.then(*(spoken("yes") for _ in range(2)))
    owner, stranger = await stored.account(), await stored.account()
    conversation, message = await belongings(owner)
    gone_conversation, gone_message = await belongings(stranger)
    assert (await stranger.call("DELETE", f"/api/messages/{gone_message}")).status_code == 200
    assert (await stranger.call("DELETE", f"/api/conversations/{gone_conversation}")).status_code == 200
    before = (await owner.get(f"/api/conversations/{conversation}")).json(), await owner.messages(conversation)
    for method, path in await operations(stored):
        of_conversation = path.startswith("/api/conversations") or (method, path) in OF_CONVERSATIONS
        kinds = (
            (conversation, gone_conversation, "conv_nothing", message)
            if of_conversation
            else (message, gone_message, "msg_nothing", conversation)
        )
        answers = [await refusal(stranger, method, path, identity) for identity in kinds]
        assert all(answer == answers[0] for answer in answers), (method, path)
        code = "conversation_not_found" if of_conversation else "message_not_found"
        assert answers[0]["error"] == {"code": code, "request_id": "same"}
    assert len(model.requests) == 2
    after = (await owner.get(f"/api/conversations/{conversation}")).json(), await owner.messages(conversation)
    assert after == before


async def test_somebody_elses_message_is_no_place_in_a_list(stored: Live, model: ScriptedChatModel) -> None:
    model.then(spoken("yes"))
    owner, stranger = await stored.account(), await stored.account()
    _, message = await belongings(owner)
    mine = await stranger.new_conversation()
    answers = [
        await stranger.get(f"/api/messages/{mine}", params={"before": before}, headers={"X-Request-ID": "same"})
        for before in (message, "msg_nothing")
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1


async def test_an_odd_id_is_an_absent_one(stored: Live) -> None:
    user = await stored.account()
    for method, path in await operations(stored):
        if "{id}" not in path:
            continue
        refusals = [await refusal(user, method, path, identity) for identity in NEVER_WERE]
        assert all(one == refusals[0] for one in refusals), (method, path)


async def test_without_a_token_nothing_tells_whether_it_is_there(served: Live, model: ScriptedChatModel) -> None:
    model.then(spoken("yes"))
    conversation, message = await belongings(await served.account())
    document = (await served.http.get("/schema/openapi.json")).json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if "security" not in operation:
                continue
            answers = await asyncio.gather(
                *(
                    served.http.request(
                        method,
                        path.replace("{id}", identity).replace("{name}", identity),
                        headers={"X-Request-ID": "same"},
                    )
                    for identity in (conversation, message, "calculate", "nothing")
                )
            )
            assert {answer.status_code for answer in answers} == {401}, (method, path)
            assert len({answer.content for answer in answers}) == 1
