"""A reader that never reads costs bounded memory and delays nobody."""

import asyncio
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

from luxx.testing.chaos.processes import ServiceProcess
from luxx.testing.upstream import DONE, Reply, ScriptedUpstream, Wait, delta, finish
from tests.promises.support import StartProcesses
from tests.support.live import Account

LIVE = 5
LATER = 45
PIECES = 100
PIECE = "a word or two, and on it goes … " * 1000
ALLOWED_MB = 50
"""Not much more than 1 MB each, of an answer of 3 MB and a reply of 6 with its end."""


def _resident_mb(service: ServiceProcess) -> float:
    status = Path(f"/proc/{service.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


async def _stall(stack: ExitStack, account: Account, service: ServiceProcess, message_id: str) -> None:
    """Ask for a stream and never read it; the system's own buffers are made small."""
    connection = stack.enter_context(socket.socket())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", service.port))
    authorization = account.headers["Authorization"]
    head = f"GET /api/messages/{message_id}/stream HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n\r\n"
    await loop.sock_sendall(connection, head.encode())


async def test_50_readers_that_never_read_cost_little_and_delay_nobody(
    sqlite_url: str, processes: StartProcesses, upstream: ScriptedUpstream
) -> None:
    with ExitStack() as stack:
        await _beside_stalled_readers(stack, sqlite_url, processes, upstream)


async def _beside_stalled_readers(
    stack: ExitStack, sqlite_url: str, processes: StartProcesses, upstream: ScriptedUpstream
) -> None:
    service = await processes(sqlite_url)
    account = await service.account()
    conversation_id = await account.new_conversation()
    gate = asyncio.Event()
    pieces = [delta(content=PIECE)] * PIECES
    upstream.play(Reply(steps=(pieces[0], Wait(gate), *pieces[1:], finish(), DONE)))
    reading = asyncio.create_task(account.stream(conversation_id, "much"))
    await upstream.until_open(1)
    async with asyncio.timeout(10):
        while not (messages := await account.messages(conversation_id)):
            pass  # until it is accepted
    for _ in range(LIVE):
        await _stall(stack, account, service.all[0], messages[-1]["id"])
    gate.set()
    live = await reading
    assert live.text == PIECE * PIECES, "those who do not read delay nobody who does"
    assert (await account.resume(live.message_id, after=1)).text == PIECE * PIECES
    before = _resident_mb(service.all[0])
    for _ in range(LATER):
        await _stall(stack, account, service.all[0], live.message_id)
    began = time.monotonic()
    other = await account.stream(await account.new_conversation(), "and I? [[words:50]]")
    assert other.end.name == "done"
    assert time.monotonic() - began < 10
    assert (await account.resume(live.message_id, after=1)).text == PIECE * PIECES
    grown = _resident_mb(service.all[0]) - before
    assert grown < ALLOWED_MB, f"{LATER} readers that never read cost {grown:.0f} MB"

    # Nor do they hold up its end.
    service.all[0].signal(signal.SIGTERM)
    async with asyncio.timeout(12):
        assert await service.all[0].wait() == 0
