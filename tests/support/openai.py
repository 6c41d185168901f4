"""The OpenAI-compatible adapter before a scripted provider."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from luxx.adapters.models.openai import OpenAIChatModel, OpenAISettings
from luxx.application.ports import ModelRequest, UserEntry
from luxx.domain.errors import ModelError
from luxx.testing.contracts.chat_model import heard_until_error
from luxx.testing.upstream import Reply, ScriptedUpstream

KEY: Final = "sk-very-secret-key"
REQUEST: Final = ModelRequest(model="glm-5", entries=(UserEntry(text="Hi"),), temperature=1.0, max_tokens=100)
PATIENT: Final = OpenAISettings(
    base_url="http://replaced/v1", api_key=KEY, first_token_s=5, idle_s=5, total_s=10, retries=0, backoff_s=0.001
)


@asynccontextmanager
async def open_model(base_url: str, **changes: Any) -> AsyncIterator[OpenAIChatModel]:
    model = OpenAIChatModel(replace(PATIENT, base_url=base_url, **changes))
    try:
        yield model
    finally:
        await model.aclose()


async def error_from(upstream: ScriptedUpstream, *replies: Reply, **changes: Any) -> ModelError:
    """Play `replies` and give the error that reading an answer ends with."""
    upstream.play(*replies)
    async with open_model(upstream.url, **changes) as model:
        _, error = await heard_until_error(model, REQUEST)
    assert error is not None
    return error
