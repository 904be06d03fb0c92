"""A whole client and a whole gateway: from a packet at one TUN device to a packet at the other, and what can come between.

Everything is real but the network, the clock and the portal's decisions (`tests.harness.roles`).
"""

from __future__ import annotations

import pytest

from firezone.base.errors import RemoteError, UnknownConnection
from firezone.kernels.types import Reason
from firezone.proto.client.resources import Status
from firezone.proto.client.state import ResourcesUpdated, TunConfig
from firezone.proto.gateway.state import AccessChanged
from firezone.proto.tunnel_state import ConnectionChanged, ReconnectPortal
from firezone.wire.ip import decode_ip, prohibited
from firezone.wire.portal.shared import Filter
from tests.harness import packets
from tests.harness.packets import ICMP
from tests.harness.roles import ClientMember, GatewayMember, Member, World, cidr, uid

NET, SERVER = "10.0.0.0/24", "10.0.0.7"
OTHER_NET, OTHER_SERVER = "10.0.1.0/24", "10.0.1.7"
NET_V6, SERVER_V6 = "fd00:1::/64", "fd00:1::7"
UDP_80 = Filter(protocol="udp", port_range_start=80, port_range_end=80)


def request(client: Member, server: str = SERVER, number: int = 0, port: int = 80) -> bytes:
    source = str(client.ipv4 if "." in server else client.ipv6)
    return packets.udp(source, server, number.to_bytes(4, "big"), ports=(5000, port))


def answer(client: Member, server: str = SERVER, number: int = 0, port: int = 80) -> bytes:
    destination = str(client.ipv4 if "." in server else client.ipv6)
    return packets.udp(server, destination, number.to_bytes(4, "big"), ports=(port, 5000))


def reaches(world: World, client: ClientMember, gateway: GatewayMember, server: str = SERVER, number: int = 77) -> bool:
    """Whether a packet goes there and its answer comes back, at once: nothing has to be negotiated."""
    client.received(), gateway.received()
    client.send(request(client, server, number))
    if gateway.received() != [request(client, server, number)]:
        return False
    gateway.send(answer(client, server, number))
    return client.received() == [answer(client, server, number)]


def connected(*more: object) -> tuple[World, ClientMember, GatewayMember]:
    """A client that has just reached resource 10 through a gateway."""
    world = World()
    world.portal.add(cidr(10, NET), *more)  # type: ignore[arg-type]
    gateway, client = world.gateway(), world.client()
    client.send(request(client))
    world.run(1)
    assert gateway.received() == [request(client)]
    return world, client, gateway


def is_up(client: Member, gateway: Member) -> bool:
    return client.machine.node.path_of(gateway.cid) is not None


def ended(member: Member) -> list[str]:
    return [event.detail for event in member.events_of(ConnectionChanged) if not event.is_up]


# the first packet


def test_a_first_packet_opens_the_tunnel_comes_out_and_its_answer_comes_back() -> None:
    _, client, gateway = connected()
    gateway.send(answer(client))
    assert client.received() == [answer(client)]
    assert len(client.intents()) == 1
    assert [event.what for event in gateway.events_of(AccessChanged)] == ["granted"]
    assert client.events_of(ResourcesUpdated)[-1].resources[0].status is Status.ONLINE


def test_what_was_sent_while_connecting_arrives_once_and_in_order() -> None:
    world = World()
    world.portal.add(cidr(10, NET))
    gateway, client = world.gateway(), world.client()
    for number in range(20):
        client.send(request(client, number=number))
        world.run(0.005)
    world.run(1)
    assert gateway.received() == [request(client, number=number) for number in range(20)]
    assert len(client.intents()) == 1


def test_once_connected_packets_take_the_compiled_path() -> None:
    world, client, gateway = connected()
    punted = int(client.engine.reasons.sum()), int(gateway.engine.reasons.sum())
    for number in range(50):
        assert reaches(world, client, gateway, number=number)
    assert (int(client.engine.reasons.sum()), int(gateway.engine.reasons.sum())) == punted


