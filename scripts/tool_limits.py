"""Print what the worst input costs each tool: seconds, and the memory of its worst worker. Needs no network.

    python scripts/tool_limits.py

Each case runs alone. `peak` is the largest resident memory of any process that worked for it, in MiB, seen
every few milliseconds; `stall` is the longest time the event loop was kept waiting.
"""

import asyncio
import os
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from luxx.adapters.system import utc_now
from luxx.adapters.tools.loading import load_tools
from luxx.adapters.tools.resources import ToolResources, ToolSettings
from luxx.domain.errors import LuxxError

SPIN: Final = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range = 7"
CASES: Final[tuple[tuple[str, str, Mapping[str, Any]], ...]] = (
    ("calculate", "9**9**9", {"expression": "9**9**9"}),
    ("calculate", "200 large products", {"expression": "*".join(["factorial(1400)"] * 200)}),
    ("calculate", "lcm of 100 large numbers", {"expression": f"lcm({','.join(f'10**3900+{n}' for n in range(100))})"}),
    ("query_table", "a text of 1 GB", {"data": "a\n1", "sql": "SELECT repeat('x', 1000000000)"}),
    ("query_table", "a join of 10**12 rows", {"data": "a\n1", "sql": SPIN}),
    (
        "query_table",
        "a sort of 10**8 rows",
        {"data": "a\n1", "sql": "SELECT * FROM range(100000000) ORDER BY hash(range)"},
    ),
    ("query_table", "4 MB of CSV", {"data": "a,b\n" + "123456,x\n" * 440_000, "sql": "SELECT sum(a) FROM data"}),
    ("transform_json", "doubled 30 times", {"data": [1], "expression": "@" + "|[@,@]" * 30}),
    ("transform_json", "nested 3000 deep", {"data": 1, "expression": "(" * 3000 + "@" + ")" * 3000}),
    ("analyze_text", "10**6 matches", {"text": "a" * 1_000_000, "pattern": "a"}),
    ("analyze_text", "(a+)+$", {"text": "a" * 999_999 + "b", "pattern": "(a+)+$"}),
    ("execute_python", "while True", {"code": "while True: pass", "timeout_s": 2}),
    ("execute_python", "a list without end", {"code": "x = []\nwhile True: x.append('x' * 100000)", "timeout_s": 10}),
    ("execute_python", "a text of 1 TB", {"code": "'x' * 10**12", "timeout_s": 10}),
    ("execute_python", "2**(2**40)", {"code": "2**(2**40)", "timeout_s": 10}),
    ("execute_python", "output without end", {"code": "while True: print('x' * 100000)", "timeout_s": 2}),
    ("fetch_page", "a page of 100 000 nested divs", {"url": "http://PAGES/deep"}),
    ("fetch_page", "a page of 4 MB of text", {"url": "http://PAGES/long"}),
    ("fetch_page", "1 MB that unpacks to 1 GB", {"url": "http://PAGES/bomb"}),
    ("fetch_page", "a page that never ends", {"url": "http://PAGES/endless"}),
    ("fetch_page", "a page that never begins", {"url": "http://PAGES/silent"}),
)


PACKER: Final = zlib.compressobj(9, wbits=31)
BOMB: Final = b"".join(PACKER.compress(b"\0" * 2**20) for _ in range(1024)) + PACKER.flush()


async def main() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    pages = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    settings = ToolSettings(allow_hosts=frozenset({pages}), pause=0.0)
    print(f"{'tool':16} {'what':32} {'seconds':>8} {'peak':>6} {'stall':>6}  outcome")
    async with ToolResources.open(utc_now, settings) as resources:
        tools = {tool.spec.name: tool for tool in load_tools(resources)}
        for name, what, arguments in CASES:
            aimed = {
                key: value.replace("PAGES", pages) if isinstance(value, str) else value
                for key, value in arguments.items()
            }
            watch = _Watch()
            watching = asyncio.create_task(watch.run())
            started = time.monotonic()
            try:
                outcome = f"{len(str(await tools[name].run(aimed)))} characters"
            except LuxxError as error:
                outcome = f"{type(error).__name__}: {str(error)[:60]}"
            taken = time.monotonic() - started
            watching.cancel()
            print(f"{name:16} {what:32} {taken:8.2f} {watch.peak:6.0f} {watch.stall:6.3f}  {outcome}", flush=True)
    server.close()


class _Watch:
    """Looks at the children and at the clock, as often as the event loop lets it."""

    def __init__(self) -> None:
        self.peak = 0.0
        self.stall = 0.0

    async def run(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            self.stall = max(self.stall, time.monotonic() - before - 0.005)
            self.peak = max([self.peak, *map(_resident, _descendants(os.getpid()))])


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text(encoding="ascii").split()):
                found += [child, *_descendants(child)]
    return found


def _resident(pid: int) -> float:
    with suppress(OSError, IndexError):
        return (
            int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
        )
    return 0.0


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"
    with suppress(ConnectionError):
        if path == "/deep":
            writer.write(head + b"\r\n" + b"<div>" * 100_000)
        elif path == "/long":
            writer.write(
                head + b"\r\n<html><body><article>" + b"<p>A sentence about owls that hunt at night.</p>" * 85_000
            )
        elif path == "/bomb":
            writer.write(head + b"Content-Encoding: gzip\r\n\r\n" + BOMB)
        elif path == "/endless":
            writer.write(head + b"\r\n")
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()
        elif path == "/silent":
            await reader.read()
        else:
            writer.write(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n")
        await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(main())
