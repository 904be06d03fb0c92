"""What follows from a client's state for compiled tables, TUN device and the list for display, found anew after every change."""

from __future__ import annotations

import dataclasses
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firezone.base.net import PROXY_V4, PROXY_V6
from firezone.proto.client.gateways import GatewayOnClient, Gateways
from firezone.proto.client.name_service import NameService
from firezone.proto.client.names import Names
from firezone.proto.client.resources import ResourceBook, ResourceView
from firezone.proto.client.routing import FIXED_ROUTES, INTERNET, Routing, closed_within, is_proxy
from firezone.proto.snownet.events import Role
from firezone.proto.tunnel_state import TunnelState
from firezone.proto.updates import PeerFilterSet, RouteRemoved, RouteSet
from firezone.wire.portal import client as wire

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firezone.base.ids import ConnectionId, PeerRow, ResourceId
    from firezone.base.net import Address, Network
    from firezone.base.rng import Rng
    from firezone.base.timing import Instant, UnixTime
    from firezone.proto.noise.sessions import SessionStore
    from firezone.proto.turn.channels import ChannelGate


@dataclass(frozen=True, slots=True)
class TunConfig:
    """How the TUN device must be set up. Emitted when it differs from the last one."""

    ipv4: str
    ipv6: str
    routes: tuple[Network, ...]
    dns_servers: tuple[str, ...] = ()
    """The sentinels the machine is to ask; none leaves its DNS alone."""
    search_domain: str | None = None


@dataclass(frozen=True, slots=True)
class ResourcesUpdated:
    """The whole list, for display."""

    resources: tuple[ResourceView, ...]


NameRoute = tuple[tuple["Network", ...], tuple["PeerRow | None", "PeerRow | None"]]
"""Addresses of a name, and the rows that those of either family go to."""


