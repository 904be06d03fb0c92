"""The Internet of the world: delay, NATs whose mapping changes, paths that are blocked, and relays that are the package's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firezone.base.net import Endpoint, Transmit
from firezone.datapath.punt import endpoint_of
from firezone.loop.memory import MemoryNetwork
from tests.harness.relay_model import RealRelay

if TYPE_CHECKING:
    from collections.abc import Callable

    from firezone.base.timing import Instant
    from firezone.kernels.batch import PacketBatch, RunList


class Network(MemoryNetwork):
    """Every member stands behind a NAT of its own that keeps ports until it is told to change them."""

    def __init__(self, at: Callable[[int, Callable[[], object]], None], clock: Callable[[], Instant], *, delay: int) -> None:
        super().__init__()
        self._at = at
        self._clock = clock
        self._delay = delay
        self.blocks_direct = False
        self.relays: dict[bytes, RealRelay] = {}
        """Running ones by each of their addresses."""
        self._outside: dict[Endpoint, Endpoint] = {}
        self._inside: dict[Endpoint, Endpoint] = {}
        self.cut: set[Endpoint] = set()
        """Members whose link is down."""

    def rebind(self, member: Endpoint) -> None:
        """Gives a member another port outside."""
        former = self._outside.get(member, member)
        self._inside.pop(former, None)
        port = 20_000 + (former.port - 20_000 + 1) % 20_000 if former.port < 40_000 else 20_000
        outside = Endpoint(member.ip, port)
        self._outside[member], self._inside[outside] = outside, member

    def send_runs(self, batch: PacketBatch, runs: RunList, now: Instant) -> None:
        for run in runs.runs[: runs.n]:
            row = int(run["first"])
            source, target = endpoint_of(batch.local[row]), endpoint_of(batch.remote[row])
            while row >= 0:
                self.deliver(source, Transmit(None, target, batch.row_bytes(row), int(batch.ecn[row])))
                row = int(batch.next[row])

    def deliver(self, source: Endpoint, transmit: Transmit) -> None:
        if source in self.cut:
            return
        outside = self._outside.get(source, source)
        if self._delay:
            self._at(self._delay, lambda: self._arrive(outside, transmit))
        else:
            self._arrive(outside, transmit)

    def _arrive(self, source: Endpoint, transmit: Transmit) -> None:
        target = transmit.destination
        if (relay := self.relays.get(target.ip)) is not None:
            for sender, receiver, answer in relay.handle(source, target, transmit.payload, self._clock()):
                self.deliver(sender, Transmit(None, receiver, answer, transmit.ecn))
            relay.requests.clear()
            return
        if self.blocks_direct and source.ip not in self.relays:
            return
        inside = self._inside.get(target, None if target in self._outside else target)
        if inside is not None and inside not in self.cut:
            super().deliver(source, Transmit(None, inside, transmit.payload, transmit.ecn))
