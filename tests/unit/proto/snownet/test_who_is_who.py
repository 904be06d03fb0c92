"""To whom a datagram belongs, and what is refused: rows C17, C25 and C26 of the specification."""

from __future__ import annotations

import pytest

from firezone.base.errors import RemoteError, UnknownConnection
from firezone.proto.ice.checks import IceCredentials, encode_request
from firezone.wire import stun
from tests.harness.snownet import Nat, World, endpoint, packet


def test_data_is_attributed_by_receiver_index_not_by_source() -> None:
    """One NAT gives two clients the same outer port, one after the other."""
    world = World()
    gateway = world.gateway("198.51.100.1")
    first = world.client("10.0.0.2", name="first", nat=Nat("203.0.113.1"))
    second = world.client("10.0.0.3", name="second", nat=Nat("203.0.113.1"))
    world.authorize(first, gateway)
    world.run(2)
    first.is_alive = False
    world.authorize(second, gateway)
    world.run(2)
    second.send(gateway, packet(2))
    world.run(1)
    assert gateway.received == [(second.name, packet(2))]
    first.is_alive = True
    first.send(gateway, packet(1))
    world.run(0.05)
    assert gateway.received[-1] == (first.name, packet(1))


def test_data_from_another_address_is_taken_and_does_not_change_the_path() -> None:
    world = World()
    client, gateway = world.connected()
    client.send(gateway, packet())
    datagram = client.sent("data")[-1].transmit.payload
    before = gateway.node.path_of(client.name)
    world.drop = lambda _: True
    world.deliver(gateway, gateway.addresses[0], endpoint("203.0.113.66", 9), datagram)
    assert gateway.received == [(client.name, packet())]
    assert gateway.node.path_of(client.name) == before


def test_replayed_data_and_handshakes_are_refused_and_change_nothing() -> None:
    world = World()
    client, gateway = world.connected()
    client.send(gateway, packet())
    world.run(1)
    sessions = dict(gateway.store.sessions)
    for kind in ("data", "initiation"):
        replayed = client.sent(kind)[-1].transmit.payload
        world.deliver(gateway, gateway.addresses[0], client.addresses[0], replayed)
        assert isinstance(gateway.errors.pop(), RemoteError)
    assert gateway.store.sessions == sessions
    assert gateway.received == [(client.name, packet())]


def test_padded_packets_are_cut_to_their_length() -> None:
    world = World()
    client, gateway = world.connected()
    row = client.node.row_of(gateway.name)
    assert row is not None
    padded = client.store.seal(client.store.sending[row][0], packet() + bytes(4))
    world.deliver(gateway, gateway.addresses[0], client.addresses[0], padded)
    assert gateway.received == [(client.name, packet())]


def test_the_largest_packet_passes_and_a_larger_one_is_refused() -> None:
    world = World()
    client, gateway = world.connected()
    client.send(gateway, packet(size=1280))
    world.run(1)
    assert gateway.received == [(client.name, packet(size=1280))]
    client.send(gateway, packet(size=1284))
    client.send(gateway, packet(size=1285))
    world.run(1)
    assert len(gateway.received) == 1
    assert len(gateway.errors) == 2


def test_strangers_are_told_apart_and_refused() -> None:
    world = World()
    client, gateway = world.connected()
    stranger = world.client("192.0.2.66", name="stranger")
    here, there = gateway.addresses[0], endpoint("192.0.2.66")
    world.authorize(stranger, gateway)
    world.run(1)
    gateway.node.remove_connection(stranger.name)
    for kind in ("initiation", "data"):
        datagram = stranger.sent(kind)[-1].transmit.payload
        with pytest.raises(UnknownConnection):
            gateway.node.handle_datagram(here, there, datagram, world.now)
    for garbage in (b"", b"\0", bytes(32), b"\4\0\0\0" + bytes(27), b"\x40" + bytes(40), bytes(1317)):
        with pytest.raises(RemoteError):
            gateway.node.handle_datagram(here, there, garbage, world.now)
    before = gateway.node.counters.unmatched_stun
    for datagram in {datagram.transmit.payload for datagram in stranger.sent("stun")}:
        assert gateway.node.handle_datagram(here, there, datagram, world.now) is None
    assert gateway.node.counters.unmatched_stun > before
    assert client.is_established()


def test_a_check_under_another_password_is_not_answered() -> None:
    world = World()
    client, gateway = world.connected()
    received = stun.decode(client.sent("stun")[0].transmit.payload)
    ours, theirs = received.message.get(stun.Attribute.USERNAME).split(":")  # type: ignore[union-attr]
    forged = encode_request(
        bytes(12),
        local=IceCredentials(theirs, "x"),
        remote=IceCredentials(ours, "guess"),
        is_controlling=True,
        tie_breaker=1,
        priority=1,
        use_candidate=True,
    )
    sent = len(gateway.sent("stun"))
    world.deliver(gateway, gateway.addresses[0], endpoint("203.0.113.66"), forged)
    assert len(gateway.sent("stun")) == sent
