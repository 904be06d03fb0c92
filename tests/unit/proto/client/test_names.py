"""Packets to names: whom they wait for, who is told of what, and which of them need no look: `client` 15.2, 15.3, 16.4, 17.6."""

from __future__ import annotations

import pytest

from firezone.base.ids import ResourceId
from firezone.proto.updates import PeerFilterSet, PeerRemoteAdded, RouteRemoved, RouteSet
from firezone.wire.control import AssignedIps
from firezone.wire.ip import decode_ip
from firezone.wire.portal import client as wire
from firezone.wire.portal.shared import Filter
from tests.harness import packets
from tests.harness.roles import cidr, dns, uid
from tests.unit.proto.client.bench import NET, OWN_V4, Client, granted, init, udp
from tests.unit.proto.client.names_bench import GATEWAY, NAME, OTHER, PATTERN, NamesClient, named

WEB = Filter(protocol="tcp", port_range_start=443, port_range_end=443)
MAIL = Filter(protocol="tcp", port_range_start=25, port_range_end=25)
EVERYTHING = (dns(20, PATTERN), dns(21, NAME))


def tcp(server: str, port: int, source: int = 5000) -> bytes:
    return packets.tcp(OWN_V4, server, ports=(source, port))


def errors(client: Client) -> list[tuple[int, int]]:
    found = []
    while (packet := client.state.poll_packet()) is not None:
        at = decode_ip(packet).transport
        found.append((packet[at], packet[at + 1]))
    return found


# from the question to the first packet


def test_asking_for_a_name_asks_nobody_for_access() -> None:
    client = named(has_flow=False)
    client.ask()
    assert client.intents() == []


def test_the_first_packet_asks_and_the_grant_announces_before_it_lets_go() -> None:
    client = named(has_flow=False)
    syn = tcp(client.ask(), 443)
    client.send(syn)
    (intent,) = client.intents()
    assert intent.resource_id == uid(20)
    client.tell(granted(20))
    assert client.told() == [(NAME, uid(20), 8)]
    client.status()
    assert client.waiting() == [syn]


def test_inactive_drops_what_waited_and_lets_later_packets_pass() -> None:
    client = named()
    server = client.ask()
    client.send(udp(server, 1))
    client.status(is_active=False)
    client.send(udp(server, 2))
    assert [packet for packet in client.waiting() if isinstance(packet, bytes)] == [udp(server, 2)]


def test_a_name_is_announced_when_it_is_asked_for_and_its_gateway_is_there() -> None:
    client = named()
    client.ask()
    assert client.told() == [(NAME, uid(20), 8)]
    assert client.intents() == []


def test_without_an_answer_packets_and_other_names_queries_announce_again_after_two_seconds() -> None:
    client = named()
    start = 1000
    client.now = start * 10**9
    server = client.ask()
    client.waiting()
    for at, again in ((1.9, []), (2.0, [(NAME, uid(20), 8)]), (3.9, [])):
        client.send(udp(server), at)
        assert client.told() == again
    client.now = (start + 4) * 10**9
    client.ask(OTHER)
    assert client.told() == [(OTHER, uid(20), 8), (NAME, uid(20), 8)]
    client.state.handle_timeout(client.now + 3 * 10**9, 0)
    assert client.told() == [], "without traffic nothing is sent"


def test_a_confirmed_name_that_is_asked_for_again_is_announced_and_flows_on() -> None:
    client = named()
    server = client.ask()
    client.status()
    client.send(udp(server, 1))
    client.waiting()
    client.ask()
    client.send(udp(server, 2))
    assert [type(packet) for packet in client.waiting()] == [AssignedIps, bytes]
    assert client.table()[f"{server}/32"] is not None, "and stays on the compiled path"


def test_a_failed_name_is_announced_again_when_it_is_asked_for_and_for_no_other_name() -> None:
    client = named()
    server = client.ask()
    client.status(is_active=False)
    client.waiting()
    client.now += 10 * 10**9
    client.ask(OTHER)
    assert client.told() == [(OTHER, uid(20), 8)]
    client.ask()
    client.send(udp(server))
    assert client.told() == [(NAME, uid(20), 8)], "and packets are held"


def test_a_second_question_while_pending_loses_nothing() -> None:
    client = named()
    server = client.ask()
    client.send(udp(server))
    client.ask()
    client.waiting()
    client.status()
    assert client.waiting() == [udp(server)]


def test_the_last_32_packets_are_held() -> None:
    client = named()
    server = client.ask()
    client.waiting()
    for number in range(40):
        client.send(udp(server, number))
    client.status()
    assert client.waiting() == [udp(server, number) for number in range(8, 40)]