def test_both_families_every_protocol_and_a_second_resource_share_one_connection() -> None:
    world, client, gateway = connected(cidr(11, NET_V6))
    client.send(request(client, SERVER_V6))
    world.run(0.1)
    assert gateway.received() == [request(client, SERVER_V6)]
    assert reaches(world, client, gateway, SERVER_V6)
    for packet in (packets.tcp(str(client.ipv4), SERVER), packets.echo(str(client.ipv6), SERVER_V6)):
        client.send(packet)
        assert gateway.received() == [packet]
    assert len(client.machine.node) == len(gateway.machine.node) == 1


def test_the_gateways_own_address_answers() -> None:
    world, client, gateway = connected()
    own = str(gateway.ipv4)
    assert reaches(world, client, gateway, own)
    assert world.portal.resources.keys() == {uid(10)}


def test_two_clients_of_one_gateway_never_see_each_others_packets() -> None:
    world, client, gateway = connected()
    other = world.client(3, "192.0.2.3")
    other.send(request(other))
    world.run(1)
    assert gateway.received() == [request(other)]
    gateway.send(answer(client), answer(other))
    assert client.received() == [answer(client)]
    assert other.received() == [answer(other)]
    client.send(packets.udp(str(client.ipv4), str(other.ipv4)))
    world.run(1)
    assert gateway.received() == []
    assert other.received() == []


def test_a_connection_carries_on_across_many_rekeys_without_losing_a_packet() -> None:
    world, client, gateway = connected()
    for number in range(400):
        assert reaches(world, client, gateway, number=number), f"after {number} s"
        world.run(1)
    assert ended(client) == ended(gateway) == []


def test_an_idle_connection_is_there_when_it_is_needed_again() -> None:
    world, client, gateway = connected()
    world.run(3600)
    client.send(request(client, number=1))
    world.run(1)
    assert gateway.received() == [request(client, number=1)]
    assert len(client.intents()) == 1


# changes of what there is


def test_a_resource_that_is_removed_while_live_is_cut_at_both_ends_with_a_goodbye() -> None:
    world, client, gateway = connected()
    world.portal.remove(10)
    world.run(0.1)
    assert ended(gateway) or not is_up(gateway, client)
    assert len(client.machine.node) == len(gateway.machine.node) == 0
    client.send(request(client))
    assert gateway.received() == []
    assert client.dropped(Reason.NO_ROUTE) == 1
    gateway.send(answer(client))
    assert client.received() == []
    assert NET not in {str(route) for route in client.events_of(TunConfig)[-1].routes}


def test_a_removed_resource_leaves_the_other_of_the_same_gateway_alone() -> None:
    world, client, gateway = connected(cidr(11, OTHER_NET))
    client.send(request(client, OTHER_SERVER))
    world.run(0.2)
    gateway.received()
    world.portal.remove(11)
    world.run(0.1)
    assert reaches(world, client, gateway)
    assert not reaches(world, client, gateway, OTHER_SERVER)
    gateway.send(answer(client, OTHER_SERVER))
    assert client.received() == []


def test_a_resource_that_is_switched_off_and_on_again_asks_again() -> None:
    world, client, gateway = connected()
    client.call(client.machine.set_disabled_resources, {uid(10)})
    world.run(0.1)
    assert not reaches(world, client, gateway)
    assert ended(gateway) == ["the peer said goodbye"]
    client.call(client.machine.set_disabled_resources, set())
    client.send(request(client, number=5))
    world.run(1)
    assert gateway.received() == [request(client, number=5)]
    assert len(client.intents()) == 2


def test_a_more_specific_resource_takes_its_packets_to_its_own_gateway() -> None:
    world, client, gateway = connected()
    second = world.gateway(4, "198.51.100.4")
    world.portal.gateway_for[uid(11)] = second.id
    world.portal.add(cidr(11, f"{SERVER}/32"))
    world.run(0.1)
    client.send(request(client))
    world.run(1)
    assert (gateway.received(), second.received()) == ([], [request(client)])
    assert reaches(world, client, gateway, "10.0.0.8")
    assert reaches(world, client, second)


