"""The Internet of a world: hosts behind edges, with delays; what is under way is known, so that a step can wait for it.

    member ── edge (open, cone or symmetric NAT) ──┐
    relay ─────────────────────────────────────────┴── delay of the sender + delay of the receiver

It loses nothing by itself: only what meets a full queue, a closed NAT, or nobody. Faults are steps of the world.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from firezone.base.net import Endpoint, Transmit
from firezone.base.timing import SECOND, Instant
from firezone.datapath.punt import endpoint_of
from firezone.kernels.ring import PacketRing
from firezone.loop.memory import address_of

if TYPE_CHECKING:
    from firezone.kernels.batch import PacketBatch, RunList

FIRST_NAT_PORT = 42000
KINDS = ("open", "cone", "port cone", "symmetric")
"""Mapping and filter of an edge: none, both independent of the endpoint, filter by port, both by port."""


@dataclass
class Edge:
    """What stands between a host and the Internet. An IPv6 address is not translated, and filtered all the same."""

    kind: str
    public: str
    lifetime: int = 120 * SECOND
    """How long a mapping lasts after the last datagram that left through it; always longer than our keep-alives."""
    mappings: dict[object, tuple[Endpoint, Instant]] = field(default_factory=dict)
    inner: dict[Endpoint, tuple[object, Endpoint]] = field(default_factory=dict)
    """Public end to (key of its mapping, end inside)."""
    holes: dict[tuple[Endpoint, object], Instant] = field(default_factory=dict)
    next_port: int = FIRST_NAT_PORT

    def forget(self) -> None:
        """Loses its memory, as a router that was started anew; new mappings get new ports."""
        self.mappings.clear()
        self.inner.clear()
        self.holes.clear()

    def outgoing(self, source: Endpoint, destination: Endpoint, now: Instant) -> Endpoint:
        if self.kind == "open":
            return source
        key: object = (source, destination) if self.kind == "symmetric" else source
        known = self.mappings.get(key)
        if known is None or (now > known[1] and self.kind == "symmetric"):
            public = source
            if source.is_ipv4:
                public, self.next_port = Endpoint.from_text(self.public, self.next_port), self.next_port + 1
        else:
            public = known[0]
        self.mappings[key] = public, now + self.lifetime
        self.inner[public] = key, source
        self.holes[public, self._hole(destination)] = now + self.lifetime
        return public

    def incoming(self, source: Endpoint, destination: Endpoint, now: Instant) -> Endpoint | None:
        """Returns where a datagram goes inside; None: nowhere."""
        if self.kind == "open":
            return destination
        known = self.inner.get(destination)
        if known is None or now > self.holes.get((destination, self._hole(source)), -1):
            return None
        return known[1] if now <= self.mappings[known[0]][1] else None

    def _hole(self, other: Endpoint) -> object:
        return None if self.kind == "cone" else other


@dataclass
class Place:
    """A member's outer end on the network."""

    endpoints: tuple[Endpoint, ...]
    edge: Edge
    delay: int
    ring: PacketRing
    wake: Callable[[], None]


