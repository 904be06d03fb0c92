"""A client, a gateway or the portal that goes away for a while or for good, and a client that roams.

Everything is real but the network, the clock and the portal's decisions (`tests.harness.roles`).
"""

from __future__ import annotations

import pytest

from firezone.base.errors import RemoteError, UnknownConnection
from firezone.kernels.types import Reason
from firezone.loop.memory import MemoryNetwork
from firezone.proto.client.resources import Status
from firezone.proto.client.state import ResourcesUpdated, TunConfig
from firezone.proto.tunnel_state import ReconnectPortal
from tests.harness.roles import Member, World, cidr, uid
from tests.harness.site import NET, OTHER_NET, OTHER_SERVER, SERVER, answer, connected, ended, is_up, reaches, request

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


def test_a_gateway_that_dies_is_noticed_and_traffic_comes_back_through_another_within_5_seconds() -> None:
    world, client, gateway = connected()
    second = world.gateway(4, "198.51.100.4")
    gateway.crash()

    def arrived() -> bool:
        client.send(request(client, number=3))
        return bool(second.received())

    assert world.run_until(arrived, 30) < 5
    assert ended(client) == ["closed"]
    assert client.events_of(ResourcesUpdated)[-1].resources[0].status is Status.ONLINE


@pytest.mark.parametrize("pause", [0.5, 1.0, 2.0, 4.0, 8.0])
def test_a_gateway_that_is_killed_and_started_again_serves_within_seconds(pause: float) -> None:
    world, client, gateway = connected()
    gateway.crash()
    for number in range(int(10 * pause)):
        client.send(request(client, number=100 + number))
        world.run(0.1)
    gateway.expected_errors = (RemoteError, UnknownConnection)  # What the client still says to the former one.
    world.start(gateway)

    def arrived() -> bool:
        client.send(request(client, number=3))
        return bool(gateway.received())

    assert world.run_until(arrived, 30) < 3.5
    assert reaches(world, client, gateway)


def test_the_portal_is_asked_about_a_silent_gateway_now_and_then_and_only_while_somebody_sends() -> None:
    world, client, gateway = connected()
    gateway.crash()
    world.run(10)
    assert len(client.intents()) == 1, "nobody has sent anything since"
    client.send(request(client))
    world.run(2)
    assert len(client.intents()) == 2
    for _ in range(40):
        client.send(request(client))
        world.run(0.1)
    assert 3 <= len(client.intents()) <= 5
    assert ended(client) == [], "the portal's word that it is offline ends nothing"
    assert client.events_of(ResourcesUpdated)[-1].resources[0].status is Status.ONLINE


def test_a_way_that_is_silent_for_a_while_stays_in_use_when_it_is_the_same_gateway() -> None:
    world, client, gateway = connected()
    before = client.machine.node.row_of(gateway.cid), client.machine.node.path_of(gateway.cid)
    deliver, world.network.deliver = world.network.deliver, lambda *_: None  # type: ignore[method-assign]
    for _ in range(60):
        client.send(request(client))
        world.run(0.1)
    world.network.deliver = deliver  # type: ignore[method-assign]
    assert len(client.intents()) > 1
    world.run(2)
    assert (client.machine.node.row_of(gateway.cid), client.machine.node.path_of(gateway.cid)) == before
    assert reaches(world, client, gateway)
    assert ended(client) == ended(gateway) == []


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


# a link that is away


def lose_link(member: Member) -> None:
    member.world.network.detach(member.outer)
    member.sockets.network = MemoryNetwork()  # nobody is there


def regain_link(member: Member) -> None:
    member.world.network.attach(member.outer, member.sockets.source.ring)
    member.sockets.network = member.world.network


@pytest.mark.parametrize(("who", "has_reset"), [("client", True), ("client", False), ("gateway", False)])
@pytest.mark.parametrize("away_s", [5, 60, 600])
def test_a_link_that_was_away_under_traffic_is_in_use_again_soon(away_s: int, has_reset: bool, who: str) -> None:
    world, client, gateway = connected()
    client.expected_errors = gateway.expected_errors = (RemoteError, UnknownConnection)  # Late words of a former connection.
    lonely = client if who == "client" else gateway
    lose_link(lonely)
    world.portal.leave()
    number = 0

    def arrived() -> bool:
        nonlocal number
        number += 1
        client.send(request(client, number=number))
        return request(client, number=number) in gateway.received()

    for _ in range(away_s * 10):  # An application that never gives up.
        assert not arrived()
        world.run(0.1)
    regain_link(lonely)
    world.portal.come_back()
    if has_reset:
        client.call(client.machine.reset)
    assert world.run_until(arrived, 30) <= 3
    assert reaches(world, client, gateway)
    assert len(client.machine.node) == len(gateway.machine.node) == 1
    # Short of what ICE takes to give up nothing was begun anew.
    if away_s == 5 and not has_reset:
        assert ended(client) == ended(gateway) == []


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
