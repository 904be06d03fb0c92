"""The programs of a world: clients and gateways whole (state, compiled tables, engine), relays with their real machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from firezone.base.errors import FirezoneError, RemoteError, StillConnecting, UnknownConnection
from firezone.base.net import Endpoint
from firezone.base.rng import SeededRng
from firezone.base.secret import SecretText
from firezone.base.timing import MILLISECOND, SECOND
from firezone.datapath.tables import Tables
from firezone.kernels.ring import PacketRing
from firezone.loop.engine import Engine
from firezone.loop.memory import MemorySockets, MemoryTun
from firezone.proto.client.state import ClientState, ResourcesUpdated, TunConfig
from firezone.proto.gateway.state import GatewayState, ResolveName
from firezone.proto.relay.server import RelayServer
from firezone.proto.tunnel_state import ConnectionChanged, ReconnectPortal, SendToPortal
from firezone.wire import stun
from firezone.wire.portal import client as client_wire
from firezone.wire.portal import gateway as gateway_wire
from firezone.wire.portal.shared import PublicKey
from tests.edges.network import Edge, Place
from tests.edges.portal import secret_of
from tests.harness.relay import SlowChannels, SlowPorts

if TYPE_CHECKING:
    from firezone.wire.phoenix import Push
    from tests.edges.world import World

NORMAL = (RemoteError, UnknownConnection, StillConnecting)
"""Errors that a peer's mistakes and bad timing cause. Any other is ours."""
WAKES_PER_SECOND = 400
"""Ticks for timers alone, per second of virtual time and program: more is a timer that spins."""
TICKS_AT_ONCE = 64
"""Ticks of one program at one moment: more is one that never sleeps."""
EPOCH_S = 1_700_000_000


class Fault(AssertionError):
    """What must hold does not."""