class Network:
    """Delivers what members and relays send; the world's clock and queue make the delays."""

    def __init__(self, at: Callable[[int, Callable[[], object]], None], clock: Callable[[], Instant]) -> None:
        self._at = at
        self._now = clock
        self._inside: dict[Endpoint, Place] = {}
        """By the address that a member itself knows."""
        self._outside: dict[bytes, Place] = {}
        """By public IP address."""
        self._relays: dict[bytes, tuple[int, Callable[[Endpoint, Endpoint, bytes], None]]] = {}
        self._ever: set[bytes] = set()
        self._scratch = PacketRing(4)
        self.is_direct_cut = False
        """Members reach relays only."""
        self.under_way = 0
        self.lost: dict[str, int] = {}
        self.overflows = 0

    # who is there

    def place(self, place: Place) -> None:
        for endpoint in place.endpoints:
            self._inside[endpoint] = place
            public = endpoint.ip if place.edge.kind == "open" or not endpoint.is_ipv4 else _ip(place.edge.public)
            self._outside[public] = place
            self._ever.add(public)

    def remove(self, place: Place) -> None:
        self._inside = {endpoint: other for endpoint, other in self._inside.items() if other is not place}
        self._outside = {ip: other for ip, other in self._outside.items() if other is not place}

    def place_relay(self, ip: bytes, delay: int, handle: Callable[[Endpoint, Endpoint, bytes], None]) -> None:
        self._relays[ip] = delay, handle
        self._ever.add(ip)

    def remove_relay(self, ip: bytes) -> None:
        self._relays.pop(ip, None)

    # what `MemorySockets` calls

    def attach(self, endpoint: Endpoint, ring: PacketRing) -> None:
        """Places are made by the world, which knows edges and delays."""

    def detach(self, endpoint: Endpoint) -> None:
        place = self._inside.get(endpoint)
        if place is not None:
            self.remove(place)

    def send_runs(self, batch: PacketBatch, runs: RunList, now: Instant) -> None:
        ring = self._scratch
        for index in range(runs.n):
            assert ring.push_datagram_runs(batch, runs, index, 1) == 1
            slot = ring.tail()
            start, length, stride = int(ring.offset[slot]), int(ring.length[slot]), int(ring.stride[slot])
            data = ring.slab[slot, start : start + length].tobytes()
            source, destination, ecn = endpoint_of(ring.remote[slot]), endpoint_of(ring.local[slot]), int(ring.ecn[slot])
            ring.release(1)
            for at in range(0, length, stride or length):
                self.send(source, destination, data[at : at + (stride or length)], ecn)

    def deliver(self, source: Endpoint, transmit: Transmit) -> None:
        self.send(source, transmit.destination, transmit.payload, transmit.ecn)

    # the way of a datagram

    def send(self, source: Endpoint, destination: Endpoint, data: bytes, ecn: int = 0) -> None:
        """Sends from a member's own address."""
        place = self._inside.get(source)
        if place is None:
            self._lose("sender is gone")
            return
        public = place.edge.outgoing(source, destination, self._now())
        if destination.ip not in self._relays and self.is_direct_cut:
            self._lose("direct way is cut")
            return
        self._route(place.delay, public, destination, data, ecn)

    def send_from_relay(self, source: Endpoint, destination: Endpoint, data: bytes) -> None:
        self._route(self._relays[source.ip][0], source, destination, data, 0)

    def _route(self, delay: int, source: Endpoint, destination: Endpoint, data: bytes, ecn: int) -> None:
        relay = self._relays.get(destination.ip)
        place = self._outside.get(destination.ip)
        far = relay[0] if relay is not None else place.delay if place is not None else 0
        self.under_way += 1
        self._at(delay + far, lambda: self._arrive(source, destination, data, ecn))

    def _arrive(self, source: Endpoint, destination: Endpoint, data: bytes, ecn: int) -> None:
        self.under_way -= 1
        relay = self._relays.get(destination.ip)
        if relay is not None:
            relay[1](source, destination, data)
            return
        place = self._outside.get(destination.ip)
        if place is None:
            self._lose("nobody there" if destination.ip in self._ever else "an address nobody ever had")
            return
        inside = place.edge.incoming(source, destination, self._now())
        if inside is None or inside not in place.endpoints:
            self._lose("closed edge")
            return
        pushed = place.ring.push(
            data, local=address_of(inside), remote=address_of(source), ecn=ecn, socket=4 if inside.is_ipv4 else 6
        )
        self.overflows += not pushed
        place.wake()

    def _lose(self, why: str) -> None:
        self.lost[why] = self.lost.get(why, 0) + 1


def _ip(text: str) -> bytes:
    return Endpoint.from_text(text, 0).ip