class ClientTables(TunnelState):
    """The part of the client's machine that holds what it knows, and makes tables and host follow."""

    def __init__(
        self, *, store: SessionStore, rng: Rng, now: Instant, utc: UnixTime, channels: ChannelGate | None = None,
        generation: int = 1, is_one_resource_per_name: bool | None = None,
    ) -> None:  # fmt: skip
        """`generation` is that of the portal's protocol.

        `is_one_resource_per_name`: what gateways of the first generation need, see `proto.client.names`. None: if we are of it.
        """
        super().__init__(Role.CLIENT, store=store, rng=rng, now=now, utc=utc, channels=channels)
        self._generation = generation
        self._book = ResourceBook()
        self._gateways = Gateways()
        self._dns = NameService()
        is_single = generation == 1 if is_one_resource_per_name is None else is_one_resource_per_name
        self._names = Names(self._dns.resolver, self._book, self._gateways, is_one_resource_per_name=is_single)
        self._routing = Routing(self._book, self._names)
        self._name_routes: dict[str, NameRoute] = {}
        """What the tables know of names, by name in lower case."""
        self._bases: dict[ConnectionId, PeerFilterSet] = {}
        """Filters of gateways but for the addresses of names."""
        self._own: tuple[Address, ...] = ()
        self._tun_config: TunConfig | None = None
        self._last_views: tuple[ResourceView, ...] | None = None

    @property
    def own_addresses(self) -> tuple[Address, ...]:
        """Our tunnel addresses, IPv4 and IPv6; empty before the first `init`."""
        return self._own

    def paths(self) -> str:
        """Returns where the connected gateways are reached, for display."""
        found = (self.node.path_of(cid) for cid in self._gateways)
        return ", ".join(str(path.remote) for path in found if path is not None) or "none"

    # what follows from it

    def _refresh(self, now: Instant) -> None:
        """Brings tables, TUN configuration and the displayed list in line with the state."""
        self._book.recompute(lambda resource: self._gateways.of(resource) is not None)
        self._routing.refresh()
        self._sync()
        self._announce()
        self._drain_node(now)

    def _sync(self) -> None:
        routes: dict[Network, PeerRow | None] = {}
        for network, resources in self._routing.networks():
            routes |= {network: self._row_for(resources)} | dict.fromkeys(closed_within(network))
        local = tuple(ipaddress.ip_network(address) for address in self._own)
        if self._names.had_any:
            routes |= dict.fromkeys((PROXY_V4, PROXY_V6))
        self._bases = {cid: base for cid, base in self._bases.items() if self._gateways.get(cid) is not None}
        for cid, gateway in self._gateways.items():
            row = self.node.row_of(cid)
            routes |= dict.fromkeys(gateway.networks, row)
            if row is None:
                self._set_filter(cid, None)
            else:
                self._sync_filter(cid, PeerFilterSet(row, remote=tuple(self._networks_of(gateway)), local=local))
        self._names.nat.shrunk.clear()
        self._set_routes(routes)
        for name in dict.fromkeys([*self._name_routes, *self._names.used()]):
            self._sync_name(name)

    def _sync_filter(self, cid: ConnectionId, base: PeerFilterSet) -> None:
        """Sets a gateway's filter anew if anything but names was added to it."""
        if self._rows.get(cid) == base.peer and self._bases.get(cid) == base and cid not in self._names.nat.shrunk:
            return
        self._bases[cid] = base
        whole = dataclasses.replace(base, remote=(*base.remote, *self._names.sources(cid)))
        if self._rows.get(cid) == base.peer:
            # Even if it is what was set last: addresses were added since.
            self._filters[cid] = whole
            self._updates.append(whole)
        else:
            self._set_filter(cid, whole)

    def _row_for(self, resources: Iterable[ResourceId]) -> PeerRow | None:
        """Returns where all packets go that are for any of some resources; None while they must be looked at one by one."""
        serving = {self._gateways.of(resource) for resource in resources}
        cid = serving.pop() if len(serving) == 1 else None
        return None if cid is None else self.node.row_of(cid)

    def _may_send_from(self, cid: ConnectionId, source: Address) -> bool:
        if is_proxy(source):
            return self._names.may_send_from(cid, source)
        gateway = self._gateways.get(cid)
        return gateway is not None and any(source in network for network in self._networks_of(gateway))

    def _networks_of(self, gateway: GatewayOnClient) -> list[Network]:
        sources = list(gateway.networks)
        for number in gateway.resources:
            match self._book.resources.get(number):
                case wire.CidrResource(address=address):
                    sources.append(address)
                case wire.InternetResource():
                    sources.extend(INTERNET)
        return sources

    def _announce(self) -> None:
        if self._own:
            routes = (*self._book.active, *FIXED_ROUTES, *(INTERNET if self._book.internet is not None else ()))
            ordered = tuple(sorted(set(routes), key=str))
            config = TunConfig(str(self._own[0]), str(self._own[1]), ordered, self._dns.sentinels, self._dns.search_domain)
            if config != self._tun_config:
                self._tun_config = config
                self._replace_event(config)
        views = self._book.views()
        if self._own and views != self._last_views:
            self._last_views = views
            self._replace_event(ResourcesUpdated(views))

    def _replace_event(self, event: TunConfig | ResourcesUpdated) -> None:
        """Queues an event of which only the newest counts."""
        for former in [former for former in self._events if type(former) is type(event)]:
            self._events.remove(former)
        self._events.append(event)

    def _sync_name(self, name: str) -> None:
        """Brings the routes of one name in line, as names come and go too often to look at all of them each time."""
        key = name.lower()
        known = self._name_routes.get(key)
        ipv4, ipv6 = self._names.connections_for(name)
        rows = (None if ipv4 is None else self.node.row_of(ipv4), None if ipv6 is None else self.node.row_of(ipv6))
        networks, former = known or ((), (None, None))
        if rows == former:
            return
        networks = networks or self._names.networks(name)
        for network in networks:
            old, new = (former[0], rows[0]) if network.version == 4 else (former[1], rows[1])
            if old != new:
                self._updates.append(RouteRemoved(network) if new is None else RouteSet(network, new))
        if rows == (None, None):
            del self._name_routes[key]
        else:
            self._name_routes[key] = networks, rows
