"""Luxx with nothing else."""

import asyncio
import sys

from one_turn import answer  # type: ignore[import-not-found]  # it lies beside this program

from luxx.adapters.memory import MemoryStorage
from luxx.adapters.models import OfflineChatModel

assert asyncio.run(answer(MemoryStorage())) == "Hello there."
assert asyncio.run(answer(MemoryStorage(), OfflineChatModel()))
strangers = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names
strangers -= {"sitecustomize", "usercustomize"}  # what the interpreter's own maker or owner adds to each program
assert strangers == {"luxx", "__main__", "one_turn"}, strangers
