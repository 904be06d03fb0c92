"""The connection layer: from "public key, ICE credentials and preshared key of a peer" to datagrams that reach it.

One Node per process. It owns our key pair, all connections and the list of relays. Above it a machine says who the peers are
and exchanges candidates with them through the portal; below it somebody sends what `poll_transmit` gives. Data normally never
comes here: the compiled path seals and opens it in the session store along the path we set, and reports by `handle_activity`.

Datagrams are told apart by what they are, not by whom they come from: relay traffic by port, STUN by its cookie, checks by
username, answers by transaction id, WireGuard by receiver index or static key. So data is accepted from any address, and it
never changes where we send (this departs from WireGuard's roaming; ICE decides).

Source: Firezone's snownet.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from numpy.typing import NDArray

from firezone.base.errors import NoRelays, RemoteError, UnknownConnection, WireError
from firezone.base.ids import ConnectionId, PeerRow, RelayId, SessionSlot
from firezone.base.limits import MAX_DATAGRAM_SIZE, MAX_PACKET_SIZE
from firezone.base.net import Endpoint, Transmit
from firezone.base.rng import Rng
from firezone.base.timing import Instant, UnixTime, earliest
from firezone.proto.ice.agent import IceAgent
from firezone.proto.ice.candidates import host_candidate
from firezone.proto.ice.checks import IceCredentials
from firezone.proto.ice.preference import is_own, is_usable
from firezone.proto.noise.cookie import CookieDemand, RateLimiter, receive_initiation
from firezone.proto.noise.handshake import StaticKeys
from firezone.proto.noise.index import IndexAllocator
from firezone.proto.noise.peer import Peer
from firezone.proto.noise.sessions import SessionStore
from firezone.proto.snownet.connection import Connection, ConnectionState, Terms
from firezone.proto.snownet.connections import Connections, Deadlines
from firezone.proto.snownet.events import ConnectionClosed, NodeEvent, Outbox, Role
from firezone.proto.snownet.relaying import Relaying
from firezone.proto.snownet.relays import Relay, RelayBook, Traffic
from firezone.proto.snownet.routes import Path, Routes
from firezone.proto.snownet.statistics import ConnectionStatistics
from firezone.proto.turn.channels import ChannelGate
from firezone.wire import stun
from firezone.wire.candidate import Candidate, CandidateKind, decode_candidate
from firezone.wire.wireguard import MessageType, classify, receiver_index

MAX_LOCAL_ADDRESSES = 32
"""Host candidates offered per connection. With as many of the peer's, more would only fill the 100 pairs with bad ones."""
LISTED_CONNECTIONS = 256
"""Connections that a report has one by one, half a KiB each: a gateway with thousands must not stop for its report."""

_COUNTS = ("sent", "received", "keepalives", "sent_bytes", "received_bytes")
"""Columns of an activity record, as `Connection.handle_activity` takes them."""


@dataclass(slots=True)
class NodeCounters:
    """What was dropped without an error."""

    relay_datagrams: int = 0
    """Of relays, present or former, that nothing here asked."""
    unmatched_stun: int = 0
    """STUN that belongs to no connection, or whose integrity is wrong."""
    ignored_candidates: int = 0
    """Candidate lines that do not parse."""