def test_case_does_not_tell_names_apart_and_the_first_case_is_announced() -> None:
    client = named()
    first = client.ask("APP.corp.test")
    assert client.ask("app.CORP.test") == first
    assert client.told() == [("APP.corp.test", uid(20), 8)]


# which packets need no look


def test_a_name_that_was_only_asked_for_has_no_route_and_the_range_is_looked_at() -> None:
    client = named()
    client.ask()
    client.status()
    assert client.table() == dict.fromkeys(client.proxies("first.corp.test"), client.state.node.row_of(GATEWAY))
    assert {str(n): row for n, row in client.state._routes.items() if n.prefixlen in (11, 107)} == {
        "100.96.0.0/11": None, "fd00:2021:1111:8000::/107": None,
    }  # fmt: skip


def test_a_name_in_use_is_routed_once_its_gateway_knows_it_and_not_while_packets_are_held() -> None:
    client = named()
    server, row = client.ask(), client.state.node.row_of(GATEWAY)
    client.send(udp(server))
    assert f"{server}/32" not in client.table()
    client.status()
    assert [update for update in client.updates() if isinstance(update, RouteSet)] != []
    assert {client.table()[proxy] for proxy in client.proxies()} == {row}
    client.ask()
    client.status(is_active=False)
    assert client.table()[f"{server}/32"] == row, "the gateway says itself that the name leads nowhere"
    client.ask()
    assert f"{server}/32" not in client.table()


def test_its_gateway_may_send_from_the_addresses_it_was_told_of() -> None:
    client = named()
    client.ask()
    (added,) = [update for update in client.updates() if isinstance(update, PeerRemoteAdded)]
    assert list(map(str, added.remote)) == client.proxies()
    client.tell(wire.ResourceCreatedOrUpdated(resource=cidr(10, NET)))
    assert not [update for update in client.updates() if isinstance(update, PeerFilterSet)], "the filter is what it would be"
    source = client.proxies(version=4)[0].removesuffix("/32")
    for sender, number in ((source, 1), ("100.96.0.77", 0)):
        client.state._admit(GATEWAY, packets.udp(sender, OWN_V4), client.now)
        assert (client.state.poll_packet() is not None) is bool(number)


# several resources of one name


def test_by_default_the_more_specific_pattern_alone_counts() -> None:
    client = named(dns(20, PATTERN), dns(19, NAME, WEB))
    server = client.ask()
    assert client.told() == [], "whoever serves the pattern is not told of a name that is another resource's"
    client.send(tcp(server, 25))
    assert errors(client) == [(3, 13)]
    client.send(tcp(server, 443))
    assert [intent.resource_id for intent in client.intents()] == [uid(19)]


def test_of_equal_patterns_the_larger_id_wins() -> None:
    client = NamesClient(dns(20, PATTERN), dns(21, PATTERN))
    client.send(udp(client.ask()))
    assert [intent.resource_id for intent in client.intents()] == [uid(21)]


def test_each_family_has_its_own_best_resource_and_is_announced_alone() -> None:
    client = named(dns(20, PATTERN), dns(21, NAME, ip_stack="ipv4_only"))
    v4, v6 = client.ask(), client.ask(version=6)
    assert client.told() == [(NAME, uid(20), 4)]
    client.send(udp(v4))
    client.send(udp(v6))
    assert [intent.resource_id for intent in client.intents()] == [uid(21)]
    client.tell(granted(21))
    assert client.told() == [(NAME, uid(21), 4)]


def choosing(*resources: wire.Resource) -> NamesClient:
    """A client that lets filters choose among the resources of a name."""
    client = NamesClient(*resources)
    client.state._names._is_one_resource_per_name = False
    return client


def test_filters_choose_before_patterns_where_gateways_can_bear_it() -> None:
    client = choosing(dns(20, PATTERN, WEB), dns(19, NAME, MAIL), dns(18, PATTERN, WEB))
    server = client.ask()
    for port, resource in ((443, 20), (25, 19)):
        client.send(tcp(server, port))
        assert [intent.resource_id for intent in client.intents()] == [uid(resource)]
    client.send(tcp(server, 80))
    assert errors(client) == [(3, 13)]


def test_two_resources_of_one_name_are_announced_each_and_routed_when_both_are_known() -> None:
    client = choosing(dns(20, PATTERN, WEB), dns(19, NAME, MAIL))
    server = client.ask()
    for port, resource in ((443, 20), (25, 19)):
        client.send(tcp(server, port))
        client.tell(granted(resource))
    assert client.told() == [(NAME, uid(20), 8), (NAME, uid(19), 8)]
    client.status(resource=20)
    assert client.table() == {}, "mail must not reach a gateway that would refuse it"
    client.status(resource=19)
    assert client.table()[f"{server}/32"] == client.state.node.row_of(GATEWAY)


