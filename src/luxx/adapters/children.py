"""Child processes, as seen by the process that started them."""

from asyncio.subprocess import Process
from contextlib import suppress


async def ended(child: Process) -> int:
    """Wait for a child's end, and let go of its standard input; gives the exit status, negative for a signal."""
    status = await child.wait()
    if child.stdin is not None:
        child.stdin.close()
        # That nobody read to the end is no news; unasked, it would be told when the pipe is collected.
        with suppress(ConnectionError):
            await child.stdin.wait_closed()
    return status
