"""Which resource a packet is for, and which networks may be routed without looking at each packet.

Names go before networks, networks before the Internet: whatever a network covers is its business, even if its filters deny it. Of
the networks that cover an address the best is one whose filters let the packet through, then the longest prefix, then the owner of
that prefix, then the largest id. So the packet decides; but where everything that could be chosen is served by one gateway, there
is nothing to decide, and the compiled path takes the network.

Source: client 15.2; Firezone `rust/libs/connlib/tunnel-proto/src/client/routing.rs`.
"""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firezone.base.net import PROXY_V4, PROXY_V6, SENTINEL_V4, SENTINEL_V6, TUNNEL_V4, TUNNEL_V6, Network, covers
from firezone.wire.ip import ICMP, ICMPV6, TCP, UDP
from firezone.wire.portal import client as wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from firezone.base.ids import ResourceId
    from firezone.base.net import Address
    from firezone.proto.client.names import Names
    from firezone.proto.client.resources import ResourceBook
    from firezone.wire.ip import IpHeader
    from firezone.wire.portal.shared import Filter

FIXED_ROUTES: tuple[Network, ...] = (TUNNEL_V4, PROXY_V4, SENTINEL_V4, TUNNEL_V6, PROXY_V6, SENTINEL_V6)
"""Always routed to the tunnel, and never a resource."""
MULTICAST: tuple[Network, ...] = (ipaddress.IPv4Network("224.0.0.0/4"), ipaddress.IPv6Network("ff00::/8"))
"""Never a resource either: groups end at the link."""
CLOSED = FIXED_ROUTES + MULTICAST
INTERNET: tuple[Network, ...] = (ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0"))
MAX_FOUND = 1024
"""Flows whose resource is remembered: 0.5 MiB. Twice as many are of no use to a host that sends few kinds of packets here."""

MAX_NETWORKS = 1 << 15
"""Networks of which is remembered how they lie to the closed ones. With fewer than are in use each change asks anew for all."""

_FILTER_OF = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMPV6: "icmp"}


@dataclass(frozen=True, slots=True)
class Match:
    """What a packet is for."""

    resource: wire.Resource
    is_permitted: bool
    """Whether the resource's filters let the packet through."""
    name: str | None = None
    """The name that the packet's destination was made up for."""


class Routing:
    """Looks resources up for packets. `refresh` must be called when the book has changed."""

    def __init__(self, book: ResourceBook, names: Names) -> None:
        self._book = book
        self._names = names
        self._by_network: dict[Network, list[wire.CidrResource]] = {}
        """Enabled resources of each network, by id."""
        self._lengths: dict[int, list[int]] = {4: [], 6: []}
        """Lengths of prefix in use, longest first."""
        self._internet: wire.InternetResource | None = None
        self._found: dict[tuple[Address, int, int | None], Match | None] = {}
        """A flood of one flow must not search anew for each packet."""

    def refresh(self) -> None:
        """Takes what the book says now."""
        self._by_network, lengths = {}, set()
        for number in sorted(self._book.resources):
            resource = self._book.resources[number]
            if isinstance(resource, wire.CidrResource) and self._book.is_enabled(resource):
                self._by_network.setdefault(resource.address, []).append(resource)
                lengths.add((resource.address.version, resource.address.prefixlen))
        self._lengths = {version: sorted((size for of, size in lengths if of == version), reverse=True) for version in (4, 6)}
        self._internet = self._book.internet
        self._found.clear()

    def match(self, header: IpHeader) -> Match | None:
        """Returns the resource to ask for."""
        key = header.destination, header.protocol, header.destination_port
        if key not in self._found:
            if len(self._found) >= MAX_FOUND:
                self._found.clear()
            if is_proxy(header.destination):
                # Not remembered without a resource: the address may be given to a name at any time.
                return self._find_name(header, key)
            self._found[key] = self._find(header)
        return self._found[key]

    def _find_name(self, header: IpHeader, key: tuple[Address, int, int | None]) -> Match | None:
        name = self._names.name_of(header.destination)
        candidates = [] if name is None else self._names.candidates(name, header.version)
        if not candidates:
            return None
        best = next((resource for resource in candidates if permits(resource.filters, header)), candidates[0])
        found = self._found[key] = Match(best, permits(best.filters, header), name)
        return found

    def _find(self, header: IpHeader) -> Match | None:
        if is_closed(header.destination):
            return None
        covering = [
            resource for _, resources in self._covering(ipaddress.ip_network(header.destination)) for resource in resources
        ]  # fmt: skip
        if covering:
            best = max(covering, key=lambda resource: self._rank(resource, header))
            return Match(best, permits(best.filters, header))
        return None if self._internet is None else Match(self._internet, True)

    def _rank(self, resource: wire.CidrResource, header: IpHeader) -> tuple[bool, int, bool, ResourceId]:
        is_owner = self._book.active.get(resource.address) is resource
        return permits(resource.filters, header), resource.address.prefixlen, is_owner, resource.id

    def _covering(self, network: Network) -> Iterator[tuple[Network, list[wire.CidrResource]]]:
        """Yields what covers a network, itself included, longest prefix first."""
        for size in self._lengths[network.version]:
            if size <= network.prefixlen:
                wider = network.supernet(new_prefix=size)
                if (resources := self._by_network.get(wider)) is not None:
                    yield wider, resources

    def networks(self) -> Iterator[tuple[Network, list[ResourceId]]]:
        """Yields every network of resources, with those that may be chosen for its packets; first its owner."""
        for network, owner in self._book.active.items():
            if not _is_within_closed(network):
                yield network, [owner.id, *self._rivals(network, owner)]
        if self._internet is not None:
            for network in INTERNET:
                yield network, [self._internet.id]

    def _rivals(self, network: Network, owner: wire.CidrResource) -> list[ResourceId]:
        """Returns the resources that may be better than the owner of a network for some packets: those with other filters.

        An owner without filters lets everything through, and its prefix is the longest there: it has no rivals.
        """
        if not owner.filters:
            return []
        return [
            resource.id
            for _, resources in self._covering(network)
            for resource in resources
            if resource.filters != owner.filters
        ]  # fmt: skip


def permits(filters: Iterable[Filter], header: IpHeader) -> bool:
    """Judges a packet by a resource's filters as its gateway will; none at all permit everything."""
    filters, port = tuple(filters), header.destination_port
    kind = _FILTER_OF.get(header.protocol)
    return not filters or any(
        item.protocol == kind and (kind == "icmp" or (port is not None and item.port_range_start <= port <= item.port_range_end))
        for item in filters
    )


def is_proxy(address: Address) -> bool:
    """Whether an address may stand for a name."""
    return address in (PROXY_V4 if address.version == 4 else PROXY_V6)


def is_closed(address: Address) -> bool:
    """Whether an address is never a resource's."""
    return any(address in network for network in CLOSED)


@functools.lru_cache(maxsize=MAX_NETWORKS)
def closed_within(network: Network) -> tuple[Network, ...]:
    """Returns the closed networks that a network would take along."""
    return tuple(closed for closed in CLOSED if covers(network, closed))


@functools.lru_cache(maxsize=MAX_NETWORKS)
def _is_within_closed(network: Network) -> bool:
    return any(covers(closed, network) for closed in CLOSED)
