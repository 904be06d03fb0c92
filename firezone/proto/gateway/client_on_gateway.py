"""What the gateway knows of one client: its tunnel addresses and the resources it may use, each until an instant or for ever."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from firezone.base.timing import SECOND
from firezone.proto.gateway.filter_set import INTERNET, Grant, build_rules, is_no_internet, merge_filters, permits_outbound
from firezone.proto.gateway.names import Names
from firezone.wire.domain_pattern import matches
from firezone.wire.portal import gateway as wire

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firezone.base.ids import ClientId, ResourceId
    from firezone.base.net import Address, Network
    from firezone.base.timing import UnixTime
    from firezone.proto.gateway.names import Name
    from firezone.proto.updates import Rule
    from firezone.wire.ip import IpHeader


@dataclass(slots=True)
class Authorization:
    """One resource a client may use."""

    resource: wire.Resource
    expires_at: UnixTime | None
    """None: never. Valid while this lies in the future."""

    def is_expired(self, utc: UnixTime) -> bool:
        return self.expires_at is not None and self.expires_at <= utc


@dataclass(slots=True)
class ClientOnGateway:
    """One client. It outlives its connection: the client may come back with the same authorisations."""

    id: ClientId
    ipv4: ipaddress.IPv4Address
    ipv6: ipaddress.IPv6Address
    authorizations: dict[ResourceId, Authorization] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    """What it reaches by name. It stays when the resource goes: with the resource the names come back."""
    networks: tuple[Network, Network] = field(init=False)
    """The client's own addresses as host networks."""

    def __post_init__(self) -> None:
        self.networks = ipaddress.ip_network(self.ipv4), ipaddress.ip_network(self.ipv6)

    def allow(self, resource: wire.Resource, expires_at: UnixTime | None) -> bool:
        """Grants a resource, or renews a grant: filters and expiry are replaced. False: it is known as another kind."""
        known = self.authorizations.get(resource.id)
        if known is not None and type(known.resource) is not type(resource):
            return False
        self.authorizations[resource.id] = Authorization(resource, expires_at)
        return True

    def allows_name(self, resource: ResourceId, domain: str) -> bool:
        """Whether a resource is granted that stands for names, and for this one among them."""
        grant = self.authorizations.get(resource)
        return grant is not None and isinstance(grant.resource, wire.DnsResource) and matches(grant.resource.address, domain)

    def update(self, resource: wire.Resource) -> bool:
        """Takes new filters of a resource and nothing else: another address is another grant. False: it is not granted."""
        known = self.authorizations.get(resource.id)
        match known, resource:
            case Authorization(wire.CidrResource() as former), wire.CidrResource(filters=filters):
                known.resource = msgspec.structs.replace(former, filters=filters)
            case Authorization(wire.DnsResource() as former), wire.DnsResource(filters=filters):
                known.resource = msgspec.structs.replace(former, filters=filters)
            case _:
                return False
        return True

    def set_expiry(self, resource: ResourceId, expires_at: UnixTime) -> bool:
        """Replaces the expiry of a grant. False: there is no such grant."""
        known = self.authorizations.get(resource)
        if known is None:
            return False
        known.expires_at = expires_at
        return True

    def retain(self, resources: Iterable[ResourceId]) -> list[ResourceId]:
        """Keeps only the resources that are listed; returns what was taken away."""
        listed = set(resources)
        gone = [resource for resource in self.authorizations if resource not in listed]
        for resource in gone:
            del self.authorizations[resource]
        return gone

    def expire(self, utc: UnixTime) -> list[ResourceId]:
        """Takes away what has expired and returns it."""
        gone = [resource for resource, grant in self.authorizations.items() if grant.is_expired(utc)]
        for resource in gone:
            del self.authorizations[resource]
        return gone

    def finds_unreachable(self, header: IpHeader) -> bool:
        """Whether a refused packet is for what the Internet resource leaves out: asking for access again would not help.

        Proxy IPs lie in such a range as well; those that stand for a name go by that name's resource.
        """
        if header.destination in self.names:
            return False
        has_internet = any(isinstance(grant.resource, wire.InternetResource) for grant in self.authorizations.values())
        return has_internet and header.source in (self.ipv4, self.ipv6) and is_no_internet(header.destination)

    def permits(self, header: IpHeader, own: Iterable[Address]) -> bool:
        """Judges a packet out of the tunnel as the compiled filter does with `rules(own)`, without walking all names."""
        if header.source not in (self.ipv4, self.ipv6):
            return False
        name = self.names.of(header.destination)
        named = self.rules_of(name) if name is not None else ()
        return permits_outbound(named or self._rules_of_networks(own), header)

    def rules(self, own: Iterable[Address]) -> tuple[Rule, ...]:
        """Returns the filter rules of everything granted. `own` are the gateway's tunnel addresses."""
        return self._rules_of_networks(own) + tuple(rule for name in self.names for rule in self.rules_of(name))

    def _rules_of_networks(self, own: Iterable[Address]) -> tuple[Rule, ...]:
        grants = []
        for grant in self.authorizations.values():
            match grant.resource:
                case wire.CidrResource() as resource:
                    grants.append(Grant(resource.address, resource.filters))
                case wire.InternetResource():
                    grants.extend(Grant(network, (), is_internet=True) for network in INTERNET)
        return build_rules(grants, own)

    def rules_of(self, name: Name) -> tuple[Rule, ...]:
        """Returns the rules for the proxy IPs of a name: the union of its resources that are granted and cover it still.

        A network that happens to cover proxy IPs or what the name stands for has no say in them.
        """
        granted = (self.authorizations[resource].resource for resource in name.resources if resource in self.authorizations)
        filters = [
            resource.filters
            for resource in granted
            if isinstance(resource, wire.DnsResource) and matches(resource.address, name.domain)
        ]
        if not filters:
            return ()
        return tuple(merge_filters(network, filters) for network in name.proxies.values())


def unix_time(seconds: int | None) -> UnixTime | None:
    """Converts the portal's Unix seconds to nanoseconds."""
    return None if seconds is None else seconds * SECOND
