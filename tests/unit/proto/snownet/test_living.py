"""Connections that exist: losing paths, saying goodbye, being under load, and what must not disturb them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firezone.base.errors import FirezoneError, RemoteError, StateError
from firezone.base.ids import ConnectionId
from firezone.base.net import Endpoint
from firezone.base.rng import SeededRng
from firezone.base.timing import SECOND
from firezone.proto.ice.checks import IceCredentials
from firezone.proto.snownet.connection import ConnectionState
from firezone.proto.snownet.connections import Deadlines
from firezone.proto.snownet.events import ConnectionClosed, InvalidateIceCandidate, Role
from firezone.proto.snownet.goodbye import GOODBYE, is_goodbye
from firezone.proto.snownet.node import Node, session_id_of
from firezone.proto.snownet.routes import Path
from firezone.wire import stun
from tests.harness.sessions import SlowSessionStore
from tests.harness.snownet import EPOCH, START, Host, World, endpoint, packet

# C9, C14: losing paths


def test_a_peer_that_dies_silently_is_noticed_in_20_seconds_while_traffic_flows() -> None:
    world = World()
    client, gateway = world.connected()
    world.run(5)
    gateway.is_alive = False
    killed = world.now
    while client.failed_at() is None and world.now < killed + 60 * SECOND:
        client.send(gateway, packet())
        world.run(0.5)
    failed = client.failed_at()
    assert failed is not None
    assert failed - killed <= 20 * SECOND
    assert client.store.peers == {}


def test_a_peer_that_dies_silently_is_noticed_when_idle_too() -> None:
    world = World()
    client, gateway = world.connected()
    world.run(60)
    gateway.is_alive = False
    killed = world.now
    assert world.run_until(lambda: client.failed_at() is not None, 200)
    assert world.now - killed <= 127 * SECOND


def test_a_packet_to_a_dead_idle_peer_finds_out_within_the_active_time() -> None:
    world = World()
    client, gateway = world.connected()
    world.run(60)
    gateway.is_alive = False
    client.send(gateway, packet())
    sent = world.now
    assert world.run_until(lambda: client.failed_at() is not None, 60)
    assert world.now - sent <= 19 * SECOND


def test_an_address_that_goes_is_taken_back_and_the_connection_moves() -> None:
    world = World()
    client = world.client("192.0.2.1", "2001:db8:1::1")
    gateway = world.gateway("198.51.100.1", "2001:db8:2::1")
    world.authorize(client, gateway)
    world.run(5)
    del client.addresses[1]
    client.node.set_local_addresses(client.addresses, world.now)
    world.collect(client)
    world.run(2)
    assert len(client.events_of(InvalidateIceCandidate)) == 1
    assert client.failed_at() is None
    assert gateway.failed_at() is None
    for host, peer in ((client, gateway), (gateway, client)):
        path = host.node.path_of(peer.name)
        assert path is not None
        assert path.remote.is_ipv4
    client.send(gateway, packet())
    gateway.send(client, packet())
    world.run(1)
    assert gateway.received
    assert client.received


def test_a_break_shorter_than_the_grace_is_survived() -> None:
    world = World()
    client, gateway = world.connected()
    client.node.set_local_addresses([], world.now)
    world.run(1.5)
    client.addresses = [endpoint("192.0.2.99")]
    client.node.set_local_addresses(client.addresses, world.now)
    world.collect(client)
    world.run(3)
    assert client.failed_at() is None
    client.send(gateway, packet())
    world.run(1)
    assert gateway.received == [(client.name, packet())]


def test_a_connection_that_searches_for_a_path_does_not_go_idle() -> None:
    world = World()
    client, gateway = world.connected()
    client.send(gateway, packet())
    last = world.now
    world.run(19.5)
    client.node.set_local_addresses([], world.now)
    world.run(1.5)
    assert world.now > last + 20 * SECOND
    assert client.node.state_of(gateway.name) is ConnectionState.CONNECTED


def test_the_same_path_nominated_again_changes_nothing() -> None:
    world = World()
    client, gateway = world.connected()
    world.run(25)
    client.send(gateway, packet())
    handshakes = len(client.sent("initiation"))
    client.node.set_local_addresses([], world.now)
    world.run(0.5)
    client.node.set_local_addresses(client.addresses, world.now)
    world.collect(client)
    world.run(1.5)
    assert client.failed_at() is None
    assert client.node.path_of(gateway.name) == Path(client.addresses[0], gateway.addresses[0])
    assert len(client.sent("initiation")) == handshakes


def test_a_break_longer_than_the_grace_is_the_end() -> None:
    world = World()
    client, gateway = world.connected()
    cut = world.now
    client.node.set_local_addresses([], cut)
    world.run(5)
    assert client.failed_at() == cut + 2 * SECOND
    assert client.node.row_of(gateway.name) is None


# C10, C16: leaving


def test_goodbye_is_the_packet_of_the_specification() -> None:
    assert GOODBYE.hex() == "6000000000" + "08ff00" + "00" * 32 + "0200000000000000"
    assert is_goodbye(GOODBYE)
    assert not is_goodbye(GOODBYE[:40])
    assert not is_goodbye(packet(size=48))


def test_closing_says_goodbye_through_the_tunnel_once() -> None:
    world = World()
    client, gateway = world.connected()
    gateway.node.close_connection(client.name, world.now)
    world.collect(gateway)
    world.run(1)
    assert client.received == [(gateway.name, GOODBYE)]
    assert gateway.closed()
    assert gateway.store.peers == {}
    client.node.remove_connection(gateway.name)
    assert client.store.peers == {}
    assert not client.closed()
    world.authorize(client, gateway)
    client.send(gateway, packet())
    world.run(2)
    assert gateway.received == [(client.name, packet())]


def test_closing_without_a_path_is_silent() -> None:
    world = World()
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1")
    world.authorize(client, gateway)
    client.node.close_connection(gateway.name, world.now)
    client.node.close_connection(gateway.name, world.now)
    world.collect(client)
    assert not client.closed()
    assert client.sent("stun") == []


def test_closing_all_takes_leave_of_everybody() -> None:
    world = World()
    gateway = world.gateway("198.51.100.1")
    clients = [world.client(f"192.0.2.{number}", name=f"client-{number}") for number in range(1, 4)]
    for client in clients:
        world.authorize(client, gateway)
    world.run(1)
    gateway.node.close_all(world.now)
    world.collect(gateway)
    world.run(1)
    assert all(client.received == [(gateway.name, GOODBYE)] for client in clients)
    assert len(gateway.node) == 0


def test_a_reset_rotates_the_keys_and_sends_nothing() -> None:
    world = World()
    client, gateway = world.connected()
    key, session = client.node.public_key, client.node.session_id
    sent = len(world.wire)
    client.node.reset(world.now)
    world.collect(client)
    assert client.events[-1][1] == ConnectionClosed(gateway.name)
    assert client.node.public_key != key
    assert client.node.session_id != session
    assert len(world.wire) == sent
    assert client.store.peers == {}
    client.addresses = [endpoint("192.0.2.200")]
    client.node.set_local_addresses(client.addresses, world.now)
    world.authorize(client, gateway)
    client.send(gateway, packet())
    world.run(2)
    assert gateway.received == [(client.name, packet())]


def test_the_session_id_is_that_of_the_specification() -> None:
    assert session_id_of(bytes(range(32))) == "BD20EE571CFA9E2DB619C9B7197B1FF5447CBE7BBB3AD290034C4DF75C200596"


# C18: under load


def test_under_load_initiations_get_cookies_and_one_with_a_cookie_gets_through() -> None:
    world = World()
    gateway = world.gateway("198.51.100.1")
    clients = [world.client(f"192.0.2.{number}", name=f"client-{number}") for number in range(1, 111)]
    world.latency = 0
    world.signalling = 0
    for client in clients:
        world.authorize(client, gateway)
    world.run(0.5)
    waiting = [client for client in clients if not client.is_established()]
    assert len(gateway.sent("cookie")) == len(waiting) == 10
    world.run(7)
    assert all(client.is_established() for client in clients)


# The Node itself


def test_nobody_but_the_due_are_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    gateway = world.gateway("198.51.100.1")
    for number in range(1, 21):
        world.authorize(world.client(f"192.0.2.{number}", name=f"client-{number}"), gateway)
        world.run(0.3)
    world.run(40)
    woken: list[int] = []
    pop_due = Deadlines.pop_due

    def count(self: Deadlines, now: int) -> list[object]:
        due = pop_due(self, now)
        woken.append(len(due))
        return due  # type: ignore[return-value]

    monkeypatch.setattr(Deadlines, "pop_due", count)
    world.run(2)
    assert sum(woken) <= 20


def test_after_a_wake_up_nothing_is_overdue() -> None:
    """Also when everything sent is lost, up to the end of the connection."""
    world = World()
    for host in world.connected():
        now = world.now
        while len(host.node):
            due = host.node.poll_timeout()
            assert due is not None
            assert due[0] > now, due
            now = due[0]
            host.node.handle_timeout(now)
            while host.node.poll_transmit() is not None:
                pass
            while host.node.poll_event() is not None:
                pass
        assert now - world.now > 15 * SECOND


def test_nothing_is_left_of_a_connection_that_is_gone() -> None:
    world = World()
    client, gateway = world.connected()
    world.run(5)
    client.node.remove_connection(gateway.name)
    table = client.node._connections
    leftovers = {name: value for name, value in vars(table).items() if len(value)}
    assert leftovers == {}
    assert client.store.sessions == {}
    assert client.node.poll_timeout() is None


def test_queued_output_is_announced() -> None:
    node = Node(Role.CLIENT, store=SlowSessionStore(), rng=SeededRng(1), now=START, utc=EPOCH)
    node.set_local_addresses([endpoint("192.0.2.1")], START)
    credentials = IceCredentials("aaaa", "a" * 22)
    node.upsert_connection(ConnectionId("peer"), SeededRng(2).bytes(32), bytes(32), credentials, credentials, START)
    assert node.poll_timeout() == (START, "queued output")


@settings(max_examples=200)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\1\0\0\0", b"\2\0\0\0", b"\3\0\0\0", b"\4\0\0\0", b"\0\1"]), st.booleans())
def test_any_datagram_in_a_value_or_a_documented_error_out(body: bytes, prefix: bytes, as_stun: bool) -> None:
    node = Node(Role.GATEWAY, store=SlowSessionStore(), rng=SeededRng(1), now=START, utc=EPOCH)
    datagram = prefix + body
    if as_stun:
        body += bytes(-len(body) % 4)
        datagram = b"\0\1" + len(body).to_bytes(2, "big") + stun.MAGIC_COOKIE_BYTES + bytes(12) + body
    elif prefix == b"\1\0\0\0":
        datagram = datagram[:148].ljust(148, b"\0")
    with contextlib.suppress(RemoteError, StateError):
        assert node.handle_datagram(endpoint("192.0.2.1"), endpoint("192.0.2.2"), datagram, START) is None
    assert node.poll_transmit() is None


def test_every_truncation_and_flip_of_real_datagrams_is_survived() -> None:
    world = World()
    client, gateway = world.connected()
    client.send(gateway, packet())
    samples = {datagram.kind: datagram.transmit.payload for datagram in world.wire}
    world.drop = lambda _: True
    here, there = gateway.addresses[0], client.addresses[0]
    for payload in samples.values():
        for size in range(len(payload)):
            swallow(gateway, here, there, payload[:size])
        for position in range(len(payload)):
            swallow(gateway, here, there, payload[:position] + bytes([payload[position] ^ 0x55]) + payload[position + 1 :])
    assert gateway.node.path_of(client.name) is not None


def swallow(host: Host, local: Endpoint, remote: Endpoint, datagram: bytes) -> None:
    with contextlib.suppress(FirezoneError):
        host.node.handle_datagram(local, remote, datagram, host.world.now)
