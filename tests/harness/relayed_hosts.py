"""Two hosts of snownet with relays between them, on a virtual clock."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from firezone.base.errors import StateError
from firezone.base.timing import SECOND
from firezone.proto.snownet.events import InvalidateIceCandidate, NewIceCandidate
from firezone.wire.candidate import Candidate, CandidateKind, decode_candidate
from tests.harness.packets import udp
from tests.harness.snownet import Host, Nat, World

PACKET = udp("10.0.0.1", "10.0.0.2", b"ping")
ANSWER = udp("10.0.0.2", "10.0.0.1", b"pong")
HOSTS = {"4": ("192.0.2.1", "198.51.100.1"), "6": ("2001:db8::1", "2001:db8::2")}
RELAYS = {"4": ("203.0.113.10", "203.0.113.11"), "6": ("2001:db8:5::10", "2001:db8:5::11")}


def block_direct(world: World) -> None:
    """Datagrams of peers arrive only at relays."""
    world.drop = lambda datagram: not any(model.owns(datagram.transmit.destination) for model in world.relays)


def pair(
    relays: Sequence[str] = ("203.0.113.10",), *, family: str = "4", nats: bool = False, lag: int = 0
) -> tuple[World, Host, Host]:
    """Returns a client and a gateway who know these relays and do not reach each other."""
    world = World()
    for number, address in enumerate(relays):
        world.relay(address, name=f"relay{number}")
    client = world.client(HOSTS[family][0], nat=Nat("203.0.113.101", is_symmetric=True) if nats else None)
    gateway = world.gateway(HOSTS[family][1], nat=Nat("203.0.113.102", is_symmetric=True, first_port=45000) if nats else None)
    block_direct(world)
    world.latency += lag
    world.hand_out()
    world.run(1 + 4 * lag / SECOND)
    return world, client, gateway


def connected(*args: Sequence[str], **options: object) -> tuple[World, Host, Host]:
    """The same, connected."""
    world, client, gateway = pair(*args, **options)  # type: ignore[arg-type]
    world.authorize(client, gateway)
    assert world.run_until(lambda: client.is_established() and gateway.is_established(), 5)
    world.run(1)
    return world, client, gateway


def exchange(client: Host, gateway: Host, wait: float = 0.2) -> bool:
    """Sends one packet each way and tells whether both arrived."""
    client.received.clear()
    gateway.received.clear()
    for sender, receiver, packet in ((client, gateway, PACKET), (gateway, client, ANSWER)):
        with contextlib.suppress(StateError):  # not connected at the moment
            sender.send(receiver, packet)
        client.world.run(wait)
    return gateway.received == [(client.name, PACKET)] and client.received == [(gateway.name, ANSWER)]


def announced(
    host: Host, kind: CandidateKind, event: type[NewIceCandidate] | type[InvalidateIceCandidate] = NewIceCandidate, since: int = 0
) -> list[Candidate]:
    """Candidates of a kind that a host told its peer, or took back."""
    lines = [seen.candidate for at, seen in host.events if isinstance(seen, event) and at >= since]
    return [candidate for candidate in map(decode_candidate, lines) if candidate.kind is kind]


def is_relayed(world: World, host: Host, peer: Host) -> bool:
    """Whether a relay is on the way, ours or the peer's."""
    path = host.node.path_of(peer.name)
    assert path is not None
    return path.is_relayed or any(model.owns(path.remote) for model in world.relays)
