"""One of the processes of `luxx serve --workers`: what it runs, and how it obeys the process that started it."""

import asyncio
import os
import pickle
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Final

from luxx.adapters.telemetry.logs import configure
from luxx.adapters.telemetry.prometheus import SHARED_DIRECTORY
from luxx.container import Container
from luxx.domain.errors import LuxxError
from luxx.entrypoints.cli.leaving import leave
from luxx.entrypoints.cli.serve import DrainingServer, loop_factory, server_of, status_of
from luxx.entrypoints.cli.workers import DRAIN, Address, Start
from luxx.settings import BadSettings

ORPHAN_SECONDS: Final = 10.0
"""How long a worker without its parent may take to end in order; then it ends as it is."""


def main() -> int:
    """Serve until an order, a signal or the parent's end; gives the exit status.

    Standard input brings a `Start`, then orders; its end says that the parent is gone. A line on standard
    output tells that requests are taken.
    """
    orders = _lines(0)
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever a library prints must not end up where the parent reads.
    os.dup2(2, 1)
    start: Start = pickle.loads(bytes.fromhex(next(orders).decode()))  # noqa: S301  # the parent's, over its pipe
    settings = start.settings
    configure(style=settings.log_format, level=settings.log_level, secrets=settings.secrets)
    orphaned = threading.Event()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            status = runner.run(_serve(start, orders, answers, orphaned))
            if orphaned.is_set():
                _clear_up()
            return leave(runner, status)
    except BadSettings as error:
        print(error, file=sys.stderr)
        return 2
    except LuxxError as error:
        print(f"luxx: {error.to_operator()}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"luxx: {error}", file=sys.stderr)
        return 1


async def _serve(start: Start, orders: Iterator[bytes], answers: IO[bytes], orphaned: threading.Event) -> int:
    def listening(_: Address) -> None:
        with suppress(BrokenPipeError):  # the parent is gone, as the orders will tell
            if not answers.closed:
                answers.write(b"ready\n")
                answers.close()

    server = server_of(Container(settings=start.settings), host="", port=0, listening=listening)
    loop = asyncio.get_running_loop()
    obeying = (orders, server, loop, orphaned)
    threading.Thread(target=_obey, args=obeying, name="luxx orders", daemon=True).start()
    return await status_of(server, [socket.socket(fileno=number) for number in start.sockets])


def _lines(number: int) -> Iterator[bytes]:
    # By hand: an interpreter that ends while a thread reads a buffered stream is aborted.
    kept = b""
    while data := os.read(number, 1 << 16):
        *whole, kept = (kept + data).split(b"\n")
        yield from whole


def _obey(
    orders: Iterator[bytes], server: DrainingServer, loop: asyncio.AbstractEventLoop, orphaned: threading.Event
) -> None:
    # A loop that is closed belongs to a worker that ends by itself.
    with suppress(RuntimeError):
        for order in orders:
            if order == DRAIN:
                loop.call_soon_threadsafe(server.drain, "The parent stops")
            else:
                server.stop(at_once=True)
        orphaned.set()
        loop.call_soon_threadsafe(lambda: server.drain("The parent is gone", grace=0))
    threading.Event().wait(ORPHAN_SECONDS)
    _clear_up()
    os._exit(1)


def _clear_up() -> None:
    """Take away what the parent would have, as each worker does: the others have their files open."""
    shutil.rmtree(os.environ[SHARED_DIRECTORY], ignore_errors=True)
