"""Where a request comes from, by what can be believed."""

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TypeAlias

from litestar.types import Scope

PeerOf: TypeAlias = Callable[[Scope], str]


def peer_of(trusted_proxies: Iterable[str]) -> PeerOf:
    """Give the function that tells where a request comes from: an IPv4 address, or the /64 of an IPv6 address.

    Who has an IPv6 address has a whole /64 of them (RFC 6177). X-Forwarded-For is read from its end
    and only as far as trusted proxies wrote it: each of them appends whom it saw, and what stands
    before that is any client's invention. What is not readable there counts as the proxy that sent it.
    """
    networks = [ip_network(one) for one in trusted_proxies]

    def trusted(address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in networks)

    def told(scope: Scope) -> str:
        client = scope.get("client")
        address = None if client is None else _address(client[0])
        if address is None:
            return "nowhere"
        forwarded = [value for name, value in scope["headers"] if name == b"x-forwarded-for"] if networks else []
        for text in reversed(b",".join(forwarded).decode("latin-1").split(",")):
            if not trusted(address) or (before := _address(text.strip())) is None:
                break
            address = before
        return str(address if address.version == 4 else ip_network((int(address), 64), strict=False))

    return told


def _address(text: str) -> IPv4Address | IPv6Address | None:
    # Some proxies write the port too: 192.0.2.1:4711, [2001:db8::1]:4711.
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
