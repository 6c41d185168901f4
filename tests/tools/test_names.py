"""Names: what it costs to look them up, and what is told of those that lead nowhere."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from tests.support.until import until
from tests.support.web import WebServer

from luxx.adapters.tools.web.addresses import AddressRules
from luxx.adapters.tools.web.client import CONNECTIONS, WebClient


class NameServer:
    """Leads all names to loopback, those of slow.example once they are `released`."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.asked: list[str] = []
        self.answered = 0

    def look_up(self, host: str) -> list[str]:
        if host.endswith("slow.example"):
            self.asked.append(host)
            self.released.wait(60)
            self.answered += 1
        return ["127.0.0.1"]


@pytest.fixture
def names() -> Iterator[NameServer]:
    server = NameServer()
    yield server
    server.released.set()


@asynccontextmanager
async def asking(names: NameServer) -> AsyncIterator[WebClient]:
    client = WebClient(AddressRules.allowing(["127.0.0.0/8"]), seconds=30, look_up=names.look_up)
    yield client
    await client.aclose()


async def test_slow_names_of_one_zone_keep_nobody_from_looking_up_others(names: NameServer, site: WebServer) -> None:
    site.pages["/"] = "<p>x"
    async with asking(names) as client, asyncio.timeout(10):
        for attempt in range(3):
            urls = [f"http://{attempt}-{n}.slow.example:{site.port}/" for n in range(CONNECTIONS + 10)]
            slow = [asyncio.create_task(client.get(url)) for url in urls]
            await until(lambda: len(names.asked) >= 4)
            for name in ("slow.test", "other.example"):
                assert (await client.get(f"http://{name}:{site.port}/")).status == 200
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)
        # The look-ups that had begun go on when nobody waits for them any more; the others were never begun.
        assert len(names.asked) == 4
        names.released.set()
        assert (await client.get(f"http://www.slow.example:{site.port}/")).status == 200
        await until(lambda: names.answered == 5)
