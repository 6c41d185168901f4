"""The scripted model, beyond the contract of its port."""

import asyncio
import subprocess
import sys
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import luxx
from luxx.adapters.models.scripted import ScriptedChatModel, ScriptExhausted, calling, spoken
from luxx.application.ports import ModelEnd, ModelRequest, ModelText, ModelToolCall, UserEntry
from luxx.domain.errors import ModelTimeout
from luxx.domain.message import Usage
from luxx.domain.tool import ToolCall
from luxx.testing.contracts.chat_model import heard, text_in

REQUEST = ModelRequest(model="glm-5", entries=(UserEntry(text="Hi there"),), temperature=1.0, max_tokens=100)


async def test_texts_are_said_word_by_word_one_a_round() -> None:
    model = ScriptedChatModel.saying("one  two", "three", usage=Usage(total_tokens=3))
    assert await heard(model, REQUEST) == [
        ModelText("one "),
        ModelText(" "),
        ModelText("two"),
        ModelEnd("stop", Usage(total_tokens=3)),
    ]
    assert text_in(await heard(model, REQUEST)) == "three"


async def test_the_requests_are_kept_in_order() -> None:
    model = ScriptedChatModel.saying("a", "b")
    other = replace(REQUEST, model="other")
    await heard(model, REQUEST)
    await heard(model, other)
    assert model.requests == [REQUEST, other]


async def test_a_script_that_has_run_out_says_what_was_asked() -> None:
    model = ScriptedChatModel().then(spoken("one"))
    await heard(model, REQUEST)
    with pytest.raises(ScriptExhausted, match=r"1 round.*request 2.*'Hi there'.*'glm-5'"):
        await heard(model, REQUEST)


@pytest.mark.parametrize(
    ("cues", "says"),
    [
        ("hello", r"spoken\('hello'\)"),
        (["hello"], r"ModelText\('hello'\) says it"),
        (ModelText("hello"), r"\[ModelText"),
        ([None], "not None"),
        ([ModelEnd], "not <class"),
        (5, r"\[5\]"),
    ],
)
def test_what_is_no_round_is_refused_at_once(cues: Any, says: str) -> None:
    model = ScriptedChatModel()
    with pytest.raises(TypeError, match=says):
        model.then(spoken("fine"), cues)
    with pytest.raises(TypeError, match=says):
        ScriptedChatModel(cues)


async def test_a_round_may_be_any_iterable_of_cues() -> None:
    model = ScriptedChatModel().then((ModelText(text) for text in "ab"), [], [ModelTimeout])
    assert text_in(await heard(model, REQUEST)) == "ab"
    assert await heard(model, REQUEST) == []


async def test_a_pause_is_waited_for_and_an_exception_is_raised_in_its_place() -> None:
    go = asyncio.Event()
    called: list[str] = []

    async def call() -> None:
        called.append("here")

    model = ScriptedChatModel([ModelText("a"), go, call, ModelText("b"), ModelTimeout("slow")])
    async with aclosing(model.stream(REQUEST)) as answer:
        assert await anext(answer) == ModelText("a")
        assert model.open_streams == 1
        following = asyncio.ensure_future(anext(answer))
        await asyncio.sleep(0)
        assert not following.done()
        assert not called
        go.set()
        assert await following == ModelText("b")
        assert called == ["here"]
        with pytest.raises(ModelTimeout):
            await anext(answer)
    assert model.open_streams == 0


async def test_scripted_calls_have_ids_of_their_own() -> None:
    events = await heard(ScriptedChatModel(calling(("t", {"n": 1}), ("t", {}), text="Well.")), REQUEST)
    assert events == [
        ModelText("Well."),
        ModelToolCall(ToolCall(id="call_1", name="t", arguments={"n": 1})),
        ModelToolCall(ToolCall(id="call_2", name="t", arguments={})),
        ModelEnd("tool_calls"),
    ]


@pytest.mark.parametrize("module", ["scripted", "offline"])
def test_it_loads_in_a_bare_interpreter(module: str) -> None:
    """No third-party package is needed to embed Luxx with this model."""
    source = str(Path(luxx.__file__).parent.parent)
    program = f"import sys; sys.path.insert(0, {source!r}); import luxx.adapters.models.{module}"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
