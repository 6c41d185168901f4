"""The adapter keeps the contract of `ChatModel`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
from luxx.application import ChatModel, ModelToolCall
from luxx.domain.errors import ModelRateLimited
from luxx.testing import ScriptedUpstream
from luxx.testing.contracts import RemoteChatModelContract
from luxx.testing.contracts.chat_model import ERRAND, ERRAND_DONE, QUESTION, heard
from luxx.testing.upstream import Close, Stall, failing
from provider_wire import KEY, call, reply, text

from messages_model import MessagesChatModel, MessagesSettings


class TestMessagesChatModel(RemoteChatModelContract):
    @pytest.fixture
    def talking(self, provider: ScriptedUpstream, model: MessagesChatModel) -> ChatModel:
        provider.play(*[reply(*text("I come ", "from ", "far away."))] * 3)
        return model

    @pytest.fixture
    def calling(self, provider: ScriptedUpstream, model: MessagesChatModel) -> ChatModel:
        both = (
            *call(1, "calculate", '{"expr', 'ession": "6*7"}'),
            *call(2, "current_time", '{"timezone": "Asia/Tokyo"}'),
        )
        provider.play(reply(*both, reason="tool_use"), reply(*text("It is 42.")))
        return model

    @pytest.fixture
    def lingering(self, provider: ScriptedUpstream, model: MessagesChatModel) -> ChatModel:
        provider.play(*[reply(*text("half"), Stall())] * 2)
        return model

    @pytest.fixture
    def refusing(self, provider: ScriptedUpstream, model: MessagesChatModel) -> ChatModel:
        provider.play(failing(401))
        return model

    @pytest.fixture
    def breaking(self, provider: ScriptedUpstream, model: MessagesChatModel) -> ChatModel:
        provider.play(reply(*text("half"), Close(), whole=False))
        return model

    @pytest.fixture
    async def silent(self, provider: ScriptedUpstream, settings: MessagesSettings) -> AsyncIterator[ChatModel]:
        provider.play(reply(*text("half"), Stall()))
        model = MessagesChatModel(replace(settings, idle_s=0.1))
        yield model
        await model.aclose()

    @pytest.fixture
    def let_go(self, provider: ScriptedUpstream) -> Callable[[], Awaitable[None]]:
        return lambda: provider.until_open(0)


# --- what is this provider's alone ------------------------------------------------------------------


async def test_the_transcript_is_told_as_the_provider_wants_it(
    provider: ScriptedUpstream, model: MessagesChatModel
) -> None:
    provider.play(*[reply(*text("Well."))] * 2)
    await heard(model, QUESTION)
    await heard(model, ERRAND_DONE)
    plain, errand = provider.requests
    assert (plain.path, plain.headers["x-api-key"]) == ("/v1/messages", KEY)
    assert plain.json["system"] == "Be brief."
    assert [message["role"] for message in errand.json["messages"]] == ["user", "assistant", "user"]
    assert [block["type"] for block in errand.json["messages"][1]["content"]] == ["text", "tool_use", "tool_use"]
    assert [block["tool_use_id"] for block in errand.json["messages"][2]["content"]] == ["call_1", "call_2"]
    assert [tool["name"] for tool in errand.json["tools"]] == ["calculate", "current_time"]


async def test_arguments_that_are_no_object_are_kept_as_text(
    provider: ScriptedUpstream, model: MessagesChatModel
) -> None:
    provider.play(reply(*call(1, "calculate", '{"expression": '), reason="tool_use"))
    (found,) = [event.call for event in await heard(model, ERRAND) if isinstance(event, ModelToolCall)]
    assert (found.arguments, found.malformed) == (None, '{"expression": ')


async def test_a_pause_that_is_asked_for_is_told(provider: ScriptedUpstream, model: MessagesChatModel) -> None:
    provider.play(failing(429, retry_after="7"))
    with pytest.raises(ModelRateLimited) as caught:
        await heard(model, QUESTION)
    assert caught.value.retry_after == 7
