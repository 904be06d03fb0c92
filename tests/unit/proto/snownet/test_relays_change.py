"""Relays that come, go, fall silent or return, and the choice between them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.base.errors import StateError
from firezone.base.ids import RelayId
from firezone.base.timing import MILLISECOND, SECOND
from firezone.proto.snownet.events import ConnectionFailed, InvalidateIceCandidate, NoRelaysLeft, RelayLost
from firezone.proto.snownet.relays import choose_limit
from firezone.wire import stun
from firezone.wire.candidate import CandidateKind
from firezone.wire.stun import Method
from tests.harness.relay_model import RelayModel
from tests.harness.relayed_hosts import (
    PACKET,
    announced,
    block_direct,
    connected,
    exchange,
    pair,
)
from tests.harness.snownet import Host, World

# Relays come and go


def test_relay_in_use_is_removed_and_the_connection_moves() -> None:  # C14
    for idle in (0, 30):
        world, client, gateway = connected(("203.0.113.10",), nats=True)
        world.run(idle)
        other = world.relay("203.0.113.11", name="other")
        now = world.now
        world.hand_out(remove=[world.relays[0]], relays=[other])
        world.relays[0].is_alive = False
        assert world.run_until(lambda world=world, client=client, gateway=gateway: exchange(client, gateway), 5)  # type: ignore[misc]
        assert len(announced(client, CandidateKind.RELAY, InvalidateIceCandidate, now)) == 1
        assert [candidate.endpoint.host for candidate in announced(client, CandidateKind.RELAY, since=now)] == ["203.0.113.11"]
        assert client.failed_at() is None
        assert gateway.failed_at() is None


def test_dead_relay_is_found_by_the_portals_next_word_and_left() -> None:  # T26
    world, client, gateway = connected(("203.0.113.10", "203.0.113.11"), nats=True)
    used = client.node.path_of(gateway.name)
    assert used is not None
    dead = next(model for model in world.relays if model.owns(used.local))
    alive = next(model for model in world.relays if model is not dead)
    dead.is_alive = False
    world.hand_out(relays=[alive])
    assert world.run_until(lambda: exchange(client, gateway), 6)
    assert client.failed_at() is None
    assert gateway.failed_at() is None


@pytest.mark.parametrize("is_idle", [False, True])
def test_dead_relay_in_use_is_left_within_seconds_when_another_answers(is_idle: bool) -> None:  # 5.10
    world, client, gateway = connected(("203.0.113.10", "203.0.113.11"), nats=True)
    if is_idle:
        world.run(60)
    used = client.node.path_of(gateway.name)
    assert used is not None
    dead = next(model for model in world.relays if model.owns(used.local))
    world.run(0.7)
    dead.is_alive = False
    died = world.now
    assert world.run_until(lambda: exchange(client, gateway, wait=0.1), 8)
    assert world.now - died < 7 * SECOND
    assert client.events_of(RelayLost) == [RelayLost(dead.id, "silent while others answer")]
    assert client.failed_at() is None
    assert gateway.failed_at() is None


def test_silent_relay_that_returns_is_at_hand_again() -> None:
    world, client, gateway = connected(("203.0.113.10", "203.0.113.11"), nats=True)
    used = client.node.path_of(gateway.name)
    assert used is not None
    quiet = next(model for model in world.relays if model.owns(used.local))
    other = next(model for model in world.relays if model is not quiet)
    quiet.is_alive = False
    world.run(7)
    quiet.is_alive = True
    world.run(3)
    assert client.events_of(RelayLost) == [RelayLost(quiet.id, "silent while others answer")]
    other.is_alive = False
    assert world.run_until(lambda: exchange(client, gateway, wait=0.1), 8)


def test_dead_relay_is_forgotten_in_the_end() -> None:
    world, client, _ = connected(("203.0.113.10", "203.0.113.11"), nats=True)
    (dead,) = [model for model in world.relays if client.node._relays.get(model.id) is not None][:1]
    dead.is_alive = False
    world.run(60)
    assert client.events_of(RelayLost)[-1] == RelayLost(dead.id, "no response")
    assert dead.id not in client.node._relays
    assert client.events_of(NoRelaysLeft) == []


def test_outage_of_our_own_network_costs_no_relay() -> None:
    world, client, gateway = connected(("203.0.113.10", "203.0.113.11"), nats=True)
    for model in world.relays:
        model.is_alive = False
    for _ in range(100):
        client.send(gateway, PACKET)
        world.run(0.1)
    for model in world.relays:
        model.is_alive = True
    assert world.run_until(lambda: exchange(client, gateway), 3)
    assert client.events_of(RelayLost) == []
    assert gateway.events_of(RelayLost) == []


def test_dead_peer_costs_no_relay() -> None:
    world, client, gateway = connected(("203.0.113.10", "203.0.113.11"), nats=True)
    gateway.is_alive = False
    for _ in range(100):
        with contextlib.suppress(StateError):
            client.send(gateway, PACKET)
        world.run(0.3)
    assert client.failed_at() is not None
    assert client.events_of(RelayLost) == []


def test_losing_the_last_relay_is_told_once() -> None:
    world, client, _ = connected(nats=True)
    world.relays[0].is_alive = False
    world.run(60)
    assert client.events_of(NoRelaysLeft) == [NoRelaysLeft()]
    assert client.events_of(RelayLost) == [RelayLost(RelayId("relay0"), "no response")]
    world.hand_out(client, remove=world.relays, relays=[])
    assert client.events_of(NoRelaysLeft) == [NoRelaysLeft()]


def test_removing_the_last_relay_is_told_too() -> None:
    world, client, _ = connected()
    world.hand_out(client, remove=world.relays, relays=[])
    assert client.events_of(NoRelaysLeft) == [NoRelaysLeft()]
    assert client.events_of(RelayLost) == []


def test_relay_with_another_password_is_begun_anew_and_peers_move() -> None:  # T25, C15
    world, client, gateway = connected(nats=True)
    now = world.now
    world.relays[0].restart("other")
    world.hand_out()
    assert world.run_until(lambda: exchange(client, gateway), 5)
    for host in (client, gateway):
        assert len(announced(host, CandidateKind.RELAY, InvalidateIceCandidate, now)) == 1
        assert len(announced(host, CandidateKind.RELAY, since=now)) == 1
        assert host.failed_at() is None


def test_relay_that_is_handed_out_again_unchanged_is_not_touched() -> None:
    world, client, _ = connected()
    requests = len(world.relays[0].requests)
    world.hand_out()
    assert len(world.relays[0].requests) == requests
    assert world.relays[0].leases
    world.run(0.1)
    assert [message.method for _, message in world.relays[0].requests[requests:]] == []
    assert client.events_of(InvalidateIceCandidate) == []


def test_relay_that_comes_back_under_another_id_takes_the_place_of_the_first() -> None:
    world, client, gateway = connected(nats=True)
    former = world.relays[0]
    former.is_alive = False
    again = world.relay("203.0.113.10", name="again")
    world.hand_out(relays=[again])
    assert world.run_until(lambda: exchange(client, gateway), 5)
    world.hand_out(remove=[former], relays=[])
    assert exchange(client, gateway)
    for host in (client, gateway):
        assert host.events_of(NoRelaysLeft) == []


def test_refused_relay_is_tried_again_when_the_portal_names_it_again() -> None:
    world = World()
    relay = world.relay("203.0.113.10")
    client = world.client("192.0.2.1")
    relay.lifetime = 0  # such an allocation is worth nothing
    world.hand_out()
    world.run(2)
    allocation = client.node._relays.get(relay.id)
    assert allocation is not None
    assert not allocation.has_allocation
    relay.lifetime = 600
    world.hand_out()
    world.run(2)
    assert allocation.has_allocation
    assert client.events_of(RelayLost) == []


def test_forgetful_relay_is_allocated_on_again() -> None:
    """A relay that lost its state and kept its secret: the refresh shows it."""
    world, client, gateway = connected(nats=True)
    world.relays[0].leases.clear()
    world.hand_out(relays=[])
    assert world.run_until(lambda: exchange(client, gateway), 5)


def test_reset_begins_allocations_anew_with_the_credentials_we_have() -> None:  # C16, 14.1
    world, client, gateway = connected(nats=True)
    relay = world.relays[0]
    lent = [lease.lent for lease in relay.leases.values()]
    client.node.reset(world.now)
    world.collect(client)
    world.run(1)
    methods = [message.method for at, message in relay.requests if at > world.now - SECOND]
    assert methods[:2] == [Method.BINDING, Method.ALLOCATE]
    assert Method.REFRESH in methods  # the old allocation on the same addresses is deleted
    assert [lease.lent for lease in relay.leases.values()] != lent
    world.authorize(client, gateway)
    assert world.run_until(lambda: client.is_established() and exchange(client, gateway), 5)


def test_connection_made_before_any_relay_is_known_gets_one() -> None:
    world = World()
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1")
    block_direct(world)
    world.authorize(client, gateway)
    world.run(2)
    world.relay("203.0.113.10")
    world.hand_out()
    assert world.run_until(lambda: client.is_established() and gateway.is_established(), 5)


def test_candidates_of_other_relays_are_not_lent_to_a_connection() -> None:
    _, client, _ = connected(("203.0.113.10", "203.0.113.11"))
    assert len(announced(client, CandidateKind.RELAY)) == 1


# The choice


@pytest.mark.parametrize(
    ("rtts", "limit"),
    [([], 0), ([10], 15), ([10, 100], 15), ([10, 11, 400], 11 + 6), ([10, 20, 30, 40, 50], 30 + 30)],
)
def test_relays_about_as_fast_as_the_best_are_eligible(rtts: list[int], limit: int) -> None:
    assert choose_limit([rtt * MILLISECOND for rtt in rtts]) == limit * MILLISECOND


def test_fast_relay_is_chosen_once_measured() -> None:
    world = World()
    near, far = world.relay("203.0.113.10", name="near"), world.relay("203.0.113.11", name="far")
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1")
    world.delays = lambda datagram: (80 * MILLISECOND if far.owns(datagram.transmit.destination) else 10 * MILLISECOND,)
    world.hand_out()
    world.run(2)
    world.authorize(client, gateway)
    for host in (client, gateway):
        assert [candidate.endpoint.host for candidate in announced(host, CandidateKind.RELAY)] == [near.servers[0].host]


@pytest.mark.parametrize("is_known_before", [True, False])
def test_relay_that_is_full_is_left_to_others_however_near_it_is(is_known_before: bool) -> None:
    world = World()
    near, far = world.relay("203.0.113.10", name="near"), world.relay("203.0.113.11", name="far")
    near.is_full = True
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1")
    block_direct(world)
    world.delays = lambda datagram: (80 * MILLISECOND if far.owns(datagram.transmit.destination) else 10 * MILLISECOND,)
    world.hand_out()
    if is_known_before:
        world.run(2)
    world.authorize(client, gateway)
    world.run(5)
    assert exchange(client, gateway, wait=0.5)
    for host in (client, gateway):
        assert host.events_of(RelayLost) == []


def test_relay_that_was_full_is_asked_again_every_minute() -> None:
    world, client, gateway = pair()
    (relay,) = world.relays
    relay.leases.clear()
    relay.is_full = True
    for host in (client, gateway):
        host.node.reset(world.now)
        host.node.set_local_addresses(host.addresses, world.now)
    world.hand_out()
    world.run(1)
    asked = len(relay.requests)
    world.run(58)
    assert len(relay.requests) == asked
    world.run(5)
    assert asked < len(relay.requests) <= asked + 2 * 6
    relay.is_full = False
    world.run(60)
    world.authorize(client, gateway)
    assert world.run_until(lambda: client.is_established() and gateway.is_established(), 5)
    assert exchange(client, gateway)


def test_relay_that_forgot_us_and_is_full_now_is_left() -> None:
    world, client, gateway = connected(["203.0.113.10", "203.0.113.11"])
    for number in range(28):  # until shortly before the refresh
        world.run(10)
        assert exchange(client, gateway), number
    full = next(model for model in world.relays if model.id == relay_of(client, gateway))
    full.leases.clear()
    full.is_full = True
    world.run(15)
    assert relay_of(client, gateway) == relay_of(gateway, client) != full.id
    assert not client.closed()
    assert exchange(client, gateway)


def relay_of(host: Host, peer: Host) -> RelayId | None:
    connection = host.node._connections.get(peer.name)
    assert connection is not None
    return connection.relay


def test_stale_channel_data_is_dropped() -> None:
    world, client, gateway = connected(nats=True)
    relay = world.relays[0]
    before = client.node.counters.relay_datagrams
    world.deliver(client, client.addresses[0], relay.servers[0], bytes.fromhex("4fff0004") + b"data")
    assert client.node.counters.relay_datagrams == before + 1
    world.hand_out(client, remove=[relay], relays=[])
    world.deliver(client, client.addresses[0], relay.servers[0], bytes.fromhex("40000004") + b"data")
    assert client.node.counters.relay_datagrams == before + 2
    assert client.errors == []
    assert not client.events_of(ConnectionFailed)
    assert isinstance(relay, RelayModel)
    assert gateway.errors == []


def test_checks_that_came_too_early_are_repeated_when_the_channel_is_granted() -> None:
    world, client, gateway = pair(nats=True)
    world.authorize(client, gateway)
    asked = world.now
    assert world.run_until(lambda: client.is_established() and gateway.is_established(), 2)
    assert world.now - asked < 250 * MILLISECOND, "not before the next check by schedule"
    assert client.node._routes._awaiting == {}
    assert gateway.node._routes._awaiting == {}


@given(st.lists(st.tuples(st.binary(max_size=80), st.sampled_from(["stun", "channel", "raw"]), st.booleans()), max_size=30))
def test_nothing_a_relay_sends_raises_anything_but_our_errors(datagrams: list[tuple[bytes, str, bool]]) -> None:
    world, client, gateway = connected(nats=True)
    server = world.relays[0].servers[0]
    for body, kind, is_known in datagrams:
        payload = body
        if kind == "channel":
            payload = (0x4000 + (not is_known)).to_bytes(2, "big") + len(body).to_bytes(2, "big") + body
        elif kind == "stun":
            rest = body[20 : 20 + len(body[20:]) // 4 * 4]
            head = body[:2].ljust(2, b"\0") + len(rest).to_bytes(2, "big") + stun.MAGIC_COOKIE_BYTES
            payload = head + body[8:20].ljust(12, b"x") + rest
        world.deliver(client, client.addresses[0], server, payload)
    assert exchange(client, gateway)
