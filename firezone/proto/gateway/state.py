"""The gateway's state: who may reach what, told by the portal and enforced by the compiled tables.

The portal authorises a client for a resource; the client's connection gets a filter over everything it was granted. Packets that
the filter refuses come back here and are answered with ICMP. Authorisations outlive connections and portal outages; they end
by the portal's word, by their expiry, or by the client's goodbye.

Names are resolved by whoever drives this machine: it asks by `ResolveName` and is answered by `handle_resolved`.

Source: Firezone `rust/connlib/tunnel/src/gateway.rs`, with the rules of its newest version for re-sync and renewal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from firezone.base.errors import NoRelays, StateError, UnknownConnection, WireError
from firezone.base.ids import ClientId, ConnectionId
from firezone.base.timing import SECOND, earliest
from firezone.kernels.types import Reason
from firezone.proto.gateway.client_on_gateway import ClientOnGateway, unix_time
from firezone.proto.gateway.names import read_proxies
from firezone.proto.gateway.nat_clients import NatClients
from firezone.proto.gateway.resolutions import Resolutions, Waiting
from firezone.proto.snownet.events import Role
from firezone.proto.tunnel_state import ReconnectPortal, TunnelState, credentials
from firezone.proto.updates import OwnAddressesSet, PeerFilterSet, TranslationsRemoved, TranslationsSet
from firezone.wire.control import ControlEvent, decode_assigned_ips, decode_control, encode_domain_status
from firezone.wire.ip import decode_ip, prohibited, unreachable
from firezone.wire.portal import gateway as wire
from firezone.wire.portal.shared import RelaysPresence, is_domain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firezone.base.ids import PeerRow, ResourceId
    from firezone.base.net import Address, Network
    from firezone.base.rng import Rng
    from firezone.base.timing import Instant, UnixTime
    from firezone.proto.noise.sessions import SessionStore
    from firezone.proto.turn.channels import ChannelGate

SWEEP_INTERVAL = SECOND
"""Grain of expiry."""
REFUSALS_PER_SECOND = 1000
"""ICMP errors per client and second. The first packets of every flow must be answered: clients ask for access anew on them."""
_CONTROL_EVENT, _LEAST_CONTROL = 40, 48
"""Where a control packet says what it is, and how long it is at least."""


@dataclass(frozen=True, slots=True)
class GatewayTunConfig:
    """The gateway's own tunnel addresses; emitted on every `init`, applied idempotently."""

    ipv4: str
    ipv6: str


@dataclass(frozen=True, slots=True)
class AccessChanged:
    """An authorisation came or went, for the log."""

    client: ClientId
    resource: ResourceId
    what: str
    """granted, expired, revoked or updated."""


@dataclass(frozen=True, slots=True)
class ResolveName:
    """Look up the addresses of a domain, of both families, as this host would, and tell `handle_resolved` within ten seconds."""

    domain: str


