"""The client's state against `client` 3.6, 4, 5, 10-12, 15.2 and the lists 17.1-17.3, 17.7 of its tests."""

from __future__ import annotations

import pytest

from firezone.base.errors import RemoteError, WireError
from firezone.base.ids import GatewayId, ResourceId
from firezone.base.net import Endpoint
from firezone.base.rng import SeededRng
from firezone.base.secret import SecretBytes, SecretText
from firezone.base.timing import SECOND, seconds
from firezone.kernels.types import Reason
from firezone.proto.client.resources import Status
from firezone.proto.client.state import FIXED_ROUTES, MAX_RECENT_GATEWAYS, ClientState, ResourcesUpdated, TunConfig
from firezone.proto.tunnel_state import ReconnectPortal, SendToPortal
from firezone.proto.updates import PeerFilterSet, RouteRemoved, RouteSet
from firezone.wire.ip import decode_ip
from firezone.wire.portal import client as wire
from firezone.wire.portal.shared import ClientInterface, Filter, IceCredentials, PublicKey
from tests.harness import packets
from tests.harness.roles import SITE, cidr, interface_of, network, uid
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

    def intents(self) -> list[wire.CreateFlow]:
        sent = [event.message for event in self.events() if isinstance(event, SendToPortal)]
        return [message for message in sent if isinstance(message, wire.CreateFlow)]

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

# 17.1 resources, routes, display


def test_the_first_init_configures_the_device_with_the_six_fixed_routes() -> None:
    config = Client().config()
    assert (config.ipv4, config.ipv6) == (OWN_V4, OWN_V6)
    assert texts(config) == {
        "100.64.0.0/11", "100.96.0.0/11", "100.100.111.0/24", "fd00:2021:1111::/107", "fd00:2021:1111:8000::/107",
        "fd00:2021:1111:8000:100:100:111:0/120",
    }  # fmt: skip


def test_routes_follow_the_resources() -> None:
    client = Client(cidr(10, NET), cidr(11, "fd00:1::/64"))
    assert texts(client.config()) == FIXED | {NET, "fd00:1::/64"}
    client.tell(wire.ResourceDeleted(resource_id=ResourceId(uid(10))))
    assert texts(client.config()) == FIXED | {"fd00:1::/64"}
    client.tell(wire.ResourceCreatedOrUpdated(resource=cidr(12, "10.0.1.0/24")))
    assert texts(client.config()) == FIXED | {"fd00:1::/64", "10.0.1.0/24"}
    client.tell(init())
    assert texts(client.config()) == FIXED


def test_the_compiled_routes_ask_for_resources_nobody_serves() -> None:
    client = Client(cidr(10, NET))
    assert client.routes() == {NET: None}
    client.tell(wire.ResourceDeleted(resource_id=ResourceId(uid(10))))
    assert [type(update) for update in client.updates()] == [RouteRemoved]


def test_a_name_that_becomes_a_network_is_routed() -> None:
    name = wire.DnsResource(id=ResourceId(uid(10)), name="x", address="x.example.com", sites=(SITE,))
    client = Client(name)
    assert texts(client.config()) == FIXED
    client.tell(wire.ResourceCreatedOrUpdated(resource=cidr(10, NET)))
    assert texts(client.config()) == FIXED | {NET}
    assert len(client.state._book.views()) == 1


def test_another_description_is_shown_and_touches_nothing_else() -> None:
    client = connected()
    changed = wire.CidrResource(
        id=ResourceId(uid(10)), name="resource 10", address=network(NET), sites=(SITE,), address_description="new"
    )  # fmt: skip
    client.tell(wire.ResourceCreatedOrUpdated(resource=changed))
    assert [type(event) for event in client.events()] == [ResourcesUpdated]
    assert client.updates() == []


def test_an_equal_init_says_nothing_and_touches_nothing() -> None:
    client = connected()
    client.tell(init(cidr(10, NET)))
    assert client.events() == []
    assert client.updates() == []


def test_several_updates_before_polling_leave_one_event_of_each_kind_with_the_final_state() -> None:
    client = Client(cidr(10, NET))
    for number in range(11, 15):
        client.tell(wire.ResourceCreatedOrUpdated(resource=cidr(number, f"10.0.{number}.0/24")))
    events = client.events()
    assert sorted(type(event).__name__ for event in events) == ["ResourcesUpdated", "TunConfig"]
    (config,) = [event for event in events if isinstance(event, TunConfig)]
    assert "10.0.14.0/24" in texts(config)
    (updated,) = [event for event in events if isinstance(event, ResourcesUpdated)]
    assert len(updated.resources) == 5


def test_only_an_address_that_changes_is_told_too() -> None:
    client = Client()
    client.events()
    ipv4, ipv6 = interface_of(7)
    client.tell(wire.ConfigChanged(interface=ClientInterface(ipv4=ipv4, ipv6=ipv6)))
    assert client.config().ipv4 == str(ipv4)