def test_rivals_at_two_gateways_are_looked_at_packet_by_packet() -> None:
    client = choosing(dns(20, PATTERN, WEB), dns(19, NAME, MAIL))
    server = client.ask()
    for port, resource, gateway in ((443, 20, 2), (25, 19, 3)):
        client.send(tcp(server, port))
        client.tell(granted(resource, gateway=gateway, key=gateway + 7))
        client.status(resource=resource, gateway=gateway)
        client.waiting(gateway)
    assert client.table() == {}
    client.send(tcp(server, 443, 1))
    client.send(tcp(server, 25, 2))
    assert (client.waiting(2), client.waiting(3)) == ([tcp(server, 443, 1)], [tcp(server, 25, 2)])


def test_names_go_before_networks_and_the_internet() -> None:
    internet = wire.InternetResource(id=ResourceId(uid(9)), sites=())
    client = NamesClient(dns(20, PATTERN), cidr(99, "100.0.0.0/8"), internet)
    client.state.set_internet_resource_state(True, client.now)
    client.send(udp(client.ask()))
    assert [intent.resource_id for intent in client.intents()] == [uid(20)]


# changes while live


def gone(client: NamesClient) -> None:
    assert client.table() == {}
    assert len(client.state._names.nat) == 0


def in_use() -> tuple[NamesClient, str]:
    client = named()
    server = client.ask()
    client.send(udp(server))
    client.status()
    client.updates()
    client.events()
    return client, server


def test_a_resource_that_goes_takes_routes_along_and_its_names_are_refused_here() -> None:
    client, server = in_use()
    client.tell(wire.ResourceDeleted(resource_id=ResourceId(uid(20))))
    gone(client)
    assert [update for update in client.updates() if isinstance(update, RouteRemoved)] != []
    client.events()
    client.send(udp(server))
    assert client.intents() == []
    assert errors(client) == [(3, 0)]
    client.tell(wire.ResourceCreatedOrUpdated(resource=dns(20, PATTERN)))
    client.send(udp(server))
    assert len(client.intents()) == 1
    client.tell(granted(20))
    assert client.told() == [(NAME, uid(20), 8)]


def test_switched_off_and_on_again_a_resource_starts_anew_and_addresses_stay() -> None:
    client, server = in_use()
    client.state.set_disabled_resources({ResourceId(uid(20))}, client.now)
    gone(client)
    client.state.set_disabled_resources(set(), client.now)
    assert client.ask() == server
    client.send(udp(server))
    assert len(client.intents()) == 1


@pytest.mark.parametrize("end", ["gone", "new terms", "reset"])
def test_with_its_gateway_everything_it_was_told_is_forgotten(end: str) -> None:
    client, server = in_use()
    if end == "gone":
        client.state.node.close_connection(GATEWAY, client.now)
        client.state._on_gone(GATEWAY, client.now)
    elif end == "reset":
        client.state.reset(client.now)
    else:
        client.tell(wire.ResourceCreatedOrUpdated(resource=cidr(11, NET)))
        client.send(udp())
        client.tell(granted(11, key=5))
    gone(client)
    client.events()
    client.send(udp(server))
    assert [intent.resource_id for intent in client.intents()] == [uid(20)]
    client.tell(granted(20, gateway=3, key=7))
    assert client.told(3) == [(NAME, uid(20), 8)]


def test_a_more_specific_resource_takes_its_names_over() -> None:
    client, server = in_use()
    client.tell(wire.ResourceCreatedOrUpdated(resource=dns(21, NAME)))
    assert client.table() == dict.fromkeys(client.proxies("first.corp.test"), client.state.node.row_of(GATEWAY))
    client.send(udp(server))
    assert [intent.resource_id for intent in client.intents()] == [uid(21)]


def test_another_ip_stack_counts_at_once() -> None:
    client, _ = in_use()
    client.tell(wire.ResourceCreatedOrUpdated(resource=dns(20, PATTERN, ip_stack="ipv6_only")))
    client.events()
    client.send(udp(client.ask()))
    assert (client.intents(), errors(client)) == ([], [(3, 0)])
    client.send(udp(client.ask(version=6)))
    client.tell(granted(20))
    assert client.told() == [(NAME, uid(20), 4)]


def test_an_equal_list_changes_nothing() -> None:
    client, _ = in_use()
    client.tell(init(dns(20, PATTERN)))
    assert (client.updates(), client.events(), client.waiting()[1:]) == ([], [], [udp(client.ask())])


def test_ten_thousand_names_of_one_pattern_cost_their_gateway_nothing_and_us_little() -> None:
    client = named()
    for number in range(10_000):
        client.state._dns.resolver.proxies.assign(f"n{number}.corp.test")
    client.tell(wire.ResourceCreatedOrUpdated(resource=cidr(11, NET)))
    client.send(udp())
    client.tell(granted(11))
    assert client.told() == []
