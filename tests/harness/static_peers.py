"""A machine for plain WireGuard: peers with fixed keys and allowed networks, no portal, no ICE.

It lets the engine be tried against any WireGuard. Like WireGuard and unlike Firezone, it sends to where the last authentic
handshake came from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from firezone.base.errors import RemoteError
from firezone.base.ids import PeerRow, SessionSlot
from firezone.base.net import Endpoint, Network, Transmit
from firezone.base.rng import Rng
from firezone.base.timing import Instant, UnixTime, earliest
from firezone.kernels.types import Reason
from firezone.proto.noise.cookie import CookieDemand, RateLimiter, receive_initiation
from firezone.proto.noise.handshake import StaticKeys
from firezone.proto.noise.index import IndexAllocator, connection_of
from firezone.proto.noise.peer import Established, Expired, Peer
from firezone.proto.noise.sessions import SessionStore
from firezone.proto.noise.timers import STANDARD, PeerTiming
from firezone.proto.updates import PeerFilterSet, RouteSet, TableUpdate
from firezone.wire.wireguard import MessageType, classify, receiver_index


@dataclass(frozen=True)
class PeerConfig:
    """What `wg` would be told of a peer."""

    public: bytes
    allowed: tuple[Network, ...]
    preshared: bytes | None = None
    endpoint: Endpoint | None = None


@dataclass
class _Entry:
    """A peer with its path."""

    config: PeerConfig
    peer: Peer
    endpoint: Endpoint | None


class StaticPeers:
    """Implements `proto.machine.Machine`."""

    def __init__(
        self,
        static: StaticKeys,
        peers: Sequence[PeerConfig],
        *,
        store: SessionStore,
        rng: Rng,
        now: Instant,
        utc: UnixTime,
        timing: PeerTiming = STANDARD,
    ) -> None:
        self._static = static
        self._store = store
        self._limiter = RateLimiter(static, rng, now)
        self._utc_of_zero = utc - now
        self._by_connection: dict[int, _Entry] = {}
        self._by_key: dict[bytes, _Entry] = {}
        self._by_row: dict[PeerRow, _Entry] = {}
        self._updates: deque[TableUpdate] = deque()
        self._packets: deque[bytes] = deque()
        self._demands: deque[Transmit] = deque()
        self.cookies_demanded = 0
        """Cookie replies made for initiations."""
        self.cookies_received = 0
        allocator = IndexAllocator(rng)
        for config in peers:
            indices = allocator.next()
            peer = Peer(
                static=static,
                remote_public=config.public,
                preshared_key=config.preshared,
                indices=indices,
                row=store.add_peer(),
                store=store,
                limiter=self._limiter,
                rng=rng,
                now=now,
                timing=timing,
            )
            entry = _Entry(config, peer, None)
            self._by_connection[indices.connection] = self._by_key[config.public] = self._by_row[peer.row] = entry
            self._updates.append(PeerFilterSet(peer.row, config.allowed))
            self._updates += [RouteSet(network, peer.row) for network in config.allowed]
            if config.endpoint is not None:
                self._move(entry, None, config.endpoint)

    def initiate(self, now: Instant) -> None:
        """Starts a handshake with every peer that has an endpoint."""
        for entry in self._by_row.values():
            if entry.endpoint is not None:
                entry.peer.initiate(now, self._utc(now))

    def handle_packet(self, packet: bytes, ecn: int, reason: Reason, now: Instant) -> None:
        """Queues a packet for the peer that its destination is routed to, or drops it without one."""
        destination = packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]
        best = max(
            ((network.prefixlen, entry) for entry in self._by_row.values() for network in entry.config.allowed
             if _contains(network, destination)),
            key=lambda found: found[0],
            default=None,
        )  # fmt: skip
        if best is not None:
            best[1].peer.encapsulate(packet, now, self._utc(now))

    def handle_datagram(self, local: Endpoint, remote: Endpoint, datagram: bytes, ecn: int, now: Instant) -> None:
        """Takes a handshake message, or data on the slow path. Raises RemoteError when it is refused."""
        if classify(datagram) is MessageType.INITIATION:
            received = receive_initiation(self._static, self._limiter, datagram, remote.ip, now)
            if isinstance(received, CookieDemand):
                self._demands.append(Transmit(local, remote, received.reply))
                self.cookies_demanded += 1
                return
            entry = self._by_key.get(received.remote_public)
            if entry is None:
                raise RemoteError("An initiation comes from a static key that is none of our peers'.")
            entry.peer.handle_initiation(received, now)
        else:
            index = receiver_index(datagram)
            entry = None if index is None else self._by_connection.get(connection_of(index))
            if entry is None:
                raise RemoteError("A datagram belongs to none of our peers.")
            packet = entry.peer.handle_message(datagram, remote.ip, now, self._utc(now))
            self.cookies_received += classify(datagram) is MessageType.COOKIE_REPLY
            if packet is not None:
                self._packets.append(packet)
        self._move(entry, local, remote)

    def handle_refused(self, row: PeerRow, packet: bytes, reason: Reason, now: Instant) -> None:
        """Drops the packet, as cryptokey routing does."""

    def handle_control(self, row: PeerRow, packet: bytes, now: Instant) -> None:
        """Drops the packet: plain WireGuard has no control packets."""

    def handle_activity(self, records: NDArray[Any], now: Instant) -> None:
        """Tells the peers what the compiled path did for them."""
        for record in records.tolist():
            session, row, sent, received, keepalives = record[:5]
            if (entry := self._by_row.get(PeerRow(row))) is not None:
                entry.peer.on_activity(SessionSlot(session), sent, received, keepalives, now)

    def handle_timeout(self, now: Instant, utc: UnixTime) -> None:
        """Does what is due for any peer."""
        for entry in self._by_row.values():
            entry.peer.handle_timeout(now, utc)

    def poll_timeout(self) -> tuple[Instant, str] | None:
        """Returns the first deadline of any peer."""
        return earliest(*(entry.peer.poll_timeout() for entry in self._by_row.values()))

    def poll_transmit(self) -> Transmit | None:
        """Returns the next datagram; what is for a peer without an endpoint is dropped."""
        if self._demands:
            return self._demands.popleft()
        for entry in self._by_row.values():
            while (datagram := entry.peer.poll_transmit()) is not None:
                if entry.endpoint is not None:
                    return Transmit(None, entry.endpoint, datagram)
        return None

    def poll_packet(self) -> bytes | None:
        """Returns the next packet that was opened on the slow path."""
        return self._packets.popleft() if self._packets else None

    def poll_update(self) -> TableUpdate | None:
        """Returns the next route or filter, all of them at the start."""
        return self._updates.popleft() if self._updates else None

    def poll_event(self) -> tuple[bytes, Established | Expired] | None:
        """Returns the next event of any peer with its static key."""
        for entry in self._by_row.values():
            if (event := entry.peer.poll_event()) is not None:
                return entry.config.public, event
        return None

    def _move(self, entry: _Entry, local: Endpoint | None, remote: Endpoint) -> None:
        if entry.endpoint != remote:
            entry.endpoint = remote
            self._store.set_path(entry.peer.row, local, remote)

    def _utc(self, now: Instant) -> UnixTime:
        return self._utc_of_zero + now


def _contains(network: Network, address: bytes) -> bool:
    size = len(address) * 8
    if network.max_prefixlen != size:
        return False
    shift = size - network.prefixlen
    return int.from_bytes(address, "big") >> shift == int(network.network_address) >> shift
