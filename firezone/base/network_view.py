"""What a host says of its networks at one moment, as far as it matters to a tunnel: addresses, and the way out per family."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WayOut:
    """How our own packets of one family leave for the Internet, as the kernel would route the next one.

    Without any default route it is how they reach the portal.
    """

    device: int
    """Index of the interface, which has a carrier."""
    gateway: str | None
    """Next hop of IPv4, where another router is another NAT; None on a link without one, and of IPv6: its routers take turns on one
    network and translate nothing."""
    source: str
    """Address the packets carry; of IPv6 its /64 network, since privacy addresses come and go on one network."""


@dataclass(frozen=True, slots=True)
class NetworkView:
    """One look at the host."""

    addresses: tuple[str, ...] = ()
    """Usable addresses of all interfaces but loopback and our TUN device."""
    ipv4: WayOut | None = None
    """None while no route leads out."""
    ipv6: WayOut | None = None

    @property
    def has_way_out(self) -> bool:
        return self.ipv4 is not None or self.ipv6 is not None
