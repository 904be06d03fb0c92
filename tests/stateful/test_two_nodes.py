"""Nodes on a virtual clock under Hypothesis: whatever the network does up to a bound, they connect, agree and never mix up.

`any loss, reordering, duplication` is a list of fates, one per datagram in the order they are sent; when it is used up the
network behaves. The bound on lost handshake messages is WireGuard's: three initiations fit into an attempt of 15 seconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from firezone.base.errors import StateError
from firezone.base.ids import ConnectionId
from firezone.base.timing import MILLISECOND
from firezone.proto.snownet.events import ConnectionEstablished, ConnectionFailed
from tests.harness.sessions import Session
from tests.harness.snownet import Datagram, Host, World, endpoint

MAX_LOST_HANDSHAKES = 2
MAX_LOST_IN_A_ROW = 8

DELAY = st.integers(0, 400).map(lambda milliseconds: milliseconds * MILLISECOND)
FATES = st.lists(st.lists(DELAY, max_size=3), max_size=60)
"""For each datagram the delays of its copies; none: it is lost."""


class BadNetwork:
    """Deals out the fates, within the bounds."""

    def __init__(self, fates: list[list[int]]) -> None:
        self._fates = iter(fates)
        self._lost_handshakes = 0
        self._lost_in_a_row = 0

    def __call__(self, datagram: Datagram) -> Iterable[int]:
        fate = next(self._fates, [10 * MILLISECOND])
        if fate:
            self._lost_in_a_row = 0
            return fate
        is_handshake = datagram.kind in ("initiation", "response")
        self._lost_handshakes += is_handshake
        self._lost_in_a_row += 1
        if self._lost_in_a_row > MAX_LOST_IN_A_ROW or (is_handshake and self._lost_handshakes > MAX_LOST_HANDSHAKES):
            return [10 * MILLISECOND]
        return []


@settings(max_examples=60, deadline=None)
@given(FATES)
def test_any_loss_reordering_and_duplication_up_to_a_bound_still_connects(fates: list[list[int]]) -> None:
    world = World()
    client, gateway = world.client("192.0.2.1"), world.gateway("198.51.100.1")
    world.delays = BadNetwork(fates)
    world.authorize(client, gateway)
    for number in range(5):
        client.send(gateway, packet(client, number))
    assert world.run_until(lambda: client.is_established() and gateway.is_established(), 30), client.events
    world.run(5)
    world.delays = BadNetwork([])  # Fates left over would lose the packets themselves, which nobody sends again.
    client.send(gateway, packet(client, 100))
    gateway.send(client, packet(gateway, 200))
    world.run(2)
    assert (client.name, packet(client, 100)) in gateway.received
    assert (gateway.name, packet(gateway, 200)) in client.received
    check_agreement([client, gateway])
    check_deliveries([client, gateway])
    for host in (client, gateway):
        assert len(host.events_of(ConnectionEstablished)) == 1
        assert host.events_of(ConnectionFailed) == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(DELAY, max_size=3), min_size=20, max_size=200))
def test_a_bad_minute_never_mixes_up_packets(fates: list[list[int]]) -> None:
    """Traffic over an established connection: loss may cost packets, nothing else."""
    world = World()
    client, gateway = world.connected()
    world.delays = BadNetwork(fates)
    for number in range(40):
        for host, peer in ((client, gateway), (gateway, client)):
            with contextlib.suppress(StateError):
                host.send(peer, packet(host, number))
        world.run(0.3)
    world.run(10)
    check_deliveries([client, gateway])
    check_agreement([client, gateway])


class ManyPeers(RuleBasedStateMachine):
    """Three clients and a gateway that roam, forget, re-authorise, leave and talk over a network that loses and repeats."""

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.world = World(seed)
        self.gateway = self.world.gateway("198.51.100.1", "2001:db8:9::1")
        self.clients = [self.world.client(f"192.0.2.{n}", f"2001:db8::{n}", name=f"client-{n}") for n in (1, 2, 3)]
        self.count = 0
        self.loss = 0.0
        self.repeats = 0.0
        self.world.delays = self.fate
        self.gateway.heeds_goodbye = True
        for client in self.clients:
            client.heeds_goodbye = True
            self.world.authorize(client, self.gateway)

    def fate(self, _: Datagram) -> list[int]:
        random = self.world.random
        if random.random() < self.loss:
            return []
        copies = 2 if random.random() < self.repeats else 1
        return [random.randint(1, 200) * MILLISECOND for _ in range(copies)]

    @rule(seconds=st.sampled_from([0.01, 0.3, 2.0, 25.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(loss=st.sampled_from([0.0, 0.1, 0.5]), repeats=st.sampled_from([0.0, 0.3]))
    def network_changes(self, loss: float, repeats: float) -> None:
        self.loss, self.repeats = loss, repeats

    @rule(n=st.integers(0, 2), upwards=st.booleans())
    def packet_is_sent(self, n: int, upwards: bool) -> None:
        host, peer = (self.clients[n], self.gateway) if upwards else (self.gateway, self.clients[n])
        self.count += 1
        with contextlib.suppress(StateError):
            host.send(peer, packet(host, self.count, peer))

    @rule(n=st.integers(0, 2))
    def access_is_granted_again(self, n: int) -> None:
        self.world.authorize(self.clients[n], self.gateway)

    @rule(n=st.integers(0, 2))
    def client_loses_its_half(self, n: int) -> None:
        self.clients[n].node.remove_connection(self.gateway.name)

    @rule(n=st.integers(0, 2), address=st.integers(1, 250))
    def client_roams(self, n: int, address: int) -> None:
        client = self.clients[n]
        client.node.reset(self.world.now)
        client.addresses = [endpoint(f"203.0.{n}.{address}")]
        client.node.set_local_addresses(client.addresses, self.world.now)
        self.world.collect(client)
        self.world.authorize(client, self.gateway)

    @rule(n=st.integers(0, 2))
    def client_leaves(self, n: int) -> None:
        client = self.clients[n]
        client.node.close_connection(self.gateway.name, self.world.now)
        self.world.collect(client)

    @precondition(lambda self: len(self.clients[0].addresses) == 2)
    @rule()
    def client_loses_an_address(self) -> None:
        client = self.clients[0]
        client.addresses = client.addresses[:1]
        client.node.set_local_addresses(client.addresses, self.world.now)
        self.world.collect(client)

    @invariant()
    def nothing_is_delivered_twice_or_under_a_wrong_peer(self) -> None:
        if hasattr(self, "world"):
            check_deliveries([self.gateway, *self.clients])

    @invariant()
    def tables_hold_what_the_node_holds(self) -> None:
        if hasattr(self, "world"):
            for host in (self.gateway, *self.clients):
                assert len(host.store.peers) == len(host.node)
                assert {session.peer for session in host.store.sessions.values()} <= set(host.store.peers)

    def teardown(self) -> None:
        """When the network is good again, everybody connects."""
        if not hasattr(self, "world"):
            return
        self.loss = self.repeats = 0.0
        for client in self.clients:
            self.world.authorize(client, self.gateway)
            assert any(self.reaches(client) for _ in range(45))
        check_agreement([self.gateway, *self.clients])

    def reaches(self, client: Host) -> bool:
        """Sends one packet, asking for access again if need be, and tells whether it arrived within a second."""
        if client.node.row_of(self.gateway.name) is None:
            self.world.authorize(client, self.gateway)
        self.count += 1
        last = packet(client, self.count, self.gateway)
        client.send(self.gateway, last)
        return self.world.run_until(lambda: (client.name, last) in self.gateway.received, 1)


TestManyPeers = ManyPeers.TestCase
TestManyPeers.settings = settings(max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))


def packet(sender: Host, number: int, receiver: Host | None = None) -> bytes:
    """An IPv4 packet that says who sent it to whom."""
    body = f"{sender.name}>{receiver.name if receiver else ''}#{number}".encode().ljust(40)
    return bytes.fromhex("4500") + (20 + len(body)).to_bytes(2, "big") + bytes(16) + body


def check_deliveries(hosts: list[Host]) -> None:
    for host in hosts:
        assert len(set(host.received)) == len(host.received)
        for sender, data in host.received:
            if data[20:21].isalpha():
                source, _, rest = data[20:].decode().strip().partition(">")
                assert ConnectionId(source) == sender
                assert rest.partition("#")[0] in ("", host.name)


def check_agreement(hosts: list[Host]) -> None:
    """Sessions that mean each other by index have each other's keys, and every pair of hosts in touch has such a session."""
    everything: list[tuple[Host, Session]] = [(host, session) for host in hosts for session in host.store.sessions.values()]
    mirrored = 0
    for host, ours in everything:
        for peer, theirs in everything:
            if peer is not host and ours.local_index == theirs.remote_index and theirs.local_index == ours.remote_index:
                assert (ours.send_key, ours.receive_key) == (theirs.receive_key, theirs.send_key)
                mirrored += 1
    assert mirrored >= 2
