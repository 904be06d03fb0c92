"""When the client's state asks for access and what it lets through: `client` 4, 5, 15.2, 17.2, 17.3."""

from __future__ import annotations

import msgspec
import pytest

from firezone.base.errors import RemoteError, WireError
from firezone.base.ids import ConnectionId, GatewayId, ResourceId
from firezone.base.timing import SECOND
from firezone.proto.client.preference import MAX_GATEWAYS
from firezone.proto.client.refusals import REFUSALS_PER_SECOND
from firezone.proto.client.resources import Status
from firezone.proto.client.routing import FIXED_ROUTES
from firezone.proto.client.state import AccessRefused, ResourcesUpdated
from firezone.proto.tunnel_state import ReconnectPortal
from firezone.proto.updates import PeerFilterSet
from firezone.wire.control import ControlEvent, encode_control
from firezone.wire.ip import decode_ip
from firezone.wire.portal import client as wire
from firezone.wire.portal.shared import Filter, RelaysPresence, convert
from tests.harness import packets
from tests.harness.roles import cidr, interface_of, uid
from tests.unit.proto.client.bench import NET, OWN_V4, OWN_V6, SERVER, Client, connected, failed, granted, udp

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


def test_while_connecting_packets_join_those_that_wait_and_nobody_is_asked() -> None:
    client = connected()
    client.send(udp(number=9), 5.0)
    assert client.intents() == []
    (connection,) = client.state.node._connections
    assert list(connection._packets) == [udp(), udp(number=9)]


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
    assert [type(event) for event in client.events()] == [AccessRefused, ResourcesUpdated]
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
    filters = [update for update in client.updates() if isinstance(update, PeerFilterSet)]
    assert NET not in map(str, filters[-1].remote), "nothing comes from there before it is granted again"
    client.send(udp())
    assert [intent.resource_id for intent in client.intents()] == [uid(10)]


def test_a_gateway_whose_tunnel_addresses_change_is_known_by_the_new_ones() -> None:
    client = connected(cidr(11, "10.0.1.0/24"))
    client.send(udp("10.0.1.7"))
    ipv4, ipv6 = interface_of(77)
    client.tell(msgspec.structs.replace(granted(11), gateway_ipv4=ipv4, gateway_ipv6=ipv6))
    assert str(ipv4) + "/32" in client.routes()
    client.events()
    for address in (str(ipv4), str(ipv6)):
        client.send(udp(address))
    (connection,) = client.state.node._connections
    assert list(connection._packets)[-2:] == [udp(str(ipv4)), udp(str(ipv6))]
    assert client.intents() == []


def test_a_resource_that_moves_to_another_gateway_leaves_no_unused_connection_behind() -> None:
    client = connected()
    client.state._pending.add(ResourceId(uid(10)), udp(), decode_ip(udp()), client.now)
    client.tell(granted(10, gateway=3, key=7))
    assert client.state.node.row_of(uid(2)) is None  # type: ignore[arg-type]
    assert client.routes()[NET] == client.state.node.row_of(uid(3)) is not None  # type: ignore[arg-type]


def test_gateways_are_named_as_preferred_sorted_and_no_more_than_a_hundred() -> None:
    count = MAX_GATEWAYS + 5
    client = Client(*(cidr(100 + number, f"10.1.{number}.0/24") for number in range(count + 1)))
    for number in range(count):
        client.send(udp(f"10.1.{number}.7"))
        client.tell(granted(100 + number, gateway=1000 - number, key=number + 2))
    client.events()
    client.send(udp(f"10.1.{count}.7"))
    (intent,) = client.intents()
    assert list(intent.connected_gateway_ids) == sorted(uid(1000 - number) for number in range(5, count))


def test_a_gateway_that_is_used_again_counts_as_recent() -> None:
    client = Client(*(cidr(100 + number, f"10.1.{number}.0/24") for number in range(MAX_GATEWAYS + 3)))
    order = [*range(MAX_GATEWAYS), 0, MAX_GATEWAYS]
    for number, gateway in enumerate(order):
        client.send(udp(f"10.1.{number}.7"))
        client.tell(granted(100 + number, gateway=500 + gateway, key=gateway + 2))
    client.events()
    client.send(udp(f"10.1.{len(order)}.7"))
    (intent,) = client.intents()
    assert uid(500) in intent.connected_gateway_ids
    assert uid(501) not in intent.connected_gateway_ids


def test_relays_will_do_where_there_is_no_address() -> None:
    relay = {"type": "turn", "id": uid(5), "addr": "203.0.113.1:3478", "username": "u", "password": "p", "expires_at": 1}
    interface = {"ipv4": OWN_V4, "ipv6": OWN_V6}
    with_relay = convert({"interface": interface, "relays": [relay]}, wire.Init)
    present = convert({"disconnected_ids": [], "connected": [relay]}, RelaysPresence)
    for message in (with_relay, present):
        client = Client(has_address=False)
        client.tell(message)
        client.tell(wire.ResourceCreatedOrUpdated(resource=cidr(10, NET)))
        client.send(udp())
        client.tell(granted(10))
        assert len(client.state.node) == 1


