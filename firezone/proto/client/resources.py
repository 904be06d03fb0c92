"""The resources a client may use, and which of them owns which network.

Different prefixes coexist and the longest wins. Of several resources with the same prefix one is active: the one that is
connected already, else the one with the largest id.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from firezone.base.net import Network
from firezone.base.timing import SECOND
from firezone.wire.portal import client as wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from firezone.base.ids import ResourceId, SiteId
    from firezone.base.timing import Instant

OFFLINE_FOR = 300 * SECOND
"""How long a site counts as offline on the portal's word. Longer, and a site that is back looks dead to who does not try."""


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
    is_internet_on: bool = False
    """Whether the user wants the Internet resource. Off until somebody says so: with the first list it would flicker."""

    @property
    def internet(self) -> wire.InternetResource | None:
        """The Internet resource in use: of several the one that came last."""
        if not self.is_internet_on:
            return None
        known = (resource for number, resource in self.resources.items() if number not in self.disabled)
        return next((resource for resource in reversed([*known]) if isinstance(resource, wire.InternetResource)), None)

    def remove(self, resource_id: ResourceId) -> None:
        """Forgets a resource. With the Internet resource goes the wish to use it: whatever comes in its place is another one."""
        resource = self.resources.get(resource_id)
        if isinstance(resource, wire.InternetResource) and resource is self.internet:
            self.is_internet_on = False
        self.resources.pop(resource_id, None)

    def is_enabled(self, resource: wire.Resource) -> bool:
        """Whether packets may go to a resource as far as the user is concerned."""
        if isinstance(resource, wire.InternetResource):
            return self.is_internet_on and resource.id not in self.disabled
        return resource.id not in self.disabled

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
                self.status(resource), self.is_enabled(resource), getattr(resource, "address_description", None),
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
