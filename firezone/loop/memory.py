"""Sources and sinks without a kernel: rings on both sides. Tests, the simulation and the memory mode of the lab use them.

`MemoryNetwork` stands for the Internet between engines: every outer address is a ring. A full ring loses, as a socket buffer
does, and the loss is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from firezone.base.limits import RING_SLOTS
from firezone.kernels.ring import PacketRing
from firezone.kernels.types import ADDRESS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from firezone.base.net import Endpoint, Transmit
    from firezone.base.timing import Instant
    from firezone.kernels.batch import PacketBatch, RunList

VNET_HEADER_SIZE = 10


def address_of(endpoint: Endpoint) -> NDArray[Any]:
    """Converts an Endpoint to one element of an address column."""
    address = np.zeros((), ADDRESS)
    address["ip"][: len(endpoint.ip)] = np.frombuffer(endpoint.ip, np.uint8)
    address["port"] = endpoint.port
    address["family"] = 4 if endpoint.is_ipv4 else 6
    return address


class MemorySource:
    """A ring that somebody else in this process pushes into."""

    def __init__(self, slots: int = RING_SLOTS) -> None:
        self.ring = PacketRing(slots)

    def descriptors(self) -> tuple[int, ...]:
        return ()

    def fill(self, max_reads: int, descriptor: int | None = None) -> None:
        """Does nothing: whoever has something pushes it."""

    def release(self, entries: int) -> None:
        self.ring.release(entries)

    def sleeps(self) -> bool:
        return self.ring.ready() == 0

    def take_errors(self) -> list[Exception]:
        return []


class MemoryNetwork:
    """Delivers runs to the ring of their destination; unknown destinations and full rings lose them."""

    def __init__(self) -> None:
        self._rings: dict[bytes, PacketRing] = {}
        self.delivered = 0
        self.lost = 0
        """Datagram runs that found no ring or a full one."""

    def attach(self, endpoint: Endpoint, ring: PacketRing) -> None:
        self._rings[address_of(endpoint).tobytes()] = ring

    def detach(self, endpoint: Endpoint) -> None:
        self._rings.pop(address_of(endpoint).tobytes(), None)

    def send_runs(self, batch: PacketBatch, runs: RunList, now: Instant) -> None:
        for index in range(runs.n):
            ring = self._rings.get(batch.remote[runs.runs[index]["first"]].tobytes())
            taken = ring.push_datagram_runs(batch, runs, index, 1) if ring is not None else 0
            self._count(bool(taken))

    def deliver(self, source: Endpoint, transmit: Transmit) -> None:
        """Delivers one datagram from `source`."""
        ring = self._rings.get(address_of(transmit.destination).tobytes())
        pushed = ring is not None and ring.push(
            transmit.payload,
            local=address_of(transmit.destination),
            remote=address_of(source),
            ecn=transmit.ecn,
            socket=4 if transmit.destination.is_ipv4 else 6,
        )
        self._count(pushed)

    def _count(self, delivered: bool) -> None:
        self.delivered += delivered
        self.lost += not delivered


class MemorySockets:
    """One host's outer sockets on a `MemoryNetwork`."""

    def __init__(self, network: MemoryNetwork, endpoints: list[Endpoint]) -> None:
        self.network = network
        self.endpoints = endpoints
        self.source = MemorySource()
        for endpoint in endpoints:
            network.attach(endpoint, self.source.ring)

    def send_runs(self, batch: PacketBatch, runs: RunList, now: Instant) -> None:
        for endpoint in self.endpoints:
            family = 4 if endpoint.is_ipv4 else 6
            unset = (batch.local["family"][: batch.n] == 0) & (batch.remote["family"][: batch.n] == family)
            batch.local[: batch.n][unset] = address_of(endpoint)  # The kernel's choice, on a host with one address of a family.
        self.network.send_runs(batch, runs, now)

    def send(self, transmit: Transmit, now: Instant) -> None:
        family = transmit.destination.is_ipv4
        source = transmit.source or next((e for e in self.endpoints if e.is_ipv4 == family), None)
        if source is not None:
            self.network.deliver(source, transmit)

    def waiting(self, now: Instant) -> bool:
        return False

    def blocked_descriptors(self) -> tuple[int, ...]:
        return ()

    def take_errors(self) -> list[Exception]:
        return []


class MemoryTun:
    """A TUN device in memory: `source` is what the host's applications send, `ring` what reaches them.

    A full ring waits, as a TUN device refuses with EAGAIN, and stops being taken care of by whoever reads it.
    """

    def __init__(self, slots: int = RING_SLOTS) -> None:
        self.source = MemorySource(slots)
        self.ring = PacketRing(slots)
        self.coalesce = True
        self.lost = 0

    def write_runs(self, batch: PacketBatch, runs: RunList, now: Instant) -> None:
        self.lost += runs.n - self.ring.push_packet_runs(batch, runs)

    def write(self, packet: bytes, now: Instant) -> None:
        self.lost += not self.ring.push(bytes(VNET_HEADER_SIZE) + packet, offset=VNET_HEADER_SIZE, stride=0)

    def waiting(self, now: Instant) -> bool:
        return False

    def take_errors(self) -> list[Exception]:
        return []

    def send(self, packet: bytes, vnet: bytes = bytes(VNET_HEADER_SIZE)) -> bool:
        """Pushes one packet, or a super-packet with its virtio-net header, as an application would. False: the ring is full."""
        return self.source.ring.push(vnet + packet, offset=VNET_HEADER_SIZE, stride=0)

    def receive(self) -> list[tuple[bytes, bytes]]:
        """Takes everything that was written: (virtio-net header, packet) pairs."""
        taken = []
        for _ in range(self.ring.ready()):
            slot = self.ring.tail()
            end = VNET_HEADER_SIZE + int(self.ring.length[slot])
            data = self.ring.slab[slot, :end].tobytes()
            taken.append((data[:VNET_HEADER_SIZE], data[VNET_HEADER_SIZE:]))
            self.ring.release(1)
        return taken