def test_nothing_is_configured_before_the_first_init() -> None:
    state = ClientState(store=SlowSessionStore(), rng=SeededRng(1), now=0, utc=0)
    state.handle_portal(wire.ResourceCreatedOrUpdated(resource=cidr(10, NET)), 0, 0)
    assert state.poll_event() is None
    state.handle_packet(udp(), 0, Reason.NO_PEER, 0)
    assert state.poll_event() is None


def test_switching_off_ends_traffic_and_switching_on_asks_anew() -> None:
    client = connected()
    client.state.set_disabled_resources({ResourceId(uid(10))}, client.now)
    assert len(client.state.node) == 0
    config = client.config()
    assert texts(config) == FIXED
    client.send(udp())
    assert client.intents() == []
    client.state.set_disabled_resources({ResourceId(uid(10))}, client.now)
    assert client.events() == []
    client.state.set_disabled_resources(set(), client.now)
    assert texts(client.config()) == FIXED | {NET}
    client.send(udp())
    assert len(client.intents()) == 1


# 17.2 intents and buffering


def test_one_packet_asks_once_and_nobody_asks_without_packets() -> None:
    client = Client(cidr(10, NET))
    client.events()
    client.send(udp(number=0))
    (intent,) = client.intents()
    assert intent == wire.CreateFlow(resource_id=ResourceId(uid(10)), connected_gateway_ids=())
    for at, asked in ((0.5, 0), (1.9, 0), (2.0, 1)):
        client.send(udp(number=1), at)
        assert len(client.intents()) == asked
    for at in range(3, 60):
        client.state.handle_timeout(client.now + at * SECOND, 0)
    assert client.intents() == []


def test_what_waited_leaves_in_order_when_the_flow_is_there() -> None:
    client = Client(cidr(10, NET))
    for number in range(130):
        client.send(udp(number=number))
    client.tell(granted(10))
    (connection,) = client.state.node._connections
    assert list(connection._packets) == [udp(number=number) for number in range(2, 130)]


def test_an_answer_nobody_waits_for_makes_no_connection() -> None:
    client = Client(cidr(10, NET))
    client.tell(granted(10))
    client.tell(granted(77))
    assert len(client.state.node) == 0


def test_a_second_answer_changes_nothing() -> None:
    client = connected()
    client.tell(granted(10, gateway=3, key=7))
    assert len(client.state.node) == 1


def test_offline_shows_and_forgets_what_waited_and_the_next_packet_asks_at_once() -> None:
    client = Client(cidr(10, NET))
    client.send(udp(number=1))
    client.events()
    client.tell(failed(10, "offline"))
    assert client.statuses() == {uid(10): Status.OFFLINE}
    assert [type(event) for event in client.events()] == [ResourcesUpdated]
    client.send(udp(number=2))
    assert len(client.intents()) == 1
    client.tell(granted(10))
    (connection,) = client.state.node._connections
    assert list(connection._packets) == [udp(number=2)]


def test_offline_is_forgiven_after_five_minutes_by_a_deadline_that_is_announced() -> None:
    client = Client(cidr(10, NET))
    client.send(udp())
    client.tell(failed(10, "offline"))
    client.events()
    due = client.state.poll_timeout()
    assert due == (client.now + 300 * SECOND, "forgive offline sites")
    client.state.handle_timeout(due[0] - 1, 0)
    assert client.events() == []
    client.state.handle_timeout(due[0], 0)
    assert client.statuses() == {uid(10): Status.UNKNOWN}
    assert [type(event) for event in client.events()] == [ResourcesUpdated]
    assert client.state.poll_timeout() is None


@pytest.mark.parametrize("reason", ["forbidden", "not_found", "something newer"])
def test_other_failures_keep_what_waits_and_a_packet_after_two_seconds_asks_again(reason: str) -> None:
    client = Client(cidr(10, NET))
    client.send(udp(number=1), 0)
    client.tell(failed(10, reason))
    client.events()
    client.send(udp(number=2), 1.0)
    assert client.intents() == []
    client.send(udp(number=3), 2.0)
    assert len(client.intents()) == 1
    client.tell(granted(10))
    (connection,) = client.state.node._connections
    assert list(connection._packets) == [udp(number=number) for number in (1, 2, 3)]


def test_a_failure_of_an_unknown_resource_is_ignored() -> None:
    client = Client()
    client.events()
    client.tell(failed(10, "offline"))
    assert client.events() == []


def test_without_any_address_to_offer_we_log_in_again_and_the_next_packet_asks() -> None:
    client = Client(cidr(10, NET), has_address=False)
    client.send(udp())
    client.events()
    client.tell(granted(10))
    (event,) = client.events()
    assert event == ReconnectPortal(client.state.public_key, "no address to offer to gateways")
    client.send(udp())
    assert len(client.intents()) == 1