class GatewayState(TunnelState):
    """The gateway's machine."""

    def __init__(self, *, store: SessionStore, rng: Rng, now: Instant, utc: UnixTime, channels: ChannelGate | None = None) -> None:
        super().__init__(Role.GATEWAY, store=store, rng=rng, now=now, utc=utc, channels=channels)
        self._own: tuple[Address, ...] = ()
        """Our tunnel addresses; empty before the first `init`."""
        self._clients: dict[ConnectionId, ClientOnGateway] = {}
        self._by_address: dict[Address, ConnectionId] = {}
        self._routed: dict[ConnectionId, tuple[Network, ...]] = {}
        """Networks that the tables route to each client."""
        self._nat = NatClients()
        self._resolutions = Resolutions()
        self._next_sweep: Instant | None = None
        self._refusals: dict[ConnectionId, tuple[Instant, int]] = {}

    # portal

    def handle_portal(self, message: wire.FromPortal, now: Instant, utc: UnixTime) -> None:
        """Takes one message of the portal."""
        match message:
            case wire.Init():
                self._handle_init(message, now)
            case wire.AuthorizeFlow():
                self._authorize(message, now)
            case wire.RejectAccess(client_id=client, resource_id=resource):
                self._revoke(client, resource, now)
            case wire.AccessAuthorizationExpiryUpdated():
                self._set_expiry(message.client_id, message.resource_id, message.expires_at)
            case wire.ResourceUpdated(resource=resource):
                self._update_resource(resource)
            case wire.IceCandidates(client_id=client, candidates=lines):
                for line in lines:
                    self.node.add_remote_candidate(ConnectionId(client), line, now)
            case wire.InvalidateIceCandidates(client_id=client, candidates=lines):
                for line in lines:
                    self.node.remove_remote_candidate(ConnectionId(client), line, now)
            case RelaysPresence(disconnected_ids=gone, connected=relays):
                self._update_relays(gone, relays, now)
            case _:
                assert_never(message)
        self._drain_node(now)

    def _handle_init(self, message: wire.Init, now: Instant) -> None:
        """Re-synchronises: what is not listed is revoked, also for clients that are not listed at all."""
        self._update_relays((), message.relays, now)
        own = message.interface.ipv4, message.interface.ipv6
        if own != self._own:
            self._own = own
            self._updates.append(OwnAddressesSet(*own))
        listed: dict[ConnectionId, list[wire.Authorization]] = {cid: [] for cid in self._clients}
        for authorization in message.authorizations:
            listed.setdefault(ConnectionId(authorization.client_id), []).append(authorization)
        for cid, authorizations in listed.items():
            client = self._clients.get(cid)
            if client is None:
                continue
            for resource in client.retain(authorization.resource_id for authorization in authorizations):
                self._events.append(AccessChanged(client.id, resource, "revoked"))
            for authorization in authorizations:
                client.set_expiry(authorization.resource_id, authorization.expires_at * SECOND)
            self._sync(cid)
        self._events.append(GatewayTunConfig(str(message.interface.ipv4), str(message.interface.ipv6)))

    def _authorize(self, message: wire.AuthorizeFlow, now: Instant) -> None:
        """Grants a resource and makes or keeps the connection; the answer goes out before our candidates."""
        if not self._own:
            return  # Nothing could be routed yet; the client asks again after our `init`.
        wanted = message.client
        cid = ConnectionId(wanted.id)
        try:
            self.node.upsert_connection(
                cid,
                bytes(wanted.public_key),
                wanted.preshared_key.reveal(),
                credentials(message.gateway_ice_credentials),
                credentials(message.client_ice_credentials),
                now,
            )
        except NoRelays:
            self._events.append(ReconnectPortal(self.public_key, "no address to offer to clients"))
            return
        client = self._clients.get(cid)
        if client is None or (client.ipv4, client.ipv6) != (wanted.ipv4, wanted.ipv6):
            self._forget_addresses(cid, client)
            self._updates.extend(self._nat.remove(cid))  # Its sessions were those of its former addresses.
            client = ClientOnGateway(wanted.id, wanted.ipv4, wanted.ipv6, client.authorizations if client else {})
            self._clients[cid] = client
            self._by_address |= {wanted.ipv4: cid, wanted.ipv6: cid}
        if client.allow(message.resource, unix_time(message.expires_at)):
            self._events.append(AccessChanged(client.id, message.resource.id, "granted"))
        self._tell_portal(wire.FlowAuthorized(ref=message.ref))
        self._sync(cid)

    def _revoke(self, client_id: ClientId, resource: ResourceId, now: Instant) -> None:
        cid = ConnectionId(client_id)
        client = self._clients.get(cid)
        if client is None:
            return
        if client.authorizations.pop(resource, None) is not None:
            self._events.append(AccessChanged(client_id, resource, "revoked"))
        self._sync_or_close(cid, now)

    def _set_expiry(self, client_id: ClientId, resource: ResourceId, seconds: int) -> None:
        client = self._clients.get(ConnectionId(client_id))
        if client is not None and client.set_expiry(resource, seconds * SECOND):
            self._events.append(AccessChanged(client_id, resource, "updated"))

    def _update_resource(self, resource: wire.Resource) -> None:
        for cid, client in self._clients.items():
            if client.update(resource):
                self._sync(cid)

    # names

    def handle_resolved(self, domain: str, addresses: Iterable[Address], now: Instant) -> None:
        """Takes the addresses of a name that was asked for by ResolveName; none for a name that has none or cannot be resolved."""
        addresses = tuple(addresses)
        for waiting in self._resolutions.take(domain):
            client = self._clients.get(waiting.cid)
            is_set_up = client is not None and client.allows_name(waiting.resource, domain)
            if client is not None and is_set_up:
                self._set_up_name(client, waiting, domain, addresses)
            self._tell_status(waiting, is_set_up, now)

    def _handle_assigned_ips(self, cid: ConnectionId, body: bytes, now: Instant) -> None:
        client = self._clients.get(cid)
        try:
            told = decode_assigned_ips(body)
        except WireError:
            return
        if client is None:
            return
        proxies, domain = read_proxies(told.proxy_ips), told.domain.lower().removesuffix(".")
        waiting = Waiting(cid, told.resource, told.domain, proxies or ())
        if proxies is None or not is_domain(domain) or not client.allows_name(told.resource, domain):
            self._tell_status(waiting, False, now)
        elif self._resolutions.add(domain, waiting, now):
            self._events.append(ResolveName(domain))

    def _set_up_name(self, client: ClientOnGateway, waiting: Waiting, domain: str, addresses: Iterable[Address]) -> None:
        number = self._nat.number_of(waiting.cid)
        assignment = client.names.assign(waiting.resource, domain, waiting.proxies, addresses)
        if assignment.forgotten:
            self._updates.append(TranslationsRemoved(number, assignment.forgotten))
        self._updates.append(TranslationsSet(number, assignment.translations))
        if assignment.forgotten:
            self._sync(waiting.cid)
        elif not assignment.is_known:
            self._updates.extend(self._nat.place(waiting.cid, self.node.row_of(waiting.cid)))
            name = client.names.get(domain)
            self._add_rules(waiting.cid, client.rules_of(name) if name is not None else ())

    def _tell_status(self, waiting: Waiting, is_active: bool, now: Instant) -> None:
        """Answers an announcement; a client that has no connection any more announces again when it has one."""
        try:
            self.node.encapsulate(waiting.cid, encode_domain_status(waiting.resource, waiting.domain, is_active=is_active), now)
        except StateError:
            return
        finally:
            self._drain_node(now)

    # packets

    def handle_packet(self, packet: bytes, ecn: int, reason: Reason, now: Instant) -> None:
        """Takes a packet for a client whose connection has no session or no path at the moment.

        Raises: UnknownConnection, StillConnecting: the packet is lost, a gateway only answers.
        """
        cid = self._by_address.get(decode_ip(packet).destination)
        if cid is None:
            raise UnknownConnection("A packet is for a client that is not here.")
        try:
            self.node.encapsulate(cid, packet, now)
        finally:
            self._drain_node(now)

    def handle_refused(self, row: PeerRow, packet: bytes, reason: Reason, now: Instant) -> None:
        """Answers a refused packet with an ICMP error, at a bounded rate per client."""
        cid = self.node.connection_of(row)
        if cid is not None:
            self._refuse(cid, packet, now, leads_nowhere=reason == Reason.NO_TRANSLATION)

    def _refuse(self, cid: ConnectionId, packet: bytes, now: Instant, *, leads_nowhere: bool = False) -> None:
        header = decode_ip(packet)
        if header.is_icmp_error or header.destination.is_multicast or header.source.is_multicast:
            return
        since, count = self._refusals.get(cid, (now, 0))
        if now - since >= SECOND:
            since, count = now, 0
        self._refusals[cid] = since, count + 1
        if count >= REFUSALS_PER_SECOND:
            return
        client = self._clients.get(cid)
        leads_nowhere = leads_nowhere or (client is not None and client.finds_unreachable(header))
        answer = unreachable if leads_nowhere else prohibited
        try:
            self.node.encapsulate(cid, answer(packet), now)
        finally:
            self._drain_node(now)

    def _admit(self, cid: ConnectionId, packet: bytes, now: Instant) -> None:
        client = self._clients.get(cid)
        if client is None:
            return
        if packet[0] >> 4 == 6 and packet[6] == 0xFF and not any(packet[8:40]):
            self._handle_control(cid, packet, now)
            return
        try:
            header = decode_ip(packet)
        except WireError:
            return
        if client.permits(header, self._own):
            self._packets.append(packet)
        else:
            self._refuse(cid, packet, now)

    # time

    def handle_timeout(self, now: Instant, utc: UnixTime) -> None:
        super().handle_timeout(now, utc)
        if self._next_sweep is None or now >= self._next_sweep:
            self._next_sweep = now + SWEEP_INTERVAL if self._clients else None
            self._sweep(now, utc)
        for waiting in self._resolutions.take_late(now):
            self._tell_status(waiting, False, now)

    def poll_timeout(self) -> tuple[Instant, str] | None:
        sweep = (self._next_sweep, "expiry of authorisations") if self._next_sweep is not None else None
        deadline = self._resolutions.deadline()
        lookup = (deadline, "resolution of a name") if deadline is not None else None
        return earliest(self.node.poll_timeout(), sweep, lookup)

    def _sweep(self, now: Instant, utc: UnixTime) -> None:
        for cid, client in list(self._clients.items()):
            expired = client.expire(utc)
            for resource in expired:
                self._events.append(AccessChanged(client.id, resource, "expired"))
            if expired or not client.authorizations:
                self._sync_or_close(cid, now)

    # reactions

    def _on_candidates(self, cid: ConnectionId, candidates: tuple[str, ...], *, are_new: bool) -> object:
        clients = (ClientId(cid),)
        if are_new:
            return wire.BroadcastIceCandidates(client_ids=clients, candidates=candidates)
        return wire.BroadcastInvalidatedIceCandidates(client_ids=clients, candidates=candidates)

    def _on_gone(self, cid: ConnectionId, now: Instant) -> None:
        """A connection is gone; the client stays known until it says goodbye or loses its last resource."""
        self._sync(cid)

    def _handle_control(self, cid: ConnectionId, packet: bytes, now: Instant) -> None:
        super()._handle_control(cid, packet, now)
        if self.node.row_of(cid) is None:
            self._forget(cid)
        elif len(packet) >= _LEAST_CONTROL and packet[_CONTROL_EVENT] == ControlEvent.ASSIGNED_IPS:
            self._handle_assigned_ips(cid, decode_control(packet).body, now)

    # tables

    def _sync_or_close(self, cid: ConnectionId, now: Instant) -> None:
        """Closes a client without resources, with a goodbye; otherwise brings its filter in line."""
        if self._clients[cid].authorizations:
            self._sync(cid)
            return
        self.node.close_connection(cid, now)
        self._drain_node(now)
        self._forget(cid)

    def _forget(self, cid: ConnectionId) -> None:
        self._forget_addresses(cid, self._clients.pop(cid, None))
        self._updates.extend(self._nat.remove(cid))
        self._refusals.pop(cid, None)
        self._sync(cid)

    def _forget_addresses(self, cid: ConnectionId, client: ClientOnGateway | None) -> None:
        """Frees a client's addresses, unless the portal has given them to another since."""
        for address in (client.ipv4, client.ipv6) if client is not None else ():
            if self._by_address.get(address) == cid:
                del self._by_address[address]

    def _sync(self, cid: ConnectionId) -> None:
        """Makes the tables say of a client what its authorisations say."""
        client, row = self._clients.get(cid), self.node.row_of(cid)
        if self._next_sweep is None and self._clients:
            self._next_sweep = 0  # At once: the sweep sets its own pace from then on.
        if client is None or row is None:
            self._set_filter(cid, None)
        else:
            self._set_filter(cid, PeerFilterSet(row, remote=client.networks, rules=client.rules(self._own)))
        self._updates.extend(self._nat.place(cid, row))
        self._sync_routes(cid, client, row)

    def _sync_routes(self, cid: ConnectionId, client: ClientOnGateway | None, row: PeerRow | None) -> None:
        """Brings the routes of one client in line. Costs nothing per other client: an `init` may name thousands."""
        former = self._routed.pop(cid, ())
        wanted: tuple[Network, ...] = ()
        if client is not None and row is not None:
            wanted = tuple(network for network in client.networks if self._by_address.get(network.network_address) == cid)
            self._routed[cid] = wanted
        for network in former:
            if network not in wanted and self._by_address.get(network.network_address) in (None, cid):
                self._remove_route(network)
        for network in wanted:
            self._set_route(network, row)
