"""Wherever an answer is cancelled or cut: stored is what was streamed, nothing stays open, nothing is asked twice."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from luxx.application import Toolbox
from luxx.domain.message import Json
from luxx.domain.tool import ToolSpec
from luxx.testing.upstream import (
    DONE,
    Asked,
    Close,
    Reply,
    Reset,
    ScriptedUpstream,
    Step,
    Wait,
    call,
    delta,
    finish,
    saying,
    usage,
)
from tests.promises.support import Reader, StartServer

SEED: Final = 5
TURNS: Final = 30
LONGEST_S: Final = 0.2
"""About as long as an answer of `_Provider` takes: a cancel before that finds it anywhere."""


class Napping:
    """A tool that takes a little while, and tells how many of it run."""

    def __init__(self) -> None:
        self.running = 0

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(name="nap", description="Naps.", category="data", parameters={"type": "object"})

    async def run(self, arguments: Mapping[str, Json]) -> Json:
        self.running += 1
        try:
            await asyncio.sleep(arguments["s"])
        finally:
            self.running -= 1
        return "rested"


class _Provider:
    """Rounds of some text and some calls, with pauses, of which one in eight breaks off somewhere."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    def __call__(self, asked: Asked) -> Reply:
        dice = self._dice
        results = sum(message["role"] == "tool" for message in asked.messages)
        steps: list[Step] = []
        for _ in range(dice.randint(0, 6)):
            steps += [delta(content=dice.choice(["a ", "雪", "😀 "]) * dice.randint(1, 3)), self._pause()]
        calls = dice.randint(0, 3) if "tools" in asked.json and results < 6 else 0
        for index in range(calls):
            nap = f'{{"s": {dice.random() * 0.02:.4f}}}'
            steps += [call("nap", nap, index=index, call_id=f"c{dice.randrange(4)}"), self._pause()]
        steps += [finish("tool_calls" if calls else "stop"), self._pause(), usage(1, 2), DONE]
        if dice.random() < 1 / 8:
            steps[dice.randrange(len(steps)) :] = [Close() if dice.random() < 0.5 else Reset()]
        return Reply(steps=tuple(steps))

    def _pause(self) -> Wait:
        return Wait(self._dice.choice([0.0, 0.0, 0.01, 0.04]))


async def test_an_answer_stopped_anywhere_is_stored_as_it_was_streamed(serve: StartServer, any_url: str | None) -> None:
    dice = random.Random(SEED)
    tool = Napping()
    statuses = set()
    async with ScriptedUpstream(otherwise=_Provider(dice)) as upstream:
        served = await serve(any_url, toolbox=Toolbox([tool]), llm_base_url=upstream.url)
        account = await served.account()
        conversation_id = await account.new_conversation()
        for _ in range(TURNS):
            asked = len(upstream.requests)
            reader = Reader(account, conversation_id, "go on")
            message_id = await reader.seen(1)
            await asyncio.sleep(dice.random() * LONGEST_S)
            told = (await account.post(f"/api/messages/{message_id}/cancel")).json()["data"]
            assert not tool.running
            await upstream.until_open(0, within_s=1)
            statuses.add(told["status"])
            following = await reader.task
            assert (await account.messages(conversation_id))[-1] == told
            assert told["parts"] == parts_of(following.events)
            assert told["content"] == following.text
            rounds = 1 + sum(event.name == "tool_result" for event in following.events)
            assert len(upstream.requests) - asked <= rounds, "a round was asked for twice"
        assert "cancelled" in statuses
        for request in upstream.requests:
            assert_in_order(request.messages)
        upstream.play(saying("at last"))
        assert (await account.stream(conversation_id, "and now")).text == "at last"


def parts_of(events: Sequence[Any]) -> list[dict[str, Any]]:
    """Join the events of a stream as a client would."""
    parts: list[dict[str, Any]] = []
    for event in events:
        if event.name == "text" and parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += event.data["delta"]
        elif event.name == "text":
            parts.append({"type": "text", "text": event.data["delta"]})
        elif event.name == "tool_call":
            unknown = {"result": None, "success": None, "error": None, "duration_ms": None}
            parts.append({"type": "tool_call"} | event.data | unknown)
        elif event.name == "tool_result":
            (part,) = (part for part in parts if part.get("id") == event.data["id"])
            part |= event.data
    return parts


def assert_in_order(messages: Sequence[Mapping[str, Any]]) -> None:
    """Hold a transcript to what strict providers ask: each call is followed by its result, and no id comes twice."""
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert waiting.pop(0) == message["tool_call_id"]
            continue
        assert not waiting, "a call without a result"
        waiting = [one["id"] for one in message.get("tool_calls", ())]
        assert len(set(waiting)) == len(waiting)
    assert not waiting
