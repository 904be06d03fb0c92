"""A queue that holds packets back by where they come from and go to: the distance between two regions.

Pure. `lab.nat.delay_process` drives it in the namespace that stands for the internet, so that no kernel needs netem.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from typing import TYPE_CHECKING

from firezone.base.timing import MILLISECOND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from firezone.base.net import Network
    from firezone.base.timing import Instant

NEAR, FAR = 1 * MILLISECOND, 10 * MILLISECOND
"""One way within a region, and between two."""
MAX_WAITING = 4096
"""Packets on their way at a time; the rest is lost, as in a queue that overflows."""


class DelayQueue:
    """Packets on their way. Those of one distance stay in order."""

    def __init__(self, regions: Mapping[Network, str], near: Instant = NEAR, far: Instant = FAR) -> None:
        self.lost = 0
        self._regions = dict(regions)
        self._near = near
        self._far = far
        self._known: dict[bytes, str | None] = {}
        self._waiting: dict[Instant, deque[tuple[Instant, bytes]]] = {near: deque(), far: deque()}
        self._ready: deque[bytes] = deque()

    def handle_packet(self, packet: bytes, now: Instant) -> None:
        ends = _addresses(packet)
        if ends is None or sum(map(len, self._waiting.values())) >= MAX_WAITING:
            self.lost += 1
            return
        is_near = self._region(ends[0]) == self._region(ends[1])
        delay = self._near if is_near else self._far
        self._waiting[delay].append((now + delay, packet))

    def handle_timeout(self, now: Instant) -> None:
        for queue in self._waiting.values():
            while queue and queue[0][0] <= now:
                self._ready.append(queue.popleft()[1])

    def poll_timeout(self) -> Instant | None:
        return min((queue[0][0] for queue in self._waiting.values() if queue), default=None)

    def poll_packet(self) -> bytes | None:
        return self._ready.popleft() if self._ready else None

    def _region(self, packed: bytes) -> str | None:
        if packed not in self._known:
            address = ipaddress.ip_address(packed)
            found = (region for network, region in self._regions.items() if address in network)
            self._known[packed] = next(found, None)
        return self._known[packed]


def _addresses(packet: bytes) -> tuple[bytes, bytes] | None:
    """Returns source and destination; None when this is no IP packet."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        return packet[12:16], packet[16:20]
    if version == 6 and len(packet) >= 40:
        return packet[8:24], packet[24:40]
    return None
