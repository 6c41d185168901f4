"""Luxx inside another program, in a bare interpreter."""

import subprocess
import sys
from pathlib import Path

import luxx

PROGRAM = """
import sys

sys.path.insert(0, {source!r})

import asyncio
from datetime import timedelta

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.models.scripted import ScriptedChatModel, calling, spoken
from luxx.adapters.system import SortableIds, utc_now
from luxx.application import AdmitUser, CreateConversation, FollowTurn, RunTurn, SendMessage, Toolbox, TurnSupervisor
from luxx.domain.tool import ToolSpec
from luxx.domain.turn import Done, Text, ToolReturned


class Doubling:
    spec = ToolSpec(name="double", description="Twice a number.", category="mine", parameters={{"type": "object"}})

    async def run(self, arguments):
        return arguments["number"] * 2


async def main():
    storage, new_id = MemoryStorage(), SortableIds()
    parts = {{"new_unit": storage.new_unit, "log": storage.log}}
    model = ScriptedChatModel(calling(("double", {{"number": 21}})), spoken("It is 42."))
    run_turn = RunTurn(model=model, toolbox=Toolbox([Doubling()]), log=storage.log)
    supervisor = TurnSupervisor(run_turn=run_turn, clock=utc_now, holder="here", **parts)
    create = CreateConversation(new_unit=storage.new_unit, clock=utc_now, new_id=new_id, default_model="glm-5")
    send = SendMessage(new_unit=storage.new_unit, clock=utc_now, new_id=new_id, supervisor=supervisor)
    follow = FollowTurn(**parts)
    async with supervisor:
        ada = await AdmitUser(new_unit=storage.new_unit, clock=utc_now)(username="ada")
        conversation = await create(user_id=ada.id)
        message_id = await send(user_id=ada.id, conversation_id=conversation.id, content="What is twice 21?")
        async for logged in await follow(user_id=ada.id, message_id=message_id):
            match logged.event:
                case ToolReturned(name=name, result=result):
                    print(name, "gave", result)
                case Text(delta=delta):
                    print(delta, end="")
                case Done(message=message):
                    print()
                    print(message.status.value)


asyncio.run(main())
strangers = {{name.partition(".")[0] for name in sys.modules}} - sys.stdlib_module_names - {{"luxx", "__main__"}}
print("strangers:", sorted(strangers))
"""


def test_a_whole_turn_runs_in_a_bare_interpreter_and_loads_nothing_but_luxx() -> None:
    source = str(Path(luxx.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", PROGRAM.format(source=source)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["double gave 42", "It is 42.", "complete", "strangers: []"]
