"""The relay's tables against a naive model: whatever clients do in whatever order, every channel that may flow does, no other."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from firezone.base.net import Endpoint
from tests.harness.relay import RelayBench, TurnClient, code_of

ADDRESSES = ["198.51.100.1", "198.51.100.2", "2001:db8::1"]
PEERS = [Endpoint.from_text("192.0.2.1", 1), Endpoint.from_text("192.0.2.1", 2), Endpoint.from_text("2001:db8::99", 1)]
NUMBERS = [0x4000, 0x4001, 0x4FFF]

who = st.integers(0, len(ADDRESSES) - 1)


class RelayTables(RuleBasedStateMachine):
    """Model: expiry of each client's allocation, its families, and (number, peer, expiry) of each of its channels."""

    @initialize(stands_alone=st.booleans())
    def start(self, stands_alone: bool) -> None:
        self.bench = RelayBench(lowest=60000, highest=60001, stands_alone=stands_alone)
        self.clients = [TurnClient(self.bench, address) for address in ADDRESSES]
        self.expiry: dict[int, float] = {}
        self.dual: dict[int, bool] = {}
        self.channels: dict[int, dict[int, tuple[Endpoint, float]]] = {}
        self.permissions: dict[int, dict[bytes, float]] = {}
        self.stands_alone = stands_alone
        self.time = 0.0

    def forget(self) -> None:
        for client in [client for client, expiry in self.expiry.items() if expiry <= self.time]:
            del self.expiry[client], self.dual[client], self.channels[client], self.permissions[client]
        for channels in self.channels.values():
            for number in [number for number, (_, expiry) in channels.items() if expiry + 300 <= self.time]:
                del channels[number]
        for permissions in self.permissions.values():
            for ip in [ip for ip, expiry in permissions.items() if expiry <= self.time]:
                del permissions[ip]

    @rule(client=who, lifetime=st.sampled_from([1, 400, 3600]), dual=st.booleans())
    def allocate(self, client: int, lifetime: int, dual: bool) -> None:
        code = code_of(self.clients[client].allocate((0x000D, lifetime), additional=dual))
        expected = 437 if client in self.expiry else 508 if len(self.expiry) == 2 else 0
        assert code == expected
        if not code:
            self.expiry[client], self.dual[client] = self.time + lifetime, dual
            self.channels[client], self.permissions[client] = {}, {}

    @rule(client=who, lifetime=st.sampled_from([0, 1, 400, 3600]))
    def refresh(self, client: int, lifetime: int) -> None:
        assert code_of(self.clients[client].refresh(lifetime)) == (0 if client in self.expiry else 437)
        if client in self.expiry:
            self.expiry[client] = self.time + lifetime
            self.forget()

    @rule(client=who, number=st.sampled_from(NUMBERS), peer=st.sampled_from(PEERS))
    def bind(self, client: int, number: int, peer: Endpoint) -> None:
        code = code_of(self.clients[client].bind(number, peer))
        if client not in self.expiry:
            assert code == 437
        elif not peer.is_ipv4 and not self.dual[client]:
            assert code == 443
        elif any((n == number) != (p == peer) for n, (p, _) in self.channels[client].items()):
            assert code == 400
        else:
            assert code == 0
            self.channels[client][number] = peer, self.time + 600
            if self.stands_alone:
                self.permit_until(client, peer, self.time + 600)

    def permit_until(self, client: int, peer: Endpoint, expiry: float) -> None:
        self.permissions[client][peer.ip] = max(expiry, self.permissions[client].get(peer.ip, 0))

    @rule(client=who, peers=st.lists(st.sampled_from(PEERS), max_size=3))
    def permit(self, client: int, peers: list[Endpoint]) -> None:
        code = code_of(self.clients[client].permit(*peers))
        if not self.stands_alone:
            assert code == 0
        elif client not in self.expiry:
            assert code == 437
        elif not peers:
            assert code == 400
        elif not self.dual[client] and not all(peer.is_ipv4 for peer in peers):
            assert code == 443
        else:
            assert code == 0
            for peer in peers:
                self.permit_until(client, peer, self.time + 300)

    @rule(client=who, peer=st.sampled_from(PEERS))
    def send_without_a_channel(self, client: int, peer: Endpoint) -> None:
        sent = self.clients[client].indicate(peer, b"x")
        assert bool(sent) == (peer.ip in self.permissions.get(client, ()))

    @rule(seconds=st.sampled_from([0.5, 1, 100, 299, 300, 600]))
    def wait(self, seconds: float) -> None:
        self.bench.advance(seconds)
        self.time += seconds
        self.forget()

    @precondition(lambda self: self.expiry)
    @rule()
    def wait_for_the_machine(self) -> None:
        due = self.bench.next_wake()
        assert due is not None
        self.bench.advance(max(0.0, due - self.time))
        self.time = max(self.time, due)
        self.forget()

    @invariant()
    def exactly_the_living_channels_flow(self) -> None:
        flowing = {
            (self.clients[client].endpoint, number): peer
            for client, channels in self.channels.items()
            for number, (peer, expiry) in channels.items()
            if expiry > self.time
        }
        tables = self.bench.channels
        assert {key: peer for key, (peer, _) in tables.by_number.items()} == flowing
        assert {(port, peer): key for key, (peer, port) in tables.by_number.items()} == tables.by_peer
        assert self.bench.server.counters.channels == len(flowing)

    @invariant()
    def exactly_the_permitted_addresses_are_let_through(self) -> None:
        allowed = {(client, ip) for (_, ip), client in self.bench.channels.allowed.items()}
        assert allowed == {(self.clients[c].endpoint, ip) for c, permissions in self.permissions.items() for ip in permissions}
        assert self.bench.server.counters.permissions == len(allowed)

    @invariant()
    def ports_are_open_for_allocations_alone(self) -> None:
        assert len(self.bench.ports.open_ports) == len(self.expiry) == self.bench.server.counters.allocations
        assert {port for _, port in self.bench.channels.by_number.values()} <= self.bench.ports.open_ports.keys()

    @invariant()
    def cooling_channels_are_kept_and_no_others(self) -> None:
        known = {allocation.client: allocation for allocation in self.bench.server._allocations}
        for client, channels in self.channels.items():
            allocation = known[self.clients[client].endpoint]
            assert {number: channel.peer for number, channel in allocation.channels.items()} == {
                n: p for n, (p, _) in channels.items()
            }
            assert {peer: number for number, (peer, _) in channels.items()} == allocation.numbers

    @invariant()
    def the_next_wake_is_the_next_change(self) -> None:
        dues = list(self.expiry.values())
        for channels in self.channels.values():
            dues += [expiry if expiry > self.time else expiry + 300 for _, expiry in channels.values()]
        dues += [expiry for permissions in self.permissions.values() for expiry in permissions.values()]
        assert self.bench.next_wake() == min(dues, default=None)


TestRelayTables = RelayTables.TestCase
