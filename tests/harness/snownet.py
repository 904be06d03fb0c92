"""Nodes on a virtual clock, joined by a network that can lose, delay, repeat, cut and translate, and by a portal that signals.

    Host ──(NAT)── Network ──(NAT)── Host        candidates travel beside it, after `World.signalling`
                      │
                    relays                       handed out by `World.hand_out`

Time jumps from one announced deadline to the next, so a deadline that is not announced is a test that hangs or fails.
"""

from __future__ import annotations

import heapq
import random
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from firezone.base.errors import FirezoneError
from firezone.base.ids import ConnectionId
from firezone.base.net import Endpoint, Transmit
from firezone.base.rng import SeededRng
from firezone.base.timing import MILLISECOND, SECOND, Instant, seconds
from firezone.proto.ice.checks import IceCredentials
from firezone.proto.noise.sessions import SessionStore
from firezone.proto.snownet.events import (
    ConnectionClosed,
    ConnectionEstablished,
    ConnectionFailed,
    InvalidateIceCandidate,
    NewIceCandidate,
    NodeEvent,
    Role,
)
from firezone.proto.snownet.goodbye import is_goodbye
from firezone.proto.snownet.node import Node
from firezone.wire import stun
from tests.harness.relay_model import RelayModel
from tests.harness.sessions import SlowSessionStore

EPOCH = 1_700_000_000 * SECOND
START = 1000 * SECOND


def endpoint(text: str, port: int = 52625) -> Endpoint:
    return Endpoint.from_text(text, port)


@dataclass
class Datagram:
    """What was put on the wire, as the sender sent it."""

    at: Instant
    sender: Host
    transmit: Transmit

    @property
    def kind(self) -> str:
        payload = self.transmit.payload
        if stun.is_stun(payload):
            return "stun"
        if 0x40 <= payload[0] <= 0x4F:
            return "channel"
        return {1: "initiation", 2: "response", 3: "cookie", 4: "data"}[payload[0]]

    @property
    def is_keepalive(self) -> bool:
        return self.kind == "data" and len(self.transmit.payload) == 32


@dataclass
class Nat:
    """A port-restricted NAT with endpoint-independent mapping, or a symmetric one."""

    public: str
    is_symmetric: bool = False
    first_port: int = 40000
    mappings: dict[object, Endpoint] = field(default_factory=dict)
    permitted: dict[Endpoint, set[Endpoint]] = field(default_factory=dict)

    def outgoing(self, source: Endpoint, destination: Endpoint) -> Endpoint:
        key = (source, destination) if self.is_symmetric else source
        if key not in self.mappings:
            self.mappings[key] = endpoint(self.public, self.first_port + len(self.mappings))
        public = self.mappings[key]
        self.permitted.setdefault(public, set()).add(destination)
        return public

    def incoming(self, source: Endpoint, destination: Endpoint) -> Endpoint | None:
        if source not in self.permitted.get(destination, set()):
            return None
        for key, public in self.mappings.items():
            if public == destination:
                return key[0] if isinstance(key, tuple) else key  # type: ignore[return-value]
        return None


class Host:
    """A machine with a Node, its addresses and what its user saw."""

    def __init__(self, world: World, name: str, role: Role, addresses: list[Endpoint], nat: Nat | None = None) -> None:
        self.world = world
        self.name = ConnectionId(name)
        self.role = role
        self.addresses = addresses
        self.nat = nat
        self.sessions: SessionStore = world.make_store()
        self.node = Node(role, store=self.sessions, rng=SeededRng(name.encode()), now=world.now, utc=EPOCH + world.now)
        self.received: list[tuple[ConnectionId, bytes]] = []
        self.events: list[tuple[Instant, NodeEvent]] = []
        self.errors: list[FirezoneError] = []
        self.is_alive = True
        self.mutes_signalling = False
        self.heeds_goodbye = False
        """Drops the connection on the peer's goodbye, as the machines above a node do, instead of noting the packet."""
        self.node.set_local_addresses(addresses, world.now)

    @property
    def store(self) -> SlowSessionStore:
        """The slow twin, to look into; a world made with another store has none."""
        assert isinstance(self.sessions, SlowSessionStore)
        return self.sessions

    def send(self, peer: Host, packet: bytes) -> None:
        self.node.encapsulate(peer.name, packet, self.world.now)
        self.world.collect(self)

    def events_of(self, kind: type[NodeEvent]) -> list[NodeEvent]:
        return [event for _, event in self.events if isinstance(event, kind)]

    def is_established(self) -> bool:
        return bool(self.events_of(ConnectionEstablished))

    def failed_at(self) -> Instant | None:
        return next((at for at, event in self.events if isinstance(event, ConnectionFailed)), None)

    def closed(self) -> bool:
        return bool(self.events_of(ConnectionClosed))

    def sent(self, kind: str, *, since: Instant = 0) -> list[Datagram]:
        return [
            datagram for datagram in self.world.wire if datagram.sender is self and datagram.kind == kind and datagram.at >= since
        ]


