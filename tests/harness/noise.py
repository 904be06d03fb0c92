"""Two WireGuard peers on a virtual clock with a link that can lose, delay, repeat and record what it carries."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from firezone.base.errors import RemoteError
from firezone.base.rng import SeededRng
from firezone.base.timing import MILLISECOND, SECOND, Instant, UnixTime
from firezone.proto.noise.cookie import RateLimiter
from firezone.proto.noise.handshake import StaticKeys
from firezone.proto.noise.index import IndexAllocator
from firezone.proto.noise.peer import Established, Expired, Peer
from firezone.proto.noise.sessions import SessionStore
from firezone.proto.noise.timers import FIREZONE, PeerTiming
from firezone.wire.wireguard import MIN_DATA_SIZE, MessageType, classify
from tests.harness.sessions import SlowSessionStore

UTC = 1_700_000_000 * SECOND
EPOCH = 1_000 * SECOND
"""Where the monotonic clock starts; not zero, so that zero cannot stand for an instant by accident."""

Fate = Callable[[str, bytes, Instant], list[int]]
"""What the link does with a datagram: one delivery per delay in the list, none loses it."""

INITIATION, RESPONSE, COOKIE, DATA = (kind.name for kind in MessageType)
KEEPALIVE = "KEEPALIVE"


default_store: Callable[[], SessionStore] = SlowSessionStore
"""What a `Sim` makes when it is not told; a fixture replaces it to run the same tests on another store."""


@dataclass
class Side:
    """One end: its peer, its store, what it got."""

    name: str
    static: StaticKeys
    ip: bytes
    store: SessionStore
    rng: SeededRng
    limiter: RateLimiter
    peer: Peer = field(init=False)
    packets: list[bytes] = field(default_factory=list)
    events: list[Established | Expired] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


class Sim:
    """Drives two peers from deadline to deadline. `log` holds (instant since start, sender, kind of message)."""

    def __init__(
        self,
        *,
        seed: int = 1,
        timing: PeerTiming = FIREZONE,
        preshared: tuple[bytes | None, bytes | None] = (None, None),
        make_store: Callable[[], SessionStore] | None = None,
        latency: int = 10 * MILLISECOND,
    ) -> None:
        self.now: Instant = EPOCH
        self.latency = latency
        self.fate: Fate = lambda _sender, _datagram, _now: [self.latency]
        self.log: list[tuple[Instant, str, str]] = []
        self.wire: list[tuple[str, bytes]] = []
        self._in_flight: list[tuple[Instant, int, str, bytes]] = []
        self._serial = 0
        self._timing = timing
        self._preshared = preshared
        make_store = make_store or default_store
        self.a = self._side("a", seed * 2 + 1, bytes([192, 0, 2, 1]), make_store())
        self.b = self._side("b", seed * 2 + 2, bytes([192, 0, 2, 2]), make_store())
        self.renew(self.a)
        self.renew(self.b)

    def renew(self, side: Side) -> None:
        """Gives a side a peer without memory, as after a restart with the same keys."""
        other = self.b if side is self.a else self.a
        side.peer = Peer(
            static=side.static,
            remote_public=other.static.public,
            preshared_key=self._preshared[0 if side is self.a else 1],
            indices=IndexAllocator(side.rng).next(),
            row=side.store.add_peer(),
            store=side.store,
            limiter=side.limiter,
            rng=side.rng,
            now=self.now,
            timing=self._timing,
        )

    @property
    def utc(self) -> UnixTime:
        return UTC + self.now - EPOCH

    @property
    def elapsed(self) -> int:
        return self.now - EPOCH

    def send(self, side: Side, packet: bytes) -> None:
        side.peer.encapsulate(packet, self.now, self.utc)
        self._collect(side)

    def initiate(self, side: Side) -> None:
        side.peer.initiate(self.now, self.utc)
        self._collect(side)

    def run(self, duration: int) -> None:
        """Lets time pass, stopping at every announced deadline and every delivery and nowhere else."""
        end = self.now + duration
        steps_without_progress = 0
        while (due := self._next_due()) is not None and due <= end:
            steps_without_progress = steps_without_progress + 1 if due <= self.now else 0
            assert steps_without_progress < 2000, "the deadlines announced do not move: a busy loop"
            self.now = max(self.now, due)
            self._deliver_due()
            for side in (self.a, self.b):
                deadline = side.peer.poll_timeout()
                if deadline is not None and deadline[0] <= self.now:
                    side.peer.handle_timeout(self.now, self.utc)
                    self._collect(side)
        self.now = end

    def deliver(self, side: Side, datagram: bytes, source_ip: bytes | None = None) -> None:
        """Hands a datagram to a side at once."""
        other = self.b if side is self.a else self.a
        try:
            packet = side.peer.handle_message(datagram, source_ip or other.ip, self.now, self.utc)
        except RemoteError as error:
            side.refused.append(str(error))
        else:
            if packet is not None:
                side.packets.append(packet)
        self._collect(side)

    def kinds(self, name: str, *, since: int = 0) -> list[str]:
        """Returns the kinds of messages that a side has sent from an instant on."""
        return [kind for at, sender, kind in self.log if sender == name and at >= since]

    def times(self, name: str, kind: str) -> list[float]:
        """Returns when a side sent messages of a kind, in seconds since the start."""
        return [at / SECOND for at, sender, sent in self.log if sender == name and sent == kind]

    def sent(self, name: str, kind: str) -> list[bytes]:
        """Returns the datagrams of a kind that a side has sent."""
        return [datagram for sender, datagram in self.wire if sender == name and kind_of(datagram) == kind]

    def connect(self) -> None:
        """Completes a handshake that `a` starts."""
        self.initiate(self.a)
        self.run(5 * self.latency)
        assert self.a.peer.has_session
        assert self.b.peer.has_session

    def _side(self, name: str, seed: int, ip: bytes, store: SessionStore) -> Side:
        rng = SeededRng(seed)
        static = StaticKeys.generate(rng)
        return Side(name, static, ip, store, rng, RateLimiter(static, rng, self.now))

    def _collect(self, side: Side) -> None:
        while (datagram := side.peer.poll_transmit()) is not None:
            self.log.append((self.elapsed, side.name, kind_of(datagram)))
            self.wire.append((side.name, datagram))
            for delay in self.fate(side.name, datagram, self.now):
                self._serial += 1
                heapq.heappush(self._in_flight, (self.now + delay, self._serial, side.name, datagram))
        while (event := side.peer.poll_event()) is not None:
            side.events.append(event)

    def _next_due(self) -> Instant | None:
        deadlines = [deadline[0] for side in (self.a, self.b) if (deadline := side.peer.poll_timeout()) is not None]
        if self._in_flight:
            deadlines.append(self._in_flight[0][0])
        return min(deadlines, default=None)

    def _deliver_due(self) -> None:
        while self._in_flight and self._in_flight[0][0] <= self.now:
            _, _, sender, datagram = heapq.heappop(self._in_flight)
            self.deliver(self.b if sender == "a" else self.a, datagram)


def kind_of(datagram: bytes) -> str:
    """Returns the name of a message; an empty data message is a KEEPALIVE."""
    kind = classify(datagram)
    assert kind is not None
    return KEEPALIVE if kind is MessageType.DATA and len(datagram) == MIN_DATA_SIZE else kind.name


def ipv4_packet(payload: bytes = b"", *, number: int = 0) -> bytes:
    """Returns an IPv4 packet of an experimental protocol; `number` goes into its identification."""
    length = (20 + len(payload)).to_bytes(2, "big")
    header = b"\x45\x00" + length + (number & 0xFFFF).to_bytes(2, "big") + b"\x00\x00\x40\xfd\x00\x00"
    return header + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + payload


def ipv6_packet(payload: bytes = b"") -> bytes:
    """Returns an IPv6 packet of an experimental protocol."""
    return b"\x60\x00\x00\x00" + len(payload).to_bytes(2, "big") + b"\xfd\x40" + b"\xfd" + bytes(31) + payload
