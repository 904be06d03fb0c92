"""What is to be done about a question that a program has asked a sentinel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ipaddress

    from firezone.base.ids import ResourceId
    from firezone.base.net import Endpoint


@dataclass(frozen=True, slots=True)
class DnsAnswer:
    """Give this answer now."""

    message: bytes


@dataclass(frozen=True, slots=True)
class DnsForward:
    """Ask another server, by the transport the question came by."""

    server: Endpoint
    is_tunnelled: bool
    """Whether the server stands behind a gateway; others are asked past the tunnel."""


@dataclass(frozen=True, slots=True)
class DnsInSite:
    """Ask the gateway of a resource."""

    resource: ResourceId
    server: Endpoint | None
    """The gateway's name server; None: `SiteReachable` will tell."""


DnsOutcome = DnsAnswer | DnsForward | DnsInSite


@dataclass(frozen=True, slots=True)
class SiteReachable:
    """Event: questions that waited for this resource's gateway can be asked."""

    resource: ResourceId
    ipv4: ipaddress.IPv4Address
    """The gateway's tunnel addresses."""
    ipv6: ipaddress.IPv6Address
