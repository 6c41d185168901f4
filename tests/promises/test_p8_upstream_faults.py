"""No fault of the model hangs a client."""

import asyncio
import socket
from typing import Any, Final

import pytest

from luxx.testing.upstream import ScriptedUpstream, words_of
from tests.promises.support import StartServer, ended

DEADLINES: Final = {
    "llm_connect_seconds": 0.5,
    "llm_first_token_seconds": 0.5,
    "llm_idle_seconds": 0.5,
    "llm_total_seconds": 1.5,
    "heartbeat_seconds": 0.2,
}
WITHIN: Final = 5.0
WORDS: Final = "one two three four five six"


@pytest.mark.parametrize(
    ("fault", "code", "kept"),
    [
        ("[[status:401]]", "model_rejected", 0),
        ("[[status:429]]", "model_rate_limited", 0),
        ("[[status:500]]", "model_unavailable", 0),
        ("[[status:503]]", "model_unavailable", 0),
        ("[[html]]", "model_unavailable", 0),
        ("[[mute]]", "model_timeout", 0),
        ("[[stall:0]]", "model_timeout", 0),
        ("[[stall:3]]", "model_timeout", 3),
        ("[[reset:3]]", "model_unavailable", 3),
        ("[[truncate:3]]", "model_unavailable", 3),
        ("[[end:3]]", "model_unavailable", 3),
        ("[[garbage:3]]", "model_unavailable", 3),
        ("[[error:3]]", "model_unavailable", 3),
        ("[[line:3]]", "model_unavailable", 3),
        ("[[endless]]", "model_timeout", 6),
    ],
)
async def test_a_fault_ends_the_stream_with_its_code_and_keeps_what_arrived(
    fault: str, code: str, kept: int, serve: StartServer, upstream: ScriptedUpstream
) -> None:
    served = await serve(None, **DEADLINES)
    account = await served.account()
    conversation_id = await account.new_conversation()
    message = await _failed(account, conversation_id, f"{WORDS} {fault}", code)
    assert message["content"].startswith("".join(words_of(WORDS)[:kept]).strip())
    if fault != "[[endless]]":
        assert message["content"] == "".join(words_of(WORDS)[:kept])
    await upstream.until_open(0, within_s=1)
    # The conversation is free, and what failed does not come back.
    assert (await account.stream(conversation_id, "again")).text == "again"


async def test_a_provider_that_is_not_there_is_told_in_time(serve: StartServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        served = await serve(None, **DEADLINES, llm_base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        account = await served.account()
        conversation_id = await account.new_conversation()
        message = await _failed(account, conversation_id, WORDS, "model_unavailable")
        assert message["content"] == ""


async def _failed(account: Any, conversation_id: str, content: str, code: str) -> dict[str, Any]:
    async with asyncio.timeout(WITHIN):
        streamed = await account.stream(conversation_id, content)
    assert (streamed.end.name, streamed.end.data["code"]) == ("error", code)
    message = await ended(account, conversation_id, within=1)
    assert message["id"] == streamed.message_id
    assert (message["status"], message["error"]["code"]) == ("failed", code)
    assert message["content"] == streamed.text
    return message