@pytest.mark.parametrize(("wide", "narrow"), [("10.0.0.0/16", NET), (NET, NET)])
@pytest.mark.parametrize("gateway_count", [1, 2])
def test_resources_over_the_same_address_share_it_by_their_ports(wide: str, narrow: str, gateway_count: int) -> None:
    world = World()
    udp_53 = Filter(protocol="udp", port_range_start=53, port_range_end=53)
    world.portal.add(cidr(10, wide, UDP_80), cidr(11, narrow, udp_53))
    gateways = [world.gateway(), world.gateway(3, "198.51.100.2")][:gateway_count]
    world.portal.gateway_for = {uid(10): gateways[0].id, uid(11): gateways[-1].id}
    client = world.client()
    for number, port in enumerate((53, 80, 53, 80)):
        client.send(request(client, number=number, port=port))
        world.run(1)
        serving = gateways[-1] if port == 53 else gateways[0]
        assert serving.received() == [request(client, number=number, port=port)]
    client.send(request(client, port=81))
    world.run(1)
    assert [gateway.received() for gateway in gateways] == [[]] * gateway_count


def test_a_resource_whose_filters_change_is_asked_for_anew_and_filtered() -> None:
    world, client, gateway = connected()
    world.portal.revoke(client.id, 10)
    world.portal.add(cidr(10, NET, UDP_80))
    world.run(0.1)
    client.send(request(client, port=80))
    world.run(1)
    assert gateway.received() == [request(client, port=80)]
    client.send(request(client, port=81))
    world.run(0.1)
    assert gateway.received() == []
    assert client.received() == [prohibited(request(client, port=81))]


# access


def test_access_that_is_revoked_while_live_is_refused_with_icmp() -> None:
    world, client, gateway = connected(cidr(11, OTHER_NET))
    client.send(request(client, OTHER_SERVER))
    world.run(0.2)
    gateway.received()
    world.portal.revoke(client.id, 10)
    world.run(0.1)
    client.send(request(client, number=9))
    assert gateway.received() == []
    assert client.received() == [prohibited(request(client, number=9))]
    assert reaches(world, client, gateway, OTHER_SERVER)


def test_access_that_is_revoked_last_closes_and_the_next_packet_asks_again() -> None:
    world, client, gateway = connected()
    world.portal.revoke(client.id, 10)
    world.run(0.1)
    assert ended(client) == ["the peer said goodbye"]
    client.send(request(client, number=9))
    world.run(1)
    assert gateway.received() == [request(client, number=9)]
    assert len(client.intents()) == 2


def test_access_ends_when_it_expires_although_the_portal_is_away() -> None:
    world = World()
    world.portal.lifetime = 60
    world.portal.add(cidr(10, NET))
    gateway, client = world.gateway(), world.client()
    client.send(request(client))
    world.run(1)
    gateway.received()
    world.portal.leave()
    world.run(57)
    assert reaches(world, client, gateway)
    world.run(4)
    assert not reaches(world, client, gateway)
    assert ended(client) == ["the peer said goodbye"]
    assert [event.what for event in gateway.events_of(AccessChanged)] == ["granted", "expired"]


def test_a_foreign_source_is_stopped_by_the_client_itself() -> None:
    world, client, gateway = connected()
    client.send(packets.udp("192.0.2.77", SERVER))
    world.run(0.1)
    assert gateway.received() == []
    assert client.dropped(Reason.FOREIGN_SOURCE) == 1


def test_a_foreign_source_is_refused_with_icmp_by_the_gateway() -> None:
    world, client, gateway = connected()
    foreign = packets.udp("192.0.2.77", SERVER)
    client.machine.node.encapsulate(gateway.cid, foreign, world.clock.time)
    client.settle()
    world.pump()
    assert gateway.received() == []
    assert gateway.dropped(Reason.REFUSED_SOURCE) == 1
    assert client.dropped(Reason.REFUSED_DESTINATION) == 1, "the error is for the forged source, not for us"


def test_an_unauthorised_destination_is_refused_with_icmp() -> None:
    world, client, gateway = connected()
    for member in (client,):
        forbidden = packets.udp(str(member.ipv4), "10.9.9.9")
        client.machine.node.encapsulate(gateway.cid, forbidden, world.clock.time)
    client.settle()
    world.pump()
    assert gateway.received() == []
    assert gateway.dropped(Reason.REFUSED_DESTINATION) == 1
    assert client.dropped(Reason.REFUSED_SOURCE) == 1, "the error seems to come from where the client has no business"


