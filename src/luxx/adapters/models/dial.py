"""Connect to a host by whichever of its addresses answers first (RFC 8305)."""

import asyncio
import ipaddress
import itertools
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

_STAGGER_S: Final = 0.25


class Address(NamedTuple):
    """Where to connect to, as `getaddrinfo` tells it."""

    family: int
    place: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


async def addresses_of(host: str, port: int) -> list[Address]:
    """Look a host up: both families in turn, the preferred one first. Raises OSError."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        pass
    else:
        if "%" not in host:  # only the system knows the number of an interface
            return [Address(socket.AF_INET, (host, port)) if version == 4 else Address(socket.AF_INET6, (host, port))]
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(Address(family, place) for family, _, _, _, place in found))
    first = [one for one in addresses if one.family == addresses[0].family]
    second = [one for one in addresses if one.family != addresses[0].family]
    return [one for pair in itertools.zip_longest(first, second) for one in pair if one is not None]


async def dialled(addresses: Sequence[Address]) -> socket.socket:
    """Connect to the first address that answers; each has a quarter of a second before the next is tried as well.

    Raises the OSError of the last one that refused.
    """
    if len(addresses) == 1:
        return await _dialled(addresses[0])
    waiting = list(reversed(addresses))
    dials: set[asyncio.Task[socket.socket]] = set()
    refusal: BaseException = OSError("the host has no address")
    try:
        while waiting or dials:
            if waiting:
                dials.add(asyncio.create_task(_dialled(waiting.pop())))
            done, _ = await asyncio.wait(
                dials, timeout=_STAGGER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for dial in done:
                dials.remove(dial)
                error = dial.exception()
                if error is None:
                    return dial.result()
                refusal = error
        raise refusal
    finally:
        for dial in dials:
            dial.add_done_callback(_let_go)
            dial.cancel()


async def _dialled(address: Address) -> socket.socket:
    dialling = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        dialling.setblocking(False)
        await asyncio.get_running_loop().sock_connect(dialling, address.place)
    except BaseException:  # a cancel, too, leaves nothing open
        dialling.close()
        raise
    return dialling


def _let_go(dial: asyncio.Task[socket.socket]) -> None:
    if not dial.cancelled() and dial.exception() is None:
        dial.result().close()
