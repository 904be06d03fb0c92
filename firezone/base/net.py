"""Addresses as values, and Firezone's fixed address plan."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

TUNNEL_V4 = ipaddress.IPv4Network("100.64.0.0/11")
"""Tunnel addresses of clients and gateways."""
TUNNEL_V6 = ipaddress.IPv6Network("fd00:2021:1111::/107")
PROXY_V4 = ipaddress.IPv4Network("100.96.0.0/11")
"""Addresses that stand for DNS resources."""
PROXY_V6 = ipaddress.IPv6Network("fd00:2021:1111:8000::/107")
SENTINEL_V4 = ipaddress.IPv4Network("100.100.111.0/24")
"""Addresses that stand for DNS servers."""
SENTINEL_V6 = ipaddress.IPv6Network("fd00:2021:1111:8000:100:100:111:0/120")

TUNNEL_PORT = 52625
"""Preferred UDP port of the tunnel sockets, 49152 + 3473."""


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """An IP address and a port: 4 or 16 bytes in network order, host-order port."""

    ip: bytes
    port: int

    @classmethod
    def from_text(cls, host: str, port: int) -> Endpoint:
        """Builds an endpoint from address text. Raises ValueError when the text is no address."""
        return cls(ipaddress.ip_address(host).packed, port)

    @property
    def is_ipv4(self) -> bool:
        return len(self.ip) == 4

    @property
    def host(self) -> str:
        """The address as text, without the port."""
        return str(ipaddress.ip_address(self.ip))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.is_ipv4 else f"[{self.host}]:{self.port}"


@dataclass(frozen=True, slots=True)
class Transmit:
    """A datagram that a machine wants sent."""

    source: Endpoint | None
    """Local address it must leave from; None lets the kernel choose."""
    destination: Endpoint
    payload: bytes
    ecn: int = 0
    """ECN codepoint of the outer header, 0..3."""


def covers(wide: Network, narrow: Network) -> bool:
    """Whether one network lies within another, or is the same; never across families."""
    return wide.version == narrow.version and narrow.subnet_of(wide)  # type: ignore[arg-type]
