"""Names from end to end: a real client, a real gateway and its site, compiled tables on both sides: `client` 17.6, 13.0."""

from __future__ import annotations

import ipaddress

import pytest

from firezone.base.errors import RemoteError
from firezone.base.ids import ResourceId
from firezone.kernels.types import Reason
from firezone.wire.ip import decode_ip
from firezone.wire.portal import client as wire
from firezone.wire.portal.shared import Filter
from tests.harness import packets
from tests.harness.roles import ClientMember, GatewayMember, World, cidr, dns, uid
from tests.unit.proto.client.names_bench import query

NAME, OTHER = "app.corp.test", "db.corp.test"
REAL, REAL_V6 = "10.9.0.1", "fd12::1"
WEB = Filter(protocol="udp", port_range_start=443, port_range_end=443)


def started(*resources: wire.Resource) -> tuple[World, ClientMember, GatewayMember]:
    world = World()
    world.portal.add(*(resources or (dns(20, "*.corp.test"),)))
    gateway, client = world.gateway(), world.client()
    gateway.site = {NAME: (REAL, REAL_V6), OTHER: (REAL,)}
    return world, client, gateway


def ask(client: ClientMember, name: str = NAME, version: int = 4) -> str:
    """A program asks for a name; returns the first address of the answer."""
    sentinel = ipaddress.ip_address("100.100.111.1")
    client.call(client.machine.handle_dns_query, sentinel, query(name, "A" if version == 4 else "AAAA"))
    client.world.pump()
    return next(str(a) for a in client.machine._dns.resolver.proxies.of_name(name) if a.version == version)


def request(client: ClientMember, server: str, number: int = 0, port: int = 443, source: int = 5000) -> bytes:
    own = str(client.ipv4 if "." in server else client.ipv6)
    return packets.udp(own, server, number.to_bytes(4, "big"), ports=(source, port))


def payload(packet: bytes) -> int:
    return int.from_bytes(packet[-4:], "big")


def arrives(client: ClientMember, gateway: GatewayMember, server: str, number: int = 7, port: int = 443) -> str | None:
    """Sends a packet to a name and an answer back; returns the real address it went to, None if the answer was not the name's."""
    client.received(), gateway.received()
    client.send(request(client, server, number, port))
    out = gateway.received()
    if not out:
        return None
    header = decode_ip(out[0])
    assert payload(out[0]) == number
    gateway.send(
        packets.udp(
            str(header.destination), str(header.source), b"back", ports=(header.destination_port or 0, header.source_port or 0)
        )
    )
    back = [decode_ip(packet) for packet in client.received()]
    answered = [(str(h.source), h.source_port, h.destination_port) for h in back]
    return str(header.destination) if answered == [(server, port, 5000)] else None


def used() -> tuple[World, ClientMember, GatewayMember, str]:
    world, client, gateway = started()
    server = ask(client)
    client.send(request(client, server))
    world.run(1)
    assert len(gateway.received()) == 1
    return world, client, gateway, server


@pytest.mark.parametrize(("version", "real"), [(4, REAL), (6, REAL_V6)])
def test_a_first_packet_to_a_name_reaches_its_real_address_and_the_answer_comes_from_the_name(version: int, real: str) -> None:
    world, client, gateway = started()
    server = ask(client, version=version)
    client.send(request(client, server, 3))
    world.run(1)
    (packet,) = gateway.received()
    assert (str(decode_ip(packet).destination), payload(packet)) == (real, 3)
    assert arrives(client, gateway, server) == real
    assert len(client.intents()) == 1


def test_what_is_sent_while_connecting_and_resolving_arrives_once_and_in_order() -> None:
    world, client, gateway = started()
    server = ask(client)
    for number in range(20):
        client.send(request(client, server, number))
        world.run(0.01)
    world.run(1)
    assert [payload(packet) for packet in gateway.received()] == list(range(20))


