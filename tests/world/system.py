"""The real machines of one walk, and what can be done to them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from firezone.base.errors import RemoteError, StateError
from firezone.base.timing import MILLISECOND, SECOND
from firezone.proto.client.state import ClientState
from firezone.proto.gateway.state import GatewayState
from firezone.proto.portal.login import Upgrade
from firezone.wire.ip import IpHeader, decode_ip
from firezone.wire.phoenix import encode_frame
from tests.harness import packets
from tests.harness.relay_model import RealRelay
from tests.harness.roles import ClientMember, GatewayMember, Member, World, uid
from tests.harness.service_portal import ServicePortal
from tests.unit.proto.portal.bench import AGENTS
from tests.world.network import Network
from tests.world.policy import SITES, USERS, ZONE, Account

if TYPE_CHECKING:
    pass

FIRST_CLIENT, FIRST_GATEWAY = 0x10, 0x20
RELAYS = ("203.0.113.10", "203.0.113.20")
EXPECTED = (RemoteError, StateError)
"""What members hear while somebody has started anew, and packets of connections that are gone."""
HEARTBEAT = 25 * SECOND
DELAYS = (0, 0, 5 * MILLISECOND, 60 * MILLISECOND)


def needs_relay(seed: int) -> bool:
    """Whether a world's clients and gateways reach each other over relays only."""
    return random.Random(f"paths {seed}").random() < 0.3


class WorldPortal(ServicePortal):
    """The portal service, which can go away and come back, and relays that log in at it."""

    def __init__(self, world: World, policy: str) -> None:
        super().__init__(world, policy)
        self.relay_sockets: dict[int, int] = {}
        """Relays by number, and their sockets."""

    def login(self, member: Member) -> None:
        if self.is_away:
            return
        super().login(member)
        member.machine.set_portal_reached(True, self.world.clock.time)
        member.settle()

    def leave(self) -> None:
        """The portal is killed: what it had not stored is gone."""
        self.is_away = True
        self.sockets = {}
        self.relay_sockets = {}
        for member in self.world.members:
            if member.is_alive:
                member.machine.set_portal_reached(False, self.world.clock.time)
                member.settle()

    def come_back(self) -> None:
        self.is_away = False
        self.start()
        world = self.world
        assert isinstance(world, System)
        for number, relay in world.relays.items():
            self.login_relay(number, relay)
        for member in world.members:
            if member.is_alive:
                self.login(member)

    def work(self) -> None:
        if not self.is_away:
            super().work()

    def beat(self) -> None:
        """Every program shows the portal that it lives."""
        clock = self.world.clock
        for number in [*self.sockets, *self.relay_sockets.values()] if not self.is_away else ():
            self.service.handle_text(number, encode_frame("phoenix", "heartbeat", b"{}", 1), clock.time, clock.utc())
        self.deliver()
        self.world.at(HEARTBEAT, self.beat)

    def hear(self, member: Member, message: Any) -> None:
        if not self.is_away:
            super().hear(member, message)

    def edit(self, policy: str) -> None:
        self.policy = policy
        if not self.is_away:
            super().edit(policy)

    def login_relay(self, number: int, relay: RealRelay) -> None:
        if self.is_away:
            return
        address = relay.servers[0].host
        query = {"token": "relay-token", "port": "3478", "ipv4": address}
        login = self.service.check_login(Upgrade("/relay/websocket", query, AGENTS["relay"], address), self.world.clock.utc())
        self.next_number += 1
        self.relay_sockets[number] = self.next_number
        clock = self.world.clock
        self.service.handle_connected(self.next_number, login, clock.time, clock.utc())
        join = encode_frame("relay", "phx_join", f'{{"stamp_secret":"{relay.secret.reveal()}"}}'.encode(), 0)
        self.service.handle_text(self.next_number, join, clock.time, clock.utc())
        self.deliver()

    def lose_relay(self, number: int) -> None:
        socket = self.relay_sockets.pop(number, None)
        if socket is not None and not self.is_away:
            self.service.handle_disconnected(socket, self.world.clock.time)
            self.deliver()


@dataclass
class Probe:
    """One packet of an application, told apart from all others by its number."""

    number: int
    client: int
    header: IpHeader
    arrived: list[tuple[str, IpHeader]]
    """The sites it has reached, and how."""
    answers: int = 0
    errors: list[str] = field(default_factory=list)
    """The ICMP errors about it: type, code and sender."""


