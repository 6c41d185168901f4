"""The contract of the port `ChatModel`, on every adapter of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from luxx.adapters.models.offline import OfflineChatModel
from luxx.adapters.models.openai import OpenAIChatModel, OpenAISettings
from luxx.adapters.models.scripted import Cue, ScriptedChatModel, calling, spoken
from luxx.application.ports import ChatModel, ModelText
from luxx.domain.errors import ModelRejected, ModelTimeout, ModelUnavailable
from luxx.testing.contracts.chat_model import ChatModelContract, RemoteChatModelContract
from luxx.testing.upstream import Close, Reply, ScriptedUpstream, Stall, asking, delta, failing, saying


class TestOfflineChatModel(ChatModelContract):
    @pytest.fixture
    def talking(self) -> ChatModel:
        return OfflineChatModel()

    @pytest.fixture
    def calling(self) -> ChatModel:
        return OfflineChatModel()

    @pytest.fixture
    def lingering(self) -> ChatModel:
        return OfflineChatModel(pause_s=60)


class TestScriptedChatModel(RemoteChatModelContract):
    @pytest.fixture
    def talking(self) -> ChatModel:
        return ScriptedChatModel(*[spoken("I play what is scripted.")] * 3)

    @pytest.fixture
    def calling(self) -> ChatModel:
        both = calling(("calculate", {"expression": "6*7"}), ("current_time", {"timezone": "Asia/Tokyo"}))
        return ScriptedChatModel(both, spoken("It is 42."))

    @pytest.fixture
    def lingering(self) -> ChatModel:
        round_: tuple[Cue, ...] = (ModelText("half"), asyncio.Event())
        return ScriptedChatModel(round_, round_)

    @pytest.fixture
    def refusing(self) -> ChatModel:
        return ScriptedChatModel([ModelRejected("no")])

    @pytest.fixture
    def breaking(self) -> ChatModel:
        return ScriptedChatModel([ModelText("half"), ModelUnavailable("broken off")])

    @pytest.fixture
    def silent(self) -> ChatModel:
        return ScriptedChatModel([ModelText("half"), ModelTimeout("too slow")])

    @pytest.fixture
    def let_go(self, lingering: ScriptedChatModel) -> Callable[[], Awaitable[None]]:
        async def check() -> None:
            assert lingering.open_streams == 0

        return check


class TestOpenAIChatModel(RemoteChatModelContract):
    @pytest.fixture
    async def upstream(self) -> AsyncIterator[ScriptedUpstream]:
        async with ScriptedUpstream() as upstream:
            yield upstream

    @pytest.fixture
    async def model(self, upstream: ScriptedUpstream) -> AsyncIterator[OpenAIChatModel]:
        model = OpenAIChatModel(OpenAISettings(base_url=upstream.url, first_token_s=5, idle_s=5, retries=0))
        yield model
        await model.aclose()

    @pytest.fixture
    def talking(self, upstream: ScriptedUpstream, model: OpenAIChatModel) -> ChatModel:
        upstream.play(*[saying("I come ", "from ", "far away.")] * 3)
        return model

    @pytest.fixture
    def calling(self, upstream: ScriptedUpstream, model: OpenAIChatModel) -> ChatModel:
        both = (("calculate", '{"expression": "6*7"}'), ("current_time", '{"timezone": "Asia/Tokyo"}'))
        upstream.play(asking(*both), saying("It is 42."))
        return model

    @pytest.fixture
    def lingering(self, upstream: ScriptedUpstream, model: OpenAIChatModel) -> ChatModel:
        upstream.play(*[Reply(steps=(delta(content="half"), Stall()))] * 2)
        return model

    @pytest.fixture
    def refusing(self, upstream: ScriptedUpstream, model: OpenAIChatModel) -> ChatModel:
        upstream.play(failing(401))
        return model

    @pytest.fixture
    def breaking(self, upstream: ScriptedUpstream, model: OpenAIChatModel) -> ChatModel:
        upstream.play(Reply(steps=(delta(content="half"), Close())))
        return model

    @pytest.fixture
    async def silent(self, upstream: ScriptedUpstream) -> AsyncIterator[ChatModel]:
        upstream.play(Reply(steps=(delta(content="half"), Stall())))
        model = OpenAIChatModel(OpenAISettings(base_url=upstream.url, idle_s=0.1, retries=0))
        yield model
        await model.aclose()

    @pytest.fixture
    def let_go(self, upstream: ScriptedUpstream) -> Callable[[], Awaitable[None]]:
        return lambda: upstream.until_open(0)
