"""A connection nobody uses: rare checks, few sessions, and awake with the next packet."""

from __future__ import annotations

import numpy as np

from firezone.base.rng import SeededRng
from firezone.proto.snownet.connection import ConnectionState
from firezone.proto.snownet.events import Role
from firezone.proto.snownet.node import Node
from firezone.proto.snownet.routes import Path
from tests.harness.sessions import SlowSessionStore
from tests.harness.snownet import EPOCH, START, Host, World, endpoint, packet

ACTIVITY = np.dtype(
    [
        ("session", "i4"),
        ("peer", "i4"),
        ("sent", "u4"),
        ("received", "u4"),
        ("keepalives", "u4"),
        ("sent_bytes", "u8"),
        ("received_bytes", "u8"),
    ]
)


def test_after_20_seconds_without_packets_checks_become_rare() -> None:
    world = World()
    client, gateway = world.connected()
    world.run(30)
    assert client.node.state_of(gateway.name) is ConnectionState.IDLE
    assert gateway.node.state_of(client.name) is ConnectionState.IDLE
    before = world.now
    world.run(100)
    checks = [datagram for datagram in client.sent("stun", since=before) if len(datagram.transmit.payload) > 64]
    assert len(checks) == 4


def test_one_packet_wakes_an_idle_connection_and_its_checks_at_once() -> None:
    world = World()
    client, gateway = world.connected()
    world.run(40)
    before = world.now
    client.send(gateway, packet())
    assert client.node.state_of(gateway.name) is ConnectionState.CONNECTED
    assert client.sent("stun", since=before)
    world.run(0.1)
    assert gateway.node.state_of(client.name) is ConnectionState.CONNECTED


def test_traffic_of_the_fast_path_keeps_and_wakes_a_connection() -> None:
    world = World()
    client, gateway = world.connected()
    for _ in range(5):
        world.run(10)
        report(client, gateway, sent=1)
    assert client.node.state_of(gateway.name) is ConnectionState.CONNECTED
    assert gateway.node.state_of(client.name) is ConnectionState.IDLE
    world.run(30)
    assert client.node.state_of(gateway.name) is ConnectionState.IDLE
    report(client, gateway, keepalives=1)
    assert client.node.state_of(gateway.name) is ConnectionState.IDLE
    report(client, gateway, received=3)
    assert client.node.state_of(gateway.name) is ConnectionState.CONNECTED


def test_activity_of_a_row_that_is_gone_is_ignored() -> None:
    node = Node(Role.CLIENT, store=SlowSessionStore(), rng=SeededRng(1), now=START, utc=EPOCH)
    node.handle_activity(np.array([(1, 7, 1, 1, 1, 1, 1)], ACTIVITY), START)
    node.handle_activity(np.zeros(0, ACTIVITY), START)
    assert node.poll_timeout() is None


def report(host: Host, peer: Host, **counts: int) -> None:
    row = host.node.row_of(peer.name)
    session = next(slot for slot, session in host.store.sessions.items() if session.peer == row)
    record = np.zeros(1, ACTIVITY)
    record["peer"], record["session"] = row, session
    for name, count in counts.items():
        record[name] = count
    host.node.handle_activity(record, host.world.now)
    host.world.collect(host)


def test_an_idle_connection_lives_on_with_a_new_session_every_three_minutes() -> None:
    world = World()
    client, gateway = world.connected()
    world.run(600)
    assert client.failed_at() is None
    assert gateway.failed_at() is None
    assert 3 <= len(client.sent("initiation")) <= 5
    client.send(gateway, packet())
    world.run(1)
    assert gateway.received == [(client.name, packet())]


def test_a_path_nominated_while_idle_is_used_for_the_next_packet() -> None:
    world = World()
    client, gateway = world.connected()
    world.run(30)
    for host, address in ((client, "2001:db8:1::1"), (gateway, "2001:db8:2::1")):
        host.addresses.append(endpoint(address))
    for host in (gateway, client):
        host.node.set_local_addresses(host.addresses, world.now)
        world.collect(host)
    world.run(30)
    assert client.node.path_of(gateway.name) == Path(endpoint("2001:db8:1::1"), endpoint("2001:db8:2::1"))
    client.send(gateway, packet())
    world.run(1)
    assert gateway.received == [(client.name, packet())]
    assert not client.sent("data")[-1].transmit.destination.is_ipv4
