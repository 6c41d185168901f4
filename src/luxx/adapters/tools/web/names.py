"""Looking up the addresses of names, in threads: the system's way of doing it blocks."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

from luxx.adapters.tools.web.addresses import Address, literal
from luxx.application.places import Places

AT_ONCE: Final = 64
OF_ONE_ZONE: Final = 4

_REGISTRIES: Final = frozenset({"ac", "co", "com", "edu", "go", "gov", "ne", "net", "or", "org"})

LookUp: TypeAlias = Callable[[str], Sequence[str]]
"""Gives the addresses of a host, as text. It may block: it is called in a thread."""


class Names:
    """Looks names up, `AT_ONCE` at a time and `OF_ONE_ZONE` of those that one owner answers for.

    A thread cannot be stopped: a look-up goes on when nobody waits for it any more, and counts until it ends. So
    whoever lets the names of a zone take long holds up that zone; and who asks for those of many zones, themselves.
    """

    def __init__(self, look_up: LookUp) -> None:
        self._look_up = look_up
        # The loop's own threads are for others too.
        self._threads = ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="luxx-lookup")
        self._places = Places(AT_ONCE)
        self._zones: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def addresses(self, host: str) -> Sequence[Address]:
        """Give what a host leads to; raises `OSError` or `UnicodeError` where that is nothing."""
        spelled = literal(host)
        if spelled is not None:
            return [spelled]
        zone = self._zones.setdefault(zone_of(host), asyncio.Semaphore(OF_ONE_ZONE))
        await zone.acquire()
        try:
            place = await self._places.take()
        except BaseException:
            zone.release()
            raise
        looking = self._threads.submit(self._look_up, host)
        looking.add_done_callback(partial(_give_back, asyncio.get_running_loop(), place, zone))
        found = await asyncio.wrap_future(looking)
        return [ip_address(text.split("%", 1)[0]) for text in dict.fromkeys(found)]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _give_back(
    loop: asyncio.AbstractEventLoop,
    place: Callable[[], None],
    zone: asyncio.Semaphore,
    _: "Future[Sequence[str]]",
) -> None:
    # The loop may be closed before a slow look-up ends.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(place)
        loop.call_soon_threadsafe(zone.release)


def zone_of(host: str) -> str:
    """Give the part of a name that has an owner: the last two labels, or three where a country has its own .com."""
    labels = host.lower().rstrip(".").split(".")
    registry = len(labels[-1]) == 2 and labels[-2:-1] and labels[-2] in _REGISTRIES
    return ".".join(labels[-3 if registry else -2 :])


def system_look_up(host: str) -> list[str]:
    """Ask the system for the addresses of a host; blocks, and raises `OSError` where there are none."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
