"""The example client does what its page says."""

import asyncio
import os
import sys
from pathlib import Path

from luxx.testing.fault_proxy import FaultProxy
from luxx.testing.upstream import ScriptedUpstream, echo
from tests.promises.support import StartServer

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