class World:
    """The clock, the network between hosts and the portal."""

    def __init__(self, seed: int = 0, make_store: Callable[[], SessionStore] = SlowSessionStore) -> None:
        self.make_store = make_store
        self.now: Instant = START
        self.latency = 10 * MILLISECOND
        self.signalling: int | None = 50 * MILLISECOND
        """Delay of candidates through the portal; None: lost."""
        self.hosts: list[Host] = []
        self.relays: list[RelayModel] = []
        self.wire: list[Datagram] = []
        self.drop: Callable[[Datagram], bool] = lambda _: False
        self.delays: Callable[[Datagram], Iterable[int]] = lambda _: (self.latency,)
        """When copies of a datagram arrive, counted from now; none: lost."""
        self.random = random.Random(seed)
        self._queue: list[tuple[Instant, int, Callable[[], None]]] = []
        self._count = 0

    def client(self, *addresses: str, name: str = "client", nat: Nat | None = None) -> Host:
        return self._add(name, Role.CLIENT, addresses, nat)

    def gateway(self, *addresses: str, name: str = "gateway", nat: Nat | None = None) -> Host:
        return self._add(name, Role.GATEWAY, addresses, nat)

    def relay(self, *addresses: str, name: str = "relay", kind: type[RelayModel] = RelayModel) -> RelayModel:
        model = kind(name, *addresses)
        self.relays.append(model)
        return model

    def hand_out(self, *hosts: Host, remove: Iterable[RelayModel] = (), relays: Iterable[RelayModel] | None = None) -> None:
        """The portal tells some hosts, or all, of all relays (or of these)."""
        for host in hosts or tuple(self.hosts):
            entries = [model.entry(host.name) for model in (self.relays if relays is None else relays)]
            host.node.update_relays([model.id for model in remove], entries, self.now)
            self.collect(host)

    def authorize(self, client: Host, gateway: Host, *, psk: bytes = b"k" * 32, gateway_psk: bytes | None = None) -> None:
        """The portal lets a client speak to a gateway: the gateway hears of it first."""
        seed = client.node.public_key.hex()[:8] + gateway.node.public_key.hex()[:8]
        ours, theirs = (
            IceCredentials("c" + seed[:4], seed + "client-password"),
            IceCredentials("g" + seed[8:12], seed + "gateway-pwd"),
        )
        gateway.node.upsert_connection(client.name, client.node.public_key, gateway_psk or psk, theirs, ours, self.now)
        self.collect(gateway)
        client.node.upsert_connection(gateway.name, gateway.node.public_key, psk, ours, theirs, self.now)
        self.collect(client)

    def connected(self, **options: bytes) -> tuple[Host, Host]:
        """Returns a client and a gateway on one network that have just connected."""
        client, gateway = self.client("192.0.2.1"), self.gateway("198.51.100.1")
        self.authorize(client, gateway, **options)
        self.run(1)
        assert client.is_established()
        assert gateway.is_established()
        return client, gateway

    def at(self, delay: int, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay, self._count, action))

    def run(self, duration: float) -> None:
        """Lets so many seconds pass."""
        self.run_until(lambda: False, duration)

    def run_until(self, condition: Callable[[], bool], limit: float = 60) -> bool:
        """Lets time pass until the condition holds. Returns whether it came to hold within `limit` seconds."""
        end = self.now + seconds(limit)
        steps = 0
        while not condition():
            deadline = self._next_deadline()
            if deadline is None or deadline > end:
                self.now = end
                return condition()
            stalled = deadline <= self.now
            steps = steps + 1 if stalled else 0
            assert steps < 10_000, f"time stands still: {[host.node.poll_timeout() for host in self.hosts]}"
            self.now = max(self.now, deadline)
            self._step()
        return True

    def collect(self, host: Host) -> None:
        """Takes everything a host has to say."""
        while (transmit := host.node.poll_transmit()) is not None:
            self._carry(Datagram(self.now, host, transmit))
        while (event := host.node.poll_event()) is not None:
            host.events.append((self.now, event))
            if isinstance(event, NewIceCandidate | InvalidateIceCandidate):
                self._signal(host, event)

    def deliver(self, host: Host, local: Endpoint, remote: Endpoint, payload: bytes) -> None:
        """Hands a datagram to a host, as if it had come from there."""
        try:
            result = host.node.handle_datagram(local, remote, payload, self.now)
        except FirezoneError as error:
            host.errors.append(error)
        else:
            if result is not None and host.heeds_goodbye and is_goodbye(result[1]):
                host.node.remove_connection(result[0])
            elif result is not None:
                host.received.append(result)
        self.collect(host)

    def _add(self, name: str, role: Role, addresses: tuple[str, ...], nat: Nat | None) -> Host:
        host = Host(self, name, role, [endpoint(address) for address in addresses], nat)
        self.hosts.append(host)
        return host

    def _next_deadline(self) -> Instant | None:
        deadlines = [self._queue[0][0]] if self._queue else []
        deadlines += [due[0] for host in self.hosts if host.is_alive and (due := host.node.poll_timeout()) is not None]
        return min(deadlines, default=None)

    def _step(self) -> None:
        while self._queue and self._queue[0][0] <= self.now:
            heapq.heappop(self._queue)[2]()
        for host in self.hosts:
            due = host.node.poll_timeout()
            if host.is_alive and due is not None and due[0] <= self.now:
                host.node.handle_timeout(self.now)
                self.collect(host)

    def _carry(self, datagram: Datagram) -> None:
        if not datagram.sender.is_alive:
            return
        self.wire.append(datagram)
        if self.drop(datagram):
            return
        source, nat = datagram.transmit.source, datagram.sender.nat
        if source is None:
            is_ipv4 = datagram.transmit.destination.is_ipv4
            source = next((address for address in datagram.sender.addresses if address.is_ipv4 == is_ipv4), None)
        if source is None or source not in datagram.sender.addresses:
            return
        public = source if nat is None else nat.outgoing(source, datagram.transmit.destination)
        for delay in self.delays(datagram):
            self.at(delay, lambda: self._arrive(public, datagram.transmit.destination, datagram.transmit.payload))

    def _arrive(self, source: Endpoint, destination: Endpoint, payload: bytes) -> None:
        for model in self.relays:
            if model.owns(destination):
                for sender, target, answer in model.handle(source, destination, payload, self.now):
                    self.at(self.latency, lambda sender=sender, target=target, answer=answer: self._arrive(sender, target, answer))  # type: ignore[misc]
                return
        for host in self.hosts:
            local: Endpoint | None = destination
            if host.nat is not None:
                local = host.nat.incoming(source, destination)
            if host.is_alive and local in host.addresses:
                assert local is not None
                self.deliver(host, local, source, payload)
                return

    def _signal(self, host: Host, event: NewIceCandidate | InvalidateIceCandidate) -> None:
        if self.signalling is None or host.mutes_signalling:
            return
        for peer in self.hosts:
            if peer.name == event.cid:
                self.at(self.signalling, lambda peer=peer: self._tell(host, peer, event))  # type: ignore[misc]

    def _tell(self, host: Host, peer: Host, event: NewIceCandidate | InvalidateIceCandidate) -> None:
        if isinstance(event, NewIceCandidate):
            peer.node.add_remote_candidate(host.name, event.candidate, self.now)
        else:
            peer.node.remove_remote_candidate(host.name, event.candidate, self.now)
        self.collect(peer)


def packet(number: int = 0, size: int = 28) -> bytes:
    """Returns an IP packet that is told from others by its number."""
    return struct.pack(">BBH", 0x45, 0, size) + number.to_bytes(size - 4, "big")
