"""A whole gateway of ours with thousands of clients of ours, in one process and on a clock that is moved by hand.

The clients are real while they connect; then only what a connected, idle client does is left of them: it answers the gateway's
checks. What is measured is the gateway's part alone: its machine, its tables and its engine's ticks.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firezone.base.errors import WireError
from firezone.base.net import Endpoint, Transmit
from firezone.loop.memory import MemorySource
from firezone.proto.client.state import ClientState
from firezone.proto.gateway.state import GatewayState
from firezone.proto.ice.checks import IceCredentials, encode_success, read_request
from firezone.wire.portal import gateway as wire
from firezone.wire.portal.shared import Filter
from firezone.wire.stun import decode, is_stun
from tests.harness import packets
from tests.harness.roles import ClientMember, GatewayMember, World, cidr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AT_ONCE = 32
"""Clients that connect side by side."""
FIRST_CLIENT = 10
FLOWS = 20
"""Clients whose packets flow while the policy changes."""
_LIBC = ctypes.CDLL(None)
_MMAP_THRESHOLD = -3
RESOURCE, HOST = 0x10000000, "10.1.2.3"


class TimedGateway(GatewayMember):
    """A gateway whose own work is timed."""

    spent = 0
    """Nanoseconds of CPU."""

    @contextmanager
    def timed(self) -> Iterator[None]:
        before = time.thread_time_ns()
        try:
            yield
        finally:
            self.spent += time.thread_time_ns() - before

    def boot(self) -> None:
        super().boot()
        self.sockets.source = _touched(MemorySource(1024))  # Nobody paces the clients: what arrives at one instant must fit.
        self.world.network.attach(self.outer, self.sockets.source.ring)
        self.engine.udp_sources = [self.sockets.source]
        tick = self.engine.tick

        def timed_tick(*arguments: Any) -> bool:
            with self.timed():
                return tick(*arguments)

        self.engine.tick = timed_tick  # type: ignore[method-assign,assignment]

    def tell(self, message: Any) -> None:
        event, payload = self.from_portal.encode(message)
        with self.timed():
            decoded = self.from_portal.decode(event, payload)
            self.machine.handle_portal(decoded, self.world.clock.time, self.world.clock.utc())
            self.engine.touch()
        self.report()


@dataclass
class Idle:
    """What is left of a client."""

    outer: Endpoint
    credentials: IceCredentials


class Crowd:
    """One gateway and the clients that have connected to it."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        _LIBC.mallopt(_MMAP_THRESHOLD, 1 << 16)  # Large arrays go back to the system when their client goes.
        self._tell = tell
        self.world = World()
        self.gateway = TimedGateway(self.world, 2, "198.51.100.1", GatewayState)
        self.world._join(self.gateway)
        self.resource = cidr(RESOURCE, "10.1.2.0/24", _tcp(443))
        self.world.portal.add(self.resource)
        self._idle: dict[bytes, Idle] = {}
        self._mail = _touched(MemorySource(1024))
        self.count = 0
        self.live: list[ClientMember] = []

    def grow(self, count: int) -> float:
        """Connects so many clients more, each by the first packet of a flow; returns the gateway's CPU seconds per client."""
        before, wanted = self.gateway.spent, self.count + count
        while self.count < wanted:
            some = [self._start() for _ in range(min(AT_ONCE, wanted - self.count))]
            for client in some:
                client.tun.send(_packet(client))
            self.world.run(0.4)
            arrived = len(self.gateway.received())
            assert arrived == len(some), f"{arrived} of {len(some)} first packets arrived"
            for client in some:
                self._retire(client)
            self._answer_checks()
            self._tell(f"· {self.count} clients")
        return (self.gateway.spent - before) / 1e9 / count

    def memory_per_client(self, count: int) -> float:
        """Returns bytes that the process grows by for each of so many clients more."""
        before = self._resident()
        self.grow(count)
        return (self._resident() - before) / count

    def _resident(self) -> int:
        """Returns bytes of memory in use, without what the clients' machines have left behind."""
        self.world.portal.heard.clear()
        self.gateway.events.clear()
        gc.collect()
        _LIBC.malloc_trim(0)
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    def edit_policy(self) -> tuple[float, int, int]:
        """Opens another port of a resource that every client uses, while packets flow.

        Returns: seconds until the last client's filter is applied, packets sent meanwhile and packets lost.
        """
        while len(self.live) < FLOWS:
            self.live.append(self._start())
        for client in self.live:
            client.tun.send(_packet(client))
        self.world.run(0.4)
        self.gateway.received()
        updated = wire.CidrResource(
            id=self.resource.id, name=self.resource.name, address=self.resource.address, filters=(_tcp(443), _tcp(8443))
        )
        sent = received = 0
        before = time.perf_counter()
        self.gateway.machine.handle_portal(wire.ResourceUpdated(resource=updated), self.world.clock.time, self.world.clock.utc())
        self.gateway.engine.touch()
        is_applied = False
        while not is_applied:
            is_applied = not self.gateway.engine._machine_called
            for client in self.live:
                client.tun.send(_packet(client))
                client.engine.tick()
            sent += len(self.live)
            self.gateway.engine.tick()
            received += len(self.gateway.received())
        passed = time.perf_counter() - before
        self.world.pump()
        received += len(self.gateway.received())
        for client in self.live:
            client.tun.send(_packet(client, 8443))
        self.world.pump()
        assert len(self.gateway.received()) == len(self.live), "the edit has taken effect"
        return passed, sent, sent - received

    def _start(self) -> ClientMember:
        number = FIRST_CLIENT + self.count
        self.count += 1
        outer = f"192.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        client = ClientMember(self.world, number, outer, ClientState)
        self.world.members.append(client)
        client.boot()
        self.world.portal.members[client.id] = client
        client.tell(client.init_message())
        return client

    def _retire(self, client: ClientMember) -> None:
        ours, _, _ = self.world.portal._secrets(client, self.gateway)
        client.crash()
        self.world.members.remove(client)
        key = client.outer.ip
        self._idle[key] = Idle(client.outer, IceCredentials(ours.username, ours.password.reveal()))
        self.world.network.attach(client.outer, self._mail.ring)

    def _answer_checks(self) -> None:
        """Does what connected clients do all day."""
        ring = self._mail.ring
        while ring.ready():
            slot = ring.tail()
            start = int(ring.offset[slot])
            datagram = ring.slab[slot, start : start + int(ring.length[slot])].tobytes()
            idle = self._idle[ring.local[slot]["ip"][:4].tobytes()]
            ring.release(1)
            if not is_stun(datagram):
                continue
            try:
                received = decode(datagram)
            except WireError:
                continue
            if read_request(received) is not None:
                answer = encode_success(received.message.transaction_id, self.gateway.outer, idle.credentials)
                self.world.network.deliver(idle.outer, Transmit(None, self.gateway.outer, answer))
        self.world.pump()


def _touched(source: MemorySource) -> MemorySource:
    """Writes to all its memory, so that none of it counts as somebody's later."""
    source.ring.slab[:] = 0
    return source


def _tcp(port: int) -> Filter:
    return Filter(protocol="tcp", port_range_start=port, port_range_end=port)


def _packet(client: ClientMember, port: int = 443) -> bytes:
    return packets.tcp(str(client.ipv4), HOST, ports=(40_000, port))
