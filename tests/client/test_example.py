"""The example client does what its page says."""

import asyncio
import os
import sys
from pathlib import Path

from tests.support.live import Live

from luxx.adapters.models.scripted import ScriptedChatModel
from luxx.application.ports import ModelEnd, ModelText
from luxx.client import AsyncClient
from luxx.testing.fault_proxy import FaultProxy

EXAMPLE = Path(__file__).parents[2] / "examples" / "client.py"


async def test_every_question_is_asked_once_and_every_answer_is_printed_whole(
    served: Live, token: str, model: ScriptedChatModel, client: AsyncClient
) -> None:
    going_on = asyncio.Event()
    words = [f"word{number} " for number in range(60)]
    for _ in range(3):
        model.then((*map(ModelText, words[:20]), going_on, *map(ModelText, words[20:]), ModelEnd("stop")))
    async with FaultProxy("127.0.0.1", int(served.url.rpartition(":")[2])) as proxy:
        asking = await asyncio.create_subprocess_exec(
            *(sys.executable, EXAMPLE, proxy.url, "one?", "two?", "three?"),
            env=os.environ | {"LUXX_TOKEN": token},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert asking.stderr is not None
        async with asyncio.timeout(60):
            begun = [await asking.stderr.readline() for _ in range(3)]
            assert all(line.startswith("… ".encode()) for line in begun), begun
            assert proxy.cut() >= 3
            going_on.set()
            out, problems = await asking.communicate()
    assert asking.returncode == 0, problems.decode()
    printed = sorted(out.decode().split("# ")[1:])
    assert printed == sorted(f"{question}\n{''.join(words)}\n\n" for question in ("one?", "two?", "three?"))
    assert len(model.requests) == 3
    assert (await client.conversations()).total == 3


async def test_without_arguments_it_explains_itself() -> None:
    asking = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, problems = await asking.communicate()
    assert asking.returncode == 1
    assert b"python examples/client.py" in problems
