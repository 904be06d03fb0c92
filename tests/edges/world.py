"""A world from a seed: programs, network, portal, clock, and what has been sent in it.

Only its own `random.Random(seed)` and the machines' seeded generators decide anything, so the same seed and steps are the same run.
Time jumps from one deadline to the next; only those who have something to do are asked.
"""

from __future__ import annotations

import heapq
import ipaddress
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from firezone.base.net import Endpoint
from firezone.base.timing import MILLISECOND, SECOND, Instant, seconds
from firezone.wire.ip import ICMP, ICMPV6, TCP, UDP, decode_ip
from tests.edges.network import KINDS, Edge, Network
from tests.edges.portal import WorldPortal
from tests.edges.programs import Client, Fault, Gateway, Program, Relay
from tests.edges.reference import Address, Choice, Model, Resource
from tests.harness import packets
from tests.harness.engines import ManualClock
from tests.harness.twins.offload import with_checksum

PATIENCE = 12
"""Seconds within which a packet has come there and back, connecting included."""
SYN, SYN_ACK = 2, 18
FIRST_PORT, PORTS = 20000, 5000
"""Source ports and identifiers of requests, in turn; as many requests are remembered."""
POOL = ("10.0.0.0/24", "10.0.0.0/24", "10.0.0.0/8", "10.0.1.7/32", "10.0.0.128/25", "192.168.7.0/24", "fd00:1::/64", "fd00:1::/48")
"""Networks of resources: equal, nested and apart."""
SERVERS = ("10.0.0.7", "10.0.0.130", "10.0.1.7", "10.9.9.9", "192.168.7.7", "198.18.0.5", "fd00:1::7", "fd00:1:0:1::7", "2600::7")
FILTERS: tuple[tuple[str, ...], ...] = ((), (), (), ("tcp/443",), ("udp/1000-2000",), ("icmp",), ("tcp/80", "udp/53", "icmp"))
PROBES = (("icmp", 0), ("udp", 53), ("udp", 1500), ("udp", 4000), ("tcp", 80), ("tcp", 443))


@dataclass
class Probe:
    """One request of an application and what became of it."""

    number: int
    client: int
    kind: str
    port: int
    source: Address
    destination: Address
    packet: bytes
    is_foreign: bool
    """Its source is not the client's tunnel address."""
    sent_at: Instant
    gateway: int | None = None
    """Where it came out."""
    is_answered: bool = False
    error: str | None = None
    """prohibited or unreachable, if somebody refused it."""

    @property
    def is_settled(self) -> bool:
        return self.is_answered or self.error is not None


@dataclass
class Notes:
    """What happened, for whoever looks for the cause of a fault; kept short."""

    lines: list[str] = field(default_factory=list)

    def add(self, now: Instant, *words: object) -> None:
        self.lines.append(f"{now / SECOND:.3f} " + " ".join(str(word) for word in words))
        if len(self.lines) > 400:
            del self.lines[:200]


