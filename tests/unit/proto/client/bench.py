"""A client's state without anybody else, and the messages a portal sends it."""

from __future__ import annotations

from firezone.base.ids import GatewayId, ResourceId
from firezone.base.net import Endpoint
from firezone.base.rng import SeededRng
from firezone.base.secret import SecretBytes, SecretText
from firezone.base.timing import SECOND, seconds
from firezone.kernels.types import Reason
from firezone.proto.client.resources import Status
from firezone.proto.client.routing import FIXED_ROUTES
from firezone.proto.client.state import ClientState, TunConfig
from firezone.proto.tunnel_state import SendToPortal
from firezone.proto.updates import RouteRemoved, RouteSet
from firezone.wire.portal import client as wire
from firezone.wire.portal.shared import ClientInterface, IceCredentials, PublicKey
from tests.harness import packets
from tests.harness.roles import SITE, cidr, interface_of, uid
from tests.harness.sessions import SlowSessionStore

OWN_V4, OWN_V6 = (str(address) for address in interface_of(1))
SERVER = "10.0.0.7"
NET = "10.0.0.0/24"


class Client:
    """A client's state without anybody else; its clock is moved by hand."""

    def __init__(self, *resources: wire.Resource, has_address: bool = True) -> None:
        self.now = 1000 * SECOND
        self.state = ClientState(store=SlowSessionStore(), rng=SeededRng(1), now=self.now, utc=self.now)
        if has_address:
            self.state.set_local_addresses([Endpoint.from_text("192.0.2.1", 52625)], self.now)
        self.tell(init(*resources))

    def tell(self, message: wire.FromPortal) -> None:
        self.state.handle_portal(message, self.now, self.now)

    def send(self, packet: bytes, at: float | None = None) -> None:
        if at is not None:
            self.now = 1000 * SECOND + seconds(at)
        self.state.handle_packet(packet, 0, Reason.NO_PEER, self.now)

    def events(self) -> list[object]:
        found = []
        while (event := self.state.poll_event()) is not None:
            found.append(event)
        return found

    def sent(self) -> list[object]:
        return [event.message for event in self.events() if isinstance(event, SendToPortal)]

    def intents(self) -> list[wire.CreateFlow]:
        return [message for message in self.sent() if isinstance(message, wire.CreateFlow)]

    def updates(self) -> list[object]:
        found: list[object] = []
        while (update := self.state.poll_update()) is not None:
            found.append(update)
        return found

    def routes(self) -> dict[str, int | None]:
        """What the updates since the last call say of routes."""
        table: dict[str, int | None] = {}
        for update in self.updates():
            if isinstance(update, RouteSet):
                table[str(update.network)] = update.peer
            elif isinstance(update, RouteRemoved):
                table.pop(str(update.network), None)
        return table

    def config(self) -> TunConfig:
        (config,) = [event for event in self.events() if isinstance(event, TunConfig)]
        return config

    def statuses(self) -> dict[str, Status]:
        return {view.id: view.status for view in self.state._book.views()}


def init(*resources: wire.Resource, number: int = 1) -> wire.Init:
    ipv4, ipv6 = interface_of(number)
    return wire.Init(interface=ClientInterface(ipv4=ipv4, ipv6=ipv6), resources=resources)


def granted(number: int, gateway: int = 2, key: int = 9) -> wire.FlowCreated:
    ipv4, ipv6 = interface_of(gateway)
    return wire.FlowCreated(
        resource_id=ResourceId(uid(number)), gateway_id=GatewayId(uid(gateway)), site_id=SITE.id,
        gateway_public_key=PublicKey(bytes([key]) + bytes(31)), gateway_ipv4=ipv4, gateway_ipv6=ipv6,
        preshared_key=SecretBytes(bytes(32)),
        client_ice_credentials=IceCredentials(username=f"cl{key:02}", password=SecretText("c" * 22)),
        gateway_ice_credentials=IceCredentials(username=f"gw{key:02}", password=SecretText("g" * 22)),
    )  # fmt: skip


def failed(number: int, reason: str) -> wire.FlowCreationFailed:
    return wire.FlowCreationFailed(resource_id=ResourceId(uid(number)), reason=reason)


def udp(server: str = SERVER, number: int = 0, port: int = 80) -> bytes:
    return packets.udp(OWN_V4 if "." in server else OWN_V6, server, number.to_bytes(4, "big"), ports=(5000, port))


def texts(config: TunConfig) -> set[str]:
    return {str(route) for route in config.routes}


FIXED = {str(route) for route in FIXED_ROUTES}


def connected(*more: wire.Resource) -> Client:
    """A client with a connection under way for resource 10, and nothing left to poll."""
    client = Client(cidr(10, NET), *more)
    client.send(udp())
    client.tell(granted(10))
    client.events()
    client.updates()
    return client
