"""A turn of a model behind an OpenAI-compatible endpoint."""

import asyncio

from one_turn import answer  # type: ignore[import-not-found]  # it lies beside this program

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.models.openai import OpenAIChatModel, OpenAISettings
from luxx.testing.upstream import ScriptedUpstream, saying


async def main() -> None:
    async with ScriptedUpstream() as upstream:
        upstream.play(saying("From ", "far away."))
        model = OpenAIChatModel(OpenAISettings(base_url=upstream.url))
        assert await answer(MemoryStorage(), model) == "From far away."
        await model.aclose()


asyncio.run(main())
