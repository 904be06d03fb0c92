"""Connections that need relays: both peers reach only them, relays come, go, restart and are lost."""

from __future__ import annotations

import pytest

from firezone.base.net import Endpoint
from firezone.base.timing import MILLISECOND
from firezone.proto.snownet.connection import ConnectionState
from firezone.wire.candidate import CandidateKind
from firezone.wire.stun import Attribute, Method
from tests.harness.relayed_hosts import (
    PACKET,
    RELAYS,
    announced,
    block_direct,
    connected,
    exchange,
    is_relayed,
    pair,
)
from tests.harness.snownet import Host, Nat, World, endpoint

# Paths


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("family", "nats"), [("4", False), ("4", True), ("6", False)])
def test_peers_that_reach_only_relays_connect_over_them(count: int, family: str, nats: bool) -> None:  # C2, C3
    world, client, gateway = connected(RELAYS[family][:count], family=family, nats=nats)
    assert exchange(client, gateway)
    assert is_relayed(world, client, gateway)
    assert is_relayed(world, gateway, client)
    assert client.errors == gateway.errors == []
    if nats:
        for one, other in ((client, gateway), (gateway, client)):
            path = one.node.path_of(other.name)
            assert path is not None
            assert path.is_relayed


def lent_on_the_way(world: World, host: Host, peer: Host) -> set[Endpoint]:
    """Returns the addresses of relays that what `host` sends passes through."""
    path = host.node.path_of(peer.name)
    assert path is not None
    return {end for end in (path.local, path.remote) for model in world.relays if model.owns(end)}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("nats", [False, True])
def test_both_ends_settle_on_one_way_through_the_relays(seed: int, nats: bool) -> None:
    world = World(seed)
    for number, address in enumerate(RELAYS["4"]):
        world.relay(address, name=f"relay{number}")
    client = world.client("192.0.2.1", nat=Nat("203.0.113.101") if nats else None)
    gateway = world.gateway("198.51.100.1", "198.51.100.77", nat=Nat("203.0.113.102", first_port=45000) if nats else None)
    block_direct(world)
    # Every datagram takes its own time, so that nominations overtake each other.
    world.delays = lambda _: (world.random.randrange(2 * MILLISECOND, 40 * MILLISECOND),)
    world.hand_out()
    world.run(2)
    world.authorize(client, gateway)
    assert world.run_until(lambda: client.is_established() and gateway.is_established(), 5)
    world.run(4)
    assert lent_on_the_way(world, client, gateway) == lent_on_the_way(world, gateway, client)
    chosen = client.node.path_of(gateway.name)
    world.run(30)
    assert client.node.path_of(gateway.name) == chosen
    assert exchange(client, gateway)


def test_client_sends_one_initiation_over_the_relay() -> None:
    _, client, gateway = connected(nats=True)
    framed = [datagram.transmit.payload[4:8] for datagram in client.sent("channel")]
    assert framed.count(b"\x01\0\0\0") == 1
    assert [datagram.transmit.payload[4:8] for datagram in gateway.sent("channel")].count(b"\x01\0\0\0") == 0


def test_relayed_data_takes_the_compiled_path_in_channels() -> None:
    world, client, gateway = connected(nats=True)
    for host, other in ((client, gateway), (gateway, client)):
        path = host.node.path_of(other.name)
        row = host.node.row_of(other.name)
        assert path is not None
        assert row is not None
        written = host.store.peers[row]
        assert written is not None
        assert written.local is None
        assert written.remote == world.relays[0].servers[0]
        lease = next(lease for lease in world.relays[0].leases.values() if path.local in lease.lent)
        assert lease.channel_of(path.remote, world.now) == written.channel


def test_direct_path_wins_and_data_moves_to_it() -> None:
    world, client, gateway = connected()
    assert is_relayed(world, client, gateway)
    world.drop = lambda _: False
    for host in (client, gateway):
        host.node.set_local_addresses([], world.now)
        host.node.set_local_addresses(host.addresses, world.now)
        world.collect(host)
    world.run(5)
    assert not is_relayed(world, client, gateway)
    assert not is_relayed(world, gateway, client)
    assert exchange(client, gateway)


