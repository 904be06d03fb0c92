"""The resources a client may use, and which of them owns which network.

Different prefixes coexist and the longest wins. Of several resources with the same prefix one is active: the one that is
connected already, else the one with the largest id.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from firezone.wire.portal import client as wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from firezone.base.ids import ResourceId, SiteId
    from firezone.base.net import Address, Network


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


@dataclass
class ResourceBook:
    """Every resource the portal named, enabled or not."""

    resources: dict[ResourceId, wire.Resource] = field(default_factory=dict)
    disabled: set[ResourceId] = field(default_factory=set)
    active: dict[Network, wire.CidrResource] = field(default_factory=dict)
    """Owner of each network."""
    site_status: dict[SiteId, Status] = field(default_factory=dict)

    def is_usable(self, resource: ResourceId) -> bool:
        return resource in self.resources and resource not in self.disabled

    def match(self, address: Address) -> wire.CidrResource | None:
        """Returns the resource that owns the longest prefix containing an address."""
        matching = [network for network in self.active if network.version == address.version and address in network]
        return self.active[max(matching, key=lambda network: network.prefixlen)] if matching else None

    def must_restart(self, resource: wire.Resource) -> bool:
        """Tells whether a resource that arrives again differs in what its traffic depends on: kind, address, sites or filters."""
        known = self.resources.get(resource.id)
        return known is not None and _essence(known) != _essence(resource)

    def recompute(self, is_connected: Callable[[ResourceId], bool]) -> bool:
        """Decides anew who owns each network. True: something changed."""
        table: dict[Network, wire.CidrResource] = {}
        for resource_id in sorted(self.resources):
            resource = self.resources[resource_id]
            if not isinstance(resource, wire.CidrResource) or resource_id in self.disabled:
                continue
            owner = table.get(resource.address)
            if owner is None or not is_connected(owner.id):
                table[resource.address] = resource
        changed = table != self.active
        self.active = table
        return changed

    def views(self) -> tuple[ResourceView, ...]:
        """Returns all resources for display: the Internet resource first, then by name and id."""
        ordered = sorted(
            self.resources.values(),
            key=lambda resource: (not isinstance(resource, wire.InternetResource), resource.name.encode(), resource.id),
        )
        return tuple(
            ResourceView(
                resource.id, resource.name, _address_text(resource), tuple(site.name for site in resource.sites),
                self.status(resource), resource.id not in self.disabled,
            )
            for resource in ordered
        )  # fmt: skip

    def status(self, resource: wire.Resource) -> Status:
        """Online if any of its sites is, Offline if all are, else Unknown."""
        found = [self.site_status.get(site.id, Status.UNKNOWN) for site in resource.sites]
        if Status.ONLINE in found:
            return Status.ONLINE
        return Status.OFFLINE if found and all(status is Status.OFFLINE for status in found) else Status.UNKNOWN

    def set_site_status(self, sites: Iterable[SiteId], status: Status) -> bool:
        """Returns whether anything changed."""
        changed = False
        for site in sites:
            changed = changed or self.site_status.get(site, Status.UNKNOWN) is not status
            self.site_status[site] = status
        return changed


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
