"""Engines in memory for tests: a hand-moved clock, a machine with fixed sessions, and two engines joined by a network."""

from __future__ import annotations

import ipaddress
from collections import deque
from typing import TYPE_CHECKING, Any

from firezone.base.net import Endpoint
from firezone.base.timing import SECOND
from firezone.datapath.tables import Tables
from firezone.loop.engine import Engine
from firezone.loop.memory import MemoryNetwork, MemorySockets, MemoryTun
from firezone.proto.updates import PeerFilterSet, RouteSet

if TYPE_CHECKING:
    from firezone.base.net import Transmit
    from firezone.kernels.types import Reason

KEYS = (bytes(range(32)), bytes(range(32, 64)))
OUTER = (Endpoint.from_text("192.0.2.1", 52625), Endpoint.from_text("192.0.2.2", 52625))
INNER = ("10.8.0.1", "10.8.0.2")
INDICES = (0x00000101, 0x00000201)


class ManualClock:
    """A clock that moves when the test says so."""

    def __init__(self, now: int = 1_000 * SECOND) -> None:
        self.time = now
        self.readings = 0

    def now(self) -> int:
        self.readings += 1
        return self.time

    def utc(self) -> int:
        return self.time + 1_700_000_000 * SECOND


class RecordingMachine:
    """Answers nothing and remembers every call; outputs are whatever the test puts into its queues."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.updates: deque[Any] = deque()
        self.transmits: deque[Transmit] = deque()
        self.packets: deque[bytes] = deque()
        self.events: deque[object] = deque()
        self.deadline: tuple[int, str] | None = None
        self.fails_on: set[bytes] = set()
        self.failure: Exception | None = None

    def handle_packet(self, packet: bytes, ecn: int, reason: Reason, now: int) -> None:
        self.calls.append(("packet", packet, ecn, reason, now))
        if self.failure is not None and packet in self.fails_on:
            raise self.failure

    def handle_datagram(self, local: Endpoint, remote: Endpoint, datagram: bytes, ecn: int, now: int) -> None:
        self.calls.append(("datagram", local, remote, datagram, ecn, now))

    def handle_refused(self, row: int, packet: bytes, reason: Reason, now: int) -> None:
        self.calls.append(("refused", row, packet, reason, now))

    def handle_control(self, row: int, packet: bytes, now: int) -> None:
        self.calls.append(("control", row, packet, now))

    def handle_activity(self, records: Any, now: int) -> None:
        self.calls.append(("activity", records.copy(), now))

    def handle_timeout(self, now: int, utc: int) -> None:
        self.calls.append(("timeout", now, utc))
        self.deadline = None

    def poll_timeout(self) -> tuple[int, str] | None:
        return self.deadline

    def poll_transmit(self) -> Transmit | None:
        return self.transmits.popleft() if self.transmits else None

    def poll_packet(self) -> bytes | None:
        return self.packets.popleft() if self.packets else None

    def poll_update(self) -> Any:
        return self.updates.popleft() if self.updates else None

    def poll_event(self) -> object | None:
        return self.events.popleft() if self.events else None

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


class MemoryHost:
    """One engine with its memory TUN, sockets and recording machine."""

    def __init__(self, network: MemoryNetwork, endpoint: Endpoint, clock: ManualClock) -> None:
        self.clock = clock
        self.machine = RecordingMachine()
        self.tables = Tables()
        self.tun = MemoryTun()
        self.sockets = MemorySockets(network, [endpoint])
        self.engine = Engine(
            machine=self.machine,
            tables=self.tables,
            clock=clock,
            tun_source=self.tun.source,
            tun_sink=self.tun,
            udp_sources=[self.sockets.source],
            udp_sink=self.sockets,
        )


def pair(clock: ManualClock | None = None) -> tuple[MemoryHost, MemoryHost]:
    """Builds two hosts with one session each way, routes to each other and filters for their inner addresses."""
    clock = clock or ManualClock()
    network = MemoryNetwork()
    hosts = tuple(MemoryHost(network, endpoint, clock) for endpoint in OUTER)
    for side, host in enumerate(hosts):
        other = 1 - side
        sessions = host.tables.sessions
        row = sessions.add_peer()
        slot = sessions.install(row, INDICES[side], INDICES[other], KEYS[side], KEYS[other], clock.time + 180 * SECOND)
        sessions.use_for_sending(row, slot, clock.time + 170 * SECOND)
        sessions.set_path(row, OUTER[side], OUTER[other])
        far, near = ipaddress.ip_network(INNER[other]), ipaddress.ip_network(INNER[side])
        host.machine.updates.append(RouteSet(far, row))
        host.machine.updates.append(PeerFilterSet(row, remote=(far,), local=(near,)))
        host.engine.touch()
    return hosts[0], hosts[1]
