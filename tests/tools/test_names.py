"""Names: what it costs to look them up, and what is told of those that lead nowhere."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from tests.support.until import until
from tests.support.web import Answer, WebServer

from luxx.adapters.tools.web.addresses import AddressRules
from luxx.adapters.tools.web.api import JsonApi
from luxx.adapters.tools.web.client import CONNECTIONS, WebClient
from luxx.adapters.tools.web.crawler import Crawler
from luxx.adapters.tools.web.names import AT_ONCE
from luxx.application.tools import acting_for
from luxx.domain.errors import ToolBroken, ToolError, ToolRefused


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


async def test_slow_names_of_many_zones_keep_no_other_user_from_looking_up_theirs(
    names: NameServer, site: WebServer
) -> None:
    site.pages["/"] = "<p>x"

    async def of_user(number: int, url: str) -> int:
        acting_for.set(number)
        return (await client.get(url)).status

    async with asking(names) as client, asyncio.timeout(10):
        hosts = [f"{n}slow.example" for n in range(AT_ONCE)]
        slow = [asyncio.create_task(of_user(1, f"http://{host}:{site.port}/")) for host in hosts]
        await until(lambda: len(names.asked) >= AT_ONCE - 1)
        for name in ("one.test", "another.test"):
            assert await asyncio.create_task(of_user(2, f"http://{name}:{site.port}/")) == 200
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        # Nobody waits for these look-ups any more, but they go on: they are theirs still.
        assert await asyncio.create_task(of_user(2, f"http://third.test:{site.port}/")) == 200
        assert len(names.asked) == AT_ONCE - 1
        names.released.set()
        assert await asyncio.create_task(of_user(1, f"http://fourth.test:{site.port}/")) == 200


async def test_nobody_learns_which_internal_names_there_are(site: WebServer) -> None:
    def look_up(host: str) -> list[str]:
        match host:
            case "inside.example":
                return ["10.0.0.1"]
            case "absent.example":
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            case "failed.example":
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            case _:
                return []

    told = set()
    client = WebClient(AddressRules.allowing([site.host]), look_up=look_up)
    for name in ("inside.example", "absent.example", "failed.example", "nobody.example", f"{'a' * 64}.example"):
        site.pages["/"] = Answer(status=302, headers={"Location": f"http://{name}/"})
        for url in (f"http://{name}/", site.url("/")):
            with pytest.raises(ToolError) as refused:
                await Crawler(client).page(url)
            told.add((type(refused.value), refused.value.code, str(refused.value).replace(name, "NAME")))
    await client.aclose()
    assert len(told) == 1
    assert issubclass(told.pop()[0], ToolRefused)


async def test_an_operator_is_told_that_the_name_of_a_service_leads_nowhere() -> None:
    # No label may be as long: nothing outside is asked.
    service = JsonApi("the service", f"http://{'a' * 64}.example")
    with pytest.raises(ToolBroken, match="the service failed: its name cannot be resolved"):
        await service.get("/", {})
    await service.aclose()
