"""One connection: an ICE agent that finds the path, a WireGuard peer that uses it, and what waits until there is one.

    Connecting ── nominated ──▶ Connected ◀── packet, upsert, candidate ── Idle
        │                          └───────────── 20 s without packets ─────▶│
        └──────── no candidates, no path, dead path, WireGuard expired ──▶ Failed

Driven by the `Node`: after every input it calls `settle`, at `poll_timeout` `handle_timeout`. Datagrams and events go to the
node's outbox. Failed connections are removed by the node.
"""

from __future__ import annotations

import hmac
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

from firezone.base.errors import StillConnecting
from firezone.base.ids import ConnectionId, RelayId, SessionSlot
from firezone.base.net import Endpoint
from firezone.base.timing import MILLISECOND, SECOND, Instant, UnixTime, earliest
from firezone.proto.ice.agent import IceAgent
from firezone.proto.ice.checks import IceCredentials
from firezone.proto.ice.events import IceState, Nominated, StateChanged
from firezone.proto.ice.pair import ACTIVE, IDLE
from firezone.proto.noise.handshake import ReceivedInitiation
from firezone.proto.noise.peer import Established, Expired, Peer
from firezone.proto.noise.sessions import SessionStore
from firezone.proto.snownet.events import (
    ConnectionEstablished,
    ConnectionFailed,
    InvalidateIceCandidate,
    NewIceCandidate,
    Outbox,
    PathChosen,
    PathSilent,
    Role,
)
from firezone.proto.snownet.goodbye import GOODBYE
from firezone.proto.snownet.optimistic import optimistic_candidates
from firezone.proto.snownet.routes import Path, Routes
from firezone.proto.snownet.statistics import ConnectionStatistics, path_kind
from firezone.wire.candidate import Candidate, CandidateKind, encode_candidate
from firezone.wire.stun import Received

MAX_BUFFERED = 128
"""Packets, and WireGuard messages, that wait for a path; the oldest are overwritten."""
CANDIDATE_TIMEOUT = 10 * SECOND
"""A peer that said nothing by then is not coming: signalling is lost or the peer is gone."""
CONNECT_TIMEOUT = 60 * SECOND
"""No path by then ends the connection, so that the next packet asks anew. Ours; four times what a silent pair lives."""
DISCONNECT_GRACE = 2 * SECOND
"""A path may be lost for so long, while a relay is replaced or new candidates arrive."""
IDLE_AFTER = 20 * SECOND
"""Longer than a dead pair lives (16.5 s), or going idle would hide dead peers."""
SILENT_AFTER = 1500 * MILLISECOND
"""From the first check without an answer to `PathSilent`: two more got none. One less would be told of every loss in a row."""
SILENCE_TOLD_EVERY = 2 * SECOND
"""As often as the portal may be asked about a resource."""
HANDSHAKE_DEBOUNCE = 20 * SECOND
"""Between two handshakes that a path or an upsert asked for."""


class ConnectionState(Enum):
    """Where a connection stands."""

    CONNECTING = auto()
    CONNECTED = auto()
    IDLE = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True)
class Terms:
    """What the portal told us of one connection. Equal terms mean the same connection."""

    remote_public: bytes
    preshared_key: bytes
    local: IceCredentials
    remote: IceCredentials

    def is_same(self, other: Terms) -> bool:
        """Compares in constant time, at least what is secret."""
        secret = hmac.compare_digest(self.preshared_key, other.preshared_key)
        return secret & (self.remote_public == other.remote_public and self.local == other.local and self.remote == other.remote)

    def __repr__(self) -> str:
        return f"Terms(remote_public={self.remote_public.hex()[:8]}…)"


