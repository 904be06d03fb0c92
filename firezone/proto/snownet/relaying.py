"""What relays mean to connections: the candidates that come and go with them, the channels peers need, a new one for a lost one.

Everything here follows from what an allocation tells, so all of it is done in one place, after every input: `settle`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from firezone.base.ids import ConnectionId, RelayId
from firezone.base.timing import Instant
from firezone.proto.snownet.connection import Connection
from firezone.proto.snownet.connections import Connections
from firezone.proto.snownet.events import NoRelaysLeft, Outbox, RelayLost
from firezone.proto.snownet.relays import Relay, RelayBook
from firezone.proto.snownet.routes import Path, Routes
from firezone.proto.turn.events import AllocationEvent, CandidateFound, CandidateLost, ChannelBound, ChannelChanged, RelaySilent
from firezone.wire.candidate import CandidateKind


class Relaying:
    """Keeps the connections of a node in line with its relays."""

    def __init__(
        self,
        book: RelayBook,
        routes: Routes,
        connections: Connections,
        outbox: Outbox,
        conclude: Callable[[Connection, Instant], None],
    ) -> None:
        """`conclude` is called for each connection that something happened to, once per `settle`."""
        self._book = book
        self._routes = routes
        self._connections = connections
        self._outbox = outbox
        self._conclude = conclude
        self._had_relays = False

    def update(self, remove: Iterable[RelayId], add: Iterable[Relay], now: Instant) -> None:
        """Takes the portal's word on relays. A connection whose relay is gone, or that never had one, is given another."""
        self._book.update(remove, add, now)
        self.settle(now, is_changed=True)

    def seed(self, connection: Connection, now: Instant) -> None:
        """Offers a new connection what the relays told us: our addresses as all of them see us, and those its own relay lends.

        The lent ones come last, and IPv6 before IPv4, so that what is announced is in descending priority.
        """
        found = [found for allocation in self._book.allocations() for found in allocation.candidates()]
        own = [item for item in found if item.candidate.kind is not CandidateKind.RELAY]
        for item in sorted(own, key=lambda item: (item.candidate.kind, item.candidate.endpoint.is_ipv4)):
            connection.add_local(item.candidate, now)
        self._offer_lent(connection, now)

    def bind_channels(self, connection: Connection, now: Instant) -> None:
        """Makes the connection's relay pass what the peer sends from its reflexive and relayed addresses: it drops it otherwise."""
        allocation = self._book.get(connection.relay)
        if allocation is not None:
            for endpoint in connection.channel_peers():
                allocation.bind_channel(endpoint, now)

    def settle(self, now: Instant, *, is_changed: bool = False) -> None:
        """Takes what the allocations have to say until they fall silent, and replaces those that ended or lend nothing any more."""
        touched: dict[ConnectionId, Connection] = {}
        lost: set[RelayId] = set()
        while True:
            events = self._book.drain()
            for relay, event in events:
                touched |= {connection.cid: connection for connection in self._heed(relay, event, now)}
            dead = self._book.drop_dead(now)
            self._outbox.events.extend(RelayLost(relay, reason) for relay, reason in dead)
            lost |= {relay for relay, _ in dead} | self._book.take_suspended(now)
            if events or dead:
                continue
            if is_changed or lost:
                touched |= {connection.cid: connection for connection in self._replace(lost, now)}
                is_changed, lost = False, set()
            elif touched:
                for connection in touched.values():
                    self._conclude(connection, now)
                touched = {}
            else:
                break
        if self._had_relays and not len(self._book):
            self._outbox.events.append(NoRelaysLeft())
        self._had_relays = len(self._book) > 0

    def _heed(self, relay: RelayId, event: AllocationEvent, now: Instant) -> list[Connection]:
        """Does what one event asks for. Returns the connections it touched."""
        match event:
            case CandidateFound(candidate, crosses_family):
                touched = [connection for connection in self._connections if connection.relay == relay]
                for connection in touched:
                    connection.add_local(candidate, now, crosses_family=crosses_family)
                return touched
            case CandidateLost(candidate):
                touched = list(self._connections)
                for connection in touched:
                    connection.invalidate_local(candidate, now)
                return touched
            case ChannelBound(lent, peer):
                # Checks both ways were lost until now; the next one by its schedule would be a quarter of a second away.
                ours = (self._connections.by_row(row) for row in self._routes.take_awaiting(lent, peer))
                return [connection for connection in ours if connection is not None and connection.agent.check_now(lent, peer, now)]
            case ChannelChanged(lent, peer):
                self._routes.refresh(Path(lent, peer, is_relayed=True), now)
                return []
            case RelaySilent(since):
                self._book.compare(relay, since, now)
                return []

    def _replace(self, lost: set[RelayId], now: Instant) -> list[Connection]:
        """Gives every connection without a relay, or with one that was lost, another."""
        bereft = [c for c in self._connections if c.relay is None or c.relay in lost or c.relay not in self._book]
        for connection in bereft:
            connection.relay = self._book.sample() or connection.relay
            self._offer_lent(connection, now)
            self.bind_channels(connection, now)
        return bereft

    def _offer_lent(self, connection: Connection, now: Instant) -> None:
        allocation = self._book.get(connection.relay)
        found = () if allocation is None else allocation.candidates()
        lent = [item for item in found if item.candidate.kind is CandidateKind.RELAY]
        for item in sorted(lent, key=lambda item: item.candidate.endpoint.is_ipv4):
            connection.add_local(item.candidate, now, crosses_family=item.crosses_family)
