"""The end of a process, whatever still runs in it."""

import asyncio
import logging
import os
from typing import Final

STOP_SECONDS: Final = 2.0
"""How long what runs still at the end may take to stop."""

_log = logging.getLogger("luxx")


def leave(runner: asyncio.Runner, status: int) -> int:
    """Stop what still runs in a runner's loop, and give `status`; ends the process with it where that is in vain.

    The runner would wait for it, and the interpreter may, until somebody kills the process.
    """
    if left := runner.run(_left()):
        _log.warning("what takes no notice of being stopped is left behind: %s", ", ".join(sorted(left)))
        logging.shutdown()
        os._exit(status)
    return status


async def _left() -> set[str]:
    """Stop what runs still, as the runner would, and tell what does not stop: a tool of somebody's, most likely."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        _, tasks = await asyncio.wait(tasks, timeout=STOP_SECONDS)
    return {task.get_name() for task in tasks}
