"""Ask many questions at once, and print each answer when it is whole.

    export LUXX_TOKEN=luxx_...        an access token or an API key
    python examples/client.py http://127.0.0.1:8000 "What is 6*7?" "What time is it in Paris?"

Connections may break, servers may be replaced: no question is asked twice, and no word is lost. Needs luxx[client].
"""

# ruff: noqa: INP001, T201 - a program by itself, that prints

import asyncio
import os
import sys

from luxx.client import AsyncClient, Done, Failed, LuxxClientError, Started, ToolReturned

AT_ONCE = 8


async def ask(client: AsyncClient, question: str) -> str:
    """Ask one question in a conversation of its own; gives the answer, and how it came about."""
    conversation = await client.create_conversation(title=question[:80])
    tools: list[str] = []
    async with client.stream(conversation.id, question) as stream:
        async for event in stream:
            match event:
                case Started(message_id=message_id):
                    print(f"… {question} ({message_id})", file=sys.stderr)
                case ToolReturned(name=name, success=success, duration_ms=ms):
                    tools.append(f"{name} {'answered' if success else 'failed'} in {ms} ms")
                case Done(message=message):
                    return "\n".join([f"# {question}", *(f"({tool})" for tool in tools), message.content, ""])
                case Failed(code=code, message=told):
                    return f"# {question}\n({code}: {told})\n"
    raise AssertionError("a stream ends with Done or Failed, or raises")


async def main(url: str, questions: list[str]) -> None:
    """Ask all, `AT_ONCE` at a time."""
    gate = asyncio.Semaphore(AT_ONCE)
    async with AsyncClient(url, token=os.environ["LUXX_TOKEN"]) as client:

        async def one(question: str) -> None:
            async with gate:
                print(await ask(client, question), flush=True)

        async with asyncio.TaskGroup() as tasks:
            for question in questions:
                tasks.create_task(one(question))


if __name__ == "__main__":
    if len(sys.argv) < 3 or not os.environ.get("LUXX_TOKEN"):
        raise SystemExit(__doc__)
    try:
        asyncio.run(main(sys.argv[1], sys.argv[2:]))
    except* LuxxClientError as group:
        raise SystemExit(f"{group.exceptions[0]}") from None
