"""The scripted provider, as a program and by its control words."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from luxx.adapters.models.openai import OpenAIChatModel, OpenAISettings
from luxx.application.ports import ModelRequest, ModelThinking, ModelToolCall, ToolEntry, UserEntry
from luxx.domain.errors import ModelError, ModelRateLimited, ModelRejected, ModelTimeout, ModelUnavailable
from luxx.testing.contracts.chat_model import heard, heard_until_error, text_in
from luxx.testing.upstream import ScriptedUpstream, echo


def asking(text: str) -> ModelRequest:
    return ModelRequest(model="any", entries=(UserEntry(text=text),), temperature=1.0, max_tokens=100)


@asynccontextmanager
async def played() -> AsyncIterator[OpenAIChatModel]:
    async with ScriptedUpstream() as upstream:
        model = OpenAIChatModel(
            OpenAISettings(base_url=upstream.url, first_token_s=0.2, idle_s=0.2, retries=0, response_limit=200_000)
        )
        yield model
        await model.aclose()


@pytest.mark.parametrize("prompt", ["one two three", "你好 [[delay:0.001]]世界", "", "a b [[words:7]]", "[[drip:0]] a"])
async def test_an_answer_is_the_echo_of_the_prompt(prompt: str) -> None:
    async with played() as model:
        assert text_in(await heard(model, asking(prompt))) == echo(prompt) != ""


def test_a_number_of_words_makes_each_word_tell_its_place() -> None:
    assert echo("a b [[words:5]]") == "a-1 b-2 a-3 b-4 a-5"


@pytest.mark.parametrize(
    ("control", "kind", "text"),
    [
        ("[[stall]]", ModelTimeout, ""),
        ("[[stall:2]]", ModelTimeout, "one two "),
        ("[[mute]]", ModelTimeout, ""),
        ("[[truncate:2]]", ModelUnavailable, "one two "),
        ("[[end:1]]", ModelUnavailable, "one "),
        ("[[garbage:1]]", ModelUnavailable, "one "),
        ("[[error:1]]", ModelUnavailable, "one "),
        ("[[line:1]]", ModelUnavailable, "one "),
        ("[[html]]", ModelUnavailable, ""),
        ("[[status:401]]", ModelRejected, ""),
        ("[[status:429:3]]", ModelRateLimited, ""),
    ],
)
async def test_faults_come_where_the_prompt_wants_them(control: str, kind: type[ModelError], text: str) -> None:
    async with played() as model:
        events, error = await heard_until_error(model, asking(f"one two three {control}"))
    assert type(error) is kind
    assert text_in(events) == text


@pytest.mark.parametrize("control", ["[[reset:1]]", "[[endless]]"])
async def test_faults_without_an_exact_place_end_in_a_failure_as_well(control: str) -> None:
    async with played() as model:
        _, error = await heard_until_error(model, asking(f"one two three {control}"))
    assert isinstance(error, ModelUnavailable)


async def test_a_flaky_prompt_fails_as_often_as_it_says() -> None:
    async with played() as model:
        for _ in range(2):
            _, error = await heard_until_error(model, asking("a [[flaky:2]]"))
            assert isinstance(error, ModelUnavailable)
        assert text_in(await heard(model, asking("a [[flaky:2]]"))) == "a"


async def test_tools_are_asked_for_together_and_the_text_follows_their_results() -> None:
    request = asking('[[tool:calculate {"expression": "6*7"}]] [[tool:current_time]] done [[think:2]]')
    async with played() as model:
        calls = [event.call for event in await heard(model, request) if isinstance(event, ModelToolCall)]
        assert [(call.name, call.arguments) for call in calls] == [
            ("calculate", {"expression": "6*7"}),
            ("current_time", {}),
        ]
        result = ToolEntry(call_id=calls[0].id, name="calculate", text="42")
        after = ModelRequest(model="any", entries=(*request.entries, result), temperature=1.0, max_tokens=9)
        events = await heard(model, after)
    assert text_in(events) == "done"
    # Two deltas, which are one event where one read brings both.
    assert len("".join(event.delta for event in events if isinstance(event, ModelThinking)).split()) == 2


async def test_as_a_program_it_prints_its_address_and_counts_what_is_open() -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "luxx.testing.upstream", "--words", "3", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert program.stdout is not None
        url = (await program.stdout.readline()).decode().strip()
        model = OpenAIChatModel(OpenAISettings(base_url=url))
        assert text_in(await heard(model, asking("a"))) == "a-1 a-2 a-3"
        await model.aclose()
        async with httpx.AsyncClient(trust_env=False) as client:
            stats = (await client.get(url.removesuffix("/v1") + "/stats")).json()
        assert stats == {"requests": 1, "open_requests": 0}
    finally:
        program.terminate()
        await program.wait()
