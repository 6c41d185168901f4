"""Whatever users do, in whatever order: the service agrees with a model that is a few dictionaries."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from luxx.settings import Settings
from luxx.testing.stream_client import Following
from luxx.testing.upstream import ScriptedUpstream, echo, words_of
from tests.promises.conftest import SECRET, made
from tests.support.live import PASSWORD, live

_numbers: Final = count(1)
_TEXTS: Final = st.sampled_from(["hello", "雪 and 🙂", "a b c d e [[words:20]]", "x [[think:2]]"])
_FAULTS: Final = st.sampled_from(["one two three [[reset:1]]", "no [[status:500]]", "t [[truncate:0]]"])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve on SQLite from a thread of its own: the machine is not asynchronous."""
    ready: list[str] = []
    started, done = threading.Event(), threading.Event()
    path: Path = tmp_path_factory.mktemp("machine")

    async def serve() -> None:
        async with ScriptedUpstream() as upstream:
            given = Settings(
                data_dir=path,
                database_url=f"sqlite:///{path / 'luxx.db'}",
                jwt_secret=SECRET,
                llm_base_url=upstream.url,
                llm_retries=0,
            )
            async with live(made(given)) as server:
                ready.append(server.url)
                started.set()
                await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(20)
    yield ready[0]
    done.set()
    thread.join()


@dataclass(slots=True)
class User:
    token: str
    conversations: dict[str, "Conversation"] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    """Conversations by activity, the latest first."""


@dataclass(slots=True)
class Conversation:
    owner: User
    title: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    running: str | None = None
    keys: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)


