"""The relays of a node: their allocations, the addresses of former ones, and which of them a connection gets.

Source: Firezone's snownet `Allocations`; the choice by round trip and the memory of former relays are of its newest version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from statistics import median

from firezone.base.ids import RelayId
from firezone.base.net import Endpoint
from firezone.base.rng import Rng, below
from firezone.base.timing import MILLISECOND, SECOND, Instant, earliest
from firezone.proto.snownet.events import Outbox
from firezone.proto.turn.allocation import SILENT, Allocation
from firezone.proto.turn.channels import ChannelGate, decode_channel_data
from firezone.proto.turn.events import AllocationEvent
from firezone.proto.turn.messages import Credentials
from firezone.wire import stun

RELAY_PORT = 3478
"""Relays listen here and nowhere else; their datagrams are recognised by it."""
MAX_FORMER_ADDRESSES = 64
"""Addresses of relays we left that are remembered, to tell their late answers from a peer whose NAT gave it the same port."""
SMALL_CHOICE = 2
"""Up to so many relays the fastest one is the measure, beyond it their median."""
RETRY_SUSPENDED = 60 * SECOND
"""After which a relay that lends us nothing is asked again: it may have been full. The original waits until the portal speaks of
it, which it need not do for days; half of it would ask full relays twice as often, for nothing."""
MIN_DEVIATION = 2 * MILLISECOND
"""Differences below are noise of the measurement."""


@dataclass(frozen=True, slots=True)
class Relay:
    """One TURN server with the credentials for it."""

    id: RelayId
    ipv4: Endpoint | None
    ipv6: Endpoint | None
    username: str
    password: str = field(repr=False)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(endpoint for endpoint in (self.ipv4, self.ipv6) if endpoint is not None)


class Traffic(Enum):
    """What a datagram is to the relays."""

    PEER = auto()
    """Nothing: it is from a peer."""
    STUN = auto()
    """An answer of a relay we use."""
    CHANNEL = auto()
    """A peer's datagram that came through a relay we use."""
    STALE = auto()
    """Of a relay we do not use any more."""


