"""What nodes count: section 12 of the connection layer."""

from __future__ import annotations

import json

import pytest

from firezone.proto.snownet.statistics import ConnectionStatistics, readable_bytes
from tests.harness.packets import udp
from tests.harness.snownet import Datagram, Host, World

PACKET = udp("10.0.0.1", "10.0.0.2", b"ping" * 10)
ANSWER = udp("10.0.0.2", "10.0.0.1", b"pong")


def connected(*, is_relayed: bool) -> tuple[World, Host, Host]:
    """Peers that have exchanged a packet each way, over a relay if so asked."""
    world = World()
    world.relay("203.0.113.10")
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1")
    if is_relayed:
        world.drop = lambda datagram: not any(model.owns(datagram.transmit.destination) for model in world.relays)
    world.hand_out()
    world.run(1)
    world.authorize(client, gateway)
    assert world.run_until(lambda: client.is_established() and gateway.is_established(), 5)
    world.run(1)
    client.send(gateway, PACKET)
    world.run(0.2)
    gateway.send(client, ANSWER)
    world.run(0.2)
    return world, client, gateway


def stun_sent(host: Host, *, is_framed: bool) -> int:
    """Bytes of checks and answers of checks on the wire, in channel data or not."""
    return sum(len(d.transmit.payload) for d in host.world.wire if d.sender is host and is_check(d, is_framed=is_framed))


def is_check(datagram: Datagram, *, is_framed: bool) -> bool:
    payload = datagram.transmit.payload
    if is_framed:
        return 0x40 <= payload[0] <= 0x4F and payload[8:12] == b"\x21\x12\xa4\x42"
    is_binding = payload[:2] in (b"\x00\x01", b"\x01\x01") and payload[4:8] == b"\x21\x12\xa4\x42"
    return is_binding and not any(datagram.transmit.destination in model.servers for model in datagram.sender.world.relays)


@pytest.mark.parametrize("is_relayed", [False, True])
def test_a_connection_counts_what_left_for_its_peer(is_relayed: bool) -> None:
    world, client, gateway = connected(is_relayed=is_relayed)
    for host, other, sent, received in ((client, gateway, PACKET, ANSWER), (gateway, client, ANSWER, PACKET)):
        told = host.node.statistics(world.now)["connections"][other.name]
        assert (told["sent_bytes"], told["received_bytes"]) == (len(sent), len(received))
        assert told["stun_direct_bytes"] == stun_sent(host, is_framed=False)
        assert told["stun_relayed_bytes"] == stun_sent(host, is_framed=True)
        assert told["stun_relayed_bytes"] > 0, "ways over relays are checked even where a direct one is taken"
        assert told["handshakes"] >= 1
    assert client.node.statistics(world.now)["connections"][gateway.name]["last_handshake_rtt_ms"] >= 20
    assert "last_handshake_rtt_ms" not in gateway.node.statistics(world.now)["connections"][client.name]


def test_a_node_counts_its_requests_to_relays_and_its_paths() -> None:
    world, client, _ = connected(is_relayed=True)
    told = client.node.statistics(world.now)
    to_relays = [d for d in world.wire if d.sender is client and any(d.transmit.destination in m.servers for m in world.relays)]
    assert told["stun_to_relays_bytes"] == sum(len(d.transmit.payload) for d in to_relays if d.transmit.payload[0] < 4)
    assert sum(told["paths"].values()) == 1
    assert set(told["paths"]) <= {"PeerToRelay", "RelayToPeer", "RelayToRelay"}
    assert json.loads(json.dumps(told)) == told


def test_what_ended_stays_in_the_sums() -> None:
    world, client, gateway = connected(is_relayed=False)
    before = client.node.statistics(world.now)
    client.node.close_connection(gateway.name, world.now)
    after = client.node.statistics(world.now)
    assert before["ended"]["sent_bytes"] == 0
    assert after["connections"] == after["paths"] == {}
    assert after["ended"]["received_bytes"] == len(ANSWER)
    assert after["ended"]["handshakes"] == before["connections"][gateway.name]["handshakes"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0.00 B"), (999, "999.00 B"), (1000, "1.00 kB"), (1_500_000, "1.50 MB"), (2 * 10**12, "2.00 TB"), (10**16, "10000.00 TB")],
)
def test_bytes_are_told_in_thousands(count: int, text: str) -> None:
    assert readable_bytes(count) == text
    assert ConnectionStatistics(sent_bytes=count).to_report(0)["sent"] == text