class Connection:
    """The state towards one peer."""

    def __init__(
        self,
        cid: ConnectionId,
        role: Role,
        terms: Terms,
        *,
        agent: IceAgent,
        peer: Peer,
        store: SessionStore,
        routes: Routes,
        outbox: Outbox,
        relay: RelayId | None,
        now: Instant,
    ) -> None:
        self.cid = cid
        self.terms = terms
        self.agent = agent
        self.peer = peer
        self.relay = relay
        """The relay whose addresses we offer; None without relays."""
        self.state = ConnectionState.CONNECTING
        self.path: Path | None = None
        self.scheduled_at: Instant | None = None
        """Belongs to the table of deadlines."""
        self._role = role
        self._store = store
        self._routes = routes
        self._outbox = outbox
        self._created_at = now
        self._last_activity = now
        self._disconnected_at: Instant | None = None
        self._last_proactive_at: Instant | None = None
        self._silence_told_at: Instant = 0
        self._statistics = ConnectionStatistics()
        self._has_handshaken = False
        self._is_established = False
        self._packets: deque[bytes] = deque(maxlen=MAX_BUFFERED)
        self._datagrams: deque[bytes] = deque(maxlen=MAX_BUFFERED)

    # candidates

    def add_local(self, candidate: Candidate, now: Instant, *, crosses_family: bool = False) -> None:
        """Offers another address of ours to the peer."""
        announced = self.agent.add_local(candidate, now, crosses_family=crosses_family)
        if announced is not None:
            self._outbox.events.append(NewIceCandidate(self.cid, encode_candidate(announced)))
            self._wake(now)

    def invalidate_local(self, candidate: Candidate, now: Instant) -> None:
        """Takes an address of ours back."""
        invalid = self.agent.invalidate_local(candidate, now)
        if invalid is not None:
            self._outbox.events.append(InvalidateIceCandidate(self.cid, encode_candidate(invalid)))

    def announce_again(self) -> None:
        """Tells the peer all our candidates: it may have lost its half of the connection."""
        for candidate in self.agent.local_candidates():
            self._outbox.events.append(NewIceCandidate(self.cid, encode_candidate(candidate)))

    def add_remote(self, candidate: Candidate, now: Instant) -> None:
        """Takes an address of the peer, and guesses more from it."""
        if not self.agent.add_remote(candidate, now):
            return
        for guess in optimistic_candidates(self.agent.remote_candidates(), self.agent.remote_endpoints()):
            self.agent.add_remote(guess, now)
        self._wake(now)

    def channel_peers(self) -> list[Endpoint]:
        """Returns the peer's addresses that a relay of ours must pass data of before we ever send to them.

        Those of its host candidates get a channel when a check is sent there: most are behind a NAT and never will.
        """
        return [c.endpoint for c in self.agent.remote_candidates() if c.kind is not CandidateKind.HOST]

    def invalidate_remote(self, candidate: Candidate, now: Instant) -> None:
        """Gives up an address of the peer."""
        if self.agent.invalidate_remote(candidate, now):
            self._wake(now)

    # datagrams and packets

    def handle_stun(self, local: Endpoint, remote: Endpoint, received: Received, now: Instant) -> bool:
        """Takes a STUN message. Returns whether it is authentic and of this connection."""
        return self.agent.handle_message(local, remote, received, now)

    def handle_initiation(self, received: ReceivedInitiation, now: Instant) -> None:
        """Takes an initiation with the peer's static key. Raises RemoteError if it is forged or replayed."""
        self.peer.handle_initiation(received, now)

    def handle_wireguard(self, datagram: bytes, source: Endpoint, now: Instant, utc: UnixTime) -> bytes | None:
        """Takes any other WireGuard message for this connection. Returns the packet in it, if there is one.

        Raises: RemoteError if it is refused.
        """
        packet = self.peer.handle_message(datagram, source.ip, now, utc)
        if packet is not None:
            self._wake(now)
        return packet

    def handle_activity(
        self, session: SessionSlot, sent: int, received: int, keepalives: int, sent_bytes: int, received_bytes: int, *, now: Instant
    ) -> bool:
        """Takes what the compiled path did. Returns whether `settle` must follow.

        Otherwise no deadline moved forward by more than the distance of two checks, so none is announced anew.
        """
        was_idle = self.state is ConnectionState.IDLE
        self.peer.on_activity(session, sent, received, keepalives, now)
        self.peer.sent_bytes += sent_bytes
        self.peer.received_bytes += received_bytes
        if sent or received:
            self._wake(now)
        if sent and self.path is not None:
            self._routes.note_sent(self.path, now)
        self._drain_peer(now)
        return was_idle

    def encapsulate(self, packet: bytes, now: Instant, utc: UnixTime) -> None:
        """Sends a packet, or keeps it until there is a path.

        Raises: StillConnecting at a gateway without a path: the client asks first, so nothing is lost that was asked for.
        """
        if self.path is not None:
            self._wake(now)
            self.peer.encapsulate(packet, now, utc)
        elif self._role is Role.CLIENT:
            self._packets.append(packet)
        else:
            raise StillConnecting(f"The connection to {self.cid} has no path yet.")

    def say_goodbye(self, now: Instant, utc: UnixTime) -> None:
        """Tells the peer that we leave; best effort."""
        if self.path is not None and self.peer.has_session:
            self.peer.encapsulate(GOODBYE, now, utc)
            self._drain_peer(now)

    def wake_for_upsert(self, now: Instant, utc: UnixTime) -> None:
        """Is told that the portal authorised the peer again: it may have a fresh half of this connection."""
        self._wake(now)
        self.announce_again()
        self._start_handshake(now, utc)

    # time

    def settle(self, now: Instant, utc: UnixTime) -> None:
        """Sends what an input made due, and takes what both machines have to say."""
        self.agent.handle_timeout(now)
        self._drain_agent(now, utc)
        self._drain_peer(now)
        self._tell_established()

    def handle_timeout(self, now: Instant, utc: UnixTime) -> None:
        """Does everything that is due."""
        self.agent.handle_timeout(now)
        if (idle_at := self._idle_at()) is not None and now >= idle_at:
            self.state = ConnectionState.IDLE
            self.agent.set_timings(IDLE, now)
        if (reason := self._overdue(now)) is not None:
            self.fail(reason)
            return
        if (silent_at := self._silent_at()) is not None and now >= silent_at:
            self._silence_told_at = now
            self._outbox.events.append(PathSilent(self.cid))
        if self.path is not None:
            self.peer.handle_timeout(now, utc)
        self.settle(now, utc)

    def poll_timeout(self) -> tuple[Instant, str] | None:
        """Returns when `handle_timeout` has something to do, and what."""
        return earliest(
            self.agent.poll_timeout(),
            self.peer.poll_timeout() if self.path is not None else None,
            *self._limits(),
            None if (idle_at := self._idle_at()) is None else (idle_at, "go idle"),
            None if (silent_at := self._silent_at()) is None else (silent_at, "tell of silence"),
        )

    def statistics(self) -> ConnectionStatistics:
        """Returns what the connection has done so far; it goes on counting in the same object."""
        statistics, peer, pair = self._statistics, self.peer, self.agent.selected
        statistics.sent_bytes, statistics.received_bytes = peer.sent_bytes, peer.received_bytes
        statistics.last_handshake_at, statistics.last_rtt_ns = peer.last_handshake_at, peer.last_rtt_ns
        statistics.path = path_kind(pair) if pair is not None and self.path is not None else ""
        return statistics

    def fail(self, reason: str) -> None:
        """Gives the connection up; the node removes it."""
        if self.state is ConnectionState.FAILED:
            return
        self.state = ConnectionState.FAILED
        self._outbox.events.append(ConnectionFailed(self.cid, reason))

    def close(self) -> None:
        """Forgets everything, keys and path included."""
        self.agent.close()
        self.peer.close()
        self._routes.leave(self.peer.row, self.path)
        self._store.remove_peer(self.peer.row)

    # in detail

    def _wake(self, now: Instant) -> None:
        self._last_activity = now
        if self.state is ConnectionState.IDLE:
            self.state = ConnectionState.CONNECTED
            self.agent.set_timings(ACTIVE, now)

    def _idle_at(self) -> Instant | None:
        """Only while ICE is connected: slower checks during a migration would kill the connection."""
        is_steady = self.agent.state in (IceState.CONNECTED, IceState.COMPLETED)
        return self._last_activity + IDLE_AFTER if self.state is ConnectionState.CONNECTED and is_steady else None

    def _silent_at(self) -> Instant | None:
        """When to tell that the peer is silent: not to those who send nothing, nor where slow checks prove nothing."""
        pair = self.agent.selected
        since = pair.silent_since() if pair is not None and self.state is ConnectionState.CONNECTED else None
        if since is None or self._last_activity < since:
            return None
        return max(since + SILENT_AFTER, self._silence_told_at + SILENCE_TOLD_EVERY)

    def _limits(self) -> list[tuple[Instant, str]]:
        """The deadlines whose passing ends the connection, each with the reason."""
        limits = []
        if not self.agent.has_heard_of_peer():
            limits.append((self._created_at + CANDIDATE_TIMEOUT, "no candidates received"))
        if self.path is None:
            limits.append((self._created_at + CONNECT_TIMEOUT, "no path found"))
        if self._disconnected_at is not None:
            limits.append((self._disconnected_at + DISCONNECT_GRACE, "ICE timeout"))
        return limits

    def _overdue(self, now: Instant) -> str | None:
        return next((reason for deadline, reason in self._limits() if now >= deadline), None)

    def _drain_agent(self, now: Instant, utc: UnixTime) -> None:
        while (event := self.agent.poll_event()) is not None:
            match event:
                case Nominated(source, destination):
                    self._take_path(self._routes.path_to(source, destination), now, utc)
                case StateChanged(IceState.DISCONNECTED):
                    self._disconnected_at = now
                case StateChanged():
                    self._disconnected_at = None
        while (message := self.agent.poll_transmit()) is not None:
            sent = self._routes.send(message.source, message.destination, message.payload, now, row=self.peer.row)
            self._statistics.add_stun(sent, len(message.payload))

    def _take_path(self, path: Path, now: Instant, utc: UnixTime) -> None:
        """Sends over the nominated pair from now on, in every state."""
        if path == self.path:
            self._routes.refresh(path, now)
            return
        self._routes.take(self.peer.row, path, self.path, now)
        self.path = path
        self._tell_path(path)
        if self.state is ConnectionState.CONNECTING:
            self.state = ConnectionState.CONNECTED
            self._last_activity = now
            self._flush(now, utc)
        self._start_handshake(now, utc)

    def _flush(self, now: Instant, utc: UnixTime) -> None:
        """Sends what waited: handshake messages first, or the peer would ask for them again."""
        while self._datagrams:
            self._send(self._datagrams.popleft(), now)
        while self._packets:
            self.peer.encapsulate(self._packets.popleft(), now, utc)

    def _start_handshake(self, now: Instant, utc: UnixTime) -> None:
        """Only the client does, or both sides would replace each other's sessions."""
        if self._role is not Role.CLIENT or self.path is None or self.peer.is_handshake_in_flight:
            return
        if self._last_proactive_at is not None and now < self._last_proactive_at + HANDSHAKE_DEBOUNCE:
            return
        self.peer.initiate(now, utc)
        self._last_proactive_at = now

    def _drain_peer(self, now: Instant) -> None:
        while (datagram := self.peer.poll_transmit()) is not None:
            if self.path is None:
                self._datagrams.append(datagram)
            else:
                self._send(datagram, now)
        while (event := self.peer.poll_event()) is not None:
            match event:
                case Established():
                    self._has_handshaken = True
                    self._statistics.handshakes += 1
                case Expired(reason):
                    self.fail(reason)

    def _send(self, datagram: bytes, now: Instant) -> None:
        assert self.path is not None
        self._routes.send(self.path.local, self.path.remote, datagram, now, is_relayed=self.path.is_relayed)

    def _tell_path(self, path: Path) -> None:
        pair = self.agent.selected
        if pair is not None:
            relay = self._routes.lender_of(path)
            self._outbox.events.append(PathChosen(self.cid, path.remote, pair.local.kind, pair.remote.kind, relay))

    def _tell_established(self) -> None:
        if self._is_established or not self._has_handshaken or self.path is None:
            return
        self._is_established = True
        self._outbox.events.append(ConnectionEstablished(self.cid))