class World:
    """Everybody."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = draw = random.Random(seed)
        self.clock = ManualClock()
        self.notes = Notes()
        self.counts: Counter[str] = Counter()
        self.ready: list[Program] = []
        self._queue: list[tuple[Instant, int, Callable[[], object]]] = []
        self._armed: dict[object, Instant] = {}
        self._count = 0
        self.network = Network(self.at, lambda: self.clock.time)
        self.network.is_direct_cut = draw.random() < 0.25
        sites = draw.randint(1, 3)
        gateways = tuple(
            min(number, sites - 1) if number < sites else draw.randrange(sites) for number in range(draw.randint(sites, 3))
        )
        self.model = Model(clients=draw.randint(1, 2), gateways=gateways)
        self.before = self.model.copy()
        self._hosts = 0
        self._give_resources()
        self.portal = WorldPortal(self, self.model.document())
        self.relays = [
            Relay(self, n, self._relay_addresses(n), draw.randint(5, 24) * MILLISECOND) for n in range(draw.randint(1, 2))
        ]
        self.gateways = [self._gateway(n) for n in range(len(gateways))]
        self.clients = [self._client(n) for n in range(self.model.clients)]
        self.probes: dict[int, Probe] = {}
        self._by_port: dict[int, Probe] = {}
        self._probed = 0
        self.answered: dict[int, Instant] = {}
        """When each client last got an answer."""
        self.shaken: dict[int, Instant] = {}
        """Until when a client's packets may be lost: something has just happened to its connections."""
        everybody: list[Program | Relay] = [*self.relays, *self.gateways, *self.clients]
        for one in everybody:
            one.boot()
            self.run(0.2)
        self.run(2)

    # people and places

    def _give_resources(self) -> None:
        draw, model = self.random, self.model
        for number in (*range(10, 10 + draw.randint(1, 4)), *((19,) if draw.random() < 0.4 else ())):
            self.model.resources[number] = self.draw_resource(number)
        for client in range(model.clients):
            model.granted |= {(client, number) for number in model.resources if draw.random() < 0.8}

    def draw_resource(self, number: int) -> Resource:
        draw = self.random
        address = None if number == 19 else draw.choice(POOL)
        sites = sorted(set(self.model.gateways))
        chosen = tuple(sorted(draw.sample(sites, draw.randint(1, min(2, len(sites))))))
        return Resource(number, address, () if address is None else draw.choice(FILTERS), chosen)

    def draw_edge(self, public: str, kinds: tuple[str, ...] = KINDS) -> Edge:
        lifetime = self.random.choice((60, 120, 300)) * SECOND
        return Edge(self.random.choice(kinds), public, lifetime)

    def draw_place(self, kinds: tuple[str, ...] = KINDS) -> tuple[Edge, tuple[str, ...]]:
        """A router and the addresses behind it, new ones each time."""
        self._hosts += 1
        edge = self.draw_edge(
            f"198.51.100.{self._hosts % 250 + 1}" if self._hosts < 250 else f"198.51.{self._hosts // 250}.{self._hosts % 250}",
            kinds,
        )
        ipv4 = edge.public if edge.kind == "open" else f"10.{200 + self._hosts // 250 % 50}.{self._hosts % 250}.2"
        ipv6 = f"2001:db8:1::{self._hosts:x}"
        return edge, self.random.choice(((ipv4,), (ipv4, ipv6), (ipv4, ipv6)))

    def _relay_addresses(self, number: int) -> tuple[str, ...]:
        return f"203.0.113.{10 + number}", f"2001:db8:5::{10 + number:x}"

    def _gateway(self, number: int) -> Gateway:
        edge, addresses = self.draw_place(("open", "open", "cone", "symmetric"))
        return Gateway(self, number, edge, addresses, self.random.randint(5, 60) * MILLISECOND)

    def _client(self, number: int) -> Client:
        edge, addresses = self.draw_place()
        return Client(self, number, edge, addresses, self.random.randint(5, 80) * MILLISECOND)

    def programs(self) -> list[Program]:
        return [*self.gateways, *self.clients]

    # time

    def at(self, delay: int, action: Callable[[], object]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.clock.time + delay, self._count, action))

    def rearm(self, one: Program | Relay) -> None:
        """Sees to it that somebody is ticked at its next deadline."""
        if isinstance(one, Relay):
            due = one.server.poll_timeout()
            deadline = None if due is None else due[0]
        else:
            deadline = one.engine.deadline
        known = self._armed.get(one)
        if deadline is None or (known is not None and self.clock.time < known <= deadline):
            return
        self._armed[one] = at = max(deadline, self.clock.time)
        life = one.life
        self.at(at - self.clock.time, lambda: self._fire(one, at, life))

    def _fire(self, one: Program | Relay, at: Instant, life: int) -> None:
        if self._armed.get(one) == at:
            del self._armed[one]
        if not one.is_alive or one.life != life:
            return
        if isinstance(one, Relay):
            one.tick()
        elif one.is_due():
            self._tick(one)
        else:
            self.rearm(one)

    def _tick(self, one: Program) -> None:
        one.tick()
        if isinstance(one, Client):
            self._read_client(one)
        elif isinstance(one, Gateway):
            self._read_gateway(one)
        self.rearm(one)

    def pump(self) -> None:
        """Lets everybody work off what has arrived at this moment."""
        for _ in range(1000):
            if not self.ready:
                return
            ready, self.ready = self.ready, []
            for one in ready:
                if one.is_alive and (one.is_ready or one.is_due()):
                    self._tick(one)
        raise Fault("time stands still")

    def run(self, duration: float, done: Callable[[], bool] | None = None) -> bool:
        """Lets so many seconds pass, or fewer once `done`. Returns whether it was."""
        end = self.clock.time + seconds(duration)
        self.pump()
        while not (done is not None and done()):
            if not self._queue or self._queue[0][0] > end:
                self.clock.time = end
                return done is not None and done()
            self.clock.time = max(self.clock.time, self._queue[0][0])
            while self._queue and self._queue[0][0] <= self.clock.time:
                heapq.heappop(self._queue)[2]()
            self.pump()
        return True

    def note(self, *words: object) -> None:
        self.notes.add(self.clock.time, *words)

    # what applications send

    def probe(self, client: int, server: str, kind: str, port: int, *, is_foreign: bool = False) -> Probe:
        """Sends one request from a client's host."""
        one = self.clients[client]
        destination = ipaddress.ip_address(server)
        source = one.own[0 if destination.version == 4 else 1]
        if is_foreign:
            source = ipaddress.ip_address("192.0.2.77" if destination.version == 4 else "2001:db8:77::77")
        self._probed += 1
        number, own_port = self._probed, FIRST_PORT + self._probed % PORTS
        packet = build(kind, str(source), server, number, (own_port, port))
        probe = Probe(number, client, kind, port, source, destination, packet, is_foreign, self.clock.time)
        self.probes[number] = self._by_port[own_port] = probe
        self.probes.pop(number - PORTS, None)
        self.note("probe", number, client, server, kind, port, "foreign" if is_foreign else "")
        self.counts[f"{kind} v{destination.version}"] += 1
        one.send(packet)
        return probe

    def _read_gateway(self, gateway: Gateway) -> None:
        for _, packet in gateway.tun.receive():
            number = number_of(packet)
            probe = self.probes.get(number)
            header = decode_ip(packet)
            if probe is None or packet != probe.packet:
                raise Fault(f"{gateway.name} let out a packet that nobody sent: {header}")
            if probe.gateway is not None:
                raise Fault(f"packet {number} came out twice, at {gateway.name} the second time")
            if probe.is_foreign:
                raise Fault(f"{gateway.name} let out a packet with a foreign source: {header}")
            asked = probe.client, gateway.number, probe.destination, probe.kind, probe.port
            if not self.model.allows(*asked) and not self.before.allows(*asked):
                raise Fault(f"{gateway.name} let out what the policy does not allow to client {probe.client}: {header}")
            probe.gateway = gateway.number
            self.note("packet", number, "came out of", gateway.name)
            gateway.send(answer_to(packet, number))

    def _read_client(self, client: Client) -> None:
        for _, packet in client.tun.receive():
            header = decode_ip(packet)
            number = number_of(packet)
            probe = self._by_port.get(number) if header.is_icmp_error else self.probes.get(number)
            if probe is None or probe.client != client.number:
                raise Fault(f"{client.name} received what it never asked for: {header}, packet {number}")
            if header.is_icmp_error:
                self._read_error(client, probe, packet, header)
            elif packet != answer_to(probe.packet, number):
                raise Fault(f"{client.name} received an answer that does not fit packet {number}: {header}")
            elif probe.is_answered:
                raise Fault(f"{client.name} received the answer to packet {number} twice")
            elif probe.gateway is None:
                raise Fault(f"{client.name} received an answer to packet {number} that no server saw")
            else:
                probe.is_answered = True
                self.note("packet", number, "is answered")

    def _read_error(self, client: Client, probe: Probe, packet: bytes, header: Any) -> None:
        if header.destination != probe.source:
            raise Fault(f"{client.name} received an ICMP error for {header.destination}")
        kind, code = packet[header.transport], packet[header.transport + 1]
        is_prohibited = (kind, code) in ((3, 13), (1, 1))
        probe.error = "prohibited" if is_prohibited else "unreachable"
        self.note("packet", probe.number, "is", probe.error)

    # what is to be expected

    def choice(self, probe: Probe) -> Choice:
        return self.model.choose(probe.client, probe.destination, probe.kind, probe.port)

    def must_arrive(self, probe: Probe) -> bool:
        """Whether nothing can excuse the loss of a packet."""
        if probe.is_foreign or not self.is_calm(probe.client):
            return False
        chosen = self.choice(probe).resources
        return bool(chosen) and all(
            resource.covers(probe.destination) and any(self.gateways[n].is_at_work() for n in self.model.gateways_of(resource))
            for resource in chosen
        )

    def is_calm(self, client: int) -> bool:
        """Whether the portal, the relays and everybody are there and nothing has happened to a client lately."""
        if self.clock.time < self.shaken.get(client, 0) or self.portal.is_away or not self.clients[client].is_at_work():
            return False
        return any(relay.is_at_work() for relay in self.relays) and all(r.is_at_work() or not r.is_alive for r in self.relays)

    def shake(self, duration: float, client: int | None = None) -> None:
        """Excuses losses for a while."""
        for number in range(len(self.clients)) if client is None else (client,):
            self.shaken[number] = max(self.shaken.get(number, 0), self.clock.time + seconds(duration))

    def resolve(self, gateway: Gateway, domain: str) -> None:
        self.at(5 * MILLISECOND, lambda: gateway.call(gateway.machine.handle_resolved, domain, []))


