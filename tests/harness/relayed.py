"""Whole clients and gateways that reach nothing but relays:  member ── OutwardNetwork ── relay ── inward network ── member."""

from __future__ import annotations

from collections.abc import Iterable

from firezone.base.net import Endpoint, Transmit
from firezone.base.secret import SecretText
from firezone.datapath.punt import endpoint_of
from firezone.kernels.ring import PacketRing
from firezone.loop.memory import MemoryNetwork, MemorySource
from firezone.wire.portal.shared import RelaysPresence, TurnRelay
from tests.harness.relay_model import RelayModel
from tests.harness.roles import Member, World, uid


class OutwardNetwork(MemoryNetwork):
    """What members send into: it knows relays only. What they receive from is `inward`."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = MemoryNetwork()

    def attach(self, endpoint: Endpoint, ring: PacketRing) -> None:
        self.inward.attach(endpoint, ring)

    def detach(self, endpoint: Endpoint) -> None:
        self.inward.detach(endpoint)

    def attach_relay(self, endpoint: Endpoint, ring: PacketRing) -> None:
        super().attach(endpoint, ring)


class RelayMember:
    """A relay on the network."""

    def __init__(self, network: OutwardNetwork, number: int, *addresses: str, kind: type[RelayModel] = RelayModel) -> None:
        self.model = kind(uid(number), *addresses)
        self.network = network
        self.source = MemorySource()
        self.passes_strangers = False
        """Whether members are reached from lent addresses, too: if not, as behind NATs, both peers need a channel."""
        self._attached: set[Endpoint] = set()
        self._attach(self.model.servers)

    def work(self, now: int) -> bool:
        """Handles what arrived. Returns whether anything did."""
        ring = self.source.ring
        count = ring.ready()
        for _ in range(count):
            slot = ring.tail()
            start, length, stride = (int(column[slot]) for column in (ring.offset, ring.length, ring.stride))
            data = ring.slab[slot, start : start + length].tobytes()
            source, destination = endpoint_of(ring.remote[slot]), endpoint_of(ring.local[slot])
            for at in range(0, length, stride):
                self._handle(source, destination, data[at : at + stride], now)
            ring.release(1)
        return count > 0

    def entries(self) -> tuple[TurnRelay, ...]:
        """What the portal says of it."""
        model = self.model
        return tuple(
            TurnRelay(
                id=model.id,
                addr=str(server),
                username=model.username,
                password=SecretText(model.password),
                expires_at=2_000_000_000,  # type: ignore[arg-type]
            )
            for server in model.servers
        )

    def _handle(self, source: Endpoint, destination: Endpoint, datagram: bytes, now: int) -> None:
        if not self.model.is_alive:
            return
        for sender, target, answer in self.model.handle(source, destination, datagram, now):
            if sender in self.model.servers or self.passes_strangers:
                self.network.inward.deliver(sender, Transmit(None, target, answer))
        for lease in self.model.leases.values():
            self._attach(lease.lent)

    def _attach(self, endpoints: Iterable[Endpoint]) -> None:
        for endpoint in endpoints:
            if endpoint not in self._attached:
                self._attached.add(endpoint)
                self.network.attach_relay(endpoint, self.source.ring)


class RelayedWorld(World):
    """A world in which members have no way but through relays."""

    def __init__(self) -> None:
        super().__init__()
        self.outward = OutwardNetwork()
        self.network = self.outward
        self.relays: list[RelayMember] = []

    def relay(self, number: int = 50, *addresses: str, kind: type[RelayModel] = RelayModel) -> RelayMember:
        member = RelayMember(self.outward, number, *(addresses or ("203.0.113.10",)), kind=kind)
        self.relays.append(member)
        return member

    def hand_out(self, *members: Member, gone: Iterable[RelayMember] = ()) -> None:
        """The portal tells members of all relays."""
        entries = tuple(entry for relay in self.relays if relay not in gone for entry in relay.entries())
        for member in members or tuple(self.members):
            member.tell(RelaysPresence(disconnected_ids=tuple(relay.model.id for relay in gone), connected=entries))
        self.run(1)

    def pump(self) -> None:
        super().pump()
        while any([relay.work(self.clock.time) for relay in self.relays]):
            super().pump()
