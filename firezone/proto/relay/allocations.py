"""What clients hold at the relay: allocations with their ports, channels and permissions. State and its rules, no messages.

A client is its address and port; everything it holds hangs on its one allocation and goes with it.

Source: RFC 8656 sections 7 to 12; relay specification, sections 6 and 7.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from firezone.base import limits
from firezone.base.net import Endpoint
from firezone.base.rng import Rng, below
from firezone.base.timing import SECOND, Instant
from firezone.proto.relay.tables import PortBinder
from firezone.wire.stun import AddressFamily

DEFAULT_LIFETIME_S = 600
MAX_LIFETIME_S = 3600
"""Larger values are cut, not refused."""
CHANNEL_LIFETIME = 600 * SECOND
CHANNEL_COOL_DOWN = 300 * SECOND
"""How long an expired number keeps its peer: datagrams on their way must not reach another (RFC 8656 section 12)."""
PERMISSION_LIFETIME = 300 * SECOND

_PORT_ATTEMPTS = 16
"""Ports tried when other programs hold those picked. Each costs two system calls, paid by one request."""


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """Bounds of one relay. See `base.limits` for their reasons."""

    allocations: int = limits.MAX_ALLOCATIONS
    allocations_per_address: int = limits.MAX_ALLOCATIONS_PER_ADDRESS
    channels: int = limits.MAX_CHANNELS
    channels_per_allocation: int = limits.MAX_CHANNELS_PER_ALLOCATION
    permissions: int = limits.MAX_PERMISSIONS
    permissions_per_allocation: int = limits.MAX_PERMISSIONS_PER_ALLOCATION


@dataclass(slots=True, eq=False)
class Channel:
    """A number that stands for a peer."""

    allocation: Allocation
    number: int
    peer: Endpoint
    expires: Instant
    is_bound: bool = True
    """False while it cools down: nothing flows, and only the same pair may be bound again."""

    @property
    def due(self) -> Instant:
        """When it changes: bound to cooling, cooling to forgotten."""
        return self.expires if self.is_bound else self.expires + CHANNEL_COOL_DOWN


@dataclass(slots=True, eq=False)
class Permission:
    """An address whose datagrams a stand-alone relay hands on without a channel."""

    allocation: Allocation
    ip: bytes
    expires: Instant


@dataclass(slots=True, eq=False)
class Allocation:
    """A port lent to a client."""

    client: Endpoint
    username: str
    port: int
    families: tuple[int, ...]
    """IP versions it relays to, 4 before 6."""
    expires: Instant
    channels: dict[int, Channel] = field(default_factory=dict)
    """By number, cooling ones included."""
    numbers: dict[Endpoint, int] = field(default_factory=dict)
    """Number of each peer of `channels`."""
    permissions: dict[bytes, Permission] = field(default_factory=dict)
    """By IP address; empty unless the relay stands alone."""

    def relays_to(self, peer: Endpoint) -> bool:
        """Tells whether it has a socket of the peer's family."""
        return (4 if peer.is_ipv4 else 6) in self.families


class Allocations:
    """All allocations, found by client, by port and by user, and the ports that are left."""

    def __init__(self, lowest_port: int, highest_port: int, relay_limits: RelayLimits, rng: Rng, binder: PortBinder) -> None:
        self._limits = relay_limits
        self._rng = rng
        self._binder = binder
        self._free = list(range(lowest_port, highest_port + 1))
        """In no order: one is picked by index and the last takes its place."""
        self._by_client: dict[Endpoint, Allocation] = {}
        self._by_port: dict[int, Allocation] = {}
        self._by_user: dict[str, Allocation] = {}
        """The latest of each username."""
        self._per_address: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._by_client)

    def __iter__(self) -> Iterator[Allocation]:
        return iter(self._by_client.values())

    def of_client(self, client: Endpoint) -> Allocation | None:
        return self._by_client.get(client)

    def of_port(self, port: int) -> Allocation | None:
        return self._by_port.get(port)

    def of_user(self, username: str) -> Allocation | None:
        return self._by_user.get(username)

    def has_room(self, ip: bytes) -> bool:
        """Tells whether the limits leave a port for a client of this address."""
        return (
            bool(self._free)
            and len(self) < self._limits.allocations
            and self._per_address[ip] < self._limits.allocations_per_address
        )

    def create(self, client: Endpoint, username: str, families: tuple[int, ...], expires: Instant) -> Allocation | None:
        """Opens the sockets of a random free port and lends it; None when no port could be opened."""
        port = self._open_port(families)
        if port is None:
            return None
        allocation = Allocation(client, username, port, families, expires)
        self._by_client[client] = self._by_port[port] = self._by_user[username] = allocation
        self._per_address[client.ip] += 1
        return allocation

    def remove(self, allocation: Allocation) -> None:
        """Closes the sockets and takes the port back."""
        del self._by_client[allocation.client], self._by_port[allocation.port]
        if self._by_user.get(allocation.username) is allocation:
            del self._by_user[allocation.username]
        self._per_address[allocation.client.ip] -= 1
        if not self._per_address[allocation.client.ip]:
            del self._per_address[allocation.client.ip]
        self._binder.close(allocation.port)
        self._free.append(allocation.port)

    def _open_port(self, families: tuple[int, ...]) -> int | None:
        taken_by_others: list[int] = []
        opened = None
        while opened is None and self._free and len(taken_by_others) < _PORT_ATTEMPTS:
            index = below(self._rng, len(self._free))
            self._free[index], self._free[-1] = self._free[-1], self._free[index]
            port = self._free.pop()
            if self._binder.open(port, families):
                opened = port
            else:
                taken_by_others.append(port)
        self._free += taken_by_others
        return opened


def choose_families(public: tuple[int, ...], requested: int | None, additional: int | None) -> tuple[int, ...] | int:
    """Returns the IP versions to allocate, or the error code, for what REQUESTED- and ADDITIONAL-ADDRESS-FAMILY ask.

    An additional family we do not have is left out without a word: Firezone's clients ask for both always and take what they get.

    Source: RFC 8656 section 7.2, but for ADDRESS-ERROR-CODE; relay specification, section 6.2.
    """
    if additional is not None:
        return public if requested is None and additional == AddressFamily.IPV6 else 400
    version = 6 if requested == AddressFamily.IPV6 else 4
    return (version,) if version in public else 440


def effective_lifetime_s(asked: int | None) -> int:
    """Returns the lifetime granted for what LIFETIME asks. Zero is zero."""
    return DEFAULT_LIFETIME_S if asked is None else min(asked, MAX_LIFETIME_S)