def build(kind: str, source: str, destination: str, number: int, ports: tuple[int, int]) -> bytes:
    """A request that carries its number: of UDP in the payload, of TCP as sequence number, of ICMP behind the identifier."""
    tag = number.to_bytes(8, "big")
    if kind == "udp":
        return packets.udp(source, destination, tag, ports=ports)
    if kind == "tcp":
        return packets.tcp(source, destination, seq=number, ports=ports, tcp_flags=SYN)
    return _echo(source, destination, ports[0].to_bytes(2, "big") + b"\0\1" + tag, is_reply=False)


def _echo(source: str, destination: str, body: bytes, *, is_reply: bool) -> bytes:
    is_v4 = "." in source
    kind = (0 if is_reply else 8) if is_v4 else (129 if is_reply else 128)
    message = bytes([kind, 0, 0, 0]) + body
    if not is_v4:
        return with_checksum(packets.ip(source, destination, ICMPV6, message), 40, ICMPV6)
    total = sum(int.from_bytes(message[at : at + 2].ljust(2, b"\0"), "big") for at in range(0, len(message), 2))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = 0xFFFF ^ ((total & 0xFFFF) + (total >> 16))
    return packets.ip(source, destination, ICMP, message[:2] + checksum.to_bytes(2, "big") + message[4:])


