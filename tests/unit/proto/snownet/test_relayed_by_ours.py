"""Nodes and the package's own relay machine: the client and the server of TURN against each other."""

from __future__ import annotations

import pytest

from firezone.proto.snownet.events import InvalidateIceCandidate, RelayLost
from firezone.wire.candidate import CandidateKind
from firezone.wire.stun import Method
from tests.harness.relay_model import RealRelay
from tests.harness.relayed_hosts import announced, block_direct, exchange
from tests.harness.snownet import Host, Nat, World


def connected(relays: tuple[tuple[str, ...], ...], client: tuple[str, ...], gateway: tuple[str, ...]) -> tuple[World, Host, Host]:
    """A client and a gateway behind symmetric NATs (IPv4), connected over relays of ours."""
    world = World()
    for number, addresses in enumerate(relays):
        world.relay(*addresses, name=f"relay{number}", kind=RealRelay)
    left = world.client(*client, nat=Nat("203.0.113.101", is_symmetric=True) if "." in client[0] else None)
    right = world.gateway(*gateway, nat=Nat("203.0.113.102", is_symmetric=True, first_port=45000) if "." in gateway[0] else None)
    block_direct(world)
    world.hand_out()
    world.run(1)
    world.authorize(left, right)
    assert world.run_until(lambda: left.is_established() and right.is_established(), 5)
    world.run(1)
    return world, left, right


V4, V6 = ("203.0.113.10",), ("2001:db8:5::10",)


@pytest.mark.parametrize(
    ("relays", "client", "gateway"),
    [
        ((V4,), ("192.0.2.1",), ("198.51.100.1",)),
        ((V4, ("203.0.113.11",)), ("192.0.2.1",), ("198.51.100.1",)),
        ((V6,), ("2001:db8::1",), ("2001:db8::2",)),
        ((V4 + V6,), ("192.0.2.1",), ("198.51.100.1",)),
        ((V4 + V6,), ("192.0.2.1",), ("2001:db8::2",)),
    ],
    ids=["v4", "two relays", "v6", "dual stack relay", "v4 meets v6"],
)
def test_data_crosses_our_relay_both_ways(
    relays: tuple[tuple[str, ...], ...], client: tuple[str, ...], gateway: tuple[str, ...]
) -> None:
    world, left, right = connected(relays, client, gateway)
    assert exchange(left, right)
    assert sum(model.relayed for model in world.relays) > 0
    assert left.errors == right.errors == []


def test_an_hour_of_silence_then_data() -> None:
    world, client, gateway = connected((V4,), ("192.0.2.1",), ("198.51.100.1",))
    world.run(3600)
    assert exchange(client, gateway)
    assert not client.events_of(InvalidateIceCandidate)


def test_a_relay_that_returns_with_another_secret() -> None:
    world, client, gateway = connected((V4,), ("192.0.2.1",), ("198.51.100.1",))
    world.relays[0].restart("another")
    world.hand_out()
    assert world.run_until(lambda: exchange(client, gateway), 5)


def test_a_relay_that_returns_with_the_same_secret_is_noticed_by_a_probe() -> None:
    world, client, gateway = connected((V4,), ("192.0.2.1",), ("198.51.100.1",))
    world.relays[0].restart("secret of relay0")
    world.hand_out(relays=[])
    assert world.run_until(lambda: exchange(client, gateway), 5)


def test_a_relay_with_another_secret_that_nobody_told_us_of_is_left() -> None:
    world, client, _ = connected((V4,), ("192.0.2.1",), ("198.51.100.1",))
    world.relays[0].restart("another")
    world.hand_out(relays=[])
    world.run(20)
    assert [event.relay for event in client.events_of(RelayLost)] == [world.relays[0].id]  # type: ignore[union-attr]


def test_a_client_that_starts_over_on_the_same_socket() -> None:
    world, client, gateway = connected((V4,), ("192.0.2.1",), ("198.51.100.1",))
    client.node.reset(world.now)
    world.collect(client)
    world.run(2)
    assert Method.ALLOCATE in [message.method for _, message in world.relays[0].requests[-6:]]
    world.authorize(client, gateway)
    assert world.run_until(lambda: client.is_established() and exchange(client, gateway), 5)
    assert len(announced(client, CandidateKind.RELAY)) == 2