class Program:
    """One client or gateway with everything below and above it."""

    role = ""
    state_class: type[Any]
    from_portal: Any
    to_portal: Any

    def __init__(self, world: World, number: int, edge: Edge, addresses: tuple[str, ...], delay: int) -> None:
        self.world = world
        self.number = number
        self.name = f"{self.role} {number}"
        self.edge = edge
        self.outer = tuple(Endpoint.from_text(text, 52625) for text in addresses)
        self.delay = delay
        self.life = 0
        self.is_alive = False
        self.is_ready = False
        """Something arrived that its engine has not looked at."""
        self.has_init = False
        self.own: tuple[Any, ...] = ()
        """Tunnel addresses."""
        self.errors = 0
        self._wakes = (0, 0)

    # life

    def boot(self) -> None:
        """Starts the program, anew after `crash`."""
        world = self.world
        self.life += 1
        self.tables = Tables(bytes(range(48)))
        self.tun = MemoryTun()
        self.tun.coalesce = False
        self.machine: Any = self.state_class(
            store=self.tables.sessions, channels=self.tables.channels,
            rng=SeededRng(f"{world.seed} {self.name} {self.life}".encode()), now=world.clock.time, utc=world.clock.utc(),
        )  # fmt: skip
        self.machine.set_portal_reached(False, world.clock.time)
        self.sockets = MemorySockets(world.network, list(self.outer))  # type: ignore[arg-type]
        self.engine = Engine(
            machine=self.machine, tables=self.tables, clock=world.clock, tun_source=self.tun.source, tun_sink=self.tun,
            udp_sources=[self.sockets.source], udp_sink=self.sockets,
        )  # fmt: skip
        self.is_alive, self.has_init = True, False
        self.connections: set[str] = set()
        self._settle_in()
        self.machine.set_local_addresses(list(self.outer), world.clock.time)
        self.settle()
        world.portal.log_in_soon(self, MILLISECOND)

    def _settle_in(self) -> None:
        ring: PacketRing = self.sockets.source.ring
        self.place = Place(self.outer, self.edge, self.delay, ring, self.wake)
        self.world.network.place(self.place)

    def move(self, addresses: tuple[str, ...], edge: Edge) -> None:
        """Is somewhere else: other addresses, another router."""
        self.world.network.remove(self.place)
        self.outer = tuple(Endpoint.from_text(text, 52625) for text in addresses)
        self.edge = edge
        self.sockets.endpoints = list(self.outer)
        self._settle_in()

    def crash(self) -> None:
        """Ends without a word; the portal notices that its socket is gone."""
        self.world.network.remove(self.place)
        self.is_alive = False
        self.life += 1
        self.world.portal.unlink(self, is_leaving=True)

    def stop(self) -> None:
        """Ends in order: with a goodbye to every peer."""
        self.machine.shutdown(self.world.clock.time)
        self.settle()
        self.crash()

    # inputs

    def wake(self) -> None:
        self.is_ready = True
        self.world.ready.append(self)

    def call(self, action: Any, *arguments: Any) -> None:
        """Calls the machine as the program around it does."""
        action(*arguments, self.world.clock.time)
        self.settle()

    def send(self, packet: bytes) -> None:
        """What an application (or, at a gateway, the site) sends into the TUN device."""
        if not self.tun.send(packet):
            raise Fault(f"{self.name} does not empty its TUN queue")
        self.wake()

    def is_due(self) -> bool:
        return self.engine.deadline is not None and self.engine.deadline <= self.world.clock.time

    def tick(self) -> None:
        """Lets the engine work until it sleeps."""
        now = self.world.clock.time
        if not self.is_ready:
            second = now // SECOND
            self._wakes = second, self._wakes[1] + 1 if self._wakes[0] == second else 1
            if self._wakes[1] > WAKES_PER_SECOND:
                raise Fault(f"{self.name} wakes without end: {self.engine.deadline_reason}")
        self.is_ready = False
        for _ in range(TICKS_AT_ONCE):
            more = self.engine.tick()
            self.report()
            if not more and self.engine.sleeps() and not self.is_due():
                return
        raise Fault(f"{self.name} never sleeps: deadline {self.engine.deadline} at {now}, {self.engine.deadline_reason}")

    # outputs

    def settle(self) -> None:
        self.engine.touch()
        self.report()
        if self.is_due():
            self.wake()
        self.world.rearm(self)

    def report(self) -> None:
        while (event := self.machine.poll_event()) is not None:
            self.on_event(event)
        if (errors := self.engine.errors.take()) is not None:
            for error in errors.exceptions:
                if not isinstance(error, NORMAL):
                    raise error
                self.errors += 1

    def on_event(self, event: object) -> None:
        match event:
            case SendToPortal(message):
                self.world.portal.hear(self, *self.to_portal.encode(message))
            case ReconnectPortal():
                self.machine.set_portal_reached(False, self.world.clock.time)
                self.world.portal.unlink(self)
                self.world.portal.log_in_soon(self, MILLISECOND)
            case ConnectionChanged(cid, is_up):
                self.world.note("up" if is_up else "down", self.name, event.detail)
                self.connections = self.connections | {cid} if is_up else self.connections - {cid}
            case _:
                self.world.note(self.name, event)

    # the portal's side

    def login(self) -> tuple[dict[str, str], str]:
        return {
            "token": self.token, "external_id": self.name, "name": self.name,
            "public_key": PublicKey(self.machine.public_key).to_text(),
        }, self.outer[0].host  # fmt: skip

    @property
    def token(self) -> str:
        raise NotImplementedError

    def join(self) -> object:
        return None

    def on_linked(self) -> None:
        self.machine.set_portal_reached(True, self.world.clock.time)
        self.settle()

    def on_unlinked(self) -> None:
        self.machine.set_portal_reached(False, self.world.clock.time)
        self.settle()

    def take(self, push: Push) -> None:
        message = self.from_portal.decode(push.event, push.payload)
        if push.event == "init":
            self.has_init = True
            self.own = message.interface.ipv4, message.interface.ipv6
        try:
            self.machine.handle_portal(message, self.world.clock.time, self.world.clock.utc())
        except FirezoneError as error:
            if not isinstance(error, NORMAL):
                raise
            self.errors += 1
        self.settle()

    def is_at_work(self) -> bool:
        """Whether it is alive and the portal reaches it."""
        return self.is_alive and self.has_init and self.world.portal.number_of(self) is not None


class Client(Program):
    role = "client"
    state_class = ClientState
    from_portal = client_wire.FROM_PORTAL
    to_portal = client_wire.TO_PORTAL
    machine: ClientState

    def boot(self) -> None:
        self.tun_config: TunConfig | None = None
        self.views: dict[str, Any] = {}
        super().boot()

    @property
    def token(self) -> str:
        return f"client {self.number}"

    def on_event(self, event: object) -> None:
        match event:
            case TunConfig():
                if event == self.tun_config:
                    raise Fault(f"{self.name} configures its device as it was")
                self.tun_config = event
            case ResourcesUpdated(resources):
                self.views = {view.id: view for view in resources}
            case _:
                super().on_event(event)