def test_packets_to_a_name_never_reach_python_once_it_is_set_up() -> None:
    _, client, gateway, server = used()
    punted = int(client.engine.reasons.sum()), int(gateway.engine.reasons.sum())
    for number in range(100):
        assert arrives(client, gateway, server, number) == REAL
    for proxy in client.machine._dns.resolver.proxies.of_name(NAME):
        assert arrives(client, gateway, str(proxy)) in (REAL, REAL_V6)
    assert (int(client.engine.reasons.sum()), int(gateway.engine.reasons.sum())) == punted


def test_a_name_that_is_asked_for_again_under_load_stays_on_the_compiled_path() -> None:
    world, client, gateway, server = used()
    punted = int(client.engine.reasons[Reason.NO_PEER])
    gateway.received()
    for number in range(50):
        client.send(request(client, server, number))
        if number % 10 == 0:
            ask(client)
        world.run(0.002)
    assert [payload(packet) for packet in gateway.received()] == list(range(50))
    assert int(client.engine.reasons[Reason.NO_PEER]) == punted


def test_a_second_name_of_a_connected_resource_needs_one_look_and_no_intent() -> None:
    world, client, gateway, _ = used()
    intents = len(client.intents())
    other = ask(client, OTHER)
    world.run(0.1)
    before = int(client.engine.reasons[Reason.NO_PEER])
    assert [arrives(client, gateway, other, number) for number in range(5)] == [REAL] * 5
    assert int(client.engine.reasons[Reason.NO_PEER]) == before + 1
    assert len(client.intents()) == intents


def test_a_name_that_was_asked_for_by_another_type_first_is_announced_once_it_has_addresses() -> None:
    """Browsers ask for HTTPS records beside addresses, in any order."""
    world, client, gateway, _ = used()
    client.call(client.machine.handle_dns_query, ipaddress.ip_address("100.100.111.1"), query(OTHER, "HTTPS"))
    server = ask(client, OTHER)
    world.run(0.1)
    assert arrives(client, gateway, server) == REAL


def test_two_names_of_one_real_address_both_work() -> None:
    world, client, gateway, server = used()
    other = ask(client, OTHER)
    world.run(0.1)
    for _ in range(3):
        assert arrives(client, gateway, server) == arrives(client, gateway, other) == REAL


def test_a_name_that_cannot_be_resolved_is_refused_by_its_gateway_and_works_when_asked_for_later() -> None:
    world, client, gateway, _ = used()
    gateway.site["new.corp.test"] = ()
    server = ask(client, "new.corp.test")
    client.send(request(client, server))
    world.run(1)
    client.received()
    client.send(request(client, server))
    (error,) = client.received()
    assert str(decode_ip(error).source) == server
    gateway.site["new.corp.test"] = (REAL,)
    world.run(31)
    ask(client, "new.corp.test")
    world.run(1)
    assert arrives(client, gateway, server) == REAL


def test_a_family_that_the_name_does_not_have_is_unreachable_from_its_own_address() -> None:
    world, client, gateway, _ = used()
    server = ask(client, OTHER, version=6)
    world.run(1)
    client.received()
    client.send(request(client, server))
    world.run(0.1)
    (error,) = client.received()
    assert (str(decode_ip(error).source), tuple(error[40:42])) == (server, (1, 3))
    assert gateway.received() == []


def test_records_that_change_leave_open_flows_where_they_are() -> None:
    world, client, gateway, server = used()
    gateway.site[NAME] = ("10.9.0.77",)
    world.run(31)
    ask(client)
    world.run(1)
    assert arrives(client, gateway, server) == REAL, "the flow that goes on"
    client.send(request(client, server, source=6000))
    assert [str(decode_ip(packet).destination) for packet in gateway.received()] == ["10.9.0.77"]


