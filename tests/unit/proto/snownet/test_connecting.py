"""Two nodes find each other: the scenarios of `snownet` 15.3 that need no relay, and what went wrong once (15.4)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from firezone.base.errors import NoRelays, RemoteError, StillConnecting, UnknownConnection
from firezone.base.ids import ConnectionId, RelayId
from firezone.base.net import Endpoint
from firezone.base.rng import SeededRng
from firezone.base.timing import MILLISECOND, SECOND
from firezone.proto.ice.checks import IceCredentials
from firezone.proto.noise.sessions import SessionStore
from firezone.proto.snownet.connection import MAX_BUFFERED, ConnectionState
from firezone.proto.snownet.events import ConnectionEstablished, ConnectionFailed, NewIceCandidate, NoRelaysLeft, RelayLost, Role
from firezone.proto.snownet.node import Node
from firezone.proto.snownet.relays import Relay
from firezone.proto.snownet.routes import Path
from tests.harness.sessions import SlowSessionStore
from tests.harness.snownet import EPOCH, START, Datagram, Nat, World, endpoint
from tests.harness.stores import STORES

OURS, THEIRS = IceCredentials("aaaa", "a" * 22), IceCredentials("bbbb", "b" * 22)
PEER = ConnectionId("peer")
X25519_POINT = SeededRng(9).bytes(32)


def packet(number: int = 0) -> bytes:
    return bytes.fromhex("4500001c") + number.to_bytes(24, "big")


def lone_node(role: Role = Role.CLIENT) -> tuple[Node, SlowSessionStore]:
    store = SlowSessionStore()
    return Node(role, store=store, rng=SeededRng(1), now=START, utc=EPOCH), store


# C1, C5, C28


def test_packets_buffered_before_the_path_exists_are_delivered_in_order() -> None:
    world = World()
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1")
    world.authorize(client, gateway)
    for number in range(10):
        client.send(gateway, packet(number))
    world.run(1)
    assert gateway.received == [(client.name, packet(number)) for number in range(10)]
    assert len(client.sent("initiation")) == 1
    assert gateway.sent("initiation") == []
    assert len(client.events_of(ConnectionEstablished)) == 1
    assert len(gateway.events_of(ConnectionEstablished)) == 1


@pytest.mark.parametrize("make_store", STORES.values(), ids=STORES)
def test_every_session_store_will_do(make_store: Callable[[], SessionStore]) -> None:
    world = World(make_store=make_store)
    client, gateway = world.connected()
    for number in range(3):
        client.send(gateway, packet(number))
        gateway.send(client, packet(number))
    world.run(1)
    assert gateway.received == [(client.name, packet(number)) for number in range(3)]
    assert client.received == [(gateway.name, packet(number)) for number in range(3)]
    replayed = client.sent("data")[-1].transmit.payload
    world.deliver(gateway, gateway.addresses[0], client.addresses[0], replayed)
    assert isinstance(gateway.errors[-1], RemoteError)
    gateway.node.close_all(world.now)
    client.node.reset(world.now)


def test_both_sides_have_the_same_path_and_keys() -> None:
    world = World()
    client, gateway = world.connected()
    assert client.node.path_of(gateway.name) == Path(endpoint("192.0.2.1"), endpoint("198.51.100.1"))
    assert gateway.node.path_of(client.name) == Path(endpoint("198.51.100.1"), endpoint("192.0.2.1"))
    ours, theirs = next(iter(client.store.sessions.values())), next(iter(gateway.store.sessions.values()))
    assert (ours.send_key, ours.receive_key) == (theirs.receive_key, theirs.send_key)
    row = client.node.row_of(gateway.name)
    assert row is not None
    path = client.store.peers[row]
    assert path is not None
    assert path.remote == endpoint("198.51.100.1")
    assert client.node.connection_of(row) == gateway.name


def test_packets_flow_both_ways() -> None:
    world = World()
    client, gateway = world.connected()
    client.send(gateway, packet(1))
    gateway.send(client, packet(2))
    world.run(1)
    assert gateway.received == [(client.name, packet(1))]
    assert client.received == [(gateway.name, packet(2))]


def test_a_response_made_before_the_gateway_has_a_path_is_sent_when_it_has() -> None:
    world = World()
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1")
    held: list[Datagram] = []

    def hold_nominations(datagram: Datagram) -> bool:
        is_nominating = datagram.sender is client and datagram.kind == "stun" and len(datagram.transmit.payload) == 92
        if is_nominating and not held:
            held.append(datagram)
            return True
        return False

    world.drop = hold_nominations
    world.authorize(client, gateway)
    client.send(gateway, packet())
    world.run(0.3)
    assert len(client.sent("initiation")) == 1
    assert gateway.node.path_of(client.name) is None
    assert not gateway.is_established(), "a handshake without a path is no connection"
    assert world.run_until(client.is_established, 4)
    assert held
    assert len(client.sent("initiation")) == 1
    world.run(0.1)
    assert gateway.received == [(client.name, packet())]


def test_high_latency_changes_nothing() -> None:
    world = World()
    world.latency = 225 * MILLISECOND
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1")
    world.authorize(client, gateway)
    client.send(gateway, packet())
    assert world.run_until(lambda: bool(gateway.received), 3)
    assert len(client.sent("initiation")) == 1


def test_ipv6_alone_connects() -> None:
    world = World()
    client, gateway = world.client("2001:db8:1::1"), world.gateway("2001:db8:2::1")
    world.authorize(client, gateway)
    world.run(1)
    assert client.is_established()


def test_ipv6_is_preferred_where_both_work() -> None:
    world = World()
    client, gateway = world.client("192.0.2.1", "2001:db8:1::1"), world.gateway("198.51.100.1", "2001:db8:2::1")
    world.authorize(client, gateway)
    world.run(2)
    path = client.node.path_of(gateway.name)
    assert path is not None
    assert not path.remote.is_ipv4


def test_a_client_behind_a_nat_reaches_a_public_gateway() -> None:
    world = World()
    client = world.client("10.0.0.2", nat=Nat("203.0.113.1"))
    gateway = world.gateway("198.51.100.1")
    world.authorize(client, gateway)
    client.send(gateway, packet())
    world.run(2)
    assert gateway.received == [(client.name, packet())]
    assert gateway.node.path_of(client.name) == Path(endpoint("198.51.100.1"), endpoint("203.0.113.1", 40000))


# C6, C7, C23


def test_without_any_word_of_the_peer_a_connection_fails_after_10_seconds() -> None:
    world = World()
    world.signalling = None
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1")
    world.authorize(client, gateway)
    world.run(20)
    for host in (client, gateway):
        assert host.failed_at() == START + 10 * SECOND
        assert host.store.peers == {}
        assert len(host.node) == 0
        assert host.node.poll_timeout() is None


def test_one_check_of_the_peer_disarms_the_candidate_timeout() -> None:
    world = World()
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1")
    client.mutes_signalling = True
    world.authorize(client, gateway)
    world.run(15)
    assert client.is_established()
    assert gateway.failed_at() is None


def test_a_peer_that_is_announced_and_never_answers_fails_after_17_seconds() -> None:
    world = World()
    world.drop = lambda _: True
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1")
    world.authorize(client, gateway)
    world.run(30)
    failed = client.failed_at()
    assert failed is not None
    assert 17 * SECOND <= failed - START <= 18 * SECOND


def test_remote_candidates_may_come_before_any_local_address() -> None:
    world = World()
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1")
    gateway.node.set_local_addresses([], world.now)
    gateway.node.update_relays([], [relay()], world.now)
    world.authorize(client, gateway)
    world.run(8)
    gateway.node.set_local_addresses(gateway.addresses, world.now)
    world.collect(gateway)
    assert world.run_until(client.is_established, 5)


def test_a_connection_that_never_finds_a_path_ends_after_a_minute() -> None:
    node, _ = lone_node()
    node.update_relays([], [relay()], START)
    node.upsert_connection(PEER, X25519_POINT, b"k" * 32, OURS, THEIRS, START)
    node.add_remote_candidate(PEER, "candidate:1 1 udp 1 198.51.100.1 52625 typ host", START)
    now = START
    events = []
    while now < START + 60 * SECOND:
        while node.poll_transmit() is not None:
            pass
        while (event := node.poll_event()) is not None:
            events.append(event)
        due = node.poll_timeout()
        assert due is not None
        assert due[0] > now
        now = due[0]
        node.handle_timeout(now)
    assert events == [RelayLost(RelayId("relay"), "no response"), NoRelaysLeft()]
    assert node.poll_event() == ConnectionFailed(PEER, "no path found")
    assert now == START + 60 * SECOND


def test_garbage_among_the_candidates_is_skipped() -> None:
    world = World()
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1")
    world.authorize(client, gateway)
    for line in ("", "candidate:", "candidate:1 1 udp 1 example.org 1 typ host", "\0" * 5000):
        client.node.add_remote_candidate(gateway.name, line, world.now)
    client.node.add_remote_candidate(ConnectionId("unknown"), "candidate:1 1 udp 1 192.0.2.9 1 typ host", world.now)
    world.run(1)
    assert client.is_established()
    assert client.node.counters.ignored_candidates == 4


def test_candidates_are_announced_best_first() -> None:
    world = World()
    client, gateway = world.client("192.0.2.1", "192.0.2.2", "2001:db8::1"), world.gateway("198.51.100.1")
    world.authorize(client, gateway)
    priorities = [
        int(event.candidate.split()[3]) for event in client.events_of(NewIceCandidate) if isinstance(event, NewIceCandidate)
    ]
    assert len(priorities) == 3
    assert priorities == sorted(priorities, reverse=True)


def test_addresses_nobody_could_use_are_not_offered() -> None:
    world = World()
    gateway = world.gateway("198.51.100.1")
    client = world.client("100.64.1.1", "fd00:2021:1111::5", "fe80::1", "169.254.0.1", "224.0.0.1", "192.0.2.1")
    world.authorize(client, gateway)
    lines = [event.candidate for event in client.events_of(NewIceCandidate) if isinstance(event, NewIceCandidate)]
    assert len(lines) == 1
    assert " 192.0.2.1 " in lines[0]


# C22, optimistic candidates


def test_a_peer_with_many_addresses_does_not_make_us_busy() -> None:
    node, _ = lone_node()
    node.set_local_addresses([endpoint("192.0.2.1"), endpoint("2001:db8::1")], START)
    node.upsert_connection(PEER, X25519_POINT, b"k" * 32, OURS, THEIRS, START)
    for number in range(1, 21):
        node.add_remote_candidate(PEER, f"candidate:1 1 udp 2130706431 2001:db8:5::{number} 52625 typ host", START)
        line = f"candidate:1 1 udp 1694498815 2001:db8:6::{number} {number} typ srflx raddr :: rport 0"
        node.add_remote_candidate(PEER, line, START)
    checks = 0
    while node.poll_transmit() is not None:
        checks += 1
    assert checks == 40


def test_an_outer_address_is_guessed_with_the_inner_port_twice_per_call_at_most() -> None:
    node, _ = lone_node()
    node.set_local_addresses([endpoint("192.0.2.1")], START)
    node.upsert_connection(PEER, X25519_POINT, b"k" * 32, OURS, THEIRS, START)
    for number in range(1, 4):
        node.add_remote_candidate(PEER, f"candidate:1 1 udp 2130706175 10.0.0.{number} {52620 + number} typ host", START)
    before = checked(node)
    node.add_remote_candidate(PEER, "candidate:1 1 udp 1694498559 203.0.113.7 40000 typ srflx raddr 0.0.0.0 rport 0", START)
    guessed = checked(node)
    assert len(before) == 3
    assert guessed[0] == endpoint("203.0.113.7", 40000)
    assert sorted(guessed[1:]) == [endpoint("203.0.113.7", 52621), endpoint("203.0.113.7", 52622)]
    events = []
    while (event := node.poll_event()) is not None:
        events.append(event)
    assert len(events) == 1, "guesses are never signalled"


def checked(node: Node) -> list[Endpoint]:
    destinations = []
    while (transmit := node.poll_transmit()) is not None:
        destinations.append(transmit.destination)
    return destinations


# Before the path


def test_the_client_buffers_so_many_packets_and_forgets_the_oldest() -> None:
    world = World()
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1")
    world.authorize(client, gateway)
    for number in range(MAX_BUFFERED + 10):
        client.send(gateway, packet(number))
    world.run(1)
    assert [data for _, data in gateway.received] == [packet(number) for number in range(10, MAX_BUFFERED + 10)]


def test_the_gateway_does_not_buffer() -> None:
    world = World()
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1")
    world.authorize(client, gateway)
    with pytest.raises(StillConnecting):
        gateway.send(client, packet())


def test_a_packet_for_nobody_is_an_error() -> None:
    node, _ = lone_node()
    with pytest.raises(UnknownConnection):
        node.encapsulate(PEER, packet(), START)


# Upsert


def test_without_any_address_a_connection_is_refused_and_an_old_one_untouched() -> None:
    node, store = lone_node()
    with pytest.raises(NoRelays):
        node.upsert_connection(PEER, X25519_POINT, b"k" * 32, OURS, THEIRS, START)
    assert store.peers == {}
    node.set_local_addresses([endpoint("192.0.2.1")], START)
    node.upsert_connection(PEER, X25519_POINT, b"k" * 32, OURS, THEIRS, START)
    node.set_local_addresses([], START)
    row = node.row_of(PEER)
    with pytest.raises(NoRelays):
        node.upsert_connection(PEER, X25519_POINT, b"x" * 32, OURS, THEIRS, START)
    assert node.row_of(PEER) == row


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(32), b"\1" + bytes(31)])
def test_a_key_that_is_none_is_refused_without_a_trace(key: bytes) -> None:
    node, store = lone_node()
    node.set_local_addresses([endpoint("192.0.2.1")], START)
    with pytest.raises(RemoteError):
        node.upsert_connection(PEER, key, b"k" * 32, OURS, THEIRS, START)
    assert store.peers == {}
    assert len(node) == 0


def test_equal_terms_wake_an_idle_connection_and_announce_everything_again() -> None:
    world = World()
    client, gateway = world.connected()
    world.run(30)
    assert gateway.node.state_of(client.name) is ConnectionState.IDLE
    handshakes = len(client.sent("initiation"))
    world.authorize(client, gateway)
    for host, peer in ((client, gateway), (gateway, client)):
        assert host.node.state_of(peer.name) is ConnectionState.CONNECTED
        assert len(host.events_of(NewIceCandidate)) == 2
    assert len(client.sent("initiation")) == handshakes + 1
    world.run(1)
    world.authorize(client, gateway)
    world.run(1)
    assert len(client.sent("initiation")) == handshakes + 1, "not twice within 20 seconds"
    client.send(gateway, packet())
    world.run(1)
    assert gateway.received == [(client.name, packet())]


def test_other_terms_make_another_connection() -> None:
    world = World()
    client, gateway = world.connected()
    before = client.node.row_of(gateway.name)
    world.authorize(client, gateway, psk=b"other" + bytes(27))
    assert client.node.row_of(gateway.name) != before
    assert before not in client.store.peers
    client.send(gateway, packet())
    world.run(2)
    assert gateway.received == [(client.name, packet())]


def test_a_client_that_lost_its_half_is_connected_again_at_once() -> None:
    world = World()
    client, gateway = world.connected()
    world.run(5)
    client.node.remove_connection(gateway.name)
    world.authorize(client, gateway)
    client.send(gateway, packet())
    assert world.run_until(lambda: bool(gateway.received), 1)
    assert gateway.failed_at() is None


def test_different_preshared_keys_fail_after_the_rekey_attempt() -> None:
    world = World()
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1")
    world.authorize(client, gateway, psk=b"a" * 32, gateway_psk=b"b" * 32)
    assert world.run_until(lambda: client.failed_at() is not None, 30)
    first = client.sent("initiation")[0].at
    assert 15 * SECOND <= world.now - first <= 16 * SECOND
    assert not client.is_established()


# Relays, as far as they are known


def relay() -> Relay:
    return Relay(RelayId("relay"), endpoint("203.0.113.10", 3478), None, "user", "secret")


def test_a_relay_never_shows_its_password() -> None:
    assert "secret" not in repr(relay())


def test_datagrams_of_present_and_former_relays_are_no_peers() -> None:
    world = World()
    client, gateway = world.connected()
    stun_check = next(datagram for datagram in gateway.sent("stun")).transmit.payload
    client.node.update_relays([], [relay()], world.now)
    for payload in (stun_check, bytes.fromhex("40000001ff")):
        world.deliver(client, client.addresses[0], endpoint("203.0.113.10", 3478), payload)
    client.node.update_relays([RelayId("relay")], [], world.now)
    world.deliver(client, client.addresses[0], endpoint("203.0.113.10", 3478), stun_check)
    assert client.node.counters.relay_datagrams == 3
    assert client.errors == []


def test_a_peer_whose_nat_gave_it_the_relays_port_is_heard() -> None:
    world = World()
    client = world.client("10.0.0.2", nat=Nat("203.0.113.1", first_port=3478))
    gateway = world.gateway("198.51.100.1")
    world.authorize(client, gateway)
    world.run(2)
    assert gateway.is_established()
