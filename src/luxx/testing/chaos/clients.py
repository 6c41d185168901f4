"""Clients that send, read, break off, resume, cancel and delete, and remember what they saw."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from luxx.testing.chaos.answers import PROXIES, body_of, fault_of, fault_of_head, retry_after
from luxx.testing.chaos.record import Sent, Talk, Tally
from luxx.testing.chaos.shapes import CONVERSATION, MESSAGE, Shape, fault_of_object, moment
from luxx.testing.stream_client import ContractBroken, Following
from luxx.testing.upstream import echo

PASSWORD: Final = "chaos keeps its promises"  # noqa: S105 - of accounts that exist to be played with
_WORDS: Final = (
    *("amber", "birch", "cedar", "delta", "ember", "河", "frost", "grove"),
    *("hazel", "雪", "ivory", "jade", "éclair", "karst", "🙂", "lunar"),
)
_FAULTS: Final = (
    "[[status:500]]",
    "[[status:401]]",
    "[[status:429]]",
    "[[html]]",
    "[[mute]]",
    "[[stall:3]]",
    "[[reset:4]]",
    "[[truncate:5]]",
    "[[end:2]]",
    "[[garbage:3]]",
    "[[error:3]]",
    "[[line:2]]",
)
_KIND: Final = ("[[flaky:1]]", '[[tool:calculate {"expression": "6*7"}]]', "[[drip:0]]", "")
_ACTS: Final = {"stream": 8, "plain": 3, "twins": 2, "rivals": 2, "cancel": 3, "delete": 1}
_HELD_BACK_S: Final = 2.0
"""Seconds after which an answer that is being written must have begun to reach its reader, where nothing disturbs."""
_MALFORMED: Final = (KeyError, TypeError, AttributeError, ValueError)
"""What comes of an answer that is JSON and has not what it must have."""
_FINAL_CODES: Final = frozenset(
    {"model_unavailable", "model_timeout", "model_rate_limited", "model_rejected", "interrupted"}
)


@dataclass(slots=True, kw_only=True)
class Play:
    """What all clients of a run share. `routes` gives the roots of the service that may be used now."""

    routes: Callable[[], Sequence[str]]
    tally: Tally
    until: float
    """When no new operation begins, by `time.monotonic()`."""
    patience: float
    """Seconds in which every operation must come to its end."""
    silence: float
    """Seconds without any byte after which a stream counts as broken off; above the heartbeat."""
    scripted: bool
    """Whether the model is the scripted upstream: then prompts steer it, and what it says is known."""
    tokens: dict[int, str] = field(default_factory=dict)
    """Of all users: whoever has another's may see nothing of one."""


class Refused(Exception):
    """The service gave a definite answer that is not the one asked for."""

    def __init__(self, status: int, code: str, text: str, *, wait: float = 0.0) -> None:
        super().__init__(f"{status} {code}: {text}")
        self.status = status
        self.code = code
        self.wait = wait