def test_a_key_that_cannot_be_used_is_an_error_and_the_next_packet_asks_again() -> None:
    client = Client(cidr(10, NET))
    client.send(udp())
    client.events()
    with pytest.raises(RemoteError, match="small order"):
        client.tell(granted(10, key=1))
    assert len(client.state.node) == 0
    client.send(udp())
    assert len(client.intents()) == 1


def test_a_second_resource_of_the_same_gateway_uses_the_connection() -> None:
    client = connected(cidr(11, "10.0.1.0/24"))
    row = client.state.node.row_of(uid(2))  # type: ignore[arg-type]
    client.send(udp("10.0.1.7"))
    (intent,) = client.intents()
    assert intent.connected_gateway_ids == (uid(2),)
    client.tell(granted(11))
    assert client.routes() == {"10.0.1.0/24": row}
    assert len(client.state.node) == 1


def test_a_connection_on_new_terms_must_be_asked_for_by_every_resource_again() -> None:
    """The gateway was started anew and knows nothing of what it granted before: sending there would be a black hole."""
    client = connected(cidr(11, "10.0.1.0/24"))
    client.send(udp("10.0.1.7"))
    client.events()
    client.tell(granted(11, key=5))
    client.events()
    client.send(udp())
    assert [intent.resource_id for intent in client.intents()] == [uid(10)]


def test_a_resource_that_moves_to_another_gateway_leaves_no_unused_connection_behind() -> None:
    client = connected()
    client.state._pending.add(ResourceId(uid(10)), udp(), decode_ip(udp()), client.now)
    client.tell(granted(10, gateway=3, key=7))
    assert client.state.node.row_of(uid(2)) is None  # type: ignore[arg-type]
    assert client.routes()[NET] == client.state.node.row_of(uid(3)) is not None  # type: ignore[arg-type]


def test_gateways_are_named_as_preferred_sorted_and_no_more_than_a_hundred() -> None:
    count = MAX_RECENT_GATEWAYS + 5
    client = Client(*(cidr(100 + number, f"10.1.{number}.0/24") for number in range(count + 1)))
    for number in range(count):
        client.send(udp(f"10.1.{number}.7"))
        client.tell(granted(100 + number, gateway=1000 - number, key=number + 2))
    client.events()
    client.send(udp(f"10.1.{count}.7"))
    (intent,) = client.intents()
    assert list(intent.connected_gateway_ids) == sorted(uid(1000 - number) for number in range(5, count))


def test_packets_that_no_resource_lets_through_are_refused_here_without_asking() -> None:
    client = Client(cidr(10, NET, Filter(protocol="tcp", port_range_start=80, port_range_end=80)))
    client.events()
    client.send(udp())
    assert client.intents() == []
    error = client.state.poll_packet()
    assert error is not None
    header = decode_ip(error)
    assert (str(header.source), str(header.destination)) == (SERVER, OWN_V4)
    assert tuple(error[20:22]) == (3, 13)
    client.send(packets.tcp(OWN_V4, SERVER, ports=(5000, 80)))
    assert len(client.intents()) == 1


# 17.3 admission


@pytest.mark.parametrize(
    "packet",
    [
        udp("224.0.0.22"), udp("224.0.0.252"), udp("ff02::2"), udp("ff02::1:3"), udp("239.1.2.3"),
        packets.udp("192.0.2.9", SERVER), packets.udp("100.64.0.9", SERVER), packets.udp("fd00::9", "fd00:1::7"),
        udp(OWN_V4), udp(OWN_V6), udp("100.64.0.99"), udp("fd00:2021:1111::99"),
        udp("100.100.111.1"), udp("100.96.0.1"), udp("fd00:2021:1111:8000::1"),
        packets.ip(OWN_V4, SERVER, 47, b"gre"), packets.ip(OWN_V4, SERVER, 132, b"sctp"),
        packets.ip(OWN_V4, SERVER, packets.ICMP, bytes([3, 3]) + bytes(34)),
        packets.ip(OWN_V4, SERVER, packets.ICMP, bytes([13, 0]) + bytes(18)),
        udp("11.0.0.1"),
    ],
    ids=[
        "IGMP", "LLMNR", "all routers", "LLMNR v6", "multicast", "foreign source", "another client's source", "foreign v6 source",
        "to ourselves", "to ourselves v6", "unknown tunnel address", "unknown v6 tunnel address", "sentinel", "proxy", "proxy v6",
        "GRE", "SCTP", "ICMP error", "ICMP timestamp", "no resource",
    ],
)  # fmt: skip
def test_noise_never_asks_for_anything(packet: bytes) -> None:
    everything = (cidr(10, NET), cidr(11, "100.0.0.0/8"), cidr(12, "fd00::/8"), cidr(13, "224.0.0.0/4"), cidr(14, "ff00::/8"))
    client = Client(*everything)
    client.events()
    client.send(packet)
    assert client.events() == []
    assert client.state.poll_packet() is None


