"""Packets of the host's programs that need a look: which resource they are for, what they wait for, who is told of their names."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from firezone.base.errors import UnknownConnection, WireError
from firezone.base.net import Endpoint
from firezone.proto.client.dns_outcomes import DnsAnswer, DnsForward, DnsInSite, DnsOutcome
from firezone.proto.client.name_service import SITE_DNS_PORT
from firezone.proto.client.pending_flows import PendingFlows
from firezone.proto.client.refusals import Refusals
from firezone.proto.client.routing import is_proxy
from firezone.proto.client.tables import ClientTables
from firezone.proto.dns.stub_resolver import Local, Site
from firezone.proto.tunnel_state import PortalWanted
from firezone.wire.control import ControlEvent, decode_control, decode_domain_status
from firezone.wire.ip import ICMP, ICMPV6, TCP, UDP, IpHeader, decode_ip, prohibited, unreachable
from firezone.wire.portal import client as wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from firezone.base.ids import ConnectionId, PeerRow, ResourceId
    from firezone.base.net import Address
    from firezone.base.timing import Instant
    from firezone.kernels.types import Reason
    from firezone.proto.client.name_nat import SetUp


class ClientTraffic(ClientTables):
    """The part of the client's machine that packets and questions come to."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._pending = PendingFlows()
        self._refusals = Refusals()
        self._asked_in_site: dict[ResourceId, None] = {}
        """Resources whose gateways are waited for by questions."""
        self._refused: dict[ResourceId, str] = {}
        """Why the portal refused a resource last, since it granted it."""

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
        if self._names.nat.shrunk:
            self._sync()  # Others had to make room.
        else:
            self._add_remote(cid, set_up.networks)
        self._encapsulate(cid, set_up.announcement, now)
        return set_up

    def _on_name_asked(self, name: str, now: Instant) -> None:
        """Tells gateways of a name that a program is about to use, and again of those that did not answer."""
        nat = self._names.nat
        for cid, resource in list(self._names.to_announce(name)):
            set_up = nat.get(cid, name, resource)
            if self.node.row_of(cid) is None:
                continue
            if set_up is None:
                self._tell_of(cid, name, resource, now)
            elif nat.handle_query(cid, set_up, now):
                self._encapsulate(cid, set_up.announcement, now)
                if set_up.is_used:
                    self._sync_name(name)
        for cid, set_up in nat.take_due(now):
            self._encapsulate(cid, set_up.announcement, now)

    def handle_dns_query(self, sentinel: Address, message: bytes, now: Instant) -> DnsOutcome | None:
        """Takes a question that a program has asked a sentinel. None: it is none."""
        match self._dns.handle_query(sentinel, message, now):
            case Local(answer, name):
                if name is not None:
                    self._on_name_asked(name, now)
                return DnsAnswer(answer)
            case Site(resource):
                return self._ask_in_site(resource, sentinel, now)
            case Endpoint() as server:
                return DnsForward(server, self._dns.is_portal_defined and self._is_served(server))
            case None:
                return None

    def handle_dns_response(self, question: bytes, answer: bytes, now: Instant) -> None:
        """Takes the answer to a question that was forwarded."""
        self._dns.handle_response(question, answer, now)

    def _is_served(self, server: Endpoint) -> bool:
        """Whether a resource takes questions to a server, over both transports."""
        address = ipaddress.ip_address(server.ip)
        headers = (
            IpHeader(address.version, address, address, protocol, 0, server.port, server.port) for protocol in (UDP, TCP)
        )  # fmt: skip
        matches = [self._routing.match(header) for header in headers]
        return all(match is not None and match.is_permitted for match in matches)

    def _ask_in_site(self, resource: ResourceId, sentinel: Address, now: Instant) -> DnsInSite:
        """Names the resource's gateway, or asks for one; `SiteReachable` tells when it is there."""
        cid = self._gateways.of(resource)
        gateway = self._gateways.get(cid) if cid is not None else None
        if cid is not None and gateway is not None and self.node.row_of(cid) is not None:
            address = gateway.ipv4 if sentinel.version == 4 else gateway.ipv6
            return DnsInSite(resource, Endpoint(address.packed, SITE_DNS_PORT))
        self._asked_in_site[resource] = None
        if self._pending.add_question(resource, now):
            self._ask_for(resource)
        return DnsInSite(resource, None)

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