def number_of(packet: bytes) -> int:
    """Reads the number out of a request or an answer; of an ICMP error, whose quotation may be cut, the source port it quotes."""
    header = decode_ip(packet)
    at = header.transport
    if header.is_icmp_error:
        quoted = packet[at + 8 :]
        is_echo = (quoted[9] if quoted[0] >> 4 == 4 else quoted[6]) in (ICMP, ICMPV6)
        at = (20 if quoted[0] >> 4 == 4 else 40) + (4 if is_echo else 0)
        return int.from_bytes(quoted[at : at + 2], "big")
    if header.protocol == TCP:
        is_request = packet[at + 13] == SYN
        return int.from_bytes(packet[at + 4 : at + 8], "big") if is_request else int.from_bytes(packet[at + 8 : at + 12], "big") - 1
    return int.from_bytes(packet[at + 8 : at + 16], "big") if header.protocol in (UDP, ICMP, ICMPV6) else -1


def answer_to(packet: bytes, number: int) -> bytes:
    """What a server answers: addresses and ports swapped."""
    header = decode_ip(packet)
    source, destination = str(header.destination), str(header.source)
    ports = (header.destination_port or 0, header.source_port or 0)
    if header.protocol == UDP:
        return packets.udp(source, destination, number.to_bytes(8, "big"), ports=ports)
    if header.protocol == TCP:
        return packets.tcp(source, destination, ports=ports, seq=7, ack=number + 1, tcp_flags=SYN_ACK)
    return _echo(source, destination, packet[header.transport + 4 :], is_reply=True)


__all__ = ["PATIENCE", "POOL", "PROBES", "SERVERS", "Endpoint", "Probe", "World"]