def test_an_answer_from_another_address_of_the_site_is_dropped() -> None:
    world, client, gateway = connected()
    gateway.send(answer(client, "10.9.9.9"))
    world.run(0.1)
    assert client.received() == []
    assert gateway.dropped(Reason.NOT_PERMITTED) == 1


# ends that go away


def test_a_gateway_that_is_stopped_says_goodbye_and_another_takes_over_at_the_next_packet() -> None:
    world, client, gateway = connected()
    second = world.gateway(4, "198.51.100.4")
    gateway.stop()
    world.run(0.1)
    assert ended(client) == ["the peer said goodbye"]
    client.send(request(client, number=2))
    world.run(1)
    assert second.received() == [request(client, number=2)]
    assert reaches(world, client, second)


def test_a_gateway_that_dies_is_noticed_and_traffic_comes_back_through_another_within_25_seconds() -> None:
    world, client, gateway = connected()
    second = world.gateway(4, "198.51.100.4")
    gateway.crash()

    def arrived() -> bool:
        client.send(request(client, number=3))
        return bool(second.received())

    assert world.run_until(arrived, 30) < 25
    assert ended(client) == ["ICE timeout"]
    assert client.events_of(ResourcesUpdated)[-1].resources[0].status is Status.ONLINE


def test_a_gateway_that_is_killed_and_started_again_serves_within_25_seconds() -> None:
    world, client, gateway = connected()
    gateway.crash()
    world.run(2)
    gateway.expected_errors = (RemoteError, UnknownConnection)  # What the client still says to the former one.
    world.start(gateway)

    def arrived() -> bool:
        client.send(request(client, number=3))
        return bool(gateway.received())

    assert world.run_until(arrived, 30) < 25
    assert reaches(world, client, gateway)


def test_a_second_resource_asked_for_while_the_gateway_restarts_does_not_leave_the_first_in_a_black_hole() -> None:
    world, client, gateway = connected(cidr(11, OTHER_NET))
    gateway.crash()
    world.run(1)
    world.start(gateway)
    client.send(request(client, OTHER_SERVER))
    world.run(1)
    assert gateway.received() == [request(client, OTHER_SERVER)]
    client.send(request(client, number=8))
    world.run(1)
    assert gateway.received() == [request(client, number=8)]
    assert reaches(world, client, gateway)


def test_a_client_that_is_killed_and_started_again_reaches_at_its_first_packet() -> None:
    world, client, gateway = connected()
    client.crash()
    world.run(1)
    world.start(client)
    client.send(request(client, number=4))
    world.run(1)
    assert gateway.received() == [request(client, number=4)]
    assert reaches(world, client, gateway)
    assert len(gateway.machine.node) == 1


def test_a_client_that_stops_leaves_nothing_at_the_gateway() -> None:
    world, client, gateway = connected()
    client.stop()
    world.run(0.1)
    assert len(gateway.machine.node) == 0
    assert ended(gateway) == ["the peer said goodbye"]
    gateway.send(answer(client))
    assert gateway.dropped(Reason.NO_ROUTE) == 1


# roaming


def test_a_reset_has_a_new_key_and_the_next_packet_a_new_connection() -> None:
    world, client, gateway = connected()
    key = client.machine.public_key
    configurations = len(client.events_of(TunConfig))
    client.call(client.machine.reset)
    world.run(0.1)
    assert client.events_of(ReconnectPortal)[-1].public_key == client.machine.public_key != key
    assert client.events_of(ResourcesUpdated)[-1].resources[0].status is Status.UNKNOWN
    client.send(request(client, number=6))
    world.run(1)
    assert gateway.received() == [request(client, number=6)]
    assert reaches(world, client, gateway)
    assert len(client.events_of(TunConfig)) == configurations
    assert len(client.intents()) == 2
    assert len(gateway.machine.node) == 1


