"""Telling gateways which addresses stand for a name, and keeping packets back until they know.

One set-up per connection, name and resource. The exchange is not reliable and repeating it does no harm: the client announces
(AssignedIps), the gateway resolves the name in its site and says whether that worked (DomainStatus).

    input \\ state         none            pending               confirmed        failed
    packet to the name    announce, hold  every 2 s announce;   pass             pass
                          and keep it     keep it or pass
    name is asked for     announce, hold  every 2 s announce    announce,        announce, hold
                                                                do not hold
    another is asked for  -               every 2 s announce    -                -
    status is Active      -               confirmed, release    -                confirmed
    status is Inactive    -               failed, forget        failed           -
    gateway or resource   -               forget                forget           forget
    gone

There are no timers: applications repeat what they lose. First packets are held as the gateway would refuse them; packets of a
name that works are not, since a busy upload would overflow any buffer while the name is looked up again. A name that cannot be
resolved is tried again when somebody asks for that very name, not for others. Two differences from the original: a name that
nobody has sent anything to is announced when it is asked for or used, not when a flow for another name of its resource begins, so
that thousands of names of one wildcard cost nothing; and a released packet is held like any other instead of being lost.

Source: client 9.3, 15.3; Firezone `rust/connlib/tunnel/src/client/dns_resource_nat.rs`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from firezone.base.timing import SECOND
from firezone.proto.client.pending_flows import PacketBuffer
from firezone.wire.control import encode_assigned_ips

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firezone.base.ids import ConnectionId, ResourceId
    from firezone.base.net import Network
    from firezone.base.timing import Instant
    from firezone.wire.ip import IpHeader

ANNOUNCE_INTERVAL = 2 * SECOND
"""Shortest time between two announcements of one set-up. Half asks gateways again that are still resolving (10 s at most),
double lets a lost one hold packets for longer than TCP waits with its second SYN."""
MAX_HELD_PER_NAME = 32
"""Packets kept per set-up, the oldest goes first. A SYN and a few datagrams are all that is sent before an answer."""
MAX_HELD = 4096
"""Packets kept over all set-ups, 5 MiB; more are dropped. A name that does not resolve must not cost more than one that does."""
MAX_SET_UPS = 16_384
"""Names set up at a time, over all gateways: 16 MiB and the routes of those in use. When it is reached a quarter goes, names first
that nothing was sent to; whoever uses such a name later waits for one more announcement."""


class SetUpState(enum.Enum):
    """How far a gateway is."""

    PENDING = enum.auto()
    CONFIRMED = enum.auto()
    FAILED = enum.auto()


@dataclass(slots=True)
class SetUp:
    """What one gateway was told of one name for one resource."""

    name: str
    resource: ResourceId
    announcement: bytes
    """The packet, sent again as it is."""
    networks: tuple[Network, ...]
    """The addresses in it."""
    sent_at: Instant
    state: SetUpState = SetUpState.PENDING
    is_holding: bool = True
    """While pending: packets are kept back."""
    is_used: bool = False
    """Packets were sent to the name, so it is worth routes of its own."""
    buffer: PacketBuffer = field(default_factory=lambda: PacketBuffer(MAX_HELD_PER_NAME))

    @property
    def is_open(self) -> bool:
        """Whether packets may go to the gateway."""
        return self.state is not SetUpState.PENDING or not self.is_holding


_Key = tuple[str, "ResourceId"]


class NameNat:
    """All set-ups. Methods return what is to be sent; sending is the caller's."""

    def __init__(self) -> None:
        self._set_ups: dict[ConnectionId, dict[_Key, SetUp]] = {}
        self._pending: dict[tuple[ConnectionId, _Key], SetUp] = {}
        """Those without an answer, in the order they were announced."""
        self._count = 0
        self._held = 0
        self.shrunk: set[ConnectionId] = set()
        """Connections that set-ups are gone of since whoever keeps routes and filters for them emptied this."""

    def __len__(self) -> int:
        return self._count

    def get(self, cid: ConnectionId, name: str, resource: ResourceId) -> SetUp | None:
        """Returns one set-up."""
        return self._set_ups.get(cid, {}).get((name.lower(), resource))

    def at(self, cid: ConnectionId) -> Iterator[SetUp]:
        """Yields the set-ups of a connection in the order they were made."""
        yield from self._set_ups.get(cid, {}).values()

    # inputs

    def begin(self, cid: ConnectionId, name: str, resource: ResourceId, proxies: tuple[Network, ...], now: Instant) -> SetUp:
        """Begins a set-up, which must be announced. `proxies` are host networks, IPv4 first."""
        if self._count >= MAX_SET_UPS:
            self._make_room()
        announcement = encode_assigned_ips(resource, name, (network.network_address for network in proxies))
        set_up = SetUp(name, resource, announcement, proxies, now)
        self._set_ups.setdefault(cid, {})[name.lower(), resource] = set_up
        self._count += 1
        self._note_sent(cid, set_up, now)
        return set_up

    def handle_query(self, cid: ConnectionId, set_up: SetUp, now: Instant) -> bool:
        """Somebody asked for the name of a set-up. Returns whether it must be announced now."""
        if set_up.state is SetUpState.PENDING:
            return self._is_due(cid, set_up, now)
        set_up.is_holding = set_up.state is SetUpState.FAILED
        set_up.state = SetUpState.PENDING
        self._note_sent(cid, set_up, now)
        return True

    def handle_packet(self, cid: ConnectionId, set_up: SetUp, packet: bytes, header: IpHeader, now: Instant) -> tuple[bool, bool]:
        """A packet is on its way to a name. Returns whether it may pass, and whether the set-up must be announced again."""
        set_up.is_used = True
        if set_up.state is not SetUpState.PENDING:
            return True, False
        if set_up.is_holding:
            self._hold(set_up, packet, header)
        return not set_up.is_holding, self._is_due(cid, set_up, now)

    def handle_status(
        self, cid: ConnectionId, name: str, resource: ResourceId, *, is_active: bool
    ) -> tuple[SetUp, list[bytes]] | None:
        """A gateway has answered. Returns the set-up and what may leave now; None for an answer to nothing."""
        set_up = self.get(cid, name, resource)
        if set_up is None:
            return None
        released = set_up.buffer.packets if is_active else []
        self._held -= len(set_up.buffer)
        set_up.buffer = PacketBuffer(MAX_HELD_PER_NAME)
        set_up.state = SetUpState.CONFIRMED if is_active else SetUpState.FAILED
        self._pending.pop((cid, (name.lower(), resource)), None)
        return set_up, released

    def take_due(self, now: Instant) -> list[tuple[ConnectionId, SetUp]]:
        """Returns what has been without an answer for long enough to be announced again."""
        due = []
        for (cid, _), set_up in self._pending.items():
            if now - set_up.sent_at < ANNOUNCE_INTERVAL:
                break
            due.append((cid, set_up))
        for cid, set_up in due:
            self._note_sent(cid, set_up, now)
        return due

    def forget_connection(self, cid: ConnectionId) -> None:
        """A gateway is gone, and what it was told with it."""
        for key in list(self._set_ups.get(cid, {})):
            self._forget(cid, key)

    def forget_resource(self, resource: ResourceId) -> None:
        """A resource is gone or authorised elsewhere."""
        for cid, set_ups in list(self._set_ups.items()):
            for key in [key for key in set_ups if key[1] == resource]:
                self._forget(cid, key)

    def forget_names(self, names: set[str]) -> None:
        """The resources of some names have changed; `names` in lower case."""
        for cid, set_ups in list(self._set_ups.items()):
            for key in [key for key in set_ups if key[0] in names]:
                self._forget(cid, key)

    def names(self) -> set[str]:
        """Returns every name that a gateway was told of, in lower case."""
        return {name for set_ups in self._set_ups.values() for name, _ in set_ups}

    # in detail

    def _is_due(self, cid: ConnectionId, set_up: SetUp, now: Instant) -> bool:
        if now - set_up.sent_at < ANNOUNCE_INTERVAL:
            return False
        self._note_sent(cid, set_up, now)
        return True

    def _note_sent(self, cid: ConnectionId, set_up: SetUp, now: Instant) -> None:
        set_up.sent_at = now
        place = cid, (set_up.name.lower(), set_up.resource)
        self._pending.pop(place, None)
        self._pending[place] = set_up

    def _hold(self, set_up: SetUp, packet: bytes, header: IpHeader) -> None:
        if self._held >= MAX_HELD:
            return
        before = len(set_up.buffer)
        set_up.buffer.add(packet, header)
        self._held += len(set_up.buffer) - before

    def _forget(self, cid: ConnectionId, key: _Key) -> None:
        set_up = self._set_ups[cid].pop(key)
        self._pending.pop((cid, key), None)
        self._held -= len(set_up.buffer)
        self._count -= 1
        self.shrunk.add(cid)
        if not self._set_ups[cid]:
            del self._set_ups[cid]

    def _make_room(self) -> None:
        every = [(set_up.is_used, cid, key) for cid, set_ups in self._set_ups.items() for key, set_up in set_ups.items()]
        every.sort(key=lambda place: place[0])
        for _, cid, key in every[: MAX_SET_UPS // 4]:
            self._forget(cid, key)
