"""What the client's state and the gateway's have in common: a Node below, queues above, tables kept in line with both.

A subclass says what a connection is worth (routes, filters) and reacts to what happens to it; the rest is here.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from firezone.base.errors import WireError
from firezone.base.ids import ConnectionId, PeerRow, RelayId
from firezone.base.net import Network
from firezone.proto.held_candidates import HeldCandidates
from firezone.proto.ice.checks import IceCredentials
from firezone.proto.snownet.events import (
    ConnectionClosed,
    ConnectionEstablished,
    ConnectionFailed,
    InvalidateIceCandidate,
    NewIceCandidate,
    NoRelaysLeft,
    PathChosen,
    PathSilent,
    RelayLost,
    Role,
)
from firezone.proto.snownet.node import Node
from firezone.proto.snownet.relays import Relay
from firezone.proto.updates import (
    PeerFilterRemoved,
    PeerFilterSet,
    PeerRemoteAdded,
    PeerRulesAdded,
    RouteRemoved,
    RouteSet,
    TableUpdate,
)
from firezone.wire.control import ControlEvent, decode_control
from firezone.wire.portal import shared

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from firezone.base.net import Endpoint, Transmit
    from firezone.base.rng import Rng
    from firezone.base.timing import Instant, UnixTime
    from firezone.kernels.types import Reason
    from firezone.proto.noise.sessions import SessionStore
    from firezone.proto.snownet.events import NodeEvent
    from firezone.proto.turn.channels import ChannelGate
    from firezone.proto.updates import Rule


MAX_PACKETS = 1024
"""Packets for TUN that wait to be polled, at most 1.3 MiB; the oldest go first. The engine polls after every input, which yields
one at most."""


@dataclass(frozen=True, slots=True)
class SendToPortal:
    """A message for the portal."""

    message: object


@dataclass(frozen=True, slots=True)
class ReconnectPortal:
    """Log in again: a fresh `init` is needed. `public_key` is ours from now on."""

    public_key: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class PortalWanted:
    """Somebody waits for an answer of the portal, which is not reached."""


@dataclass(frozen=True, slots=True)
class ConnectionChanged:
    """A connection came up or went, for the log."""

    cid: ConnectionId
    is_up: bool
    detail: str


@dataclass(frozen=True, slots=True)
class RelayEnded:
    """A relay is not used any more, for the log."""

    relay: RelayId
    reason: str


class TunnelState:
    """The common half of a machine; `proto.machine.Machine` is its contract with the loop."""

    def __init__(
        self, role: Role, *, store: SessionStore, rng: Rng, now: Instant, utc: UnixTime, channels: ChannelGate | None = None
    ) -> None:
        """`store` and `channels` are what the compiled path reads; without `channels` it takes no relayed data."""
        self.node = Node(role, store=store, rng=rng, now=now, utc=utc, channels=channels)
        self._events: deque[object] = deque()
        self._updates: deque[TableUpdate] = deque()
        self._packets: deque[bytes] = deque(maxlen=MAX_PACKETS)
        self._rows: dict[ConnectionId, PeerRow] = {}
        """Rows that the tables know a filter for."""
        self._filters: dict[ConnectionId, PeerFilterSet] = {}
        """Those filters."""
        self._routes: dict[Network, PeerRow | None] = {}
        """Routes that the tables know."""
        self._held = HeldCandidates()
        self._is_portal_reached = True

    @property
    def public_key(self) -> bytes:
        """Our WireGuard key, as the portal must know it."""
        return self.node.public_key

    def statistics(self, now: Instant) -> dict[str, Any]:
        """Returns what the connections have sent and received, as one JSON-ready object."""
        return self.node.statistics(now)

    # inputs

    def handle_packet(self, packet: bytes, ecn: int, reason: Reason, now: Instant) -> None:
        """Takes a packet from TUN that the tables could not place."""
        raise NotImplementedError

    def handle_refused(self, row: PeerRow, packet: bytes, reason: Reason, now: Instant) -> None:
        """Takes a packet out of the tunnel that its peer's filter refused."""
        raise NotImplementedError

    def handle_portal(self, message: Any, now: Instant, utc: UnixTime) -> None:
        """Takes one message of the portal."""
        raise NotImplementedError

    def set_portal_reached(self, is_reached: bool, now: Instant) -> None:
        """Takes whether messages reach the portal. Meanwhile changes of our candidates are held back, other messages dropped.

        A machine that is never told takes the portal as reached: whoever polls it has a queue of their own.
        """
        self._is_portal_reached = is_reached
        if is_reached:
            for cid, lines, are_new in self._held.take(lambda cid: self.node.row_of(cid) is not None):
                self._tell_portal(self._on_candidates(cid, lines, are_new=are_new))

    def set_local_addresses(self, addresses: list[Endpoint], now: Instant) -> None:
        """Takes the addresses our sockets can be reached at."""
        self.node.set_local_addresses(addresses, now)
        self._drain_node(now)

    def handle_activity(self, records: NDArray[Any], now: Instant) -> None:
        self.node.handle_activity(records, now)
        self._drain_node(now)

    def handle_datagram(self, local: Endpoint, remote: Endpoint, datagram: bytes, ecn: int, now: Instant) -> None:
        try:
            opened = self.node.handle_datagram(local, remote, datagram, now)
        finally:
            self._drain_node(now)
        if opened is not None:
            self._admit(*opened, now)

    def handle_control(self, row: PeerRow, packet: bytes, now: Instant) -> None:
        cid = self.node.connection_of(row)
        if cid is not None:
            self._handle_control(cid, packet, now)

    def handle_timeout(self, now: Instant, utc: UnixTime) -> None:
        self.node.handle_timeout(now)
        self._drain_node(now)

    def shutdown(self, now: Instant) -> None:
        """Says goodbye to every peer."""
        self.node.close_all(now)
        self._drain_node(now)

    # outputs

    def poll_timeout(self) -> tuple[Instant, str] | None:
        return self.node.poll_timeout()

    def poll_transmit(self) -> Transmit | None:
        return self.node.poll_transmit()

    def poll_packet(self) -> bytes | None:
        return self._packets.popleft() if self._packets else None

    def poll_update(self) -> TableUpdate | None:
        return self._updates.popleft() if self._updates else None

    def poll_event(self) -> object | None:
        return self._events.popleft() if self._events else None

    # for subclasses to say

    def _on_candidates(self, cid: ConnectionId, candidates: tuple[str, ...], *, are_new: bool) -> object:
        """Returns the portal message that carries our candidates to the peer."""
        raise NotImplementedError

    def _on_established(self, cid: ConnectionId, now: Instant) -> None:
        """Reacts to a connection that works."""

    def _on_silent(self, cid: ConnectionId, now: Instant) -> None:
        """Reacts to a peer that is not heard although packets are sent to it."""

    def _on_gone(self, cid: ConnectionId, now: Instant) -> None:
        """Reacts to a connection that failed, was closed, or whose peer said goodbye."""
        raise NotImplementedError

    def _admit(self, cid: ConnectionId, packet: bytes, now: Instant) -> None:
        """Judges a packet that was opened off the fast path; what may pass goes to TUN."""
        raise NotImplementedError

    # in common

    def _update_relays(self, remove: Iterable[str], relays: Iterable[shared.Relay], now: Instant) -> None:
        self.node.update_relays([RelayId(relay) for relay in remove], group_relays(relays), now)

    def _handle_control(self, cid: ConnectionId, packet: bytes, now: Instant) -> None:
        try:
            control = decode_control(packet)
        except WireError:
            return
        if control.event == ControlEvent.GOODBYE:
            self.node.remove_connection(cid)
            self._held.forget(cid)
            self._events.append(ConnectionChanged(cid, False, "the peer said goodbye"))
            self._on_gone(cid, now)

    def _drain_node(self, now: Instant) -> None:
        """Turns what the node has to tell into messages and reactions; candidates of one drain share one message."""
        added: dict[ConnectionId, list[str]] = {}
        removed: dict[ConnectionId, list[str]] = {}
        while (event := self.node.poll_event()) is not None:
            self._handle_node_event(event, added, removed, now)
        for are_new, batches in ((True, added), (False, removed)):
            for cid, lines in batches.items():
                self._signal(cid, tuple(dict.fromkeys(lines)), are_new=are_new)

    def _signal(self, cid: ConnectionId, lines: tuple[str, ...], *, are_new: bool) -> None:
        if self._is_portal_reached:
            self._tell_portal(self._on_candidates(cid, lines, are_new=are_new))
        elif are_new:
            self._held.add(cid, lines)
        else:
            self._held.remove(cid, lines)

    def _tell_portal(self, message: object) -> None:
        """Queues a message. While the portal is away it is dropped: an answer would come to a question nobody asks any more."""
        if self._is_portal_reached:
            self._events.append(SendToPortal(message))

    def _handle_node_event(
        self, event: NodeEvent, added: dict[ConnectionId, list[str]], removed: dict[ConnectionId, list[str]], now: Instant
    ) -> None:
        match event:
            case NewIceCandidate(cid, line):
                added.setdefault(cid, []).append(line)
            case InvalidateIceCandidate(cid, line):
                removed.setdefault(cid, []).append(line)
            case ConnectionEstablished(cid):
                self._events.append(ConnectionChanged(cid, True, _describe_path(self.node, cid)))
                self._on_established(cid, now)
            case PathChosen():
                self._events.append(event)
            case PathSilent(cid):
                self._on_silent(cid, now)
            case ConnectionFailed(cid, reason):
                self._held.forget(cid)
                self._events.append(ConnectionChanged(cid, False, reason))
                self._on_gone(cid, now)
            case ConnectionClosed(cid):
                self._held.forget(cid)
                self._events.append(ConnectionChanged(cid, False, "closed"))
                self._on_gone(cid, now)
            case RelayLost(relay, reason):
                self._events.append(RelayEnded(relay, reason))
            case NoRelaysLeft():
                self._tell_portal(shared.NoRelays())

    def _set_filter(self, cid: ConnectionId, wanted: PeerFilterSet | None) -> None:
        """Brings the filter of a connection's row in line; a row that is no longer the connection's loses its own."""
        row = wanted.peer if wanted is not None else None
        known = self._rows.get(cid)
        if known is not None and known != row:
            self._updates.append(PeerFilterRemoved(known))
            del self._rows[cid], self._filters[cid]
        if wanted is not None and self._filters.get(cid) != wanted:
            self._updates.append(wanted)
        if wanted is not None:
            self._rows[cid], self._filters[cid] = wanted.peer, wanted
        else:
            self._filters.pop(cid, None)

    def _add_rules(self, cid: ConnectionId, rules: tuple[Rule, ...]) -> None:
        """Adds rules to the filter of a connection without building it anew; what the connection may is the rest of it."""
        known = self._filters.get(cid)
        if known is None or known.rules is None or not rules:
            return
        added = {rule.network for rule in rules}
        kept = tuple(rule for rule in known.rules if rule.network not in added)
        self._filters[cid] = dataclasses.replace(known, rules=kept + rules)
        self._updates.append(PeerRulesAdded(known.peer, rules))

    def _add_remote(self, cid: ConnectionId, networks: tuple[Network, ...]) -> None:
        """Adds addresses to those that a peer may send from, without building its filter anew; the caller keeps them in mind."""
        known = self._filters.get(cid)
        if known is not None and networks:
            self._updates.append(PeerRemoteAdded(known.peer, networks))

    def _set_routes(self, wanted: dict[Network, PeerRow | None]) -> None:
        """Brings the route table in line with `wanted`, changing only what differs."""
        for network in [network for network in self._routes if network not in wanted]:
            self._remove_route(network)
        for network, row in wanted.items():
            self._set_route(network, row)

    def _set_route(self, network: Network, row: PeerRow | None) -> None:
        if network not in self._routes or self._routes[network] != row:
            self._routes[network] = row
            self._updates.append(RouteSet(network, row))

    def _remove_route(self, network: Network) -> None:
        if network in self._routes:
            del self._routes[network]
            self._updates.append(RouteRemoved(network))


def credentials(wire: shared.IceCredentials) -> IceCredentials:
    """Converts the portal's credentials to the agent's."""
    return IceCredentials(wire.username, wire.password.reveal())


def group_relays(entries: Iterable[shared.Relay]) -> list[Relay]:
    """Merges neighbouring entries of one id into one relay with an address per family; entries of type stun are ignored."""
    groups: list[Relay] = []
    for entry in entries:
        if not isinstance(entry, shared.TurnRelay):
            continue
        relay_id, endpoint = RelayId(entry.id), entry.endpoint
        previous = groups[-1] if groups and groups[-1].id == relay_id else None
        ipv4 = endpoint if endpoint.is_ipv4 else None
        ipv6 = None if endpoint.is_ipv4 else endpoint
        if previous is not None:
            groups.pop()
            ipv4, ipv6 = previous.ipv4 or ipv4, previous.ipv6 or ipv6
        groups.append(Relay(relay_id, ipv4, ipv6, entry.username, entry.password.reveal()))
    return groups


def _describe_path(node: Node, cid: ConnectionId) -> str:
    path = node.path_of(cid)
    if path is None:
        return "established"
    return f"established over {path.remote}" + (", through a relay of ours" if path.is_relayed else "")