def test_after_a_reset_a_second_resource_does_not_carry_the_first_along() -> None:
    world, client, gateway = connected(cidr(11, OTHER_NET))
    client.call(client.machine.reset)
    world.run(0.1)
    for server in (OTHER_SERVER, SERVER):
        client.send(request(client, server))
        world.run(1)
        assert gateway.received() == [request(client, server)]
    assert [intent.resource_id for intent in client.intents()] == [uid(10), uid(11), uid(10)]


def test_a_client_whose_address_changes_keeps_its_session() -> None:
    world, client, gateway = connected()
    former = client.outer
    client.outer = type(former).from_text("192.0.2.99", 4242)
    world.network.detach(former)
    client.sockets.endpoints = [client.outer]
    world.network.attach(client.outer, client.sockets.source.ring)
    client.call(client.machine.set_local_addresses, [client.outer])
    world.run_until(lambda: reaches(world, client, gateway), 10)
    assert ended(client) == ended(gateway) == []
    assert len(client.intents()) == 1


# the portal


def test_while_the_portal_is_away_tunnels_go_on_and_new_ones_come_when_it_is_back() -> None:
    world, client, gateway = connected(cidr(11, OTHER_NET))
    world.portal.leave()
    for _ in range(60):
        assert reaches(world, client, gateway)
        world.run(5)
    client.send(request(client, OTHER_SERVER))
    world.run(1)
    assert gateway.received() == []
    world.portal.come_back()
    world.run(1)
    assert gateway.received() == [request(client, OTHER_SERVER)]
    assert reaches(world, client, gateway)
    assert ended(client) == ended(gateway) == []


def test_access_that_was_taken_while_the_gateway_could_not_hear_ends_when_it_can() -> None:
    world, client, gateway = connected()
    world.portal.leave()
    world.portal.grants.clear()
    world.run(5)
    assert reaches(world, client, gateway)
    world.portal.come_back()
    world.run(2)
    assert not reaches(world, client, gateway)
    assert ended(client) == ["the peer said goodbye"]


def test_candidates_that_could_not_be_sent_still_make_the_connection() -> None:
    world = World()
    world.portal.add(cidr(10, NET))
    gateway, client = world.gateway(), world.client()
    client.send(request(client))
    world.run_until(lambda: len(client.machine.node) == 1, 1)
    world.portal.leave()
    world.run(3)
    world.portal.come_back()
    world.run(2)
    assert is_up(client, gateway)
    assert gateway.received() == [request(client)]


@pytest.mark.parametrize("reason", ["offline", "forbidden"])
def test_a_refused_flow_is_asked_for_again_by_the_application(reason: str) -> None:
    world = World()
    world.portal.add(cidr(10, NET))
    gateway, client = world.gateway(), world.client()
    world.portal.refuses = reason
    client.send(request(client))
    world.run(3)
    assert gateway.received() == []
    world.portal.refuses = None
    client.send(request(client))
    world.run(1)
    assert gateway.received() == [request(client)]


def test_without_a_gateway_the_site_is_offline_until_one_is_there() -> None:
    world = World()
    world.portal.add(cidr(10, NET))
    client = world.client()
    client.send(request(client))
    world.run(1)
    assert client.events_of(ResourcesUpdated)[-1].resources[0].status is Status.OFFLINE
    gateway = world.gateway()
    client.send(request(client))
    world.run(1)
    assert gateway.received() == [request(client)]
    assert client.events_of(ResourcesUpdated)[-1].resources[0].status is Status.ONLINE


# ICMP and ECN on the way


def test_errors_of_routers_inside_the_resource_reach_the_application() -> None:
    world, client, gateway = connected()
    error = packets.ip("10.0.0.1", str(client.ipv4), ICMP, bytes([11, 0]) + bytes(6) + request(client)[:28])
    gateway.send(error)
    world.run(0.1)
    assert client.received() == [error]
    assert decode_ip(error).is_icmp_error


def test_congestion_marks_of_the_application_cross_the_tunnel() -> None:
    _, client, gateway = connected()
    for ecn in range(4):
        marked = packets.udp(str(client.ipv4), SERVER, b"x", ecn=ecn)
        client.send(marked)
        assert gateway.received() == [marked]
