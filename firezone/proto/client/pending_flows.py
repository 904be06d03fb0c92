"""Packets that wait for access to a resource, and when the portal is asked for it.

There is no retry timer: applications repeat what they lose, and each repetition asks again, at most every two seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from firezone.base.timing import SECOND
from firezone.wire.ip import syn_key

if TYPE_CHECKING:
    from firezone.base.ids import ResourceId
    from firezone.base.timing import Instant
    from firezone.wire.ip import IpHeader

INTENT_INTERVAL = 2 * SECOND
"""Shortest time between two requests for one resource. Half floods the portal while a site is slow, double delays recovery."""
REMEMBERED = 60 * SECOND
"""After an outage of the portal, resources are asked for that an application wanted so recently: its TCP repeats itself every 32 s
or more often. Without a bound, programs long gone would open connections."""
MAX_BUFFERED = 128
"""Packets kept per resource, at most 160 KiB; the oldest goes first."""


class PacketBuffer:
    """Packets in order, without repetitions: an identical packet is not kept twice, a repeated SYN replaces the one before."""

    def __init__(self, limit: int = MAX_BUFFERED) -> None:
        self.dropped = 0
        self._limit = limit
        self._packets: dict[bytes | tuple[bytes], bytes] = {}
        """What tells packets apart (of a SYN its flow, of another its bytes), and the packet."""
        self._unanswered: set[bytes | tuple[bytes]] = set()
        """Those whose sender has not been told yet that it waits in vain."""

    def __len__(self) -> int:
        return len(self._packets)

    @property
    def packets(self) -> list[bytes]:
        """What waits, oldest first."""
        return list(self._packets.values())

    def add(self, packet: bytes, header: IpHeader) -> None:
        """Keeps a packet; the oldest goes when there are too many."""
        syn = syn_key(packet, header)
        key = packet if syn is None else (syn,)
        if key not in self._packets and len(self._packets) == self._limit:
            oldest = next(iter(self._packets))
            del self._packets[oldest]
            self._unanswered.discard(oldest)
            self.dropped += 1
        self._packets[key] = packet
        self._unanswered.add(key)

    def take_unanswered(self) -> list[bytes]:
        """Returns what was added since the last call, oldest first; it stays."""
        packets = [packet for key, packet in self._packets.items() if key in self._unanswered]
        self._unanswered.clear()
        return packets


@dataclass(slots=True)
class PendingFlow:
    """One resource that access was asked for."""

    last_sent: Instant
    """When the portal was asked, or would have been were it reached."""
    is_asked: bool = True
    """False: it was not reached, or is reached anew and has forgotten."""
    buffer: PacketBuffer = field(default_factory=PacketBuffer)


class PendingFlows:
    """All resources that wait for an answer."""

    def __init__(self) -> None:
        self._flows: dict[ResourceId, PendingFlow] = {}

    def __contains__(self, resource: ResourceId) -> bool:
        return resource in self._flows

    def add(self, resource: ResourceId, packet: bytes, header: IpHeader, now: Instant) -> bool:
        """Keeps a packet. True: the portal must be asked now."""
        is_due = self.add_question(resource, now)
        self._flows[resource].buffer.add(packet, header)
        return is_due

    def add_question(self, resource: ResourceId, now: Instant) -> bool:
        """Notes that something else than a packet waits, which is kept elsewhere. True: the portal must be asked now."""
        flow = self._flows.get(resource)
        is_due = flow is None or now - flow.last_sent >= INTENT_INTERVAL
        if flow is None:
            self._flows[resource] = PendingFlow(now)
        elif is_due:
            flow.last_sent, flow.is_asked = now, True
        return is_due

    def on_portal_lost(self) -> None:
        """Answers will not come any more."""
        for flow in self._flows.values():
            flow.is_asked = False

    def on_not_asked(self, resource: ResourceId) -> None:
        """The portal could not be asked."""
        self._flows[resource].is_asked = False

    def ask_again(self, now: Instant) -> list[ResourceId]:
        """Returns what the portal, reached again, must be asked for: what somebody still wants and has not been asked since."""
        due = [
            resource for resource, flow in self._flows.items() if not flow.is_asked and now - flow.last_sent <= REMEMBERED
        ]  # fmt: skip
        for resource in due:
            self._flows[resource].is_asked, self._flows[resource].last_sent = True, now
        return due

    def take(self, resource: ResourceId) -> list[bytes] | None:
        """Ends the waiting and returns the packets in order; None when nobody waits."""
        flow = self._flows.pop(resource, None)
        return None if flow is None else flow.buffer.packets

    def take_unanswered(self, resource: ResourceId) -> list[bytes]:
        """Returns what waits and was not returned before, in order; it goes on waiting."""
        flow = self._flows.get(resource)
        return [] if flow is None else flow.buffer.take_unanswered()
