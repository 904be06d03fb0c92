"""A whole client and a whole gateway: from a packet at one TUN device to a packet at the other, and what can come between."""

from __future__ import annotations

from tests.harness import packets
from tests.harness.roles import ClientMember, GatewayMember, World, cidr

RESOURCE = "10.0.0.0/24"
SERVER = "10.0.0.7"


def connected(*resources: object) -> tuple[World, ClientMember, GatewayMember]:
    """A client that has just reached resource 10 through a gateway."""
    world = World()
    world.portal.add(cidr(10, RESOURCE))
    gateway, client = world.gateway(), world.client()
    client.send(request(client))
    world.run(1)
    assert gateway.received() == [request(client)]
    return world, client, gateway


def request(client: ClientMember, server: str = SERVER, number: int = 0) -> bytes:
    source = str(client.ipv4 if "." in server else client.ipv6)
    return packets.udp(source, server, number.to_bytes(4, "big"), ports=(5000, 80))


def answer(client: ClientMember, server: str = SERVER, number: int = 0) -> bytes:
    destination = str(client.ipv4 if "." in server else client.ipv6)
    return packets.udp(server, destination, number.to_bytes(4, "big"), ports=(80, 5000))


def test_a_first_packet_opens_the_tunnel_and_comes_out_at_the_gateway() -> None:
    _, client, gateway = connected()
    gateway.send(answer(client))
    assert client.received() == [answer(client)]
    assert len(client.intents()) == 1
