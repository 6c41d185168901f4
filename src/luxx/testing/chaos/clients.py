"""Clients that send, read, break off, resume, cancel and delete, and remember what they saw."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from luxx.testing.chaos.record import Sent, Talk, Tally
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


class Refused(Exception):
    """The service gave a definite answer that is not the one asked for."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(f"{status} {code}: {text}")
        self.status = status
        self.code = code


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
        self._http: Final = httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(play.silence, connect=5))

    # --- requests -----------------------------------------------------------------------------------

    def _route(self) -> str:
        return self._random.choice(self._play.routes())

    @property
    def _headers(self) -> dict[str, str]:
        # A connection for each request draws its own faults.
        shown = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        return shown | {"Connection": "close", "Accept-Language": "en"}

    async def call(self, method: str, path: str, *, json: Any = None) -> Any:
        """Ask until there is a definite answer; gives its data. Raises `Refused`, `TimeoutError`."""
        async with asyncio.timeout(self._play.patience):
            while True:
                try:
                    response = await self._http.request(method, self._route() + path, json=json, headers=self._headers)
                except httpx.TransportError:
                    await self._pause()
                    continue
                if response.status_code < 400:
                    return response.json().get("data")
                refused = _refusal(response)
                if refused.code not in {"overloaded", "rate_limited"}:
                    raise refused
                await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(self._random.uniform(0.02, 0.3))

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
        except (TimeoutError, Refused) as failure:
            self._tally.check("P1", False, "hung", f"client {self._number} could not sign up: {failure!r}")

    async def close(self) -> None:
        await self._http.aclose()

    async def _sign_up(self) -> None:
        body = {"username": self._name, "email": f"{self._name}@example.com", "password": PASSWORD}
        try:
            await self.call("POST", "/api/auth/register", json=body)
        except Refused as refused:
            if refused.code not in {"username_taken", "email_taken"}:  # by ourselves: the answer was lost
                raise
        data = await self.call("POST", "/api/auth/login", json={"username": self._name, "password": PASSWORD})
        self._token = data["access_token"]

    async def _one_thing(self) -> None:
        talk = await self._talk()
        match self._random.choices(("stream", "plain", "twins", "rivals", "cancel", "delete"), (8, 3, 2, 2, 3, 1))[0]:
            case "stream":
                await self._stream(talk, self._new(talk))
            case "plain":
                await self._plain(talk, self._new(talk))
            case "twins":
                await self._twins(talk)
            case "rivals":
                self._tally.fault("P6")
                await asyncio.gather(*(self._stream(talk, sent) for sent in (self._new(talk), self._new(talk))))
            case "cancel":
                await self._cancel(talk)
            case _:
                await self._delete(talk)

    async def _talk(self) -> Talk:
        alive = [talk for talk in self.talks if not talk.deleted]
        if len(alive) < 3 or self._random.random() < 0.05:
            data = await self.call("POST", "/api/conversations/", json={"title": f"chaos {self._number}"})
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
        sent = Sent(key=f"{self._name}-{self._count}", content=content, conversation_id=talk.id)
        talk.sent.append(sent)
        return sent

    # --- sending and reading ------------------------------------------------------------------------

    async def _stream(self, talk: Talk, sent: Sent, *, cut_first: int | None = None) -> None:
        """Send, and read to the end over as many connections as it takes."""
        following = Following()
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
            self._saw(sent, following)
        self._tally.check("P3", True, "gaps", "")
        if "[[" in sent.content and any(fault in sent.content for fault in _FAULTS):
            self._tally.check("P8", True, "hung", "")
        if not talk.deleted:
            await self._replay(sent)

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
        try:
            response = await self._http.send(request, stream=True)
        except httpx.TransportError:
            return False
        try:
            if response.status_code != 200:
                await response.aread()
                return self._refused(talk, sent, _refusal(response))
            ended = await following.read(response, at_most=cut)
        except httpx.TransportError:
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
            sent.user_message_id = data["user_message"]["id"]

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
                    await self._pause()
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
        sent.user_message_id = data["user_message"]["id"]
        sent.end = ("done", {"message": message})
        sent.seen = message["content"]

    async def _twins(self, talk: Talk) -> None:
        """Send the same message with the same key several times at once."""
        sent = self._new(talk)
        self._tally.fault("P4")
        await asyncio.gather(self._stream(talk, sent), self._plain(talk, sent), self._stream(talk, sent))

    async def _replay(self, sent: Sent) -> None:
        """Read a finished answer again from somewhere: it must be what was seen, to the byte."""
        if not sent.events or sent.end is None or sent.message_id is None:
            return
        after = self._random.randrange(len(sent.events))
        following = Following(after=after)
        headers = self._headers | ({"Last-Event-ID": str(after)} if after else {})
        async with asyncio.timeout(self._play.patience):
            while following.end is None:
                try:
                    path = f"/api/messages/{sent.message_id}/stream"
                    async with self._http.stream("GET", self._route() + path, headers=headers) as response:
                        if response.status_code == 200:
                            await following.read(response)
                        headers["Last-Event-ID"] = str(following.last)
                except httpx.TransportError:
                    headers["Last-Event-ID"] = str(following.last)
                except ContractBroken as broken:
                    self._tally.check("P5", False, "gaps", f"{sent.message_id} after {after}: {broken}")
                    return
                if following.end is None:
                    await self._pause()
        again = [(event.id, event.name, event.data) for event in following.events]
        note = f"{sent.message_id} after {after}: {again[:2]}… instead of {sent.events[after : after + 2]}…"
        self._tally.check("P5", again == sent.events[after:], "gaps", note)

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
            await self.call("DELETE", f"/api/conversations/{talk.id}")
        except Refused as refused:
            if refused.status != 404:  # by ourselves: the answer was lost
                raise
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
        except (Refused, TimeoutError) as failure:
            self._tally.check("P1", False, "lost", f"{talk.id} cannot be read: {failure!r}")
        else:
            self._compare(talk, data["items"])

    async def _still_free(self, talk: Talk) -> None:
        """A conversation takes a new message whatever has happened in it."""
        sent = self._new(talk)
        sent.content = sent.content.split("[[")[0]
        try:
            await self._stream(talk, sent)
        except TimeoutError:
            self._tally.check("P13", False, "hung", f"{talk.id} takes no new message")
        else:
            self._tally.check("P13", sent.accepted, "hung", f"{talk.id} took no new message")

    async def tidy(self) -> None:
        """Delete all conversations: this was somebody's deployment."""
        for talk in self.talks:
            if not talk.deleted:
                await self.call("DELETE", f"/api/conversations/{talk.id}")

    def _compare(self, talk: Talk, items: list[dict[str, Any]]) -> None:
        tally = self._tally
        by_id = {item["id"]: item for item in items}
        users = [item["content"] for item in items if item["role"] == "user"]
        roles = [item["role"] for item in items]
        tally.check("P6", roles == ["user", "assistant"] * (len(items) // 2), "lost", f"{talk.id}: {roles}")
        streaming = [item["id"] for item in items if item["status"] == "streaming"]
        tally.check("P13", not streaming, "hung", f"{talk.id}: {streaming} stay as streaming")
        for sent in talk.sent:
            count = users.count(sent.content)
            tally.check("P1", count > 0 or not sent.accepted, "lost", f"{sent.key} {sent.message_id} is not stored")
            tally.check("P1", count < 2, "doubled", f"{sent.key} is stored {count} times")
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
    try:
        body = response.json()
        return Refused(response.status_code, body["error"]["code"], body["message"])
    except (ValueError, KeyError, TypeError):
        return Refused(response.status_code, "unreadable", response.text[:200])
