"""The example client does what its page says."""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from luxx.testing.fault_proxy import FaultProxy
from luxx.testing.upstream import ScriptedUpstream, echo
from tests.embed.loaded import example
from tests.promises.support import StartServer
from tests.support.web import Answer, web_server

STREAM = {"Content-Type": "text/event-stream"}
EXAMPLE = Path(__file__).parents[2] / "examples" / "stream.py"


async def test_the_example_prints_every_word_once_although_its_connection_is_cut(
    serve: StartServer, upstream: ScriptedUpstream
) -> None:
    served = await serve(None)
    prompt = "over and over [[words:60]] [[delay:0.02]]"
    async with FaultProxy("127.0.0.1", int(served.url.rpartition(":")[2]), seed=3) as proxy:
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, EXAMPLE, proxy.url, "ada", prompt),
            env=os.environ | {"LUXX_PASSWORD": "correct horse battery staple"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert client.stdout is not None
        told = await client.stdout.read(20)
        cuts = proxy.cut()
        for _ in range(2):
            told += await client.stdout.read(20)
            cuts += proxy.cut()
        assert cuts > 0
        told += await client.stdout.read()
        assert (await client.wait(), told.decode()) == (0, echo(prompt) + "\n")
    assert len(upstream.requests) == 1


def told(*events: tuple[int, str, Any]) -> bytes:
    return "".join(f"id: {id_}\nevent: {name}\ndata: {json.dumps(data)}\n\n" for id_, name, data in events).encode()


START: tuple[int, str, Any] = (1, "start", {"message_id": "msg_2", "user_message": {}})
DONE: tuple[int, str, Any] = (3, "done", {"message": {}})


async def test_an_answer_may_take_longer_than_the_example_waits_for_a_server_that_is_gone() -> None:
    module: Any = example("stream")
    module.PATIENCE = 0.5

    async def slowly(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\n\r\n" + told(START)
        )
        await asyncio.sleep(module.PATIENCE + 0.1)  # as a model that thinks, and then the network breaks
        writer.write(told((2, "text", {"delta": "So"})))

    async with web_server() as web:
        web.pages |= {"/api/messages/stream": slowly, "/api/messages/msg_2/stream": Answer(told(DONE), headers=STREAM)}

        def asked() -> list[str]:
            with httpx.Client(base_url=web.url(), trust_env=False) as http:
                return [name for name, _ in module.ask(http, "conv_1", "?")]

        assert await asyncio.to_thread(asked) == ["start", "text", "done"]


async def test_the_example_asks_again_when_it_is_told_to() -> None:
    module: Any = example("stream")
    pauses: list[float] = []
    module.time = SimpleNamespace(monotonic=time.monotonic, sleep=pauses.append)
    busy = Answer(json.dumps({"success": False}), status=429, headers={"Retry-After": "7"})
    away = Answer("", status=503, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})
    well = Answer(told(START, DONE), headers=STREAM)
    answers = iter([away, busy, well])

    async with web_server() as web:
        web.pages |= {"/api/messages/stream": lambda _: next(answers)}

        def asked() -> list[str]:
            with httpx.Client(base_url=web.url(), trust_env=False) as http:
                return [name for name, _ in module.ask(http, "conv_1", "?")]

        assert await asyncio.to_thread(asked) == ["start", "done"]
    assert pauses == [0.2, 7]


async def test_the_example_does_not_wait_for_longer_than_it_has_patience() -> None:
    module: Any = example("stream")
    async with web_server() as web:
        web.pages["/api/messages/stream"] = Answer("", status=503, headers={"Retry-After": "86400"})

        def asked() -> list[str]:
            with httpx.Client(base_url=web.url(), trust_env=False) as http:
                return [name for name, _ in module.ask(http, "conv_1", "?")]

        with pytest.raises(SystemExit, match="cannot be reached"):
            await asyncio.to_thread(asked)


async def test_the_example_says_so_where_an_answer_is_told_anew() -> None:
    async with web_server() as web:
        web.pages |= {
            "/api/auth/login": Answer(json.dumps({"data": {"access_token": "token"}})),
            "/api/conversations/": Answer(json.dumps({"data": {"id": "conv_1"}})),
            "/api/messages/stream": Answer(told(START, (2, "text", {"delta": "Hel"})), headers=STREAM),
            "/api/messages/msg_2/stream": Answer(told(START, (2, "text", {"delta": "Hello"}), DONE), headers=STREAM),
        }
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, EXAMPLE, web.url(), "ada", "?"),
            env=os.environ | {"LUXX_PASSWORD": "correct horse battery staple"},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(client.communicate(), 30)
    begun, note, whole = out.decode().split("\n\n")
    assert (client.returncode, begun, whole) == (0, "Hel", "Hello\n")
    assert "again" in note