class System(World):
    """Clients of two users, gateways of three sites, up to two relays, and the portal."""

    portal: WorldPortal
    network: Network

    def __init__(self, seed: int, account: Account) -> None:
        super().__init__()
        delay = random.Random(f"network {seed}").choice(DELAYS)
        self.network = Network(self.at, lambda: self.clock.time, delay=delay)
        self.network.blocks_direct = needs_relay(seed)
        self.relays: dict[int, RealRelay] = {}
        self.portal = WorldPortal(self, account.text())
        self.probes: dict[int, Probe] = {}
        self.clients: list[ClientMember] = []
        self.count = 0
        self.site_of: dict[str, str] = {}
        self.gateways: dict[str, list[GatewayMember]] = {site: [] for site in SITES}
        for number in range(2):
            self.start_relay(number)
        outer = 1
        for site in SITES:
            for _ in range(2 if site == "Office" else 1):
                self._gateway(site, outer)
                outer += 1
        for number, user in enumerate(USERS):
            self.clients.append(self._client(number, user))
        self.portal.beat()
        self.run(1)

    def _gateway(self, site: str, number: int) -> None:
        member = GatewayMember(self, FIRST_GATEWAY + number, f"198.51.100.{number}", GatewayState)
        member.site, member.expected_errors = dict(ZONE), EXPECTED
        self.portal.tokens[member.id] = f"{site}-token"
        self.site_of[member.id] = site
        self.gateways[site].append(member)
        self._join(member)

    def _client(self, number: int, user: str) -> ClientMember:
        member = ClientMember(self, FIRST_CLIENT + number, f"192.0.2.{number + 1}", ClientState)
        member.expected_errors = EXPECTED
        self.portal.tokens[member.id] = f"{user}-token"
        self._join(member)
        return member

    # relays

    def start_relay(self, number: int) -> None:
        relay = self.relays.get(number) or RealRelay(uid(0x50 + number), RELAYS[number])
        self.count += 1
        relay.restart(f"{self.count:064x}")
        self.relays[number] = relay
        for server in relay.servers:
            self.network.relays[server.ip] = relay
        self.portal.login_relay(number, relay)

    def stop_relay(self, number: int) -> None:
        relay = self.relays.pop(number)
        for server in relay.servers:
            del self.network.relays[server.ip]
        self.portal.lose_relay(number)

    # packets

    def send_probe(self, client: int, destination: str, protocol: str, port: int, source: str | None = None) -> Probe:
        """Sends one packet and returns what will be seen of it."""
        member = self.clients[client]
        self.count += 1
        number = self.count
        own = source or str(member.ipv4 if "." in destination else member.ipv6)
        mark = number.to_bytes(4, "big")
        ports = (1024 + number % 60_000, port)
        match protocol:
            case "udp":
                packet = packets.udp(own, destination, mark, ports=ports)
            case "tcp":
                packet = packets.tcp(own, destination, mark, ports=ports)
            case _:
                packet = packets.echo(own, destination, 1 + number % 65_535)
        probe = self.probes[number] = Probe(number, client, decode_ip(packet), [])
        assert member.tun.send(packet)
        self.pump()
        return probe

    def pump(self) -> None:
        super().pump()
        while self._serve_sites() or self._serve_applications():
            super().pump()

    def _serve_sites(self) -> bool:
        """Answers what reached the sites."""
        has_answered = False
        for site, members in self.gateways.items():
            for gateway in members:
                for packet in gateway.received() if gateway.is_alive else ():
                    header = decode_ip(packet)
                    probe = self._probe_of(packet, header)
                    assert probe is not None, f"a packet that nobody sent came to {site}: {packet.hex()}"
                    probe.arrived.append((site, header))
                    gateway.tun.send(_answer(packet, header))
                    has_answered = True
        return has_answered

    def _serve_applications(self) -> bool:
        for number, client in enumerate(self.clients):
            for packet in client.received() if client.is_alive else ():
                self._take_answer(number, packet)
        return False

    def _take_answer(self, client: int, packet: bytes) -> None:
        header = decode_ip(packet)
        if header.is_icmp_error:
            probe = self._probe_of_error(packet[header.transport + 8 :])
            assert probe is not None, f"an error about nothing: {packet.hex()}"
            assert probe.client == client, "an error came to another client"
            kind, code = packet[header.transport : header.transport + 2]
            probe.errors.append(f"{kind}/{code} from {header.source}")
            return
        probe = self._probe_of(packet, header)
        assert probe is not None, f"an answer that nobody gave: {packet.hex()}"
        sent = probe.header
        assert probe.client == client, "an answer came to another client"
        assert (header.source, header.destination) == (sent.destination, sent.source)
        assert (header.source_port, header.destination_port) == (sent.destination_port, sent.source_port)
        probe.answers += 1

    def _probe_of(self, packet: bytes, header: IpHeader) -> Probe | None:
        """Finds the probe by the number in its payload; an echo, which has none, by its identifier."""
        if header.protocol in (packets.TCP, packets.UDP):
            return self.probes.get(int.from_bytes(packet[-4:], "big"))
        return self._latest(header.protocol, header.source_port)

    def _probe_of_error(self, embedded: bytes) -> Probe | None:
        """Finds the probe that an ICMP error is about; little of it may be left."""
        is_v4 = embedded[0] >> 4 == 4
        protocol, transport = (embedded[9], embedded[20:28]) if is_v4 else (embedded[6], embedded[40:48])
        at = 0 if protocol in (packets.TCP, packets.UDP) else 4
        return self._latest(protocol, int.from_bytes(transport[at : at + 2], "big"))

    def _latest(self, protocol: int, source_port: int | None) -> Probe | None:
        wanted = protocol, source_port
        return next(
            (one for one in reversed(self.probes.values()) if (one.header.protocol, one.header.source_port) == wanted), None
        )


def _answer(packet: bytes, header: IpHeader) -> bytes:
    source, destination = str(header.destination), str(header.source)
    ports = (header.destination_port or 0, header.source_port or 0)
    if header.protocol == packets.UDP:
        return packets.udp(source, destination, packet[-4:], ports=ports)
    if header.protocol == packets.TCP:
        return packets.tcp(source, destination, packet[-4:], ports=ports)
    return packets.echo(source, destination, header.source_port or 0, reply=True)
