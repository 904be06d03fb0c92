"""The real portal service between a whole client and a whole gateway: all three machines, and only wires and clock are not real."""

from __future__ import annotations

from firezone.proto.tunnel_state import ConnectionChanged
from tests.harness import packets
from tests.harness.roles import ClientMember, GatewayMember, Member, World
from tests.harness.service_portal import ServicePortal

SERVER, PRINTER = "10.20.0.7", "10.30.7.9"


def everybody() -> tuple[World, ServicePortal, ClientMember, GatewayMember]:
    world = World()
    portal = ServicePortal(world)
    world.portal = portal
    return world, portal, world.client(), world.gateway()


def arrives(world: World, client: ClientMember, gateway: GatewayMember, packet: bytes) -> bool:
    gateway.received()
    client.send(packet)
    world.run(1)
    return gateway.received() == [packet]


def to(client: ClientMember, server: str) -> bytes:
    return packets.tcp(str(client.ipv4), server, ports=(5000, 443))


def goodbyes(member: Member) -> int:
    return [event.detail for event in member.events_of(ConnectionChanged)].count("the peer said goodbye")


def test_a_packet_goes_there_and_back() -> None:
    world, _, client, gateway = everybody()
    assert arrives(world, client, gateway, to(client, SERVER))
    answer = packets.tcp(SERVER, str(client.ipv4), ports=(443, 5000))
    gateway.send(answer)
    assert client.received() == [answer]
    assert arrives(world, client, gateway, to(client, PRINTER)), "a second resource over the same connection"
    assert len(gateway.machine.node) == 1


def test_the_filters_of_the_policy_are_those_of_the_gateway() -> None:
    world, _, client, gateway = everybody()
    assert not arrives(world, client, gateway, packets.udp(str(client.ipv4), PRINTER, ports=(5000, 443)))
    assert client.intents() == [], "the client knows them too"
    assert arrives(world, client, gateway, packets.echo(str(client.ipv4), PRINTER))


def test_a_policy_that_is_taken_away_cuts_at_once() -> None:
    world, portal, client, gateway = everybody()
    assert arrives(world, client, gateway, to(client, SERVER))
    portal.reload('members = ["alice"]', "members = []")
    world.run(1)
    assert len(client.machine.node) == len(gateway.machine.node) == 0
    assert not arrives(world, client, gateway, to(client, SERVER))


def test_a_portal_that_restarts_disturbs_nobody() -> None:
    world, portal, client, gateway = everybody()
    assert arrives(world, client, gateway, to(client, SERVER))
    portal.restart()
    world.run(3)
    assert arrives(world, client, gateway, to(client, SERVER))
    assert goodbyes(client) == goodbyes(gateway) == 0
    assert len(client.intents()) == 1
    assert arrives(world, client, gateway, to(client, PRINTER))


def test_a_client_that_roams_comes_back() -> None:
    world, _, client, gateway = everybody()
    assert arrives(world, client, gateway, to(client, SERVER))
    client.call(client.machine.reset)
    world.run(0.5)
    assert arrives(world, client, gateway, to(client, SERVER))
    assert len(gateway.machine.node) == 1