def test_ipv4_client_and_dual_stack_gateway_stay_in_ipv4() -> None:  # C4
    world = World()
    relay = world.relay("203.0.113.10", "2001:db8:5::10")
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1", "2001:db8::2")
    block_direct(world)
    world.hand_out()
    world.run(1)
    world.authorize(client, gateway)
    world.run(5)
    assert exchange(client, gateway)
    path = client.node.path_of(gateway.name)
    assert path is not None
    assert path.local.is_ipv4
    assert path.remote.is_ipv4
    lent = announced(client, CandidateKind.RELAY)
    assert [candidate.priority for candidate in lent if candidate.endpoint.is_ipv4] == [2 << 24 | 16382 << 8 | 255]
    assert [candidate.priority for candidate in lent if not candidate.endpoint.is_ipv4] == [2 << 24 | 15383 << 8 | 255]
    assert relay.relayed > 0


def test_everything_holds_with_slow_relays() -> None:  # C28
    world, client, gateway = connected(nats=True, lag=100 * MILLISECOND)
    assert exchange(client, gateway, wait=2)
    world.run(60)
    assert exchange(client, gateway, wait=2)


def test_nat_yields_one_reflexive_candidate_and_a_direct_path() -> None:
    world = World()
    for number in range(2):
        world.relay(f"203.0.113.{10 + number}", name=f"relay{number}")
    client = world.client("192.168.0.2", nat=Nat("203.0.113.101"))
    gateway = world.gateway("10.9.0.2", nat=Nat("203.0.113.102"))
    world.hand_out()
    world.run(1)
    world.authorize(client, gateway)
    world.run(5)
    assert exchange(client, gateway)
    assert [candidate.endpoint for candidate in announced(client, CandidateKind.SERVER_REFLEXIVE)] == [
        endpoint("203.0.113.101", 40000)
    ]
    assert not is_relayed(world, client, gateway)
    assert not is_relayed(world, gateway, client)


def test_without_a_nat_there_is_no_reflexive_candidate() -> None:
    _, client, _ = connected()
    assert announced(client, CandidateKind.SERVER_REFLEXIVE) == []
    assert len(announced(client, CandidateKind.HOST)) == 1


def test_relays_tell_host_candidates_too() -> None:
    world = World()
    world.relay("203.0.113.10")
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1")
    client.node.set_local_addresses([], world.now)
    world.hand_out(client)
    world.run(1)
    world.authorize(client, gateway)
    world.run(1)
    assert [candidate.endpoint for candidate in announced(client, CandidateKind.HOST)] == client.addresses
    assert client.is_established()


# Channels


def test_reflexive_and_relayed_candidates_get_channels_at_once_host_candidates_with_their_first_check() -> None:
    world, client, gateway = pair()
    world.signalling = None
    world.authorize(client, gateway)
    world.run(0.1)
    before = len(world.relays[0].requests)
    for kind, address in (("srflx", "203.0.113.50"), ("relay", "203.0.113.51"), ("host", "203.0.113.52")):
        client.node.add_remote_candidate(gateway.name, f"candidate:1 1 udp 1 {address} 1234 typ {kind}", world.now)
    world.collect(client)
    world.run(0.1)
    requests = world.relays[0].requests[before:]
    bound = [message.get(Attribute.XOR_PEER_ADDRESS) for _, message in requests if message.method == Method.CHANNEL_BIND]
    assert bound == [endpoint("203.0.113.50", 1234), endpoint("203.0.113.51", 1234), endpoint("203.0.113.52", 1234)]


def test_long_idle_connection_keeps_its_channels() -> None:  # C19
    world, client, gateway = connected(nats=True)
    world.run(3600)
    assert client.failed_at() is None
    assert gateway.failed_at() is None
    assert client.node.state_of(gateway.name) is ConnectionState.IDLE
    assert exchange(client, gateway)


def test_busy_client_sends_no_bindings() -> None:
    world, client, gateway = connected(nats=True)
    relay = world.relays[0]
    relay.requests.clear()
    for _ in range(100):
        client.send(gateway, PACKET)
        world.run(1)
    own = [message for at, message in relay.requests if message.method == Method.BINDING]
    assert own == []