class ChaosClient:
    """One user who does one thing after another; `talks` holds what it did."""

    def __init__(self, number: int, play: Play, *, seed: int) -> None:
        self.talks: Final[list[Talk]] = []
        self._number: Final = number
        self._play: Final = play
        self._tally: Final = play.tally
        self._random: Final = random.Random(f"{seed}/{number}")  # noqa: S311 - to be repeatable
        self._name: Final = f"chaos{seed}x{number}x{time.time_ns() % 10**10}"
        self._token = ""
        self._count = 0
        self._turn = 0
        # Everything once, and then by chance: a short run is to have seen all of it.
        self._deck: Final = self._random.sample(list(_ACTS), len(_ACTS))
        self._http: Final = httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(play.silence, connect=5))

    # --- requests -----------------------------------------------------------------------------------

    def _route(self) -> str:
        return self._random.choice(self._play.routes())

    @property
    def _headers(self) -> dict[str, str]:
        # A connection for each request draws its own faults.
        shown = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        if self._play.scripted:  # elsewhere a proxy may give requests ids of its own
            shown["X-Request-ID"] = f"{self._name}-{self._random.getrandbits(64):x}"
        return shown | {"Connection": "close", "Accept-Language": "en"}

    async def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        text: str | None = None,
        status: int = 200,
        token: str | None = None,
        key: str = "",
    ) -> Any:
        """Ask until there is a definite answer; gives its data. `text` is sent as JSON, whatever it is.

        Raises `Refused`, `TimeoutError`.
        """
        headers = self._headers | ({"Idempotency-Key": key} if key else {})
        if token is not None:
            headers.pop("Authorization", None)
            headers |= {"Authorization": f"Bearer {token}"} if token else {}
        if text is not None:
            headers["Content-Type"] = "application/json"
        last = "none came"
        try:
            async with asyncio.timeout(self._play.patience):
                while True:
                    try:
                        response = await self._http.request(
                            method, self._route() + path, json=json, content=text, headers=headers
                        )
                    except httpx.TransportError as error:
                        last = repr(error)
                        await self._pause()
                        continue
                    self._heard(f"{method} {path}", response, status)
                    body = body_of(response)
                    if response.status_code < 300 and body is not None:
                        return body.get("data")
                    refused = _refusal(response)
                    if refused.code not in {"overloaded", "rate_limited"}:
                        raise refused
                    last = str(refused)
                    await self._pause(refused)
        except TimeoutError:
            told = f"no definite answer to {method} {path} in {self._play.patience:g} s; the last: {last}"
            raise TimeoutError(told) from None

    def _heard(self, asked: str, response: httpx.Response, status: int) -> None:
        fault = fault_of(response, status)
        self._tally.check("API", fault is None, "wrong", f"{asked}: {fault}")

    async def _pause(self, refused: Refused | None = None) -> None:
        # Our own processes ask for whole seconds, in which a run would have done much.
        wait = refused.wait if refused is not None and not self._play.scripted else 0.0
        await asyncio.sleep(wait + self._random.uniform(0.02, 0.3))

    # --- the life of a client -----------------------------------------------------------------------

    async def run(self) -> None:
        """Register, then do one thing after another until the time is over."""
        try:
            await self._sign_up()
            while time.monotonic() < self._play.until:
                try:
                    await self._one_thing()
                except TimeoutError:
                    pass  # noted where it happened
                except Refused as refused:
                    self._tally.check("P1", False, "lost", f"client {self._number}: {refused}")
                    await self._pause()
                except _MALFORMED as lack:
                    self._right(False, f"client {self._number}: an answer lacks {lack}")
                    await self._pause()
        except (TimeoutError, Refused, *_MALFORMED) as failure:
            self._tally.check("P1", False, "hung", f"client {self._number} could not sign up: {failure!r}")

    async def close(self) -> None:
        await self._http.aclose()

    async def _sign_up(self) -> None:
        body = {"username": self._name, "email": f"{self._name}@example.com", "password": PASSWORD}
        try:
            await self.call("POST", "/api/auth/register", json=body, status=201)
        except Refused as refused:
            if refused.code not in {"username_taken", "email_taken"}:  # by ourselves: the answer was lost
                raise
        data = await self.call("POST", "/api/auth/login", json={"username": self._name, "password": PASSWORD})
        self._token = self._play.tokens[self._number] = data["access_token"]

    async def _one_thing(self) -> None:
        talk = await self._talk()
        self._turn += 1
        match self._deck.pop() if self._deck else self._random.choices(list(_ACTS), list(_ACTS.values()))[0]:
            case "stream":
                await self._stream(talk, self._new(talk))
            case "plain":
                await self._plain(talk, self._new(talk))
            case "twins":
                await self._twins(talk)
            case "rivals":
                await self._rivals(talk)
            case "cancel":
                await self._cancel(talk)
            case _:
                await self._delete(talk)

    async def _talk(self) -> Talk:
        alive = [talk for talk in self.talks if not talk.deleted]
        if len(alive) < 3 or self._random.random() < 0.05:
            data = await self.call("POST", "/api/conversations/", json={"title": f"chaos {self._number}"}, status=201)
            self.talks.append(Talk(data["id"]))
            return self.talks[-1]
        return self._random.choice(alive)

    def _new(self, talk: Talk, *, long: bool = False) -> Sent:
        self._count += 1
        nonce = f"n{self._number}x{self._count}"
        words = [self._random.choice(_WORDS) for _ in range(self._random.randint(2, 9))]
        content = f"{nonce} {' '.join(words)}"
        if not self._play.scripted:
            content = f"{nonce}: write {'eighty' if long else 'ten'} words about {' and '.join(words[:2])}."
        elif long:
            content += f" [[words:{self._random.randint(150, 300)}]]"
        else:
            content += f" [[words:{self._random.randint(3, 90)}]] {self._random.choice(_KIND)}"
            if self._random.random() < 0.25:
                content += self._random.choice(_FAULTS)
                self._tally.fault("P8")
        sent = Sent(key=f"{self._name}-{self._count}", content=content, conversation_id=talk.id, turn=self._turn)
        talk.sent.append(sent)
        return sent

    # --- sending and reading ------------------------------------------------------------------------

    async def _stream(self, talk: Talk, sent: Sent, *, cut_first: int | None = None) -> None:
        """Send, and read to the end over as many connections as it takes."""
        following = Following()
        watching = None if self._play.scripted else asyncio.create_task(self._watch(talk, sent))
        try:
            async with asyncio.timeout(self._play.patience):
                while not await self._read_on(talk, sent, following, cut_first):
                    cut_first = None
                    await self._pause()
        except TimeoutError:
            promise = "P8" if any(fault in sent.content for fault in _FAULTS) else "P13"
            state = (
                f"accepted as {sent.message_id}, {len(following.events)} events" if sent.accepted else "not accepted"
            )
            self._tally.check(promise, False, "hung", f"{sent.key} {sent.content[:60]!r}: {state}")
            raise
        except ContractBroken as broken:
            self._tally.check("P3", False, "gaps", f"{sent.key} {sent.message_id}: {broken}")
            return
        finally:
            if watching is not None:
                watching.cancel()
            self._saw(sent, following)
        self._tally.check("P3", True, "gaps", "")
        if "[[" in sent.content and any(fault in sent.content for fault in _FAULTS):
            self._tally.check("P8", True, "hung", "")
        if not talk.deleted:
            await self._replay(sent)

    async def _watch(self, talk: Talk, sent: Sent) -> None:
        """Look whether the answer is being written while its reader has nothing of it."""
        await asyncio.sleep(_HELD_BACK_S)
        if sent.message_id is not None:
            return
        with suppress(Refused, TimeoutError, *_MALFORMED):  # told where it matters
            question, answer = (await self.call("GET", f"/api/messages/{talk.id}?limit=2"))["items"]
            if (question["content"], answer["status"]) == (sent.content, "streaming"):
                await asyncio.sleep(_HELD_BACK_S / 2)
                note = f"{answer['id']} is being written, and its reader has not even its start: does a proxy buffer?"
                self._tally.check("P12", sent.message_id is not None, "hung", note)

    def _saw(self, sent: Sent, following: Following) -> None:
        sent.seen = max(sent.seen, following.text, key=len)
        if len(following.events) > len(sent.events):
            sent.events = [(event.id, event.name, event.data) for event in following.events]
        if following.end is not None:
            sent.end = (following.end.name, following.end.data)

    async def _read_on(self, talk: Talk, sent: Sent, following: Following, cut: int | None) -> bool:
        """Read over one connection; tells whether the end has come."""
        if cut is None and self._random.random() < 0.2:
            cut = self._random.randint(1, 12)
            self._tally.fault("P3", "P5")
        headers = dict(self._headers)
        if following.message_id is None:
            body = {"conversation_id": sent.conversation_id, "content": sent.content}
            request = self._http.build_request(
                "POST",
                self._route() + "/api/messages/stream",
                json=body,
                headers=headers | {"Idempotency-Key": sent.key},
            )
        else:
            headers["Last-Event-ID"] = str(following.last)
            path = f"/api/messages/{following.message_id}/stream"
            request = self._http.build_request("GET", self._route() + path, headers=headers)
        asked = f"{request.method} {request.url.path}"
        try:
            response = await self._http.send(request, stream=True)
        except httpx.TransportError:
            return False
        try:
            if response.status_code != 200:
                await response.aread()
                self._heard(asked, response, 200)
                return self._refused(talk, sent, _refusal(response))
            fault = fault_of_head(response, direct=self._play.scripted)
            self._tally.check("API", fault is None, "wrong", f"{asked}: {fault}")
            ended = await following.read(response, at_most=cut)
            if not self._play.scripted:
                self._tally.check("P12", True, "hung", "")
        except httpx.TransportError as error:
            if isinstance(error, httpx.ReadTimeout) and not self._play.scripted:
                note = f"{sent.message_id}: not a byte in {self._play.silence:g} s, not even a comment"
                self._tally.check("P12", False, "hung", note)
            # The connection may break behind the end, which is then no less the end.
            return following.end is not None
        finally:
            await response.aclose()
            self._accepted(sent, following)
        return ended

    def _accepted(self, sent: Sent, following: Following) -> None:
        if following.events and following.events[0].name == "start":
            data = following.events[0].data
            sent.accepted = True
            if sent.message_id is not None:
                same = sent.message_id == data["message_id"]
                self._tally.check("P4", same, "doubled", f"{sent.key}: {sent.message_id}, then {data['message_id']}")
            sent.message_id = data["message_id"]
            sent.user_message = data["user_message"]

    def _refused(self, talk: Talk, sent: Sent, refused: Refused) -> bool:
        """Take a definite answer in place of a stream; tells whether that is the end of it."""
        if refused.code in {"overloaded", "rate_limited", "generation_in_progress"}:
            return False
        if talk.deleted and refused.status == 404:
            sent.deleted = True
            return True
        self._tally.check("P1", False, "lost", f"{sent.key} {sent.message_id}: {refused}")
        return True

    async def _plain(self, talk: Talk, sent: Sent) -> None:
        """Send, and wait for the whole answer."""
        body = {"conversation_id": sent.conversation_id, "content": sent.content}
        try:
            async with asyncio.timeout(self._play.patience):
                while True:
                    try:
                        response = await self._http.post(
                            self._route() + "/api/messages/",
                            json=body,
                            headers=self._headers | {"Idempotency-Key": sent.key},
                            timeout=self._play.patience / 2,
                        )
                    except httpx.TransportError:
                        await self._pause()
                        continue
                    self._heard("POST /api/messages/", response, 201)
                    if response.status_code == 201:
                        self._answered(sent, response.json()["data"])
                        return
                    refused = _refusal(response)
                    if refused.code in _FINAL_CODES:
                        sent.accepted = True
                        self._tally.check("P8", True, "hung", "")
                        return
                    if self._refused(talk, sent, refused):
                        return
                    await self._pause(refused)
        except TimeoutError:
            self._tally.check("P8", False, "hung", f"{sent.key} {sent.content[:60]!r}: the plain send did not end")
            raise

    def _answered(self, sent: Sent, data: Any) -> None:
        message = data["assistant_message"]
        if sent.message_id is not None:
            same = sent.message_id == message["id"]
            self._tally.check("P4", same, "doubled", f"{sent.key}: {sent.message_id}, then {message['id']}")
        sent.accepted = True
        sent.message_id = message["id"]
        sent.user_message = data["user_message"]
        sent.end = ("done", {"message": message})
        sent.seen = message["content"]

    async def _rivals(self, talk: Talk) -> None:
        """Send two messages at once: the answer to one of them must have ended before the other's begins."""
        self._tally.fault("P6")
        looking = asyncio.create_task(self._look_in(talk))
        try:
            await asyncio.gather(*(self._stream(talk, sent) for sent in (self._new(talk), self._new(talk))))
        finally:
            looking.cancel()

    async def _look_in(self, talk: Talk) -> None:
        while True:
            await asyncio.sleep(self._random.uniform(0.1, 0.4))
            with suppress(Refused, TimeoutError, *_MALFORMED):  # told where it matters
                items = (await self.call("GET", f"/api/messages/{talk.id}?limit=4"))["items"]
                written = [item["id"] for item in items if item["status"] == "streaming"]
                self._tally.check("P6", len(written) < 2, "wrong", f"{talk.id}: {written} are written at once")

    async def _twins(self, talk: Talk) -> None:
        """Send the same message with the same key several times at once."""
        sent = self._new(talk)
        self._tally.fault("P4")
        await asyncio.gather(self._stream(talk, sent), self._plain(talk, sent), self._stream(talk, sent))
        if sent.accepted:
            other = {"conversation_id": talk.id, "content": f"{sent.content} (another)"}
            asked = ("POST", "/api/messages/", (409, "idempotency_conflict"))
            await self._must_refuse("P4", "another body with a key in use", *asked, json=other, key=sent.key)

    async def _must_refuse(
        self, promise: str, who: str, method: str, path: str, expected: tuple[int, str], **options: Any
    ) -> None:
        """Ask for what must be refused in this way."""
        try:
            await self.call(method, path, **options)
        except Refused as refused:
            told = (refused.status, refused.code)
            self._tally.check(promise, told == expected, "wrong", f"{who}, {method} {path}: {refused}")
        else:
            self._tally.check(promise, False, "wrong", f"{who}, {method} {path}: it was not refused")

    async def _replay(self, sent: Sent, *, after: int | None = None) -> None:
        """Read a finished answer again from somewhere: it must be what was seen, to the byte.

        At the end and behind it the end comes once more, under the id that was given.
        """
        if not sent.events or sent.end is None or sent.message_id is None:
            return
        if after is None:
            after = self._random.randrange(len(sent.events) + 2)
        expected = sent.events[after:] or [(after, *sent.events[-1][1:])]
        following = Following(after=after)
        by_query = self._random.random() < 0.3
        async with asyncio.timeout(self._play.patience):
            while following.end is None:
                headers, path = self._headers, f"/api/messages/{sent.message_id}/stream"
                if by_query:
                    path += f"?after={following.last}"
                elif following.last:
                    headers["Last-Event-ID"] = str(following.last)
                try:
                    async with self._http.stream("GET", self._route() + path, headers=headers) as response:
                        if response.status_code == 200:
                            await following.read(response)
                except httpx.TransportError:
                    pass
                except ContractBroken as broken:
                    self._tally.check("P5", False, "gaps", f"{sent.message_id} after {after}: {broken}")
                    return
                if following.end is None:
                    await self._pause()
        again = [(event.id, event.name, event.data) for event in following.events]
        note = f"{sent.message_id} after {after}: {again[:2]}… instead of {expected[:2]}…"
        self._tally.check("P5", again == expected, "gaps", note)

    async def _cancel(self, talk: Talk) -> None:
        """Send something long, read a little, cancel it, and read to its end."""
        sent = self._new(talk, long=True)
        reading = asyncio.create_task(self._stream(talk, sent, cut_first=self._random.randint(1, 5)))
        try:
            async with asyncio.timeout(self._play.patience):
                while sent.message_id is None and not reading.done():  # noqa: ASYNC110 - a look now and then will do
                    await asyncio.sleep(0.02)
            if sent.message_id is not None:
                await asyncio.sleep(self._random.uniform(0, 0.2))
                self._tally.fault("P9")
                stopped = await self.call("POST", f"/api/messages/{sent.message_id}/cancel")
                sent.cancelled = stopped["status"] == "cancelled"
        finally:
            await reading
        if sent.cancelled:
            kept = sent.end is not None and sent.end[0] == "done" and sent.end[1]["message"]["status"] == "cancelled"
            self._tally.check("P9", kept, "lost", f"{sent.message_id} was cancelled and ended as {sent.end}")

    async def _delete(self, talk: Talk) -> None:
        """Delete a conversation in the middle of an answer."""
        sent = self._new(talk, long=True)
        reading = asyncio.create_task(self._stream(talk, sent))
        await asyncio.sleep(self._random.uniform(0, 0.5))
        talk.deleted = True
        try:
            await self._end("DELETE", f"/api/conversations/{talk.id}")
        finally:
            await reading
        try:
            await self.call("GET", f"/api/conversations/{talk.id}")
        except Refused as refused:
            self._tally.check("P1", refused.status == 404, "doubled", f"deleted, then {refused}")
        else:
            self._tally.check("P1", False, "doubled", f"{talk.id} is there after it was deleted")

    # --- the end ------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Compare what was seen with what is stored, once everything runs and nothing disturbs."""
        await asyncio.gather(*(self._settle(talk) for talk in self.talks if not talk.deleted))

    async def _settle(self, talk: Talk) -> None:
        try:
            await self._still_free(talk)
            data = await self.call("GET", f"/api/messages/{talk.id}?limit=1000")
            self._compare(talk, data["items"])
        except (Refused, TimeoutError, *_MALFORMED) as failure:
            self._tally.check("P1", False, "lost", f"{talk.id} cannot be read: {failure!r}")
        else:
            talk.items = data["items"]
            whole = data["total"] == len(talk.items) and data["has_more"] is False
            self._tally.check("API", whole, "wrong", f"{talk.id}: {data['total']} messages, listed {len(talk.items)}")
            self._formed(talk.items, MESSAGE)

    async def _still_free(self, talk: Talk) -> None:
        """A conversation takes a new message whatever has happened in it."""
        self._turn += 1
        sent = self._new(talk)
        sent.content = sent.content.split("[[")[0]
        try:
            await self._stream(talk, sent)
        except TimeoutError:
            self._tally.check("P13", False, "hung", f"{talk.id} takes no new message")
        else:
            self._tally.check("P13", sent.accepted, "hung", f"{talk.id} took no new message")

    async def look_around(self) -> None:
        """Read lists page by page, ask for what must be refused, change a conversation, and delete an answer."""
        left = [talk for talk in self.talks if talk.items]
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
        except (Refused, TimeoutError, *_MALFORMED) as failure:
            self._right(False, f"client {self._number}, looking around: {failure!r}")

    async def leave(self) -> None:
        """Delete all conversations, as this may be somebody's deployment, and log out."""
        try:
            for talk in self.talks:
                if not talk.deleted:
                    await self._end("DELETE", f"/api/conversations/{talk.id}")
            await self._end("POST", "/api/auth/logout")
            await self._must_refuse("API", "logged out", "GET", "/api/auth/me", (401, "token_revoked"))
        except (Refused, TimeoutError) as failure:
            self._right(False, f"client {self._number}, leaving: {failure!r}")

    async def _end(self, method: str, path: str) -> None:
        """Do what can be done once."""
        try:
            await self.call(method, path)
        except Refused as refused:
            if refused.status not in {401, 404}:  # by ourselves: the answer was lost
                raise

    async def _list_conversations(self) -> None:
        size = len(self.talks) // 3 + 1
        by_page: list[dict[str, Any]] = []
        by_cursor: list[dict[str, Any]] = []
        query = f"page_size={size}"
        while True:
            data = await self.call("GET", f"/api/conversations/?{query}")
            by_cursor += data["items"]
            if data["next_cursor"] is None or len(by_cursor) > data["total"]:
                break
            query = f"page_size={size}&cursor={data['next_cursor']}"
        for page in range(1, data["total"] // size + 2):
            data = await self.call("GET", f"/api/conversations/?page={page}&page_size={size}")
            fits = (data["page"], data["page_size"]) == (page, size) and len(data["items"]) <= size
            self._right(fits, f"page {page} of {size} conversations says {data['page']} of {data['page_size']}")
            by_page += data["items"]
        ids = [item["id"] for item in by_page]
        self._right(by_cursor == by_page, f"conversations by cursor are {[one['id'] for one in by_cursor]}, not {ids}")
        self._right(len(set(ids)) == len(ids) == data["total"], f"of {data['total']} conversations, {ids} are listed")
        times = [item["updated_at"] for item in by_page]
        self._right(times == sorted(times, reverse=True), f"conversations are not the latest first: {times}")
        self._formed(by_page, CONVERSATION)
        active = {item["id"]: moment(item["updated_at"]) for item in by_page}
        for talk in self.talks:
            if talk.items and talk.id in active:
                asked = max(moment(item["created_at"]) for item in talk.items if item["role"] == "user")
                self._right(active[talk.id] >= asked, f"{talk.id}: active at {active[talk.id]}, sent to at {asked}")
        wrong = [talk.id for talk in self.talks if talk.deleted == (talk.id in ids)]
        self._right(not wrong, f"{wrong} are listed though deleted, or not listed though there")

    async def _page(self, talk: Talk) -> None:
        """Read messages back in pages that do not divide them."""
        found: list[dict[str, Any]] = []
        query = "limit=3"
        while len(found) <= len(talk.items):
            data = await self.call("GET", f"/api/messages/{talk.id}?{query}")
            found = data["items"] + found
            more = len(found) < len(talk.items)
            told = (data["total"], data["has_more"], len(data["items"]) <= 3)
            self._right(told == (len(talk.items), more, True), f"{talk.id}?{query}: {told}, of {len(talk.items)}")
            if not data["has_more"] or not data["items"]:
                break
            query = f"limit=3&before={data['items'][0]['id']}"
        self._right(found == talk.items, f"{talk.id}: its pages are not its list")

    async def _trespass(self, talk: Talk) -> None:
        """Try what only the owner may, as somebody else and as nobody."""
        answer = f"/api/messages/{talk.items[-1]['id']}"
        others = [token for number, token in self._play.tokens.items() if number != self._number]
        for method, path, code in (
            ("GET", f"{answer}/stream", "message_not_found"),
            ("POST", f"{answer}/cancel", "message_not_found"),
            ("GET", f"/api/messages/{talk.id}", "conversation_not_found"),
            ("GET", f"/api/conversations/{talk.id}", "conversation_not_found"),
            ("DELETE", answer, "message_not_found"),
            ("DELETE", f"/api/conversations/{talk.id}", "conversation_not_found"),
        ):
            for token in others[:1]:
                await self._must_refuse("P5", "another user", method, path, (404, code), token=token)
            await self._must_refuse("P5", "nobody", method, path, (401, "unauthenticated"), token="")

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
            await self._must_refuse("API", "asked wrongly", method, path, expected, **options)

    async def _change(self, talk: Talk) -> None:
        """Change fields and clear them again: the others stay as they are, and lists know."""
        path = f"/api/conversations/{talk.id}"
        before = await self.call("GET", path)
        await self.call("PUT", path, json={"project_id": self._name, "system_prompt": "Be brief."})
        found = await self.call("GET", f"/api/conversations/?project_id={self._name}")
        listed = [item["id"] for item in found["items"]]
        self._right((found["total"], listed) == (1, [talk.id]), f"of its project {talk.id} is, listed are {listed}")
        after = await self.call("PUT", path, json={"project_id": None, "system_prompt": None})
        kept = after | {"updated_at": ""} == before | {"updated_at": ""}
        self._right(kept, f"{talk.id} was {before}; changed and cleared again it is {after}")

    async def _cancel_again(self, talk: Talk) -> None:
        """Cancel what has ended, which changes nothing, and read it from behind its end."""
        answer = talk.items[-1]
        stopped = await self.call("POST", f"/api/messages/{answer['id']}/cancel")
        self._right(stopped == answer, f"the ended {answer} was cancelled to {stopped}")
        for sent in talk.sent:
            if sent.message_id == answer["id"]:
                await self._replay(sent, after=len(sent.events) + 1)

    async def _delete_answer(self, talk: Talk) -> None:
        answer = talk.items[-1]["id"]
        await self._end("DELETE", f"/api/messages/{answer}")
        await self._must_refuse("API", "deleted", "GET", f"/api/messages/{answer}/stream", (404, "message_not_found"))
        left = (await self.call("GET", f"/api/messages/{talk.id}?limit=1000"))["items"]
        self._right(left == talk.items[:-1], f"{talk.id}: after {answer} was deleted, {len(left)} are left")

    def _formed(self, items: Sequence[Any], shape: Shape) -> None:
        for item in items:
            fault = fault_of_object(item, shape)
            self._right(fault is None, f"of {str(item)[:80]}…: {fault}")

    def _right(self, kept: bool, note: str) -> None:
        self._tally.check("API", kept, "wrong", note)

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
        if self._play.scripted:
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


def _refusal(response: httpx.Response) -> Refused:
    status, wait = response.status_code, retry_after(response)
    try:
        body = response.json()
        return Refused(status, body["error"]["code"], body["message"], wait=wait)
    except (ValueError, KeyError, TypeError):
        # A proxy in its place tells nothing of what became of the request: try again.
        code = "overloaded" if status in PROXIES else "unreadable"
        return Refused(status, code, response.text[:200], wait=wait)