@pytest.mark.parametrize("packet", [udp(), packets.tcp(OWN_V4, SERVER), packets.echo(OWN_V4, SERVER), udp("fd00:1::7")])
def test_tcp_udp_and_echo_ask(packet: bytes) -> None:
    client = Client(cidr(10, NET), cidr(11, "fd00:1::/64"))
    client.events()
    client.send(packet)
    assert len(client.intents()) == 1


def test_garbage_is_an_error_to_count() -> None:
    client = Client(cidr(10, NET))
    with pytest.raises(WireError):
        client.send(b"garbage")


def test_tunnel_addresses_are_never_routed_to_a_resource() -> None:
    client = Client(cidr(10, "100.64.0.0/10"), cidr(11, "100.64.7.0/24"))
    client.send(udp("100.128.0.1"))
    client.send(udp("100.127.0.1"))
    routes = client.routes()
    assert "100.64.7.0/24" not in routes
    assert routes["100.64.0.0/11"] is None
    assert routes["100.64.0.0/10"] is None


def test_a_wide_resource_that_is_connected_leaves_tunnel_addresses_to_us() -> None:
    client = Client(cidr(10, "100.0.0.0/8"))
    client.send(udp("100.128.0.1"))
    client.tell(granted(10))
    routes = client.routes()
    assert routes["100.0.0.0/8"] is not None
    assert {routes[str(fixed)] for fixed in FIXED_ROUTES if fixed.version == 4} == {None}
    client.events()
    client.send(udp("100.64.0.99"))
    assert client.events() == []


def test_the_filter_of_a_gateway_names_its_addresses_its_resources_and_ourselves() -> None:
    client = Client(cidr(10, NET))
    client.send(udp())
    client.updates()
    client.tell(granted(10))
    (wanted,) = [update for update in client.updates() if isinstance(update, PeerFilterSet)]
    assert set(map(str, wanted.remote)) == {"100.64.0.2/32", "fd00:2021:1111::2/128", NET}
    assert set(map(str, wanted.local or ())) == {f"{OWN_V4}/32", f"{OWN_V6}/128"}
    assert wanted.rules is None


# 17.7 reset


def connected(*more: wire.Resource) -> Client:
    """A client with a connection under way for resource 10, and nothing left to poll."""
    client = Client(cidr(10, NET), *more)
    client.send(udp())
    client.tell(granted(10))
    client.events()
    client.updates()
    return client


def test_reset_has_a_new_key_and_no_connections_and_keeps_resources_and_device() -> None:
    client = connected()
    key = client.state.public_key
    client.state.reset(client.now)
    events = client.events()
    assert [event for event in events if isinstance(event, ReconnectPortal)] == [
        ReconnectPortal(client.state.public_key, "the network changed")
    ]
    assert client.state.public_key != key
    assert not [event for event in events if isinstance(event, TunConfig)]
    assert len(client.state.node) == 0
    assert client.routes() == {NET: None}
    client.send(udp())
    (intent,) = client.intents()
    assert intent.connected_gateway_ids == ()


def test_reset_keeps_what_waits_with_its_time() -> None:
    client = Client(cidr(10, NET))
    client.send(udp(number=1), 0)
    client.state.reset(client.now)
    client.events()
    client.send(udp(number=2), 1.0)
    assert client.intents() == []
    client.tell(granted(10))
    (connection,) = client.state.node._connections
    assert list(connection._packets) == [udp(number=1), udp(number=2)]


def test_reset_makes_online_sites_unknown_and_leaves_offline_ones() -> None:
    client = connected(cidr(11, "10.0.1.0/24", sites=()))
    client.state._on_established(uid(2), client.now)  # type: ignore[arg-type]
    assert client.statuses()[uid(10)] is Status.ONLINE
    client.events()
    client.state.reset(client.now)
    assert client.statuses()[uid(10)] is Status.UNKNOWN
    assert len([event for event in client.events() if isinstance(event, ResourcesUpdated)]) == 1
    client.tell(failed(10, "offline"))
    client.state.reset(client.now)
    assert client.statuses()[uid(10)] is Status.OFFLINE


def test_after_a_reset_every_resource_asks_for_itself() -> None:
    client = connected(cidr(11, "10.0.1.0/24"))
    client.state.reset(client.now)
    client.send(udp("10.0.1.7"))
    client.tell(granted(11))
    client.events()
    client.send(udp())
    assert [intent.resource_id for intent in client.intents()] == [uid(10)]
