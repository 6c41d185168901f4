"""Which hosts and addresses tools may reach: what is public, and what the operator named."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Self, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

# Public by number, but a door to the host all the same: metadata and agents of clouds, and IETF protocol anycast.
_DENIED: Final = (
    ip_network("168.63.129.16/32"),
    ip_network("192.0.0.0/24"),
    ip_network("192.88.99.0/24"),
    ip_network("198.18.0.0/15"),
    ip_network("2001::/23"),
    ip_network("100::/64"),
    ip_network("5f00::/16"),
    ip_network("3fff::/20"),
)
_GLOBAL_UNICAST: Final = ip_network("2000::/3")
_NAT64: Final = ip_network("64:ff9b::/96")
_6TO4: Final = ip_network("2002::/16")
_TEREDO: Final = ip_network("2001::/32")
_COMPATIBLE: Final = ip_network("::/96")
_ISATAP: Final = re.compile(r"(?:0000|0200):5efe:[0-9a-f]{4}:[0-9a-f]{4}$")

# The "bad ports" of the Fetch standard (https://fetch.spec.whatwg.org/#port-blocking): what listens there is no web
# server, and may take a request for commands.
BAD_PORTS: Final = frozenset(
    (
        *(1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109),
        *(110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530),
        *(531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045),
        *(4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080),
    )
)


def embedded(address: Address) -> Address:
    """Give the IPv4 address that an IPv6 address stands for or tunnels to, else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64 or address in _COMPATIBLE:
        # ::1 and :: are no embedded addresses, but their last bits are not public either way.
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _6TO4:
        return IPv4Address((int(address) >> 80) & 0xFFFFFFFF)
    if address in _TEREDO:
        return IPv4Address(~int(address) & 0xFFFFFFFF)
    if _ISATAP.search(address.exploded):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Tell whether an address is one of the public internet, whatever it is wrapped in."""
    inner = embedded(address)
    if inner is not address and not is_public(inner):
        return False
    if address.is_multicast or any(address.version == net.version and address in net for net in _DENIED):
        return False
    if isinstance(address, IPv6Address) and (address.scope_id is not None or address.is_site_local):
        return False
    if isinstance(address, IPv6Address) and (address.ipv4_mapped is not None or address in _NAT64):
        # No global addresses themselves; what they stand for has been looked at.
        return True
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        # What IANA has not given out is no address of anybody; Python's own lists are older than some of it.
        return False
    return address.is_global


@dataclass(frozen=True, slots=True)
class _Entry:
    """One thing that an operator allows: a host name or a network, on one port or on all."""

    host: str | None
    network: Network | None
    port: int | None

    @classmethod
    def read(cls, text: str) -> Self:
        bare = text.strip()
        port = None
        match = re.fullmatch(r"(\[[^\]]+\]|[^:]+):(\d{1,5})", bare)
        if match is not None:
            bare, port = match[1], int(match[2])
        bare = bare.strip("[]")
        try:
            return cls(None, ip_network(bare, strict=False), port)
        except ValueError:
            pass
        if not re.fullmatch(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?", bare) or not (port or 1) <= 65535:
            raise ValueError(f"{text!r} is no host, address or CIDR")
        return cls(bare.lower().rstrip("."), None, port)

    def allows(self, host: str, address: Address, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            real = embedded(address)
            return any(self.network.version == each.version and each in self.network for each in (address, real))
        return self.host == host.lower().rstrip(".")


@dataclass(frozen=True, slots=True)
class AddressRules:
    """Where requests may go: to public addresses, and to what `entries` name although it is not public."""

    entries: tuple[_Entry, ...] = ()

    @classmethod
    def allowing(cls, texts: Iterable[str]) -> Self:
        """Read hosts, addresses and CIDRs, each with or without a port; raises `ValueError` that names the bad one."""
        return cls(tuple(_Entry.read(text) for text in texts))

    def allows(self, host: str, address: Address, port: int) -> bool:
        """Tell whether the address that `host` led to may be dialled on `port`."""
        if any(entry.allows(host, address, port) for entry in self.entries):
            return True
        return is_public(address) and port not in BAD_PORTS


def literal(host: str) -> Address | None:
    """Give the address that a host name spells out, None for a real name."""
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None