class RelayBook:
    """Known relays by id, each with its allocation. Datagrams for relays go to the outbox."""

    def __init__(self, *, gate: ChannelGate | None, rng: Rng, outbox: Outbox) -> None:
        self._gate = gate
        self._rng = rng
        self._outbox = outbox
        self._relays: dict[RelayId, Relay] = {}
        self._allocations: dict[RelayId, Allocation] = {}
        self._suspended: dict[RelayId, Instant] = {}
        """Those that were of no use when `take_suspended` was last called, and when to ask them again."""
        self._closed: list[tuple[RelayId, Allocation]] = []
        """Ended, but with something to tell still."""
        self._former: dict[bytes, None] = {}

    def __contains__(self, relay: RelayId) -> bool:
        return relay in self._relays

    def __len__(self) -> int:
        return len(self._relays)

    # what the portal says

    def update(self, remove: Iterable[RelayId], add: Iterable[Relay], now: Instant) -> None:
        """Forgets some relays and takes others; those of the same id with anything changed are begun anew.

        Relays that are not mentioned are probed: the portal may know what we do not.
        """
        for relay_id in remove:
            self.drop(relay_id)
        mentioned = set()
        for relay in add:
            mentioned.add(relay.id)
            if self._relays.get(relay.id) == relay:
                self._allocations[relay.id].revive(now)
            elif relay.endpoints:
                self._replace(relay, now)
        for relay_id, allocation in self._allocations.items():
            if relay_id not in mentioned:
                allocation.probe(now)

    def restart(self, now: Instant) -> None:
        """Begins every allocation anew with the credentials we have, from whatever address we have now."""
        for relay in list(self._relays.values()):
            self.drop(relay.id)
            self._start(relay, now)

    def drop(self, relay_id: RelayId) -> None:
        """Forgets a relay; it is not told."""
        relay = self._relays.pop(relay_id, None)
        if relay is None:
            return
        allocation = self._allocations.pop(relay_id)
        allocation.close()
        self._closed.append((relay_id, allocation))
        for endpoint in relay.endpoints:
            self._former[endpoint.ip] = None
        while len(self._former) > MAX_FORMER_ADDRESSES:
            del self._former[next(iter(self._former))]

    def drop_dead(self, now: Instant) -> list[tuple[RelayId, str]]:
        """Forgets the relays that are of no use any more. Returns each with the reason.

        One that fell silent while others answer is begun anew at once: it may have been the way there, for a moment.
        """
        dead = [(relay, reason) for relay, allocation in self._allocations.items() if (reason := allocation.end_reason) is not None]
        for relay_id, reason in dead:
            relay = self._relays[relay_id]
            self.drop(relay_id)
            if reason == SILENT:
                self._start(relay, now)
        return dead

    def take_suspended(self, now: Instant) -> set[RelayId]:
        """Returns the relays that have come to lend us nothing, though they are there: full ones, for example."""
        suspended = [relay for relay, allocation in self._allocations.items() if allocation.is_suspended]
        news = set(suspended) - self._suspended.keys()
        self._suspended = {relay: self._suspended.get(relay, now + RETRY_SUSPENDED) for relay in suspended}
        return news

    def compare(self, relay: RelayId, since: Instant, now: Instant) -> None:
        """Tells a silent relay's allocation whether others were heard since that instant, and asks them all."""
        silent = self._allocations.get(relay)
        for other in self._allocations.values():
            if silent is None or other is silent:
                continue
            if other.has_allocation and other.heard_at >= since:
                silent.note_others_answer()
            other.check(now)

    # datagrams

    def classify(self, remote: Endpoint, datagram: bytes) -> Traffic:
        """Tells a relay's datagram from a peer's, which may well have a relay's port but never the address of one."""
        if remote.port != RELAY_PORT or not datagram:
            return Traffic.PEER
        is_stun = stun.is_stun(datagram)
        if not is_stun and decode_channel_data(datagram) is None:
            return Traffic.PEER
        if self.at(remote) is not None:
            return Traffic.STUN if is_stun else Traffic.CHANNEL
        return Traffic.STALE if remote.ip in self._former else Traffic.PEER

    def decapsulate(self, remote: Endpoint, datagram: bytes, now: Instant) -> tuple[Endpoint, Endpoint, bytes] | None:
        """Returns where a peer's datagram arrived, who it is from and itself; None if it came over no channel of ours."""
        allocation, framed = self.at(remote), decode_channel_data(datagram)
        if allocation is None or framed is None:
            return None
        number, payload = framed
        found = allocation.decapsulate(remote, number, now)
        return None if found is None else (*found, payload)

    def at(self, server: Endpoint) -> Allocation | None:
        """Returns the allocation of the relay with this socket."""
        return next((allocation for allocation in self._allocations.values() if server in allocation.servers), None)

    def lending(self, endpoint: Endpoint) -> Allocation | None:
        """Returns the allocation that this address was lent by; None if it is no such address."""
        return next((allocation for allocation in self._allocations.values() if allocation.has_lent(endpoint)), None)

    def lender_of(self, endpoint: Endpoint) -> RelayId | None:
        """Returns whose address this is."""
        return next((relay for relay, allocation in self._allocations.items() if allocation.has_lent(endpoint)), None)

    def get(self, relay: RelayId | None) -> Allocation | None:
        return None if relay is None else self._allocations.get(relay)

    def allocations(self) -> Iterator[Allocation]:
        return iter(self._allocations.values())

    # time and outputs

    def handle_timeout(self, now: Instant) -> None:
        for relay, retry_at in self._suspended.items():
            if retry_at <= now and (allocation := self._allocations.get(relay)) is not None:
                allocation.revive(now)
        for allocation in self._allocations.values():
            due = allocation.poll_timeout()
            if due is not None and due[0] <= now:
                allocation.handle_timeout(now)

    def poll_timeout(self) -> tuple[Instant, str] | None:
        retry_at = min(self._suspended.values(), default=None)
        return earliest(
            *(allocation.poll_timeout() for allocation in self._allocations.values()),
            None if retry_at is None else (retry_at, "TURN retry"),
        )

    def drain(self) -> list[tuple[RelayId, AllocationEvent]]:
        """Sends what the allocations want sent, and returns what they have to tell."""
        events: list[tuple[RelayId, AllocationEvent]] = []
        for relay, allocation in (*self._closed, *self._allocations.items()):
            while (event := allocation.poll_event()) is not None:
                events.append((relay, event))
            while (transmit := allocation.poll_transmit()) is not None:
                self._outbox.request(transmit)
        self._closed.clear()
        return events

    # choice

    def sample(self) -> RelayId | None:
        """Returns a relay for a connection: one of the fast ones at random, any while none has answered; None without relays.

        One that lends us nothing is chosen only if no other is left, however fast it says so.
        """
        useful = [(relay, known) for relay, known in self._allocations.items() if not known.is_suspended]
        measured = [(relay, allocation.rtt) for relay, allocation in useful if allocation.rtt is not None]
        limit = choose_limit([rtt for _, rtt in measured])
        eligible = [relay for relay, rtt in measured if rtt <= limit] or [relay for relay, _ in useful] or list(self._relays)
        return eligible[below(self._rng, len(eligible))] if eligible else None

    # in detail

    def _replace(self, relay: Relay, now: Instant) -> None:
        """Begins with a relay, in the place of what is known under its id or at one of its sockets: it came back as another."""
        former = [name for name, known in self._relays.items() if name == relay.id or set(known.endpoints) & set(relay.endpoints)]
        for name in former:
            self.drop(name)
        self._start(relay, now)

    def _start(self, relay: Relay, now: Instant) -> None:
        credentials = Credentials.from_password(relay.username, relay.password)
        self._relays[relay.id] = relay
        self._allocations[relay.id] = Allocation(relay.endpoints, credentials, gate=self._gate, rng=self._rng, now=now)


def choose_limit(rtts: list[int]) -> float:
    """Returns the round trip up to which a relay is as good as any: the bulk of many, half as much again as the best of two.

    Source: the newest snownet's `sample_relay`: median and median absolute deviation keep one outlier from deciding.
    """
    if not rtts:
        return 0
    if len(rtts) <= SMALL_CHOICE:
        return 1.5 * min(rtts)
    middle = median(rtts)
    deviation = median(abs(rtt - middle) for rtt in rtts)
    return middle + 3 * max(deviation, MIN_DEVIATION)
