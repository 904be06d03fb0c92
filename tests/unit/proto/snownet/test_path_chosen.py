"""What a node tells of the path it has chosen: the kinds of both ends, and the relay that sends for us."""

from __future__ import annotations

from firezone.proto.snownet.events import PathChosen
from firezone.wire.candidate import CandidateKind
from tests.harness.relayed_hosts import connected
from tests.harness.snownet import Host, Nat, World

HOST, PEER_REFLEXIVE, RELAY = CandidateKind.HOST, CandidateKind.PEER_REFLEXIVE, CandidateKind.RELAY


def last(host: Host) -> PathChosen:
    found = host.events_of(PathChosen)[-1]
    assert isinstance(found, PathChosen)
    return found


def test_direct_path_between_hosts_names_both_as_such() -> None:
    client, gateway = World().connected()
    for host, peer in ((client, gateway), (gateway, client)):
        path = host.node.path_of(peer.name)
        assert path is not None
        assert last(host) == PathChosen(peer.name, path.remote, HOST, HOST, None)


def test_peer_behind_a_nat_is_peer_reflexive_where_no_relay_tells_it_its_address() -> None:
    world = World()
    client, gateway = world.client("192.168.1.2", nat=Nat("203.0.113.1", is_symmetric=True)), world.gateway("198.51.100.1")
    world.authorize(client, gateway)
    world.run(2)
    assert last(gateway).remote_kind is PEER_REFLEXIVE
    assert last(gateway).remote.host == "203.0.113.1"
    assert last(client).remote_kind is HOST


def test_relayed_path_names_the_relay_at_the_end_that_uses_it() -> None:
    _, client, gateway = connected(("203.0.113.10",))
    ends = [last(client), last(gateway)]
    for end in ends:
        assert (end.local_kind is RELAY) == (end.relay == "relay0")
        assert end.local_kind is RELAY or end.relay is None
    assert any(end.relay == "relay0" for end in ends)


def test_connection_made_anew_tells_its_path_anew() -> None:
    world, client, gateway = connected(("203.0.113.10",))
    before = len(client.events_of(PathChosen))
    assert RELAY in (last(client).local_kind, last(client).remote_kind)
    world.drop = lambda _: False
    client.node.reset(world.now)
    gateway.node.reset(world.now)
    world.hand_out()
    world.run(1)
    world.authorize(client, gateway)
    world.run(20)
    assert len(client.events_of(PathChosen)) > before
    assert (last(client).local_kind, last(client).remote_kind) == (HOST, HOST)
