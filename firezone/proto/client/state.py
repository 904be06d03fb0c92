"""The client's state: which packet belongs to which resource, who serves it, and how access is asked for.

A packet for a resource that no gateway serves yet is punted here, kept, and the portal is asked for a flow. The answer names a
gateway; from its connection on, the resource's packets take the compiled path. What the tables say is recomputed from this
state after every change (`_sync`), so they cannot drift from it.

Source: Firezone `rust/connlib/tunnel/src/client.rs`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from firezone.base.errors import NoRelays, UnknownConnection, WireError
from firezone.base.ids import ConnectionId, GatewayId, PeerRow, ResourceId
from firezone.base.net import PROXY_V4, PROXY_V6
from firezone.base.timing import earliest
from firezone.kernels.types import Reason
from firezone.proto.client.gateways import GatewayOnClient, Gateways
from firezone.proto.client.name_nat import SetUp
from firezone.proto.client.names import Names
from firezone.proto.client.pending_flows import PendingFlows
from firezone.proto.client.refusals import Refusals
from firezone.proto.client.resources import ResourceBook, ResourceView, Status
from firezone.proto.client.routing import FIXED_ROUTES, INTERNET, Routing, closed_within, is_proxy
from firezone.proto.dns.stub_resolver import StubResolver
from firezone.proto.snownet.events import Role
from firezone.proto.tunnel_state import PortalWanted, ReconnectPortal, TunnelState, credentials
from firezone.proto.updates import PeerFilterSet
from firezone.wire.control import ControlEvent, decode_control, decode_domain_status
from firezone.wire.ip import ICMP, ICMPV6, TCP, UDP, IpHeader, decode_ip, prohibited, unreachable
from firezone.wire.portal import client as wire
from firezone.wire.portal.shared import RelaysPresence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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


class ClientState(TunnelState):
    """The client's machine."""

    def __init__(
        self, *, store: SessionStore, rng: Rng, now: Instant, utc: UnixTime, channels: ChannelGate | None = None,
        is_one_resource_per_name: bool = True,
    ) -> None:  # fmt: skip
        """`is_one_resource_per_name`: what gateways of the first protocol version need, see `proto.client.names`."""
        super().__init__(Role.CLIENT, store=store, rng=rng, now=now, utc=utc, channels=channels)
        self._book = ResourceBook()
        self._pending = PendingFlows()
        self._gateways = Gateways()
        self._resolver = StubResolver()
        self._names = Names(
            self._resolver, self._book, self._gateways, is_one_resource_per_name=is_one_resource_per_name
        )  # fmt: skip
        self._routing = Routing(self._book, self._names)
        self._refusals = Refusals()
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

    # commands of the program

    def set_disabled_resources(self, disabled: set[ResourceId], now: Instant) -> None:
        """Switches resources off (and others on again); traffic of those switched off ends at once."""
        newly_off = disabled - self._book.disabled
        self._book.disabled = set(disabled)
        for number in sorted(newly_off):
            self._deactivate(number, now)
        for resource in self._book.resources.values():
            self._activate(resource)
        self._refresh(now)

    def set_internet_resource_state(self, is_on: bool, now: Instant) -> None:
        """Switches the Internet resource on or off, whether there is one or not yet. It is off until this is called."""
        if is_on == self._book.is_internet_on:
            return
        internet = self._book.internet
        self._book.is_internet_on = is_on
        if internet is not None:
            self._deactivate(internet.id, now)
        self._refresh(now)

    def reset(self, now: Instant) -> None:
        """Starts over after the network changed: new keys, no connections. Resources, pending intents and the TUN stay.

        So do the gateways we like best: with another one the applications' connections would be lost.
        """
        self.node.reset(now)
        self._drain_node(now)
        self._events.append(ReconnectPortal(self.public_key, "the network changed"))

    # portal

    def set_portal_reached(self, is_reached: bool, now: Instant) -> None:
        """As in general; what waits for an answer asks again when the next `init` has come."""
        if not is_reached:
            self._pending.on_portal_lost()
        super().set_portal_reached(is_reached, now)

    def handle_portal(self, message: wire.FromPortal, now: Instant, utc: UnixTime) -> None:
        """Takes one message of the portal."""
        match message:
            case wire.Init(interface=interface, resources=resources, relays=relays):
                self._own = (interface.ipv4, interface.ipv6)
                self._set_resources(resources, now)
                self._update_relays((), relays, now)
                for resource_id in self._pending.ask_again(now):
                    self._ask_for(resource_id)
            case wire.ConfigChanged(interface=interface):
                self._own = (interface.ipv4, interface.ipv6)
            case wire.ResourceCreatedOrUpdated(resource=resource):
                self._add_resource(resource, now)
            case wire.ResourceDeleted(resource_id=resource_id):
                self._remove_resource(resource_id, now)
            case wire.FlowCreated():
                self._create_flow(message, now)
            case wire.FlowCreationFailed():
                self._fail_flow(message, now)
            case wire.IceCandidates() | wire.InvalidateIceCandidates():
                self._take_candidates(message, now)
                return
            case RelaysPresence(disconnected_ids=gone, connected=relays):
                self._update_relays(gone, relays, now)
            case _:
                assert_never(message)
        self._refresh(now)

    def _take_candidates(self, message: wire.IceCandidates | wire.InvalidateIceCandidates, now: Instant) -> None:
        is_new = isinstance(message, wire.IceCandidates)
        take = self.node.add_remote_candidate if is_new else self.node.remove_remote_candidate
        for line in message.candidates:
            take(ConnectionId(message.gateway_id), line, now)
        self._drain_node(now)

    def _set_resources(self, resources: Iterable[wire.Resource], now: Instant) -> None:
        """Applies a whole list without touching what stays in it."""
        listed = list(resources)
        wanted = {resource.id for resource in listed}
        for resource_id in [known for known in self._book.resources if known not in wanted]:
            self._remove_resource(resource_id, now)
        for resource in listed:
            self._add_resource(resource, now)

    def _add_resource(self, resource: wire.Resource, now: Instant) -> None:
        if self._book.must_restart(resource):
            self._remove_resource(resource.id, now)
        self._book.resources[resource.id] = resource
        self._activate(resource)

    def _activate(self, resource: wire.Resource) -> None:
        if isinstance(resource, wire.DnsResource) and self._book.is_enabled(resource):
            self._names.add(resource)

    def _remove_resource(self, resource_id: ResourceId, now: Instant) -> None:
        self._deactivate(resource_id, now)
        self._book.remove(resource_id)

    def _deactivate(self, resource_id: ResourceId, now: Instant) -> None:
        """Ends a resource's traffic; a gateway without any resource left is told goodbye."""
        self._pending.take(resource_id)
        self._names.remove(resource_id)
        self._release(resource_id, now)

    def _release(self, resource: ResourceId, now: Instant) -> None:
        self._names.nat.forget_resource(resource)
        if (cid := self._gateways.release(resource)) is not None:
            self.node.close_connection(cid, now)
            self._on_gone(cid, now)

    def _create_flow(self, message: wire.FlowCreated, now: Instant) -> None:
        """Connects to the gateway the portal chose and hands it what waited. An answer nobody waits for is ignored."""
        resource = self._book.resources.get(message.resource_id)
        if resource is None or (packets := self._pending.take(resource.id)) is None:
            return
        cid = ConnectionId(message.gateway_id)
        former_row = self.node.row_of(cid)
        try:
            self.node.upsert_connection(
                cid,
                bytes(message.gateway_public_key),
                message.preshared_key.reveal(),
                credentials(message.client_ice_credentials),
                credentials(message.gateway_ice_credentials),
                now,
            )
        except NoRelays:
            self._events.append(ReconnectPortal(self.public_key, "no address to offer to gateways"))
            return
        if self.node.row_of(cid) != former_row:
            # On new terms it may be to a gateway that was started anew: each resource must be asked for again.
            self._gateways.forget_authorizations(cid)
            self._names.nat.forget_connection(cid)
        if self._gateways.of(resource.id) not in (None, cid):
            self._release(resource.id, now)
        self._gateways.assign(message, cid)
        for packet in packets:
            self._forward(packet, decode_ip(packet), now)

    def _fail_flow(self, message: wire.FlowCreationFailed, now: Instant) -> None:
        resource = self._book.resources.get(message.resource_id)
        if resource is None:
            return
        is_offline = message.reason == wire.OFFLINE
        # What waits stays unless nobody is there, as the portal may think better of it; but its senders need not wait.
        waiting = (self._pending.take(resource.id) or []) if is_offline else self._pending.take_unanswered(resource.id)
        for packet in waiting:
            self._refuse(packet, unreachable if is_offline else prohibited, now)
        if is_offline:
            self._book.set_offline([site.id for site in resource.sites], now)

    # packets

    def handle_packet(self, packet: bytes, ecn: int, reason: Reason, now: Instant) -> None:
        """Takes a packet from TUN: for a resource that nobody serves yet, or for a gateway that has no session right now."""
        header = decode_ip(packet)
        if not self._is_admissible(header):
            return
        gateway = self._gateways.at(header.destination)
        if gateway is not None:
            self._encapsulate(gateway, packet, now)
            return
        self._forward(packet, header, now)

    def _forward(self, packet: bytes, header: IpHeader, now: Instant) -> None:
        match = self._routing.match(header)
        if match is None:
            if is_proxy(header.destination) and self._names.name_of(header.destination) is not None:
                self._refuse(packet, unreachable, now)  # The name was a resource's once.
            return
        resource = match.resource.id
        cid = self._gateways.of(resource)
        if not match.is_permitted:
            self._refuse(packet, prohibited, now)
        elif cid is None or self.node.row_of(cid) is None:
            if self._pending.add(resource, packet, header, now):
                self._ask_for(resource)
        elif match.name is None:
            self._encapsulate(cid, packet, now)
        else:
            self._send_to_name(cid, match.name, resource, packet, header, now)

    def _refuse(self, packet: bytes, answer: Callable[[bytes], bytes], now: Instant) -> None:
        """Tells the sender of a packet that it goes nowhere, at a bounded rate."""
        if self._refusals.allow(now):
            self._packets.append(answer(packet))

    def _ask_for(self, resource: ResourceId) -> None:
        if not self._is_portal_reached:
            self._pending.on_not_asked(resource)
            self._events.append(PortalWanted())
        self._tell_portal(wire.CreateFlow(resource_id=resource, connected_gateway_ids=self._gateways.preferred(resource)))

    def _is_admissible(self, header: IpHeader) -> bool:
        """Keeps out what would raise intents for nothing: noise of the host, foreign sources, protocols no gateway forwards."""
        if header.destination.is_multicast or header.destination in self._own or header.source not in self._own:
            return False
        if header.protocol in (ICMP, ICMPV6):
            return header.source_port is not None
        return header.protocol in (TCP, UDP)

    def _encapsulate(self, cid: ConnectionId, packet: bytes, now: Instant) -> None:
        try:
            self.node.encapsulate(cid, packet, now)
        except UnknownConnection:
            self._on_gone(cid, now)
        finally:
            self._drain_node(now)

    def handle_refused(self, row: PeerRow, packet: bytes, reason: Reason, now: Instant) -> None:
        """A gateway sent something from an address it has no business with: dropped; the counters tell."""

    def _admit(self, cid: ConnectionId, packet: bytes, now: Instant) -> None:
        if packet[0] >> 4 == 6 and packet[6] == 0xFF and not any(packet[8:40]):
            self._handle_control(cid, packet, now)
            return
        header = decode_ip(packet)
        if header.destination in self._own and self._may_send_from(cid, header.source):
            self._packets.append(packet)

    # names

    def _send_to_name(
        self, cid: ConnectionId, name: str, resource: ResourceId, packet: bytes, header: IpHeader, now: Instant
    ) -> None:
        """Sends a packet to a name once its gateway knows which name that is; the announcement goes first."""
        set_up = self._names.nat.get(cid, name, resource) or self._tell_of(cid, name, resource, now)
        if self._names.nat.get(cid, name, resource) is not set_up:
            return  # The connection has just ended.
        is_first = not set_up.is_used
        may_pass, must_announce = self._names.nat.handle_packet(cid, set_up, packet, header, now)
        if must_announce:
            self._encapsulate(cid, set_up.announcement, now)
        if may_pass:
            self._encapsulate(cid, packet, now)
        if is_first:
            self._sync_name(name)

    def _tell_of(self, cid: ConnectionId, name: str, resource: ResourceId, now: Instant) -> SetUp:
        set_up = self._names.begin(cid, name, resource, now)
        self._add_remote(cid, set_up.networks)
        self._encapsulate(cid, set_up.announcement, now)
        if self._names.nat.has_shrunk:
            self._names.nat.has_shrunk = False
            self._sync()
        return set_up

    def _on_name_asked(self, name: str, now: Instant) -> None:
        """Tells gateways of a name that a program is about to use, and again of those that did not answer."""
        for cid, resource in list(self._names.to_announce(name)):
            set_up = self._names.nat.get(cid, name, resource)
            if self.node.row_of(cid) is None:
                continue
            if set_up is None:
                self._tell_of(cid, name, resource, now)
            elif self._names.nat.handle_query(cid, set_up, now):
                self._encapsulate(cid, set_up.announcement, now)
        for cid, set_up in self._names.nat.take_due(now):
            self._encapsulate(cid, set_up.announcement, now)
        self._sync_name(name)

    def _handle_control(self, cid: ConnectionId, packet: bytes, now: Instant) -> None:
        super()._handle_control(cid, packet, now)
        try:
            control = decode_control(packet)
            told = decode_domain_status(control.body) if control.event == ControlEvent.DOMAIN_STATUS else None
        except WireError:
            return
        if told is None:
            return
        answered = self._names.nat.handle_status(cid, told.domain, told.resource, is_active=told.is_active)
        if answered is not None:
            set_up, released = answered
            for waiting in released:
                self._encapsulate(cid, waiting, now)
            self._sync_name(set_up.name)

    def _sync_name(self, name: str) -> None:
        """Brings the routes of one name in line, as names come and go too often to look at all of them each time."""
        for network, cid in self._names.routes_of(name):
            row = None if cid is None else self.node.row_of(cid)
            if row is None:
                self._remove_route(network)
            else:
                self._set_route(network, row)

    # time

    def handle_timeout(self, now: Instant, utc: UnixTime) -> None:
        super().handle_timeout(now, utc)
        if self._book.forgive_offline(now):
            self._refresh(now)

    def poll_timeout(self) -> tuple[Instant, str] | None:
        forgiven = min(self._book.offline_until.values(), default=None)
        return earliest(self.node.poll_timeout(), None if forgiven is None else (forgiven, "forgive offline sites"))

    # reactions

    def _on_candidates(self, cid: ConnectionId, candidates: tuple[str, ...], *, are_new: bool) -> object:
        gateways = (GatewayId(cid),)
        if are_new:
            return wire.BroadcastIceCandidates(gateway_ids=gateways, candidates=candidates)
        return wire.BroadcastInvalidatedIceCandidates(gateway_ids=gateways, candidates=candidates)

    def _on_established(self, cid: ConnectionId, now: Instant) -> None:
        gateway = self._gateways.get(cid)
        if gateway is not None:
            self._book.set_site_status([gateway.site], Status.ONLINE)
            self._refresh(now)

    def _on_gone(self, cid: ConnectionId, now: Instant) -> None:
        gateway = self._gateways.remove(cid)
        self._names.nat.forget_connection(cid)
        if gateway is not None:
            self._book.set_site_status([gateway.site], Status.UNKNOWN)
        self._set_filter(cid, None)
        self._refresh(now)

    # what follows from the state

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
        routes |= {network: self.node.row_of(cid) for network, cid in self._names.routes()}
        for cid, gateway in self._gateways.items():
            row = self.node.row_of(cid)
            routes |= dict.fromkeys(gateway.networks, row)
            self._set_filter(cid, None if row is None else PeerFilterSet(row, remote=self._allowed_sources(cid), local=local))
        self._set_routes(routes)

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

    def _allowed_sources(self, cid: ConnectionId) -> tuple[Network, ...]:
        gateway = self._gateways.get(cid)
        return () if gateway is None else (*self._networks_of(gateway), *self._names.sources(cid))

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
            config = TunConfig(str(self._own[0]), str(self._own[1]), tuple(sorted(set(routes), key=str)))
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
