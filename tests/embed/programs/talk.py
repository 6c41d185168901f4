"""The client, blocking and not, against the service at the URL that is given."""

import asyncio
import sys

from luxx.client import AsyncClient, Client, Done


def blocking(url: str) -> str:
    with Client(url) as client:
        client.register("grace", "grace@example.com", "hopper-cobol-1906")
        token = client.login("grace", "hopper-cobol-1906").access_token
        conversation = client.create_conversation()
        assert client.send(conversation.id, "Hi").assistant_message.content == "Hello there."
    return token


async def asynchronous(url: str, token: str) -> None:
    async with AsyncClient(url, token=token) as client:
        conversation = await client.create_conversation()
        *_, end = [event async for event in client.stream(conversation.id, "Hi")]
        assert isinstance(end, Done)
        assert end.message.content == "Hello again."


asyncio.run(asynchronous(sys.argv[1], blocking(sys.argv[1])))