class Api(RuleBasedStateMachine):
    """The rules are what a client may do; `users` is what must be true."""

    url = ""
    users = Bundle("users")
    talks = Bundle("talks")

    def __init__(self) -> None:
        super().__init__()
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=20)
        self.everybody: list[User] = []

    def teardown(self) -> None:
        for user in self.everybody:
            for identity in user.conversations:
                assert self.ask(user, "DELETE", f"/api/conversations/{identity}").status_code == 200
        self.http.close()

    def ask(self, user: User, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {user.token}"} | options.pop("headers", {})
        return self.http.request(method, path, headers=headers, **options)

    def data(self, user: User, method: str, path: str, **options: Any) -> Any:
        response = self.ask(user, method, path, **options)
        assert response.status_code in {200, 201}, response.text
        return response.json().get("data")

    def touch(self, talk: Conversation, identity: str) -> None:
        talk.owner.order.remove(identity)
        talk.owner.order.insert(0, identity)

    # --- rules --------------------------------------------------------------------------------------

    @initialize(target=users)
    def two_users(self) -> Any:
        for _ in range(2):
            name = f"machine{next(_numbers)}"
            body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
            assert self.http.post("/api/auth/register", json=body).status_code == 201
            login = self.http.post("/api/auth/login", json={"username": name, "password": PASSWORD})
            self.everybody.append(User(login.json()["data"]["access_token"]))
        return multiple(*range(2))

    @rule(target=talks, who=users, title=st.sampled_from(["plans", "雪", "…"]), thinking=st.booleans())
    def create(self, who: int, title: str, thinking: bool) -> tuple[int, str]:
        user = self.everybody[who]
        made = self.data(user, "POST", "/api/conversations/", json={"title": title, "thinking_enabled": thinking})
        user.conversations[made["id"]] = Conversation(user, title)
        user.order.insert(0, made["id"])
        return who, made["id"]

    def found(self, place: tuple[int, str]) -> tuple[User, Conversation]:
        user = self.everybody[place[0]]
        return user, user.conversations[place[1]]

    @rule(place=talks, content=_TEXTS)
    def send(self, place: tuple[int, str], content: str) -> None:
        user, talk = self.found(place)
        response = self.ask(user, "POST", "/api/messages/", json={"conversation_id": place[1], "content": content})
        if talk.running:
            assert (response.status_code, response.json()["error"]["code"]) == (409, "generation_in_progress")
            return
        assert response.status_code == 201, response.text
        self.answered(place, content, response.json()["data"])

    def answered(self, place: tuple[int, str], content: str, data: dict[str, Any]) -> None:
        _, talk = self.found(place)
        question, answer = data["user_message"], data["assistant_message"]
        assert (question["content"], answer["content"], answer["status"]) == (content, echo(content), "complete")
        talk.messages += [question, answer]
        self.touch(talk, place[1])

    @rule(place=talks, content=_FAULTS)
    def send_what_fails(self, place: tuple[int, str], content: str) -> None:
        user, talk = self.found(place)
        response = self.ask(user, "POST", "/api/messages/", json={"conversation_id": place[1], "content": content})
        if talk.running:
            assert response.status_code == 409
            return
        assert (response.status_code, response.json()["error"]["code"]) == (502, "model_unavailable")
        question, answer = self.data(user, "GET", f"/api/messages/{place[1]}")["items"][-2:]
        assert (question["content"], question["status"]) == (content, "complete")
        assert (answer["status"], answer["error"]["code"]) == ("failed", "model_unavailable")
        assert echo(content).startswith(answer["content"])
        talk.messages += [question, answer]
        self.touch(talk, place[1])

    @rule(place=talks, content=_TEXTS, key=st.sampled_from(["k1", "k2"]))
    def send_with_a_key(self, place: tuple[int, str], content: str, key: str) -> None:
        user, talk = self.found(place)
        response = self.ask(
            user,
            "POST",
            "/api/messages/",
            json={"conversation_id": place[1], "content": content},
            headers={"Idempotency-Key": f"{place[1]} {key}"},
        )
        known = talk.keys.get(key)
        if known is not None and known[0] != content:
            assert (response.status_code, response.json()["error"]["code"]) == (409, "idempotency_conflict")
        elif known is not None:
            if {known[1]["user_message"]["id"], known[1]["assistant_message"]["id"]} <= {
                m["id"] for m in talk.messages
            }:
                assert response.json()["data"] == known[1]
        elif talk.running:
            assert response.json()["error"]["code"] == "generation_in_progress"
        else:
            talk.keys[key] = (content, response.json()["data"])
            self.answered(place, content, response.json()["data"])

    def follow(self, response: httpx.Response, *, after: int = 0) -> Following:
        """Check a stream that was read as a whole."""
        assert response.status_code == 200, response.text

        async def check() -> Following:
            following = Following(after=after)
            await following.read(response)
            return following

        return asyncio.run(check())

    @rule(place=talks, content=_TEXTS)
    def stream(self, place: tuple[int, str], content: str) -> None:
        user, talk = self.found(place)
        response = self.ask(
            user, "POST", "/api/messages/stream", json={"conversation_id": place[1], "content": content}
        )
        if talk.running:
            assert response.status_code == 409
            return
        following = self.follow(response)
        assert following.end is not None
        question = following.events[0].data["user_message"]
        self.answered(place, content, {"user_message": question, "assistant_message": following.end.data["message"]})

    @rule(place=talks, after=st.integers(0, 6))
    def resume(self, place: tuple[int, str], after: int) -> None:
        user, talk = self.found(place)
        answers = [one for one in talk.messages if one["role"] == "assistant" and one["id"] != talk.running]
        if not answers:
            return
        path = f"/api/messages/{answers[-1]['id']}/stream"
        whole = self.follow(self.ask(user, "GET", path)).events
        rest = self.follow(self.ask(user, "GET", path, headers={"Last-Event-ID": str(after)}), after=after).events
        # Behind the end there is the end again, under the id that was asked for.
        assert rest == (whole[after:] or [replace(whole[-1], id=after)])
        if whole[-1].name == "done":
            assert whole[-1].data["message"] == answers[-1]

    @rule(place=talks)
    def begin_what_does_not_end(self, place: tuple[int, str]) -> None:
        user, talk = self.found(place)
        content = "one two three four [[stall:2]]"
        body = {"conversation_id": place[1], "content": content}
        headers = {"Authorization": f"Bearer {user.token}"}
        with self.http.stream("POST", "/api/messages/stream", json=body, headers=headers) as response:
            if talk.running:
                assert response.status_code == 409
                return
            seen = ""
            for chunk in response.iter_text():
                seen += chunk
                if "two" in seen.partition("event: text")[2]:
                    break
        question, answer = self.data(user, "GET", f"/api/messages/{place[1]}")["items"][-2:]
        assert (question["content"], answer["status"]) == (content, "streaming")
        talk.messages += [question, answer]
        talk.running = answer["id"]
        self.touch(talk, place[1])

    @rule(place=talks)
    def cancel(self, place: tuple[int, str]) -> None:
        user, talk = self.found(place)
        if talk.messages and not talk.running:
            newest = talk.messages[-1]
            if newest["role"] == "assistant":
                assert self.data(user, "POST", f"/api/messages/{newest['id']}/cancel") == newest
        if talk.running:
            stopped = self.data(user, "POST", f"/api/messages/{talk.running}/cancel")
            assert (stopped["id"], stopped["status"]) == (talk.running, "cancelled")
            assert stopped["content"] == "".join(words_of("one two three four")[:2])
            self.replace(talk, stopped)

    def replace(self, talk: Conversation, message: dict[str, Any]) -> None:
        talk.messages = [message if one["id"] == message["id"] else one for one in talk.messages]
        talk.running = None

    @rule(place=talks, number=st.integers(0, 5))
    def delete_message(self, place: tuple[int, str], number: int) -> None:
        user, talk = self.found(place)
        if not talk.messages:
            return
        doomed = talk.messages[number % len(talk.messages)]
        assert self.ask(user, "DELETE", f"/api/messages/{doomed['id']}").status_code == 200
        stopped = talk.running is not None and doomed in talk.messages[-2:] and doomed["id"] != talk.running
        if doomed["id"] == talk.running:
            talk.running = None
        elif stopped and doomed["role"] == "user":
            self.replace(talk, self.data(user, "GET", f"/api/messages/{place[1]}")["items"][-1])
        talk.messages = [one for one in talk.messages if one["id"] != doomed["id"]]

    @rule(place=consumes(talks))
    def delete(self, place: tuple[int, str]) -> None:
        user, _ = self.found(place)
        assert self.ask(user, "DELETE", f"/api/conversations/{place[1]}").status_code == 200
        del user.conversations[place[1]]
        user.order.remove(place[1])
        for method, path in (("GET", f"/api/conversations/{place[1]}"), ("GET", f"/api/messages/{place[1]}")):
            assert self.ask(user, method, path).status_code == 404

    @rule(place=talks)
    def what_is_somebody_elses_is_absent(self, place: tuple[int, str]) -> None:
        other = self.everybody[1 - place[0]]
        _, talk = self.found(place)
        asked: list[tuple[str, str, Any]] = [
            ("GET", f"/api/conversations/{place[1]}", None),
            ("GET", f"/api/messages/{place[1]}", None),
            ("POST", "/api/messages/", {"conversation_id": place[1], "content": "mine now"}),
            ("DELETE", f"/api/conversations/{place[1]}", None),
        ]
        for message in talk.messages[-1:]:
            asked += [
                ("GET", f"/api/messages/{message['id']}/stream", None),
                ("POST", f"/api/messages/{message['id']}/cancel", None),
                ("DELETE", f"/api/messages/{message['id']}", None),
            ]
        for method, path, body in asked:
            assert self.ask(other, method, path, json=body).status_code == 404, (method, path)

    # --- what is always true ------------------------------------------------------------------------

    @invariant()
    def lists_agree(self) -> None:
        for user in self.everybody:
            data = self.data(user, "GET", "/api/conversations/?page_size=100")
            assert [one["id"] for one in data["items"]] == user.order
            assert data["total"] == len(user.order)
            for identity in user.order[:2]:
                talk = user.conversations[identity]
                listed = self.data(user, "GET", f"/api/messages/{identity}")
                shown = [one if one["id"] != talk.running else None for one in listed["items"]]
                assert shown == [one if one["id"] != talk.running else None for one in talk.messages]
                assert listed["total"] == len(talk.messages)


def test_the_service_agrees_with_its_model(url: str) -> None:
    machine = type("ApiAtUrl", (Api,), {"url": url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=10,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
