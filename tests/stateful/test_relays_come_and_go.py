"""Two clients and a gateway behind symmetric NATs, who reach each other over relays alone; relays die, return, change their secret.

Whatever happens, nothing is mixed up; and when the relays are well and the portal has told of them, everybody connects.
"""

from __future__ import annotations

import contextlib

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from firezone.base.errors import StateError
from firezone.base.timing import MILLISECOND
from firezone.proto.snownet.events import NoRelaysLeft, RelayLost
from tests.harness.relay_model import RealRelay
from tests.harness.snownet import Datagram, Host, Nat, World, endpoint
from tests.stateful.test_two_nodes import check_deliveries, packet

RELAYS = ("203.0.113.10", "203.0.113.11")


class RelaysComeAndGo(RuleBasedStateMachine):
    """Relays of ours, with the slow tables as their data path."""

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.world = World(seed)
        self.relays = [self.world.relay(address, name=f"relay{n}", kind=RealRelay) for n, address in enumerate(RELAYS)]
        self.secrets = 0
        self.loss = 0.0
        self.count = 0
        self.gateway = self.world.gateway("10.9.0.2", nat=Nat("203.0.113.100", is_symmetric=True, first_port=30000))
        self.clients = [
            self.world.client(f"10.{n}.0.2", name=f"client-{n}", nat=Nat(f"203.0.113.10{n}", is_symmetric=True)) for n in (1, 2)
        ]
        self.hosts = [self.gateway, *self.clients]
        self.world.delays = self.fate
        for host in self.hosts:
            host.heeds_goodbye = True
        self.world.hand_out()
        self.world.run(0.5)
        for client in self.clients:
            self.world.authorize(client, self.gateway)

    def fate(self, _: Datagram) -> list[int]:
        random = self.world.random
        return [] if random.random() < self.loss else [random.randint(1, 60) * MILLISECOND]

    @rule(seconds=st.sampled_from([0.01, 0.3, 2.0, 10.0, 60.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(loss=st.sampled_from([0.0, 0.1, 0.5]))
    def network_changes(self, loss: float) -> None:
        self.loss = loss

    @rule(n=st.integers(0, 1), upwards=st.booleans())
    def packet_is_sent(self, n: int, upwards: bool) -> None:
        host, peer = (self.clients[n], self.gateway) if upwards else (self.gateway, self.clients[n])
        self.count += 1
        with contextlib.suppress(StateError):
            host.send(peer, packet(host, self.count, peer))

    @rule(n=st.integers(0, 1), is_alive=st.booleans())
    def relay_dies_or_returns(self, n: int, is_alive: bool) -> None:
        self.relays[n].is_alive = is_alive

    @rule(n=st.integers(0, 1), is_told=st.booleans())
    def relay_restarts(self, n: int, is_told: bool) -> None:
        self.secrets += 1
        self.relays[n].restart(f"secret {self.secrets}")
        if is_told:
            self.world.hand_out()

    @rule(relays=st.sets(st.integers(0, 1)))
    def portal_tells_of_relays(self, relays: set[int]) -> None:
        gone = [model for n, model in enumerate(self.relays) if n not in relays]
        self.world.hand_out(remove=gone, relays=[self.relays[n] for n in sorted(relays)])

    @rule(n=st.integers(0, 2), address=st.integers(3, 250))
    def host_roams(self, n: int, address: int) -> None:
        host = self.hosts[n]
        host.node.reset(self.world.now)
        host.addresses = [endpoint(f"10.{50 + n}.0.{address}")]
        host.node.set_local_addresses(host.addresses, self.world.now)
        self.world.collect(host)
        for client in self.clients if host is self.gateway else [host]:
            self.world.authorize(client, self.gateway)

    @rule(n=st.integers(0, 1))
    def access_is_granted_again(self, n: int) -> None:
        self.world.authorize(self.clients[n], self.gateway)

    @invariant()
    def nothing_is_mixed_up(self) -> None:
        if hasattr(self, "world"):
            check_deliveries(self.hosts)

    @invariant()
    def paths_and_rows_agree(self) -> None:
        """Relayed data leaves over a channel that stands for the peer of the path, or not at all."""
        if not hasattr(self, "world"):
            return
        for host in self.hosts:
            assert len(host.store.peers) == len(host.node)
            for connection in host.node._connections:
                written, path = host.store.peers[connection.peer.row], connection.path
                if path is None or not path.is_relayed or written is None:
                    continue
                allocation = host.node._relays.lending(path.local)
                assert allocation is not None
                assert written.remote == allocation.active_server
                assert written.channel == allocation.channel_to(path.remote, self.world.now) or written.channel is None

    @invariant()
    def the_last_relay_is_not_lost_in_silence(self) -> None:
        if not hasattr(self, "world"):
            return
        for host in self.hosts:
            lost = [event for _, event in host.events if isinstance(event, RelayLost | NoRelaysLeft)]
            if lost and isinstance(lost[-1], RelayLost):
                assert len(host.node._relays) > 0

    def teardown(self) -> None:
        """When the relays are well and the portal has said so, everybody connects."""
        if not hasattr(self, "world"):
            return
        self.loss = 0.0
        for model in self.relays:
            model.is_alive = True
        self.world.hand_out()
        self.world.run(3)
        for client in self.clients:
            self.world.authorize(client, self.gateway)
            assert any(self.reaches(client) for _ in range(45)), client.events

    def reaches(self, client: Host) -> bool:
        """Sends one packet, asking for access again if need be, and tells whether it arrived within a second."""
        if client.node.row_of(self.gateway.name) is None:
            self.world.authorize(client, self.gateway)
        self.count += 1
        last = packet(client, self.count, self.gateway)
        client.send(self.gateway, last)
        return self.world.run_until(lambda: (client.name, last) in self.gateway.received, 1)


TestRelaysComeAndGo = RelaysComeAndGo.TestCase
TestRelaysComeAndGo.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
