"""A client that reaches resources of a site behind a gateway, in the world of `tests.harness.roles`: packets and questions."""

from __future__ import annotations

from firezone.proto.tunnel_state import ConnectionChanged
from tests.harness import packets
from tests.harness.roles import ClientMember, GatewayMember, Member, World, cidr

NET, SERVER = "10.0.0.0/24", "10.0.0.7"
OTHER_NET, OTHER_SERVER = "10.0.1.0/24", "10.0.1.7"
NET_V6, SERVER_V6 = "fd00:1::/64", "fd00:1::7"


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