def test_candidates_of_gateways_are_taken_and_taken_back_and_strangers_ignored() -> None:
    client = connected()
    line = "candidate:fffeff021cfeb5f2 1 udp 2130706431 198.51.100.1 52625 typ host"
    (connection,) = client.state.node._connections
    for gateway in (2, 99):
        client.tell(wire.IceCandidates(gateway_id=GatewayId(uid(gateway)), candidates=("garbage", line)))
    assert [candidate.endpoint.host for candidate in connection.agent.remote_candidates()] == ["198.51.100.1"]
    for gateway in (99, 2):
        client.tell(wire.InvalidateIceCandidates(gateway_id=GatewayId(uid(gateway)), candidates=("garbage", line)))
    assert connection.agent.remote_candidates() == []


def test_paths_are_for_people() -> None:
    assert Client().state.paths() == "none"
    assert connected().state.paths() == "none", "there is none before the connection is established"


def test_what_comes_off_the_fast_path_is_judged_alike() -> None:
    client = connected()
    cid = ConnectionId(uid(2))
    good = packets.udp(SERVER, OWN_V4)
    for packet in (packets.udp("10.9.9.9", OWN_V4), packets.udp(SERVER, "100.64.0.9"), packets.udp("fd00:1::7", OWN_V6)):
        client.state._admit(cid, packet, client.now)
        assert client.state.poll_packet() is None
    client.state._admit(cid, good, client.now)
    assert client.state.poll_packet() == good
    client.state._admit(ConnectionId("nobody"), good, client.now)
    assert client.state.poll_packet() is None
    client.state._admit(cid, encode_control(ControlEvent.GOODBYE), client.now)
    assert len(client.state.node) == 0
    assert client.routes()[NET] is None


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


# what programs are told


def answers(client: Client) -> list[tuple[str, int, int]]:
    """Source, type and code of the ICMP errors that the host was given."""
    found = []
    while (packet := client.state.poll_packet()) is not None:
        header = decode_ip(packet)
        found.append((str(header.source), packet[header.transport], packet[header.transport + 1]))
    return found


def test_what_waited_for_an_offline_site_is_told_that_nobody_is_there() -> None:
    client = Client(cidr(10, NET), cidr(11, "fd00:1::/64"))
    client.send(udp())
    client.send(udp("fd00:1::7"))
    client.tell(failed(10, "offline"))
    assert answers(client) == [(SERVER, 3, 0)]
    client.tell(failed(11, "offline"))
    assert answers(client) == [("fd00:1::7", 1, 3)]
    client.tell(failed(10, "offline"))
    assert answers(client) == []


@pytest.mark.parametrize("reason", ["forbidden", "not_found", "something newer"])
def test_what_waited_for_a_refused_flow_is_told_once_and_goes_on_waiting(reason: str) -> None:
    client = Client(cidr(10, NET))
    client.send(udp(number=1), 0)
    client.tell(failed(10, reason))
    assert answers(client) == [(SERVER, 3, 13)]
    client.send(udp(number=2), 2.0)
    client.tell(failed(10, reason))
    assert answers(client) == [(SERVER, 3, 13)], "the first packet's sender knows"
    client.send(udp(number=2), 4.0)
    client.tell(failed(10, reason))
    assert answers(client) == [(SERVER, 3, 13)], "sent again it is answered again"
    client.tell(granted(10))
    (connection,) = client.state.node._connections
    assert list(connection._packets) == [udp(number=1), udp(number=2)]


def test_a_flood_of_refused_packets_is_answered_at_a_bounded_rate() -> None:
    client = Client(cidr(10, NET, Filter(protocol="icmp")))
    for number in range(3 * REFUSALS_PER_SECOND):
        client.send(udp(number=number))
    assert len(answers(client)) == REFUSALS_PER_SECOND
    client.now += SECOND
    client.send(udp())
    assert len(answers(client)) == 1


def test_users_are_told_once_why_a_resource_is_refused_until_it_is_granted() -> None:
    client = Client(cidr(10, NET, name="db"))
    for reason in ("forbidden", "forbidden", "offline", "offline"):
        client.send(udp())
        client.tell(failed(10, reason))
    assert [event for event in client.events() if isinstance(event, AccessRefused)] == [
        AccessRefused("db", "forbidden"), AccessRefused("db", "offline"),
    ]  # fmt: skip
    client.send(udp())
    client.tell(granted(10))
    client.state.reset(client.now)
    client.send(udp())
    client.tell(failed(10, "offline"))
    assert [event for event in client.events() if isinstance(event, AccessRefused)] == [AccessRefused("db", "offline")]
