"""The resources a client may use, and which of them owns which network.

Different prefixes coexist and the longest wins. Of several resources with the same prefix one is active: the one that is
connected already, else the one with the largest id. But a resource whose filters let a packet through goes before one that
does not: while such rivals of a network are not served by the same gateway, its packets are looked at one by one.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from firezone.base.net import Network, covers
from firezone.base.timing import SECOND
from firezone.wire.ip import ICMP, ICMPV6, TCP, UDP
from firezone.wire.portal import client as wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from firezone.base.ids import ResourceId, SiteId
    from firezone.base.net import Address
    from firezone.base.timing import Instant
    from firezone.wire.ip import IpHeader
    from firezone.wire.portal.shared import Filter

OFFLINE_FOR = 300 * SECOND
"""How long a site counts as offline on the portal's word. Longer, and a site that is back looks dead to who does not try."""
MAX_FOUND = 1024
"""Flows whose resource is remembered."""
_FILTER_OF = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMPV6: "icmp"}


class Status(enum.Enum):
    """Whether a resource can be reached, as far as is known."""

    UNKNOWN = "Unknown"
    ONLINE = "Online"
    OFFLINE = "Offline"


@dataclass(frozen=True, slots=True)
class ResourceView:
    """One resource as a user sees it."""

    id: ResourceId
    name: str
    address: str
    sites: tuple[str, ...]
    status: Status
    is_enabled: bool
    description: str | None = None


@dataclass
class ResourceBook:
    """Every resource the portal named, enabled or not."""

    resources: dict[ResourceId, wire.Resource] = field(default_factory=dict)
    disabled: set[ResourceId] = field(default_factory=set)
    active: dict[Network, wire.CidrResource] = field(default_factory=dict)
    """Owner of each network."""
    site_status: dict[SiteId, Status] = field(default_factory=dict)
    offline_until: dict[SiteId, Instant] = field(default_factory=dict)
    """When each offline site is forgiven."""
    _found: dict[tuple[Address, int, int | None], tuple[wire.CidrResource | None, bool]] = field(default_factory=dict)
    """What `match_packet` found since the last `recompute`: a flood of one flow must not search anew for each packet."""

    def match_packet(self, header: IpHeader) -> tuple[wire.CidrResource | None, bool]:
        """Returns the resource to ask for, and whether its filters let the packet through.

        Best is a resource that lets it through, then the longer prefix, then the owner of that prefix, then the larger id.
        """
        key = header.destination, header.protocol, header.destination_port
        if key not in self._found:
            if len(self._found) >= MAX_FOUND:
                self._found.clear()
            self._found[key] = self._find(header)
        return self._found[key]

    def _find(self, header: IpHeader) -> tuple[wire.CidrResource | None, bool]:
        covering = [
            (permits(resource.filters, header), resource.address.prefixlen, self.active.get(resource.address) is resource, number)
            for number, resource in self.resources.items()
            if isinstance(resource, wire.CidrResource) and number not in self.disabled and header.destination in resource.address
        ]
        if not covering:
            return None, False
        is_permitted, _, _, best = max(covering)
        resource = self.resources[best]
        assert isinstance(resource, wire.CidrResource)
        return resource, is_permitted

    def rivals(self, network: Network) -> list[ResourceId]:
        """Returns the resources that may be better than the owner of a network for some packets: those with other filters.

        An owner without filters lets everything through, and its prefix is the longest there: it has no rivals.
        """
        owner = self.active[network]
        if not owner.filters:
            return []
        return [
            resource_id
            for resource_id, resource in self.resources.items()
            if isinstance(resource, wire.CidrResource)
            and resource_id not in self.disabled
            and covers(resource.address, network)
            and resource.filters != owner.filters
        ]

    def must_restart(self, resource: wire.Resource) -> bool:
        """Tells whether a resource that arrives again differs in what its traffic depends on: kind, address, sites or filters."""
        known = self.resources.get(resource.id)
        return known is not None and _essence(known) != _essence(resource)

    def recompute(self, is_connected: Callable[[ResourceId], bool]) -> None:
        """Decides anew who owns each network."""
        table: dict[Network, wire.CidrResource] = {}
        for resource_id in sorted(self.resources):
            resource = self.resources[resource_id]
            if not isinstance(resource, wire.CidrResource) or resource_id in self.disabled:
                continue
            owner = table.get(resource.address)
            if owner is None or self._yields(owner, resource, is_connected):
                table[resource.address] = resource
        self.active = table
        self._found.clear()

    def _yields(self, owner: wire.CidrResource, other: wire.CidrResource, is_connected: Callable[[ResourceId], bool]) -> bool:
        """Whether a prefix goes from one resource to one with a larger id. Traffic that flows stays where it is."""
        if not is_connected(owner.id):
            return True
        former = self.active.get(other.address)
        return former is not None and former.id == other.id and is_connected(other.id)

    def views(self) -> tuple[ResourceView, ...]:
        """Returns all resources for display: the Internet resource first, then by name and id."""
        ordered = sorted(
            self.resources.values(),
            key=lambda resource: (not isinstance(resource, wire.InternetResource), resource.name.encode(), resource.id),
        )
        return tuple(
            ResourceView(
                resource.id, resource.name, _address_text(resource), tuple(site.name for site in resource.sites),
                self.status(resource), resource.id not in self.disabled, getattr(resource, "address_description", None),
            )
            for resource in ordered
        )  # fmt: skip

    def status(self, resource: wire.Resource) -> Status:
        """Online if any of its sites is, Offline if all are, else Unknown."""
        found = [self.site_status.get(site.id, Status.UNKNOWN) for site in resource.sites]
        if Status.ONLINE in found:
            return Status.ONLINE
        return Status.OFFLINE if found and all(status is Status.OFFLINE for status in found) else Status.UNKNOWN

    def set_site_status(self, sites: Iterable[SiteId], status: Status) -> None:
        """Notes what is known of sites, until something else is."""
        for site in sites:
            self.site_status[site] = status
            self.offline_until.pop(site, None)

    def set_offline(self, sites: Iterable[SiteId], now: Instant) -> None:
        """Notes the portal's word that sites are offline; it holds for five minutes."""
        for site in sites:
            self.site_status[site] = Status.OFFLINE
            self.offline_until[site] = now + OFFLINE_FOR

    def forgive_offline(self, now: Instant) -> bool:
        """Forgets what was offline for long enough. True: something changed."""
        forgiven = [site for site, until in self.offline_until.items() if until <= now]
        self.set_site_status(forgiven, Status.UNKNOWN)
        return bool(forgiven)


def permits(filters: Iterable[Filter], header: IpHeader) -> bool:
    """Judges a packet by a resource's filters as its gateway will; none at all permit everything."""
    filters, port = tuple(filters), header.destination_port
    kind = _FILTER_OF.get(header.protocol)
    return not filters or any(
        item.protocol == kind and (kind == "icmp" or (port is not None and item.port_range_start <= port <= item.port_range_end))
        for item in filters
    )


def _essence(resource: wire.Resource) -> tuple[object, ...]:
    sites = frozenset(site.id for site in resource.sites)
    match resource:
        case wire.CidrResource():
            return "cidr", resource.address, resource.filters, sites
        case wire.DnsResource():
            return "dns", resource.address, resource.ip_stack, resource.filters, sites
        case wire.InternetResource():
            return "internet", sites


def _address_text(resource: wire.Resource) -> str:
    return "" if isinstance(resource, wire.InternetResource) else str(resource.address)