class Gateway(Program):
    role = "gateway"
    state_class = GatewayState
    from_portal = gateway_wire.FROM_PORTAL
    to_portal = gateway_wire.TO_PORTAL
    machine: GatewayState

    @property
    def token(self) -> str:
        return f"gateway {self.world.model.gateways[self.number]}"

    def on_event(self, event: object) -> None:
        match event:
            case ResolveName(domain):
                self.world.resolve(self, domain)
            case _:
                super().on_event(event)


class Relay:
    """A relay: its machine, with dictionaries in the place of the compiled channel table, which must agree with them."""

    role = "relay"

    def __init__(self, world: World, number: int, addresses: tuple[str, ...], delay: int) -> None:
        self.world = world
        self.number = number
        self.name = f"relay {number}"
        self.servers = [Endpoint.from_text(text, 3478) for text in addresses]
        self.delay = delay
        self.life = 0
        self.is_alive = False
        self.relayed = 0
        self.errors = 0

    def boot(self) -> None:
        """Starts with a new secret: to the portal it is another relay."""
        world = self.world
        self.life += 1
        self.is_alive = True
        self.secret = secret_of(self.number * 1000 + self.life)
        ips = {server.is_ipv4: server.ip for server in self.servers}
        log: list[tuple[object, ...]] = []
        self.channels, self.ports = SlowChannels(log), SlowPorts(log)
        self._log = log
        self.server = RelayServer(
            public_ip4=ips.get(True), public_ip6=ips.get(False), lowest_port=49152, highest_port=65535,
            secret=SecretText(self.secret.reveal()), rng=SeededRng(f"{world.seed} {self.name} {self.life}".encode()),
            now=world.clock.time, utc=world.clock.utc(), channels=self.channels, ports=self.ports,
        )  # fmt: skip
        for server in self.servers:
            world.network.place_relay(server.ip, self.delay, self.handle)
        world.portal.log_in_soon(self, MILLISECOND)

    def crash(self) -> None:
        self.is_alive = False
        self.life += 1
        for server in self.servers:
            self.world.network.remove_relay(server.ip)
        self.world.portal.unlink(self, is_leaving=True)

    def login(self) -> tuple[dict[str, str], str]:
        found = {"token": "relay", "port": "3478", "name": self.name}
        for server in self.servers:
            found["ipv4" if server.is_ipv4 else "ipv6"] = server.host
        return found, self.servers[0].host

    def join(self) -> object:
        return {"stamp_secret": self.secret.reveal()}

    def on_linked(self) -> None:
        """Nothing: a relay works with the portal or without it."""

    def on_unlinked(self) -> None:
        """Nothing."""

    def take(self, push: Push) -> None:
        """Nothing to obey: the portal greets, that is all."""

    def is_at_work(self) -> bool:
        return self.is_alive and self.world.portal.number_of(self) is not None

    def allocations(self) -> int:
        return len(self.ports.open_ports)

    # data

    def handle(self, source: Endpoint, destination: Endpoint, datagram: bytes) -> None:
        now = self.world.clock.time
        self.server.handle_timeout(now)
        if destination not in self.servers:
            self._to_client(source, destination, datagram)
        elif stun.is_stun(datagram):
            self.server.handle_datagram(destination, source, datagram, now)
            while (transmit := self.server.poll_transmit()) is not None:
                self._send(destination, transmit.remote, transmit.payload)
        else:
            self._to_peer(source, datagram)
        self._log.clear()
        self.world.rearm(self)

    def tick(self) -> None:
        self.server.handle_timeout(self.world.clock.time)
        self._log.clear()
        self.world.rearm(self)

    def _to_peer(self, client: Endpoint, datagram: bytes) -> None:
        found = self.channels.from_client(client, datagram)
        if found is None:
            return
        port, peer, payload = found
        self.relayed += 1
        lent = next((Endpoint(server.ip, port) for server in self.servers if server.is_ipv4 == peer.is_ipv4), None)
        if lent is None:
            return
        if any(server.ip == peer.ip for server in self.servers):
            self._to_client(lent, peer, payload)
        else:
            self._send(lent, peer, payload)

    def _to_client(self, peer: Endpoint, lent: Endpoint, data: bytes) -> None:
        found = self.channels.from_peer(lent.port, peer, data)
        if found is None:
            return
        client, framed = found
        self.relayed += 1
        self._send(next(server for server in self.servers if server.is_ipv4 == client.is_ipv4), client, framed)

    def _send(self, source: Endpoint, destination: Endpoint, payload: bytes) -> None:
        self.world.network.send_from_relay(source, destination, payload)