def test_errors_of_the_site_about_a_name_reach_the_program_as_the_names() -> None:
    _, client, gateway, server = used()
    client.send(request(client, server))
    (out,) = gateway.received()
    quoted = decode_ip(out)
    error = packets.ip(REAL, str(quoted.source), packets.ICMP, bytes([3, 3, 0, 0, 0, 0, 0, 0]) + out[:28])
    gateway.send(error)
    (heard,) = client.received()
    assert str(decode_ip(heard).source) == server
    assert heard[20:22] == bytes([3, 3])
    assert heard[28 + 16 : 28 + 20] == ipaddress.ip_address(server).packed, "about the packet that the program sent"


def test_a_lost_announcement_is_made_again_with_the_programs_own_repetition() -> None:
    world, client, gateway, _ = used()
    world.network.detach(gateway.outer)
    server = ask(client, OTHER)
    client.send(request(client, server, 1))
    gateway.sockets = type(gateway.sockets)(world.network, [gateway.outer])
    gateway.engine.udp_sources = [gateway.sockets.source]
    gateway.engine.udp_sink = gateway.sockets
    gateway.received()
    world.run(1)
    assert gateway.received() == []
    world.run(1.5)
    client.send(request(client, server, 2))
    world.run(0.5)
    assert [payload(packet) for packet in gateway.received()] == [1, 2]


def test_when_the_gateway_starts_anew_the_name_keeps_its_address_and_comes_back() -> None:
    world, client, gateway, server = used()
    gateway.crash()
    gateway.expected_errors = (RemoteError,)  # The client's handshakes with the key of before.
    world.run(1)
    world.start(gateway)
    for _ in range(40):
        client.send(request(client, server))
        world.run(1)
        if gateway.received():
            break
    assert arrives(client, gateway, server) == REAL


def test_a_removed_resource_stops_and_a_returned_one_works_with_the_same_address() -> None:
    world, client, gateway, server = used()
    world.portal.remove(20)
    world.run(1)
    client.received(), gateway.received()
    client.send(request(client, server))
    world.run(1)
    assert gateway.received() == []
    assert len(client.received()) == 1, "and the program is told"
    world.portal.add(dns(20, "*.corp.test"))
    world.run(0.1)
    assert ask(client) == server
    client.send(request(client, server))
    world.run(1)
    assert arrives(client, gateway, server) == REAL


def test_filters_are_judged_here_and_the_other_gateway_serves_the_other_resource() -> None:
    world, client, gateway = started(dns(20, "*.corp.test", WEB), cidr(10, "10.0.0.0/24"))
    server = ask(client)
    client.send(request(client, server, port=80))
    (error,) = client.received()
    assert tuple(error[20:22]) == (3, 13)
    assert client.intents() == []
    client.send(request(client, server, port=443))
    world.run(1)
    assert arrives(client, gateway, server) == REAL


def test_after_a_reset_names_keep_their_addresses_and_are_announced_anew() -> None:
    world, client, gateway, server = used()
    client.call(client.machine.reset)
    world.run(1)
    assert ask(client) == server
    client.send(request(client, server))
    world.run(1)
    assert arrives(client, gateway, server) == REAL
    assert client.intents()[-1].connected_gateway_ids == (gateway.id,)


def test_the_internet_resource_carries_what_nothing_else_covers() -> None:
    internet = wire.InternetResource(id=ResourceId(uid(9)), sites=())
    world, client, gateway = started(internet, dns(20, "*.corp.test"), cidr(10, "10.0.0.0/24"))
    client.call(client.machine.set_internet_resource_state, True)
    client.send(request(client, "8.8.8.8"))
    world.run(1)
    assert [str(decode_ip(packet).destination) for packet in gateway.received()] == ["8.8.8.8"]
    punted = int(client.engine.reasons.sum())
    assert arrives(client, gateway, "8.8.8.8") == "8.8.8.8"
    assert int(client.engine.reasons.sum()) == punted
    for closed in ("224.0.0.22", "100.64.0.99", "100.96.0.99", "100.100.111.9"):
        client.send(request(client, closed))
    assert gateway.received() == []
    assert len(client.intents()) == 1
