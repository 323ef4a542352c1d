"""Where a listener listens, and from where a peer is trusted.

Invariant: an `Endpoint` can be bound as it stands; a network is canonical (`127.0.0.1/32`).
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Self

from winpop.terms.refusals import not_understood, readable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_ENDPOINT = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\[\]\s]+)):(?P<port>[0-9]{1,5})")
_LARGEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host and a TCP port. Host `*` is every address of this machine; port 0 lets the system choose."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the endpoint that `HOST:PORT`, `[IPV6]:PORT` or `*:PORT` names (`bad-endpoint`)."""
        match = _ENDPOINT.fullmatch(text)
        if match is None or int(match["port"]) > _LARGEST_PORT:
            raise not_understood(
                "bad-endpoint",
                f"'{readable(text)}' is not an address to listen on; write it like 127.0.0.1:110, "
                "[::1]:110 or *:110, with a port of 0 to 65535.",
            )
        host = match["six"] or match["host"]
        try:
            if host != "*":
                host = str(ipaddress.ip_address(host))
        except ValueError:
            if host.lower() != "localhost":
                raise not_understood(
                    "bad-endpoint",
                    f"'{readable(host)}' is no address of this machine; give an IP address, localhost or *.",
                ) from None
            host = "127.0.0.1"
        return cls(host, int(match["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_networks(text: str) -> tuple[Network, ...]:
    """Return the networks of a list separated by commas or spaces; `none` is the empty list."""
    words = text.replace(",", " ").split()
    if [word.lower() for word in words] == ["none"]:
        return ()
    try:  # without the scope of an IPv6 address (`%eth0`), which would be compared with nothing
        networks = tuple(ipaddress.ip_network(word) for word in words if "%" not in text)
    except ValueError:
        networks = ()
    if not networks:
        raise not_understood(
            "bad-network",
            f"'{readable(text)}' is not a list of networks; write it like 127.0.0.1/32,192.168.7.0/24, or none.",
        )
    return networks


def parse_peer(text: str) -> IPAddress:
    """Return the address of a peer as the socket gives it; an IPv4 address inside IPv6 is the IPv4 address."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def within(address: IPAddress, networks: tuple[Network, ...]) -> bool:
    """Tell whether `address` lies in one of the networks."""
    return any(address in network for network in networks)
