"""A whole client and a whole gateway: from a packet at one TUN device to a packet at the other, and what can come between.

Everything is real but the network, the clock and the portal's decisions (`tests.harness.roles`).
"""

from __future__ import annotations

import pytest

from firezone.kernels.types import Reason
from firezone.proto.client.resources import Status
from firezone.proto.client.state import ResourcesUpdated, TunConfig
from firezone.proto.gateway.state import AccessChanged
from firezone.wire.ip import decode_ip, prohibited
from firezone.wire.portal.shared import Filter
from tests.harness import packets
from tests.harness.packets import ICMP
from tests.harness.roles import World, cidr, uid
from tests.harness.site import (
    NET,
    NET_V6,
    OTHER_NET,
    OTHER_SERVER,
    SERVER,
    SERVER_V6,
    answer,
    connected,
    ended,
    is_up,
    reaches,
    request,
)  # fmt: skip

UDP_80 = Filter(protocol="udp", port_range_start=80, port_range_end=80)


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


# the portal


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
