"""The client's state: which packet belongs to which resource, who serves it, and how access is asked for.

A packet for a resource that no gateway serves yet is punted here, kept, and the portal is asked for a flow. The answer names a
gateway; from its connection on, the resource's packets take the compiled path. What the tables say is recomputed from this
state after every change (`_sync`), so they cannot drift from it.

Source: Firezone `rust/connlib/tunnel/src/client.rs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from firezone.base.errors import NoRelays
from firezone.base.ids import ConnectionId, GatewayId
from firezone.base.timing import earliest
from firezone.proto.client.dns_outcomes import SiteReachable
from firezone.proto.client.resources import Status
from firezone.proto.client.tables import ResourcesUpdated, TunConfig
from firezone.proto.client.traffic import ClientTraffic
from firezone.proto.tunnel_state import ReconnectPortal, credentials
from firezone.wire.ip import decode_ip, prohibited, unreachable
from firezone.wire.portal import client as wire
from firezone.wire.portal.shared import NoRelays as NoRelaysMessage
from firezone.wire.portal.shared import RelaysPresence
from firezone.wire.portal.v2 import client as wire2

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firezone.base.ids import ResourceId
    from firezone.base.timing import Instant, UnixTime
    from firezone.wire.portal.shared import ClientInterface

__all__ = ["AccessRefused", "ClientState", "MessageIgnored", "ResourcesUpdated", "SiteReachable", "TunConfig"]


@dataclass(frozen=True, slots=True)
class MessageIgnored:
    """The portal speaks of something newer clients have a use for: peers, and pools of them."""

    what: str


@dataclass(frozen=True, slots=True)
class AccessRefused:
    """The portal grants no access to a resource. Told once per resource and reason until it does."""

    name: str
    """Of the resource, for people."""
    reason: str
    """offline, forbidden, not_found, or anything newer."""


class ClientState(ClientTraffic):
    """The client's machine."""

    # commands of the program

    def set_disabled_resources(self, disabled: set[ResourceId], now: Instant) -> None:
        """Switches resources off (and others on again); traffic of those switched off ends at once."""
        newly_off = disabled - self._book.disabled
        self._book.disabled = set(disabled)
        for number in sorted(newly_off):
            self._deactivate(number, now)
        for resource in self._book.resources.values():
            self._activate(resource)
        self._dns.forget_answers()
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

    def set_system_resolvers(self, addresses: Sequence[str], now: Instant) -> None:
        """Takes the name servers that this machine would ask without us."""
        self._dns.set_system_resolvers(addresses)
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

    def handle_portal(self, message: object, now: Instant, utc: UnixTime) -> None:
        """Takes one message of the portal, of either generation."""
        match message:
            case wire.Init(interface=interface, resources=resources, relays=relays):
                self._set_interface(interface)
                self._set_resources(resources, now)
                self._update_relays((), relays, now)
                for resource_id in self._pending.ask_again(now):
                    self._ask_for(resource_id)
            case wire.ConfigChanged(interface=interface):
                self._set_interface(interface)
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
                self._events.append(MessageIgnored(type(message).__name__))
                return
        self._refresh(now)

    def _set_interface(self, interface: ClientInterface) -> None:
        self._own = (interface.ipv4, interface.ipv6)
        self._dns.set_interface(interface)

    def _take_candidates(self, message: wire.IceCandidates | wire.InvalidateIceCandidates, now: Instant) -> None:
        is_new = isinstance(message, wire.IceCandidates)
        take = self.node.add_remote_candidate if is_new else self.node.remove_remote_candidate
        for line in message.candidates:
            take(ConnectionId(message.gateway_id), line, now)
        self._drain_node(now)

    def _set_resources(self, resources: Iterable[wire.Resource], now: Instant) -> None:
        """Applies a whole list without touching what stays in it."""
        listed = [resource for resource in resources if self._is_of_use(resource)]
        wanted = {resource.id for resource in listed}
        for resource_id in [known for known in self._book.resources if known not in wanted]:
            self._remove_resource(resource_id, now)
        for resource in listed:
            self._add_resource(resource, now)

    def _is_of_use(self, resource: object) -> bool:
        """Tells resources from pools of devices, which newer clients reach without a gateway."""
        is_known = isinstance(resource, (wire.CidrResource, wire.DnsResource, wire.InternetResource))
        if not is_known:
            self._events.append(MessageIgnored(type(resource).__name__))
        return is_known

    def _add_resource(self, resource: wire.Resource, now: Instant) -> None:
        if not self._is_of_use(resource):
            return
        if self._book.must_restart(resource):
            self._remove_resource(resource.id, now)
        if self._book.resources.get(resource.id) != resource:
            self._dns.forget_answers()
        self._book.resources[resource.id] = resource
        self._activate(resource)

    def _activate(self, resource: wire.Resource) -> None:
        if isinstance(resource, wire.DnsResource) and self._book.is_enabled(resource):
            self._names.add(resource)

    def _remove_resource(self, resource_id: ResourceId, now: Instant) -> None:
        self._deactivate(resource_id, now)
        self._book.remove(resource_id)
        self._dns.forget_answers()

    def _deactivate(self, resource_id: ResourceId, now: Instant) -> None:
        """Ends a resource's traffic; a gateway without any resource left is told goodbye."""
        self._pending.take(resource_id)
        self._asked_in_site.pop(resource_id, None)
        self._refused.pop(resource_id, None)
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
            self._want_relays()
            return
        if self.node.row_of(cid) != former_row:
            # On new terms it may be to a gateway that was started anew: each resource must be asked for again.
            self._gateways.forget_authorizations(cid)
            self._names.nat.forget_connection(cid)
        if self._gateways.of(resource.id) not in (None, cid):
            self._release(resource.id, now)
        self._gateways.assign(message, cid)
        self._refused.pop(resource.id, None)
        for packet in packets:
            self._forward(packet, decode_ip(packet), now)
        if resource.id in self._asked_in_site:
            del self._asked_in_site[resource.id]
            self._events.append(SiteReachable(resource.id, message.gateway_ipv4, message.gateway_ipv6))

    def _want_relays(self) -> None:
        """What waited is lost; the next packet asks again."""
        if self._generation == 1:
            self._events.append(ReconnectPortal(self.public_key, "no address to offer to gateways"))
        else:
            self._tell_portal(NoRelaysMessage())

    def _fail_flow(self, message: wire.FlowCreationFailed, now: Instant) -> None:
        resource = self._book.resources.get(message.resource_id)
        if resource is None:
            return
        if self._refused.get(resource.id) != message.reason:
            self._refused[resource.id] = message.reason
            self._events.append(AccessRefused(resource.name, message.reason))
        is_offline = message.reason == wire.OFFLINE
        if is_offline and (cid := self._gateways.of(resource.id)) is not None and self.node.row_of(cid) is not None:
            self._pending.take(resource.id)
            return  # Asked because its gateway is silent. ICE judges it; the portal may be wrong for a moment.
        # What waits stays unless nobody is there, as the portal may think better of it; but its senders need not wait.
        waiting = (self._pending.take(resource.id) or []) if is_offline else self._pending.take_unanswered(resource.id)
        for packet in waiting:
            self._refuse(packet, unreachable if is_offline else prohibited, now)
        if is_offline:
            self._asked_in_site.pop(resource.id, None)
            self._book.set_offline([site.id for site in resource.sites], now)

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
        if self._generation == 2:
            kind = wire2.NewGatewayIceCandidates if are_new else wire2.InvalidateGatewayIceCandidates
            return kind(gateway_id=gateways[0], candidates=candidates)
        if are_new:
            return wire.BroadcastIceCandidates(gateway_ids=gateways, candidates=candidates)
        return wire.BroadcastInvalidatedIceCandidates(gateway_ids=gateways, candidates=candidates)

    def _on_established(self, cid: ConnectionId, now: Instant) -> None:
        gateway = self._gateways.get(cid)
        if gateway is not None:
            self._book.set_site_status([gateway.site], Status.ONLINE)
            self._refresh(now)

    def _on_silent(self, cid: ConnectionId, now: Instant) -> None:
        """Asks the portal for one of the gateway's resources anew.

        Should the gateway have been started anew, the answer has its new key; should it be gone, another one may serve the
        resource; else it is the same connection, which both sides wake then.
        """
        gateway = self._gateways.get(cid)
        resource = next(iter(gateway.resources), None) if gateway is not None else None
        if resource is not None and self._is_portal_reached and self._pending.add_question(resource, now):
            self._ask_for(resource)

    def _on_gone(self, cid: ConnectionId, now: Instant) -> None:
        gateway = self._gateways.remove(cid)
        self._names.nat.forget_connection(cid)
        if gateway is not None:
            self._book.set_site_status([gateway.site], Status.UNKNOWN)
        self._set_filter(cid, None)
        self._refresh(now)
