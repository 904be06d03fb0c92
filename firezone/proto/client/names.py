"""Names of DNS resources: which resources a name belongs to, whom to tell of it, and which of its addresses need no look.

Every name that is asked for gets proxy IPs of its own, which all resources that match it share. A packet to one of them goes to
the resource whose filters let it through, then to the one with the more specific pattern, then to the one with the larger id. The
compiled path takes a proxy IP over once the name is used, everything that could be chosen for it is served by one gateway, and
that gateway was told of the name and does not need packets held back.

With `is_one_resource_per_name` filters have no say: per family only the best pattern counts. Gateways of the first protocol
version keep one resource per proxy IP, and forget all they know of a client that announces another.

Source: client 15.2, 15.3, 16.4.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from firezone.proto.client.name_nat import NameNat, SetUp
from firezone.wire.domain_pattern import matches
from firezone.wire.portal import client as wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firezone.base.ids import ConnectionId, ResourceId
    from firezone.base.net import Address, Network
    from firezone.base.timing import Instant
    from firezone.proto.client.gateways import Gateways
    from firezone.proto.client.resources import ResourceBook
    from firezone.proto.dns.stub_resolver import StubResolver


class Names:
    """What the client's state knows of names. The book's resources are told by `add` and `remove`."""

    def __init__(self, resolver: StubResolver, book: ResourceBook, gateways: Gateways, *, is_one_resource_per_name: bool) -> None:
        self.nat = NameNat()
        self._resolver = resolver
        self._book = book
        self._gateways = gateways
        self._is_one_resource_per_name = is_one_resource_per_name
        self.had_any = False
        """There was a resource once that has names. Packets to what its names stood for are answered even when it is gone."""
        self._patterns: dict[ResourceId, str] = {}
        resolver.proxies.is_in_use = self._is_in_use

    def _is_in_use(self, name: str) -> bool:
        """Whether packets go to a name: its addresses must stay its own however many others are asked for."""
        resources = self._resolver.resources_of(name)
        set_ups = (self.nat.get(cid, name, resource) for cid in self._gateways for resource in resources)
        return any(set_up is not None and set_up.is_used for set_up in set_ups)

    def add(self, resource: wire.DnsResource) -> None:
        """Takes a resource into use."""
        if self._patterns.get(resource.id) == resource.address:
            return
        self._resolver.set_resource(resource.id, resource.address, resource.ip_stack)
        self._patterns[resource.id] = resource.address
        self.had_any = True
        self._on_changed(resource.address)

    def remove(self, resource: ResourceId) -> None:
        """Takes a resource out of use. Its names keep their addresses."""
        pattern = self._patterns.pop(resource, None)
        if pattern is not None:
            self._resolver.remove_resource(resource)
            self._on_changed(pattern)

    def _on_changed(self, pattern: str) -> None:
        """What gateways were told of the names of a pattern may be of no use now: they are told anew."""
        self.nat.forget_names({name for name in self.nat.names() if matches(pattern, name)})

    # questions

    def name_of(self, address: Address) -> str | None:
        """Returns the name that an address was made up for."""
        return self._resolver.proxies.name_of(address)

    def candidates(self, name: str, version: int) -> list[wire.DnsResource]:
        """Returns the resources that packets of one family to a name may be for, best first."""
        known = (self._book.resources.get(number) for number in self._resolver.resources_of(name))
        found = [resource for resource in known if isinstance(resource, wire.DnsResource) and _allows(resource, version)]
        return found[:1] if self._is_one_resource_per_name else found

    def proxies(self, name: str, resource: ResourceId) -> tuple[Network, ...]:
        """Returns the addresses of a name that stand for one of its resources, IPv4 first."""
        versions = [version for version in (4, 6) if any(found.id == resource for found in self.candidates(name, version))]
        return tuple(network for network in self.networks(name) if network.version in versions)

    def networks(self, name: str) -> tuple[Network, ...]:
        """Returns all addresses of a name as host networks, IPv4 first."""
        return tuple(map(_host_network, self._resolver.proxies.of_name(name)))

    def to_announce(self, name: str) -> Iterator[tuple[ConnectionId, ResourceId]]:
        """Yields whom to tell of a name, and for which of its resources; nobody before it has addresses."""
        if not self._resolver.proxies.of_name(name):
            return  # Only another type than these was asked for so far.
        resources = dict.fromkeys(resource.id for version in (4, 6) for resource in self.candidates(name, version))
        for resource in resources:
            if (cid := self._gateways.of(resource)) is not None:
                yield cid, resource

    def begin(self, cid: ConnectionId, name: str, resource: ResourceId, now: Instant) -> SetUp:
        """Begins to tell a gateway of a name; the set-up must be announced."""
        return self.nat.begin(cid, name, resource, self.proxies(name, resource), now)

    # the compiled path

    def used(self) -> Iterator[str]:
        """Yields the names that packets were sent to and gateways were told of, in lower case."""
        for cid in self._gateways:
            for set_up in self.nat.at(cid):
                if set_up.is_used:
                    yield set_up.name.lower()

    def connections_for(self, name: str) -> tuple[ConnectionId | None, ConnectionId | None]:
        """Returns whom packets to the IPv4 and IPv6 addresses of a name go to; None where each must be looked at."""
        return self._connection_for(name, 4), self._connection_for(name, 6)

    def _connection_for(self, name: str, version: int) -> ConnectionId | None:
        candidates = self.candidates(name, version)
        if not candidates:
            return None
        owner = candidates[0]
        # An owner without filters lets everything through: nothing else is ever chosen.
        rivals = [resource for resource in candidates if resource.filters != owner.filters] if owner.filters else []
        cid = self._gateways.of(owner.id)
        if cid is None or any(self._gateways.of(rival.id) != cid for rival in rivals):
            return None
        set_ups = [self.nat.get(cid, name, resource.id) for resource in (owner, *rivals)]
        is_told = all(set_up is not None and set_up.is_open for set_up in set_ups)
        return cid if is_told and any(set_up is not None and set_up.is_used for set_up in set_ups) else None

    def sources(self, cid: ConnectionId) -> Iterator[Network]:
        """Yields the addresses that a gateway may send from because it was told of their names."""
        for set_up in self.nat.at(cid):
            yield from set_up.networks

    def may_send_from(self, cid: ConnectionId, address: Address) -> bool:
        """Whether a gateway was told of the name that an address was made up for."""
        name = self.name_of(address)
        if name is None:
            return False
        return any(self.nat.get(cid, name, resource.id) for resource in self.candidates(name, address.version))


def _allows(resource: wire.DnsResource, version: int) -> bool:
    return resource.ip_stack in ("dual", f"ipv{version}_only")


def _host_network(address: Address) -> Network:
    """By way of the number: from an address itself the library makes text and reads that."""
    if isinstance(address, ipaddress.IPv4Address):
        return ipaddress.IPv4Network((int(address), 32))
    return ipaddress.IPv6Network((int(address), 128))
