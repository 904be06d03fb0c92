"""Two nodes find each other: `snownet` 15.3, the scenarios that need no relay."""

from __future__ import annotations

from tests.harness.snownet import World

PACKET = bytes.fromhex("4500001c") + bytes(24)


def test_a_packet_buffered_before_the_path_exists_is_delivered() -> None:
    world = World()
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1")
    world.authorize(client, gateway)
    client.send(gateway, PACKET)
    world.run(1)
    assert gateway.received == [(client.name, PACKET)]
    assert len(client.sent("initiation")) == 1
    assert gateway.sent("initiation") == []
    assert client.is_established()
    assert gateway.is_established()
