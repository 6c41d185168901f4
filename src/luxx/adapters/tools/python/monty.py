"""Python in Monty: quick to start, the same on every system, and nothing of the host in it at all."""

import shutil
from typing import Final

from luxx.adapters.tools.jobs.python import run_python
from luxx.adapters.tools.python.sandbox import MEMORY_BYTES, OUTPUT_CHARACTERS, PythonOutcome, late
from luxx.adapters.tools.workers.pool import WorkerPool
from luxx.domain.errors import ToolRefused, ToolTimeout

GRACE_SECONDS: Final = 1.5
"""How long the worker may go on after the code should have ended, before it is killed."""


class MontySandbox:
    """Runs code in a Monty process, inside a worker that is killed when its time is over."""

    description = (
        "This is a subset of Python 3.14 (Monty). There are functions, closures, decorators on functions, "
        "comprehensions and generator expressions, try, with, match, f-strings, async, classes and dataclasses; but no "
        "inheritance (so no exception classes of your own), no yield, no del, no property, staticmethod or "
        "classmethod. These can be imported: math, json, re, datetime, time, random, decimal, itertools, functools, "
        "collections, dataclasses, typing, bisect, copy, csv, hashlib, base64, unicodedata, asyncio. These cannot: "
        "statistics, string, fractions, heapq, enum, io, and any package such as numpy or pandas."
    )

    def __init__(self, *, workers: int | None = None) -> None:
        self.workers = WorkerPool(size=workers)
        # The worker looks beside its interpreter; without an environment it cannot look along the path.
        self._program = shutil.which("monty")

    async def run(self, code: str, *, seconds: float) -> PythonOutcome:
        try:
            found = await self.workers.run(
                seconds + GRACE_SECONDS, run_python, code, seconds, MEMORY_BYTES, OUTPUT_CHARACTERS, self._program
            )
        except ToolTimeout:
            # Monty did not end in time, and has been killed.
            return PythonOutcome.failed(late(seconds))
        except ToolRefused:
            return PythonOutcome.failed("MemoryError")
        return PythonOutcome(**found)

    async def aclose(self) -> None:
        await self.workers.aclose()