class Node:
    """Our end of every connection."""

    def __init__(
        self, role: Role, *, store: SessionStore, rng: Rng, now: Instant, utc: UnixTime, channels: ChannelGate | None = None
    ) -> None:
        """`now` and `utc` are the same moment; WireGuard's stamps are wall-clock time.

        `channels` is told which relayed data the compiled path may take; without it all of that must come here.
        """
        self.role = role
        self.counters = NodeCounters()
        self._store = store
        self._rng = rng
        self._utc_offset = utc - now
        self._now = now
        self._indices = IndexAllocator(rng)
        self._addresses: dict[Endpoint, None] = {}
        self._outbox = Outbox()
        self._relays = RelayBook(gate=channels, rng=rng, outbox=self._outbox)
        self._routes = Routes(self._relays, store, self._outbox)
        self._connections = Connections()
        self._relaying = Relaying(self._relays, self._routes, self._connections, self._outbox, self._resume)
        self._deadlines = Deadlines()
        self._ended = ConnectionStatistics()
        self._rotate_keys(now)

    # identity

    @property
    def public_key(self) -> bytes:
        """Our static key; another one after every `reset`."""
        return self._static.public

    @property
    def session_id(self) -> str:
        """64 hex digits that name this identity to relays; another one after every `reset`."""
        return session_id_of(self.public_key)

    # what we have

    def set_local_addresses(self, addresses: list[Endpoint], now: Instant) -> None:
        """Takes the addresses our sockets can send from. New ones are offered to every peer, gone ones taken back.

        Addresses that no peer could use, or that lie in the tunnel, are left out.
        """
        usable = [endpoint for endpoint in addresses if is_usable(endpoint) and not is_own(endpoint)]
        wanted = dict.fromkeys(sorted(usable[:MAX_LOCAL_ADDRESSES], key=lambda endpoint: endpoint.is_ipv4))
        gone = [endpoint for endpoint in self._addresses if endpoint not in wanted]
        new = [endpoint for endpoint in wanted if endpoint not in self._addresses]
        self._addresses = wanted
        if not gone and not new:
            return
        for connection in list(self._connections):
            for endpoint in new:
                connection.add_local(host_candidate(endpoint), now)
            for endpoint in gone:
                connection.invalidate_local(host_candidate(endpoint), now)
            self._settle(connection, now)

    def update_relays(self, remove: Iterable[RelayId], add: Iterable[Relay], now: Instant) -> None:
        """Takes the portal's word on relays. A connection whose relay is gone is given another."""
        self._relaying.update(remove, add, now)
        self._now = now

    # connections

    def upsert_connection(
        self,
        cid: ConnectionId,
        remote_public: bytes,
        preshared_key: bytes,
        local: IceCredentials,
        remote: IceCredentials,
        now: Instant,
    ) -> None:
        """Makes a connection, or wakes the one that exists on the same terms.

        Raises: NoRelays when there is neither a local address nor a relay, RemoteError when the key is not usable. An existing
                connection is untouched then.
        """
        terms = Terms(remote_public, preshared_key, local, remote)
        known = self._connections.get(cid)
        if known is not None and known.terms.is_same(terms):
            known.wake_for_upsert(now, self._utc(now))
            self._settle(known, now)
            return
        relay = self._relays.sample()
        if relay is None and not self._addresses:
            raise NoRelays(f"There is no address to offer to {cid}: no local one and no relay.")
        connection, index = self._make_connection(cid, terms, relay, now)
        if known is not None:
            self._drop(known)
        self._connections.add(connection, index)
        for endpoint in self._addresses:
            connection.add_local(host_candidate(endpoint), now)
        self._relaying.seed(connection, now)
        self._settle(connection, now)

    def close_connection(self, cid: ConnectionId, now: Instant) -> None:
        """Ends a connection and tells the peer. One without a path yet goes silently."""
        connection = self._connections.get(cid)
        if connection is None:
            return
        if connection.path is not None:
            connection.say_goodbye(now, self._utc(now))
            self._outbox.events.append(ConnectionClosed(cid))
        self._drop(connection)

    def close_all(self, now: Instant) -> None:
        """Ends every connection; for shutting down."""
        for connection in list(self._connections):
            self.close_connection(connection.cid, now)

    def remove_connection(self, cid: ConnectionId) -> None:
        """Forgets a connection without a word, for instance because the peer said goodbye."""
        connection = self._connections.get(cid)
        if connection is not None:
            self._drop(connection)

    def reset(self, now: Instant) -> None:
        """Starts over with a new key pair, after we roamed. Nothing is sent; the caller tells the portal the new key.

        Local addresses stay until they are set again, relays until the portal updates them; their allocations begin anew at once.
        """
        former = list(self._connections)
        for connection in former:
            self._drop(connection)
        self._outbox.clear()
        self._outbox.events.extend(ConnectionClosed(connection.cid) for connection in former)
        self._rotate_keys(now)
        self._relays.restart(now)
        self._relaying.settle(now)
        self._now = now

    # candidates

    def add_remote_candidate(self, cid: ConnectionId, line: str, now: Instant) -> None:
        """Takes a candidate of the peer. Lines that do not parse, and those of unknown connections, are ignored."""
        connection, candidate = self._connections.get(cid), self._parse_candidate(line)
        if connection is not None and candidate is not None:
            connection.add_remote(candidate, now)
            if candidate.kind is not CandidateKind.HOST:
                self._relaying.bind_channels(connection, now)
            self._settle(connection, now)

    def remove_remote_candidate(self, cid: ConnectionId, line: str, now: Instant) -> None:
        """Takes a candidate of the peer back; it is matched by address, type and related address."""
        connection, candidate = self._connections.get(cid), self._parse_candidate(line)
        if connection is not None and candidate is not None:
            connection.invalidate_remote(candidate, now)
            self._settle(connection, now)

    # packets and datagrams

    def encapsulate(self, cid: ConnectionId, packet: bytes, now: Instant) -> None:
        """Sends a packet to a peer, now or (client) once there is a path and a session.

        Raises: UnknownConnection, or StillConnecting at a gateway without a path; the packet is lost then.
        """
        connection = self._connections.get(cid)
        if connection is None:
            raise UnknownConnection(f"There is no connection {cid}.")
        connection.encapsulate(packet, now, self._utc(now))
        self._settle(connection, now)

    def handle_datagram(
        self, local: Endpoint, remote: Endpoint, datagram: bytes, now: Instant
    ) -> tuple[ConnectionId, bytes] | None:
        """Takes a datagram that arrived on `local` from `remote`: STUN, WireGuard handshakes, or data off the fast path.

        Returns: the packet inside and whose it is, or None when there was none.
        Raises:  RemoteError when it is malformed, forged or replayed, UnknownConnection when it belongs to no connection. Both
                 are for counting: nothing has changed.
        """
        self._now = now
        if len(datagram) > MAX_DATAGRAM_SIZE:
            raise RemoteError(f"A datagram of {len(datagram)} bytes is larger than any peer sends.")
        match self._relays.classify(remote, datagram):
            case Traffic.STALE:
                self.counters.relay_datagrams += 1
                return None
            case Traffic.STUN:
                self._handle_relay(local, remote, datagram, now)
                return None
            case Traffic.CHANNEL:
                inner = self._relays.decapsulate(remote, datagram, now)
                if inner is None:
                    self.counters.relay_datagrams += 1
                    return None
                local, remote, datagram = inner
            case Traffic.PEER:
                pass
        if stun.is_stun(datagram):
            self._handle_stun(local, remote, datagram, now)
            return None
        return self._handle_wireguard(local, remote, datagram, now)

    def handle_activity(self, records: NDArray[Any], now: Instant) -> None:
        """Takes `SessionTable.take_activity()`: what the compiled path sent and received since the last call."""
        columns = (records[name].tolist() for name in ("peer", "session", *_COUNTS))
        for row, session, *counts in zip(*columns, strict=True):
            connection = self._connections.by_row(PeerRow(row))
            if connection is not None and connection.handle_activity(SessionSlot(session), *counts, now=now):
                self._settle(connection, now)

    # time and outputs

    def handle_timeout(self, now: Instant) -> None:
        """Wakes relays, then the connections that are due; removes what failed."""
        self._now = now
        self._relays.handle_timeout(now)
        self._relaying.settle(now)
        for connection in self._deadlines.pop_due(now):
            connection.handle_timeout(now, self._utc(now))
            self._conclude(connection)
        self._relaying.settle(now)

    def poll_timeout(self) -> tuple[Instant, str] | None:
        """Returns when something is due; at once while something waits to be polled."""
        if self._outbox.is_waiting:
            return self._now, "queued output"
        return earliest(self._relays.poll_timeout(), self._deadlines.peek())

    def poll_transmit(self) -> Transmit | None:
        """Returns the next datagram to send."""
        return self._outbox.next_transmit()

    def poll_event(self) -> NodeEvent | None:
        """Returns the next event."""
        return self._outbox.events.popleft() if self._outbox.events else None

    # queries

    def __len__(self) -> int:
        return len(self._connections)

    def statistics(self, now: Instant) -> dict[str, Any]:
        """Returns what was sent and received, and what was dropped, as one JSON-ready object; `ended` are sums.

        Of many connections those are listed that have moved the most bytes; `connection_count` are all.
        """
        own = {connection.cid: connection.statistics() for connection in self._connections}
        busiest = heapq.nlargest(LISTED_CONNECTIONS, own, key=lambda cid: own[cid].sent_bytes + own[cid].received_bytes)
        return {
            "stun_to_relays_bytes": self._outbox.control_bytes,
            "dropped": asdict(self.counters),
            "paths": dict(Counter(statistics.path for statistics in own.values() if statistics.path)),
            "connection_count": len(own),
            "connections": {cid: own[cid].to_report(now) for cid in busiest},
            "ended": self._ended.to_report(now),
        }

    def row_of(self, cid: ConnectionId) -> PeerRow | None:
        """Returns the peer's row in the compiled tables."""
        connection = self._connections.get(cid)
        return None if connection is None else connection.peer.row

    def connection_of(self, row: PeerRow) -> ConnectionId | None:
        """Returns whose row this is."""
        connection = self._connections.by_row(row)
        return None if connection is None else connection.cid

    def path_of(self, cid: ConnectionId) -> Path | None:
        """Returns how the peer is reached; None while connecting."""
        connection = self._connections.get(cid)
        return None if connection is None else connection.path

    def state_of(self, cid: ConnectionId) -> ConnectionState | None:
        """Returns where a connection stands; None if there is none."""
        connection = self._connections.get(cid)
        return None if connection is None else connection.state

    # in detail

    def _utc(self, now: Instant) -> UnixTime:
        return now + self._utc_offset

    def _rotate_keys(self, now: Instant) -> None:
        self._static = StaticKeys.generate(self._rng)
        self._limiter = RateLimiter(self._static, self._rng, now)

    def _make_connection(self, cid: ConnectionId, terms: Terms, relay: RelayId | None, now: Instant) -> tuple[Connection, int]:
        """Returns a new connection and the 24 bits its receiver indices begin with."""
        indices = self._indices.next()
        row = self._store.add_peer()
        try:
            peer = Peer(
                static=self._static,
                remote_public=terms.remote_public,
                preshared_key=terms.preshared_key,
                indices=indices,
                row=row,
                store=self._store,
                limiter=self._limiter,
                rng=self._rng,
                now=now,
            )
        except BaseException:
            self._store.remove_peer(row)
            raise
        agent = IceAgent(
            is_controlling=self.role is Role.CLIENT,
            local=terms.local,
            remote=terms.remote,
            rng=self._rng,
            transactions=self._connections.transactions,
        )
        connection = Connection(
            cid,
            self.role,
            terms,
            agent=agent,
            peer=peer,
            store=self._store,
            routes=self._routes,
            outbox=self._outbox,
            relay=relay,
            now=now,
        )
        return connection, indices.connection

    def _settle(self, connection: Connection, now: Instant) -> None:
        """Lets a connection do what the last input made due, and takes note of when it wants to be woken."""
        self._now = now
        self._resume(connection, now)
        self._relaying.settle(now)

    def _conclude(self, connection: Connection) -> None:
        if connection.state is ConnectionState.FAILED:
            self._drop(connection)
        else:
            self._deadlines.schedule(connection)

    def _drop(self, connection: Connection) -> None:
        self._connections.remove(connection)
        self._deadlines.forget(connection)
        self._ended.add(connection.statistics())
        connection.close()

    def _resume(self, connection: Connection, now: Instant) -> None:
        """Lets a connection do what its relays made due; it may be gone by now."""
        if self._connections.get(connection.cid) is connection:
            connection.settle(now, self._utc(now))
            self._conclude(connection)

    def _parse_candidate(self, line: str) -> Candidate | None:
        try:
            return decode_candidate(line)
        except WireError:
            self.counters.ignored_candidates += 1
            return None

    def _handle_relay(self, local: Endpoint, remote: Endpoint, datagram: bytes, now: Instant) -> None:
        allocation = self._relays.at(remote)
        if allocation is None or not allocation.handle_message(local, remote, _decode_stun(datagram), now):
            self.counters.relay_datagrams += 1
            return
        self._relaying.settle(now)

    def _handle_stun(self, local: Endpoint, remote: Endpoint, datagram: bytes, now: Instant) -> None:
        received = _decode_stun(datagram)
        connection = self._find_by_stun(received.message)
        if connection is None or not connection.handle_stun(local, remote, received, now):
            self.counters.unmatched_stun += 1
            return
        self._settle(connection, now)

    def _find_by_stun(self, message: stun.Message) -> Connection | None:
        if message.message_class is stun.MessageClass.REQUEST:
            username = message.get(stun.Attribute.USERNAME)
            return None if username is None else self._connections.by_username(username)
        return self._connections.by_transaction(message.transaction_id)

    def _handle_wireguard(
        self, local: Endpoint, remote: Endpoint, datagram: bytes, now: Instant
    ) -> tuple[ConnectionId, bytes] | None:
        kind = classify(datagram)
        if kind is None:
            raise RemoteError("A datagram is neither STUN nor WireGuard.")
        if kind is MessageType.INITIATION:
            self._handle_initiation(local, remote, datagram, now)
            return None
        index = receiver_index(datagram)
        connection = None if index is None else self._connections.by_receiver(index)
        if connection is None:
            raise UnknownConnection("A WireGuard message is for no connection of ours.")
        packet = connection.handle_wireguard(datagram, remote, now, self._utc(now))
        self._settle(connection, now)
        if packet is None:
            return None
        if len(packet) > MAX_PACKET_SIZE:
            raise RemoteError(f"A packet of {len(packet)} bytes came out of the tunnel; {MAX_PACKET_SIZE} are allowed.")
        return connection.cid, packet

    def _handle_initiation(self, local: Endpoint, remote: Endpoint, datagram: bytes, now: Instant) -> None:
        """Limits first, then the one DH that tells who it is: the original does it the other way round, a cheap attack."""
        received = receive_initiation(self._static, self._limiter, datagram, remote.ip, now)
        if isinstance(received, CookieDemand):
            self._routes.send(local, remote, received.reply, now)
            self._relaying.settle(now)
            return
        connection = self._connections.by_remote_key(received.remote_public)
        if connection is None:
            raise UnknownConnection("A WireGuard initiation is from nobody we have a connection with.")
        connection.handle_initiation(received, now)
        self._settle(connection, now)


def _decode_stun(datagram: bytes) -> stun.Received:
    try:
        return stun.decode(datagram)
    except WireError as error:
        raise RemoteError(str(error)) from error


def session_id_of(public_key: bytes) -> str:
    """Returns the name that SOFTWARE carries to relays: a hash of the public key in upper-case hex digits."""
    return sha256(b"SESSION-ID" + public_key).hexdigest().upper()
