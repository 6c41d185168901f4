"""Clients that send, read, break off, resume, cancel and delete, and remember what they saw."""

import asyncio
import time
from contextlib import suppress
from typing import Any, Final

import httpx

from luxx.testing.chaos.answers import fault_of_head
from luxx.testing.chaos.callers import MALFORMED, Caller, Play, Refused, refusal_of
from luxx.testing.chaos.record import Sent, Talk
from luxx.testing.stream_client import ContractBroken, Following

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
_FINAL_CODES: Final = frozenset(
    {"model_unavailable", "model_timeout", "model_rate_limited", "model_rejected", "interrupted"}
)


class ChaosClient(Caller):
    """One user who does one thing after another; `talks` holds what it did."""

    def __init__(self, number: int, play: Play, *, seed: int) -> None:
        super().__init__(number, play, seed=seed)
        self.talks: Final[list[Talk]] = []
        self._count = 0
        self._turn = 0
        # Everything once, and then by chance: a short run is to have seen all of it.
        self._deck: Final = self._random.sample(list(_ACTS), len(_ACTS))

    # --- the life of a client -----------------------------------------------------------------------

    async def run(self) -> None:
        """Register, then do one thing after another until the time is over."""
        try:
            await self._sign_up()
            while time.monotonic() < self.play.until:
                try:
                    await self._one_thing()
                except TimeoutError:
                    pass  # noted where it happened
                except Refused as refused:
                    self.tally.check("P1", False, "lost", f"client {self.number}: {refused}")
                    await self._pause()
                except MALFORMED as lack:
                    self.right(False, f"client {self.number}: an answer lacks {lack}")
                    await self._pause()
        except (TimeoutError, Refused, *MALFORMED) as failure:
            self.tally.check("P1", False, "hung", f"client {self.number} could not sign up: {failure!r}")

    async def _sign_up(self) -> None:
        body = {"username": self.name, "email": f"{self.name}@example.com", "password": PASSWORD}
        try:
            await self.call("POST", "/api/auth/register", json=body, status=201)
        except Refused as refused:
            if refused.code not in {"username_taken", "email_taken"}:  # by ourselves: the answer was lost
                raise
        data = await self.call("POST", "/api/auth/login", json={"username": self.name, "password": PASSWORD})
        self._token = self.play.tokens[self.number] = data["access_token"]

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
            data = await self.call("POST", "/api/conversations/", json={"title": f"chaos {self.number}"}, status=201)
            self.talks.append(Talk(data["id"]))
            return self.talks[-1]
        return self._random.choice(alive)

    def _new(self, talk: Talk, *, long: bool = False) -> Sent:
        self._count += 1
        nonce = f"n{self.number}x{self._count}"
        words = [self._random.choice(_WORDS) for _ in range(self._random.randint(2, 9))]
        content = f"{nonce} {' '.join(words)}"
        if not self.play.scripted:
            content = f"{nonce}: write {'eighty' if long else 'ten'} words about {' and '.join(words[:2])}."
        elif long:
            content += f" [[words:{self._random.randint(150, 300)}]]"
        else:
            content += f" [[words:{self._random.randint(3, 90)}]] {self._random.choice(_KIND)}"
            if self._random.random() < 0.25:
                content += self._random.choice(_FAULTS)
                self.tally.fault("P8")
        sent = Sent(key=f"{self.name}-{self._count}", content=content, conversation_id=talk.id, turn=self._turn)
        talk.sent.append(sent)
        return sent

    async def send_one_more(self, talk: Talk) -> Sent:
        """Send what asks for no fault, after all else, and read its answer."""
        self._turn += 1
        sent = self._new(talk)
        sent.content = sent.content.split("[[")[0]
        await self._stream(talk, sent)
        return sent

    # --- sending and reading ------------------------------------------------------------------------

    async def _stream(self, talk: Talk, sent: Sent, *, cut_first: int | None = None) -> None:
        """Send, and read to the end over as many connections as it takes."""
        following = Following()
        watching = None if self.play.scripted else asyncio.create_task(self._watch(talk, sent))
        try:
            async with asyncio.timeout(self.play.patience):
                while not await self._read_on(talk, sent, following, cut_first):
                    cut_first = None
                    await self._pause()
        except TimeoutError:
            promise = "P8" if any(fault in sent.content for fault in _FAULTS) else "P13"
            state = (
                f"accepted as {sent.message_id}, {len(following.events)} events" if sent.accepted else "not accepted"
            )
            self.tally.check(promise, False, "hung", f"{sent.key} {sent.content[:60]!r}: {state}")
            raise
        except ContractBroken as broken:
            self.tally.check("P3", False, "gaps", f"{sent.key} {sent.message_id}: {broken}")
            return
        finally:
            if watching is not None:
                watching.cancel()
            self._saw(sent, following)
        self.tally.check("P3", True, "gaps", "")
        if "[[" in sent.content and any(fault in sent.content for fault in _FAULTS):
            self.tally.check("P8", True, "hung", "")
        if not talk.deleted:
            await self.replay(sent)

    async def _watch(self, talk: Talk, sent: Sent) -> None:
        """Look whether the answer is being written while its reader has nothing of it."""
        await asyncio.sleep(_HELD_BACK_S)
        if sent.message_id is not None:
            return
        with suppress(Refused, TimeoutError, *MALFORMED):  # told where it matters
            question, answer = (await self.call("GET", f"/api/messages/{talk.id}?limit=2"))["items"]
            if (question["content"], answer["status"]) == (sent.content, "streaming"):
                await asyncio.sleep(_HELD_BACK_S / 2)
                note = f"{answer['id']} is being written, and its reader has not even its start: does a proxy buffer?"
                self.tally.check("P12", sent.message_id is not None, "hung", note)

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
            self.tally.fault("P3", "P5")
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
                return self._refused(talk, sent, refusal_of(response))
            fault = fault_of_head(response, direct=self.play.scripted)
            self.tally.check("API", fault is None, "wrong", f"{asked}: {fault}")
            ended = await following.read(response, at_most=cut)
            if not self.play.scripted:
                self.tally.check("P12", True, "hung", "")
        except httpx.TransportError as error:
            if isinstance(error, httpx.ReadTimeout) and not self.play.scripted:
                note = f"{sent.message_id}: not a byte in {self.play.silence:g} s, not even a comment"
                self.tally.check("P12", False, "hung", note)
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
                self.tally.check("P4", same, "doubled", f"{sent.key}: {sent.message_id}, then {data['message_id']}")
            sent.message_id = data["message_id"]
            sent.user_message = data["user_message"]

    def _refused(self, talk: Talk, sent: Sent, refused: Refused) -> bool:
        """Take a definite answer in place of a stream; tells whether that is the end of it."""
        if refused.code in {"overloaded", "rate_limited", "generation_in_progress"}:
            return False
        if talk.deleted and refused.status == 404:
            sent.deleted = True
            return True
        self.tally.check("P1", False, "lost", f"{sent.key} {sent.message_id}: {refused}")
        return True

    async def _plain(self, talk: Talk, sent: Sent) -> None:
        """Send, and wait for the whole answer."""
        body = {"conversation_id": sent.conversation_id, "content": sent.content}
        try:
            async with asyncio.timeout(self.play.patience):
                while True:
                    try:
                        response = await self._http.post(
                            self._route() + "/api/messages/",
                            json=body,
                            headers=self._headers | {"Idempotency-Key": sent.key},
                            timeout=self.play.patience / 2,
                        )
                    except httpx.TransportError:
                        await self._pause()
                        continue
                    self._heard("POST /api/messages/", response, 201)
                    if response.status_code == 201:
                        self._answered(sent, response.json()["data"])
                        return
                    refused = refusal_of(response)
                    if refused.code in _FINAL_CODES:
                        sent.accepted = True
                        self.tally.check("P8", True, "hung", "")
                        return
                    if self._refused(talk, sent, refused):
                        return
                    await self._pause(refused)
        except TimeoutError:
            self.tally.check("P8", False, "hung", f"{sent.key} {sent.content[:60]!r}: the plain send did not end")
            raise

    def _answered(self, sent: Sent, data: Any) -> None:
        message = data["assistant_message"]
        if sent.message_id is not None:
            same = sent.message_id == message["id"]
            self.tally.check("P4", same, "doubled", f"{sent.key}: {sent.message_id}, then {message['id']}")
        sent.accepted = True
        sent.message_id = message["id"]
        sent.user_message = data["user_message"]
        sent.end = ("done", {"message": message})
        sent.seen = message["content"]

    async def _rivals(self, talk: Talk) -> None:
        """Send two messages at once: the answer to one of them must have ended before the other's begins."""
        self.tally.fault("P6")
        looking = asyncio.create_task(self._look_in(talk))
        try:
            await asyncio.gather(*(self._stream(talk, sent) for sent in (self._new(talk), self._new(talk))))
        finally:
            looking.cancel()

    async def _look_in(self, talk: Talk) -> None:
        while True:
            await asyncio.sleep(self._random.uniform(0.1, 0.4))
            with suppress(Refused, TimeoutError, *MALFORMED):  # told where it matters
                items = (await self.call("GET", f"/api/messages/{talk.id}?limit=4"))["items"]
                written = [item["id"] for item in items if item["status"] == "streaming"]
                self.tally.check("P6", len(written) < 2, "wrong", f"{talk.id}: {written} are written at once")

    async def _twins(self, talk: Talk) -> None:
        """Send the same message with the same key several times at once."""
        sent = self._new(talk)
        self.tally.fault("P4")
        await asyncio.gather(self._stream(talk, sent), self._plain(talk, sent), self._stream(talk, sent))
        if sent.accepted:
            other = {"conversation_id": talk.id, "content": f"{sent.content} (another)"}
            asked = ("POST", "/api/messages/", (409, "idempotency_conflict"))
            await self.must_refuse("P4", "another body with a key in use", *asked, json=other, key=sent.key)

    async def replay(self, sent: Sent, *, after: int | None = None) -> None:
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
        async with asyncio.timeout(self.play.patience):
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
                    self.tally.check("P5", False, "gaps", f"{sent.message_id} after {after}: {broken}")
                    return
                if following.end is None:
                    await self._pause()
        again = [(event.id, event.name, event.data) for event in following.events]
        note = f"{sent.message_id} after {after}: {again[:2]}… instead of {expected[:2]}…"
        self.tally.check("P5", again == expected, "gaps", note)

    async def _cancel(self, talk: Talk) -> None:
        """Send something long, read a little, cancel it, and read to its end."""
        sent = self._new(talk, long=True)
        reading = asyncio.create_task(self._stream(talk, sent, cut_first=self._random.randint(1, 5)))
        try:
            async with asyncio.timeout(self.play.patience):
                while sent.message_id is None and not reading.done():  # noqa: ASYNC110 - a look now and then will do
                    await asyncio.sleep(0.02)
            if sent.message_id is not None:
                await asyncio.sleep(self._random.uniform(0, 0.2))
                self.tally.fault("P9")
                stopped = await self.call("POST", f"/api/messages/{sent.message_id}/cancel")
                sent.cancelled = stopped["status"] == "cancelled"
        finally:
            await reading
        if sent.cancelled:
            kept = sent.end is not None and sent.end[0] == "done" and sent.end[1]["message"]["status"] == "cancelled"
            self.tally.check("P9", kept, "lost", f"{sent.message_id} was cancelled and ended as {sent.end}")

    async def _delete(self, talk: Talk) -> None:
        """Delete a conversation in the middle of an answer."""
        sent = self._new(talk, long=True)
        reading = asyncio.create_task(self._stream(talk, sent))
        await asyncio.sleep(self._random.uniform(0, 0.5))
        talk.deleted = True
        try:
            await self.do_once("DELETE", f"/api/conversations/{talk.id}")
        finally:
            await reading
        try:
            await self.call("GET", f"/api/conversations/{talk.id}")
        except Refused as refused:
            self.tally.check("P1", refused.status == 404, "doubled", f"deleted, then {refused}")
        else:
            self.tally.check("P1", False, "doubled", f"{talk.id} is there after it was deleted")
