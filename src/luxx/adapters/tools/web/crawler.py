"""Fetching pages of other people's sites with good manners: robots.txt is kept, and no host is hurried."""

import asyncio
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import httpx

from luxx.adapters.tools.web.client import WebClient, WebResponse, outcome_of, parsed
from luxx.adapters.tools.web.robots import LARGEST_BYTES, Robots
from luxx.domain.errors import ToolBroken, ToolError, ToolRefused, ToolTimeout

AT_ONCE: Final = 2
"""Requests to one host at a time."""
PAUSE_SECONDS: Final = 0.25
"""Between the beginnings of two requests to one host."""
ROBOTS_SECONDS: Final = 3600.0
SITES: Final = 1_000


@dataclass(slots=True)
class _Site:
    """What is known of one origin. Its requests begin one after the other; `waiting` is how many want to."""

    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    robots: Robots | None = None
    robots_until: float = 0.0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    next_start: float = 0.0


class _Visit:
    """One page on its way: it holds a place at the site where it is, and at no other."""

    def __init__(self) -> None:
        self._site: _Site | None = None

    async def arrive(self, site: _Site) -> None:
        if site is not self._site:
            self.leave()
            await site.places.acquire()
            self._site = site

    def leave(self) -> None:
        if self._site is not None:
            self._site.places.release()
            self._site = None


class Crawler:
    """Gets pages through a `WebClient`, with what robots.txt allows and a pause between requests to one host."""

    def __init__(self, client: WebClient, *, pause: float = PAUSE_SECONDS) -> None:
        self._client = client
        self._pause = pause
        self._sites: OrderedDict[str, _Site] = OrderedDict()

    async def page(self, url: str) -> WebResponse:
        """Get one page; raises `ToolRefused` where the site does not want that, and as `WebClient.get` does."""
        visit = _Visit()
        try:
            # The client's time begins once there is a place: of many pages of one site, the last wait long for theirs.
            await visit.arrive(self._site(parsed(url)))
            return outcome_of(await self._client.get(url, headers=_ACCEPT, before=partial(self._enter, visit)))
        finally:
            visit.leave()

    async def _enter(self, visit: _Visit, url: str, *, until: float) -> None:
        """Wait for this hop's turn at its host, and ask its robots.txt."""
        target = httpx.URL(url)
        site = self._site(target)
        await visit.arrive(site)
        robots = await self._robots(site, target)
        if not robots.allows(target.raw_path.decode("ascii")):
            raise ToolRefused(f"{target.host} does not let robots read this page (robots.txt)")
        await self._take_turn(site, target.host, max(self._pause, robots.delay), until)

    async def _take_turn(self, site: _Site, host: str, pause: float, until: float) -> None:
        """Wait until a request may begin; raises `ToolTimeout` at once where that is after `until`.

        Nothing is reserved: who gives up while it waits leaves the turn to those behind.
        """
        start = max(_now(), site.next_start) + pause * site.waiting
        if start > until:
            again = math.ceil(start - _now())
            reason = f"{host} wants {pause:g} seconds between requests, and others come first"
            raise ToolTimeout(f"{reason}; try again in {again} seconds")
        site.waiting += 1
        try:
            async with site.turn:
                await asyncio.sleep(site.next_start - _now())
                site.next_start = _now() + pause
        finally:
            site.waiting -= 1

    def _site(self, url: httpx.URL) -> _Site:
        origin = f"{url.scheme}://{url.netloc.decode('ascii')}"
        site = self._sites.setdefault(origin, _Site())
        self._sites.move_to_end(origin)
        while len(self._sites) > SITES:
            self._sites.popitem(last=False)
        return site

    async def _robots(self, site: _Site, url: httpx.URL) -> Robots:
        async with site.asking:
            if site.robots is None or _now() >= site.robots_until:
                site.robots = await self._ask(url)
                site.robots_until = _now() + ROBOTS_SECONDS
            return site.robots

    async def _ask(self, url: httpx.URL) -> Robots:
        """Read a site's robots.txt (RFC 9309, 2.3.1): none means all is allowed, one out of reach means nothing is."""
        try:
            answer = await self._client.get(str(url.join("/robots.txt")), body_bytes=LARGEST_BYTES)
        except (ToolRefused, ToolTimeout):
            # An address that may not be reached, or a site that does not answer: the page itself would not do better.
            raise
        except ToolError as error:
            raise ToolBroken(str(error)) from error
        if answer.status >= 500:
            raise ToolBroken(f"{url.host} answered {answer.status} when asked for its robots.txt; try again later")
        if answer.status >= 400:
            return Robots()
        return Robots.read(answer.body.decode("utf-8", errors="replace"))


def _now() -> float:
    return asyncio.get_running_loop().time()


_ACCEPT: Final = {
    "Accept": "text/html,application/xhtml+xml,text/plain;q=0.9,text/markdown;q=0.9,application/json;q=0.8,*/*;q=0.5",
    "Accept-Language": "en,zh;q=0.8,*;q=0.5",
}
