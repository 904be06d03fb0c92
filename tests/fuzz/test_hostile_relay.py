"""A client and a gateway that reach each other over relays alone, and one of these lies."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from firezone.base.errors import RemoteError, StateError
from tests.fuzz.hostile_relay import HostileModel, HostileRelay
from tests.harness.relayed import RelayedWorld
from tests.harness.roles import cidr
from tests.harness.snownet import Host, Nat, World
from tests.stateful.test_relayed_roles import answer, reaches, request
from tests.stateful.test_two_nodes import packet

MOST_PER_SECOND = 60
"""Datagrams from one host to relays, on average over 20 s: checks, requests and their repetitions."""


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), malice=st.sampled_from([0.2, 0.6, 1.0]), also_v6=st.booleans())
def test_a_lying_relay_breaks_nothing_and_can_be_honest_again(seed: int, malice: float, also_v6: bool) -> None:
    world = World(seed)
    liar = world.relay("203.0.113.10", *(["2001:db8::10"] if also_v6 else []), kind=HostileRelay)
    assert isinstance(liar, HostileRelay)
    liar.draw.seed(seed)
    gateway = world.gateway("10.9.0.2", nat=Nat("203.0.113.100", is_symmetric=True, first_port=30000))
    client = world.client("10.1.0.2", nat=Nat("203.0.113.101", is_symmetric=True))
    liar.malice = malice
    for step in range(6):
        if step % 3 == 0:
            world.hand_out()
            world.authorize(client, gateway)
        for sender, receiver in ((client, gateway), (gateway, client)):
            with contextlib.suppress(StateError):
                sender.send(receiver, packet(sender, step, receiver))
        world.wire.clear()
        world.run(20)
        for host in (client, gateway):
            assert to_relays(world, host, liar) <= MOST_PER_SECOND * 20
    liar.malice = 0.0
    liar.restart("honest again")
    world.hand_out()
    world.authorize(client, gateway)
    assert world.run_until(lambda: client.is_established() and gateway.is_established(), 60)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32), malice=st.sampled_from([0.1, 0.5, 1.0]))
def test_whole_programs_with_their_compiled_path_survive_it_too(seed: int, malice: float) -> None:
    world = RelayedWorld()
    member = world.relay(50, kind=HostileModel)
    liar = member.model
    assert isinstance(liar, HostileModel)
    liar.draw.seed(seed)
    liar.malice = malice
    world.portal.add(cidr(10, "10.0.0.0/24"))
    gateway, client = world.gateway(), world.client()
    gateway.expected_errors = client.expected_errors = (RemoteError, StateError)
    for step in range(5):
        world.hand_out()
        client.send(request(client, step))
        gateway.send(answer(client, step))
        world.run(12)
    liar.malice = 0.0
    liar.restart("honest again")
    world.hand_out()
    world.run(20)
    for number in range(10):
        client.send(request(client, number))
        world.run(4)
        if reaches(client, gateway, 100 + number):
            return
    raise AssertionError("they never meet again")


def to_relays(world: World, host: Host, relay: HostileRelay) -> int:
    return sum(datagram.sender is host and relay.owns(datagram.transmit.destination) for datagram in world.wire)
