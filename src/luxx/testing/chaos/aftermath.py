"""What a client looks at when it has done all: whether what it saw is stored, and all else that a service owes it."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from luxx.testing.chaos.callers import MALFORMED, Refused
from luxx.testing.chaos.clients import ChaosClient
from luxx.testing.chaos.record import Sent, Talk
from luxx.testing.chaos.shapes import CONVERSATION, MESSAGE, Shape, fault_of_object, moment
from luxx.testing.upstream import echo


async def look_after(clients: Sequence[ChaosClient]) -> None:
    """Let all clients compare, look around and leave, once everything runs and nothing disturbs."""
    looking = [Aftermath(client) for client in clients]
    await asyncio.gather(*(one.settle() for one in looking))
    await asyncio.gather(*(one.look_around() for one in looking))
    await asyncio.gather(*(one.leave() for one in looking))


class Aftermath:
    """One client's look at what is left of its talks."""

    def __init__(self, client: ChaosClient) -> None:
        self._client: Final = client
        self._talks: Final = client.talks
        self._tally: Final = client.tally

    # --- what was seen, and what is stored ----------------------------------------------------------

    async def settle(self) -> None:
        """Compare what was seen with what is stored."""
        await asyncio.gather(*(self._settle(talk) for talk in self._talks if not talk.deleted))

    async def _settle(self, talk: Talk) -> None:
        try:
            await self._still_free(talk)
            data = await self._client.call("GET", f"/api/messages/{talk.id}?limit=1000")
            self._compare(talk, data["items"])
        except (Refused, TimeoutError, *MALFORMED) as failure:
            self._tally.check("P1", False, "lost", f"{talk.id} cannot be read: {failure!r}")
        else:
            talk.items = data["items"]
            whole = data["total"] == len(talk.items) and data["has_more"] is False
            self._tally.check("API", whole, "wrong", f"{talk.id}: {data['total']} messages, listed {len(talk.items)}")
            self._formed(talk.items, MESSAGE)

    async def _still_free(self, talk: Talk) -> None:
        """A conversation takes a new message whatever has happened in it."""
        try:
            sent = await self._client.send_one_more(talk)
        except TimeoutError:
            self._tally.check("P13", False, "hung", f"{talk.id} takes no new message")
        else:
            self._tally.check("P13", sent.accepted, "hung", f"{talk.id} took no new message")

    def _compare(self, talk: Talk, items: list[dict[str, Any]]) -> None:
        tally = self._tally
        by_id = {item["id"]: item for item in items}
        users = [item["content"] for item in items if item["role"] == "user"]
        turns = {sent.content: sent.turn for sent in talk.sent}
        order = [turns[content] for content in users if content in turns]
        tally.check("P6", order == sorted(order), "wrong", f"{talk.id}: sent in the order {sorted(order)}, are {order}")
        roles = [item["role"] for item in items]
        tally.check("P6", roles == ["user", "assistant"] * (len(items) // 2), "lost", f"{talk.id}: {roles}")
        # Of one turn only: the clocks of two machines differ.
        pairs = [(question["id"], answer["id"]) for question, answer in zip(items[::2], items[1::2], strict=False)]
        tally.check("API", all(one < two for one, two in pairs), "wrong", f"{talk.id}: ids do not sort: {pairs}")
        streaming = [item["id"] for item in items if item["status"] == "streaming"]
        tally.check("P13", not streaming, "hung", f"{talk.id}: {streaming} stay as streaming")
        for sent in talk.sent:
            count = users.count(sent.content)
            tally.check("P1", count > 0 or not sent.accepted, "lost", f"{sent.key} {sent.message_id} is not stored")
            tally.check("P1", count < 2, "doubled", f"{sent.key} is stored {count} times")
            if sent.user_message is not None:
                told, stored = sent.user_message, by_id.get(sent.user_message["id"])
                same = told == stored and told["content"] == sent.content
                tally.check("P1", same, "wrong", f"{sent.key}: told was {told}, stored is {stored}")
            if sent.message_id is not None:
                self._compare_answer(sent, by_id.get(sent.message_id))
        if self._client.play.scripted:
            for question, answer in zip(items[::2], items[1::2], strict=False):
                self._compare_echo(question, answer)

    def _compare_answer(self, sent: Sent, stored: dict[str, Any] | None) -> None:
        tally = self._tally
        if not tally.check("P1", stored is not None, "lost", f"the answer {sent.message_id} is not stored"):
            return
        assert stored is not None
        kept = stored["content"].startswith(sent.seen)
        tally.check(
            "P2", kept, "lost", f"{sent.message_id}: saw …{sent.seen[-40:]!r}, stored …{stored['content'][-40:]!r}"
        )
        if sent.end is None:
            return
        name, data = sent.end
        if name == "done":
            same = data["message"] == stored
            tally.check("P2", same, "lost", f"{sent.message_id}: done said {data['message']}, stored is {stored}")
        else:
            same = stored["error"] is not None and stored["error"]["code"] == data["code"]
            tally.check(
                "P2", same, "lost", f"{sent.message_id}: ended with {data['code']}, stored is {stored['status']}"
            )
            whole = stored["content"] == sent.seen
            tally.check("P2", whole, "gaps", f"{sent.message_id}: saw {len(sent.seen)} of {len(stored['content'])}")

    def _compare_echo(self, question: dict[str, Any], answer: dict[str, Any]) -> None:
        """What the scripted model says is known: nothing may be missing in the middle, nothing twice."""
        expected = echo(question["content"])
        whole = answer["content"] == expected
        kept = whole if answer["status"] == "complete" else expected.startswith(answer["content"])
        note = f"{answer['id']} ({answer['status']}): {answer['content'][-60:]!r} of {expected[-60:]!r}"
        self._tally.check("P2", kept, "gaps", note)

    # --- lists, refusals, changes -------------------------------------------------------------------

    async def look_around(self) -> None:
        """Read lists page by page, ask for what must be refused, change a conversation, and delete an answer."""
        left = [talk for talk in self._talks if talk.items]
        try:
            await self._list_conversations()
            if left:
                talk = max(left, key=lambda one: len(one.items))
                await self._page(talk)
                await self._trespass(talk)
                await self._ask_wrongly(talk)
                await self._change(talk)
                await self._cancel_again(talk)
                await self._delete_answer(talk)
        except (Refused, TimeoutError, *MALFORMED) as failure:
            self._client.right(False, f"client {self._client.number}, looking around: {failure!r}")

    async def leave(self) -> None:
        """Delete all conversations, as this may be somebody's deployment, and log out."""
        try:
            for talk in self._talks:
                if not talk.deleted:
                    await self._client.do_once("DELETE", f"/api/conversations/{talk.id}")
            await self._client.do_once("POST", "/api/auth/logout")
            await self._client.must_refuse("API", "logged out", "GET", "/api/auth/me", (401, "token_revoked"))
        except (Refused, TimeoutError) as failure:
            self._client.right(False, f"client {self._client.number}, leaving: {failure!r}")

    async def _list_conversations(self) -> None:
        size = len(self._talks) // 3 + 1
        by_page: list[dict[str, Any]] = []
        by_cursor: list[dict[str, Any]] = []
        query = f"page_size={size}"
        while True:
            data = await self._client.call("GET", f"/api/conversations/?{query}")
            by_cursor += data["items"]
            if data["next_cursor"] is None or len(by_cursor) > data["total"]:
                break
            query = f"page_size={size}&cursor={data['next_cursor']}"
        for page in range(1, data["total"] // size + 2):
            data = await self._client.call("GET", f"/api/conversations/?page={page}&page_size={size}")
            fits = (data["page"], data["page_size"]) == (page, size) and len(data["items"]) <= size
            self._client.right(fits, f"page {page} of {size} conversations says {data['page']} of {data['page_size']}")
            by_page += data["items"]
        ids = [item["id"] for item in by_page]
        self._client.right(
            by_cursor == by_page, f"conversations by cursor are {[one['id'] for one in by_cursor]}, not {ids}"
        )
        self._client.right(
            len(set(ids)) == len(ids) == data["total"], f"of {data['total']} conversations, {ids} are listed"
        )
        times = [item["updated_at"] for item in by_page]
        self._client.right(times == sorted(times, reverse=True), f"conversations are not the latest first: {times}")
        self._formed(by_page, CONVERSATION)
        active = {item["id"]: moment(item["updated_at"]) for item in by_page}
        for talk in self._talks:
            if talk.items and talk.id in active:
                asked = max(moment(item["created_at"]) for item in talk.items if item["role"] == "user")
                self._client.right(
                    active[talk.id] >= asked, f"{talk.id}: active at {active[talk.id]}, sent to at {asked}"
                )
        wrong = [talk.id for talk in self._talks if talk.deleted == (talk.id in ids)]
        self._client.right(not wrong, f"{wrong} are listed though deleted, or not listed though there")

    async def _page(self, talk: Talk) -> None:
        """Read messages back in pages that do not divide them."""
        found: list[dict[str, Any]] = []
        query = "limit=3"
        while len(found) <= len(talk.items):
            data = await self._client.call("GET", f"/api/messages/{talk.id}?{query}")
            found = data["items"] + found
            more = len(found) < len(talk.items)
            told = (data["total"], data["has_more"], len(data["items"]) <= 3)
            self._client.right(
                told == (len(talk.items), more, True), f"{talk.id}?{query}: {told}, of {len(talk.items)}"
            )
            if not data["has_more"] or not data["items"]:
                break
            query = f"limit=3&before={data['items'][0]['id']}"
        self._client.right(found == talk.items, f"{talk.id}: its pages are not its list")

    async def _trespass(self, talk: Talk) -> None:
        """Try what only the owner may, as somebody else and as nobody."""
        answer = f"/api/messages/{talk.items[-1]['id']}"
        others = [token for number, token in self._client.play.tokens.items() if number != self._client.number]
        for method, path, code in (
            ("GET", f"{answer}/stream", "message_not_found"),
            ("POST", f"{answer}/cancel", "message_not_found"),
            ("GET", f"/api/messages/{talk.id}", "conversation_not_found"),
            ("GET", f"/api/conversations/{talk.id}", "conversation_not_found"),
            ("DELETE", answer, "message_not_found"),
            ("DELETE", f"/api/conversations/{talk.id}", "conversation_not_found"),
        ):
            for token in others[:1]:
                await self._client.must_refuse("P5", "another user", method, path, (404, code), token=token)
            await self._client.must_refuse("P5", "nobody", method, path, (401, "unauthenticated"), token="")

    async def _ask_wrongly(self, talk: Talk) -> None:
        """Ask as no client may, or for what there is not."""
        conversation, message = f"/api/conversations/{talk.id}", {"conversation_id": talk.id, "content": "?"}
        invalid, unreadable = (422, "validation_failed"), (400, "invalid_json")
        asked: tuple[tuple[str, str, tuple[int, str], dict[str, Any]], ...] = (
            ("PUT", conversation, invalid, {"json": {"temprature": 0.5}}),
            ("PUT", conversation, unreadable, {"text": '{"temperature": NaN}'}),
            ("POST", "/api/messages/", invalid, {"json": message | {"tools_enabled": 1}}),
            ("GET", "/api/conversations/?page=0", invalid, {}),
            ("GET", f"/api/messages/{talk.id}?limitt=1", invalid, {}),
            ("POST", conversation, (405, "method_not_allowed"), {"json": {}}),
            ("GET", "/api/nothing", (404, "not_found"), {}),
        )
        for method, path, expected, options in asked:
            await self._client.must_refuse("API", "asked wrongly", method, path, expected, **options)

    async def _change(self, talk: Talk) -> None:
        """Change fields and clear them again: the others stay as they are, and lists know."""
        path = f"/api/conversations/{talk.id}"
        before = await self._client.call("GET", path)
        await self._client.call("PUT", path, json={"project_id": self._client.name, "system_prompt": "Be brief."})
        found = await self._client.call("GET", f"/api/conversations/?project_id={self._client.name}")
        listed = [item["id"] for item in found["items"]]
        self._client.right(
            (found["total"], listed) == (1, [talk.id]), f"of its project {talk.id} is, listed are {listed}"
        )
        after = await self._client.call("PUT", path, json={"project_id": None, "system_prompt": None})
        kept = after | {"updated_at": ""} == before | {"updated_at": ""}
        self._client.right(kept, f"{talk.id} was {before}; changed and cleared again it is {after}")

    async def _cancel_again(self, talk: Talk) -> None:
        """Cancel what has ended, which changes nothing, and read it from behind its end."""
        answer = talk.items[-1]
        stopped = await self._client.call("POST", f"/api/messages/{answer['id']}/cancel")
        self._client.right(stopped == answer, f"the ended {answer} was cancelled to {stopped}")
        for sent in talk.sent:
            if sent.message_id == answer["id"]:
                await self._client.replay(sent, after=len(sent.events) + 1)

    async def _delete_answer(self, talk: Talk) -> None:
        answer = talk.items[-1]["id"]
        await self._client.do_once("DELETE", f"/api/messages/{answer}")
        await self._client.must_refuse(
            "API", "deleted", "GET", f"/api/messages/{answer}/stream", (404, "message_not_found")
        )
        left = (await self._client.call("GET", f"/api/messages/{talk.id}?limit=1000"))["items"]
        self._client.right(left == talk.items[:-1], f"{talk.id}: after {answer} was deleted, {len(left)} are left")

    def _formed(self, items: Sequence[Any], shape: Shape) -> None:
        for item in items:
            fault = fault_of_object(item, shape)
            self._client.right(fault is None, f"of {str(item)[:80]}…: {fault}")
