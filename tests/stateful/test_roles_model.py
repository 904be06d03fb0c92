"""Clients, gateways and a portal under random changes: whatever happens, nobody gets what was not granted, and traffic comes back.

The model is small: what was sent, what was ever granted, what exists. The system is everything real (`tests.harness.roles`).
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from firezone.base.errors import RemoteError, UnknownConnection
from firezone.base.ids import ResourceId
from firezone.wire.ip import decode_ip
from tests.harness import packets
from tests.harness.roles import ClientMember, GatewayMember, Grant, Member, World, cidr, network, uid

POOL = {10: "10.0.0.0/24", 11: "10.0.0.0/24", 12: "10.0.0.0/8", 13: "10.0.1.7/32", 14: "fd00:1::/64"}
"""Resources that come and go: equal, nested and apart."""
SERVERS = ["10.0.0.7", "10.0.1.7", "10.9.9.9", "fd00:1::7", "fd00:2::7"]
EXPECTED = (RemoteError, UnknownConnection)
"""What a peer that was started anew hears from those who do not know it yet."""
CLIENTS, GATEWAYS = st.integers(0, 1), st.integers(0, 1)


class Roles(RuleBasedStateMachine):
    """Two clients, two gateways."""

    @initialize(numbers=st.sets(st.sampled_from(sorted(POOL)), min_size=1))
    def begin(self, numbers: set[int]) -> None:
        self.world = World()
        self.portal = self.world.portal
        self.portal.add(*(cidr(number, POOL[number]) for number in sorted(numbers)))
        self.gateways = [self.world.gateway(20, "198.51.100.1"), self.world.gateway(21, "198.51.100.2")]
        self.clients = [self.world.client(1, "192.0.2.1"), self.world.client(2, "192.0.2.2")]
        for member in self.members():
            member.expected_errors = EXPECTED
        self.number = 0
        self.sent: dict[bytes, str] = {}
        """Packets under way, and who sent them: each is delivered at most once."""
        self.granted: set[tuple[str, str, str]] = set()
        """(client, gateway, network) ever granted."""

    def members(self) -> list[Member]:
        return [*self.gateways, *self.clients]

    # what can happen

    @rule(client=CLIENTS, server=st.sampled_from(SERVERS), count=st.integers(1, 5))
    def send(self, client: int, server: str, count: int) -> None:
        for _ in range(count):
            self.send_from(self.clients[client], server)

    @rule(duration=st.sampled_from([0.01, 0.05, 0.3, 2, 20]))
    def let_time_pass(self, duration: float) -> None:
        self.world.run(duration)

    @rule(number=st.sampled_from(sorted(POOL)))
    def add_resource(self, number: int) -> None:
        if not self.portal.is_away:
            self.portal.add(cidr(number, POOL[number]))

    @rule(number=st.sampled_from(sorted(POOL)))
    def remove_resource(self, number: int) -> None:
        if not self.portal.is_away and uid(number) in self.portal.resources:
            self.portal.remove(number)

    @rule(client=CLIENTS, number=st.sampled_from(sorted(POOL)))
    def revoke(self, client: int, number: int) -> None:
        if not self.portal.is_away:
            self.portal.revoke(self.clients[client].id, number)

    @rule(client=CLIENTS, numbers=st.sets(st.sampled_from(sorted(POOL)), max_size=2))
    def switch_off(self, client: int, numbers: set[int]) -> None:
        member = self.clients[client]
        member.call(member.machine.set_disabled_resources, {ResourceId(uid(number)) for number in numbers})

    @rule(number=st.sampled_from(sorted(POOL)), gateway=GATEWAYS)
    def prefer_gateway(self, number: int, gateway: int) -> None:
        self.portal.gateway_for[uid(number)] = self.gateways[gateway].id

    @rule(lifetime=st.sampled_from([5, 86_400]))
    def change_lifetime(self, lifetime: int) -> None:
        self.portal.lifetime = lifetime

    @rule(client=CLIENTS)
    def roam(self, client: int) -> None:
        member = self.clients[client]
        member.call(member.machine.reset)

    @rule(gateway=GATEWAYS, in_order=st.booleans())
    def end_gateway(self, gateway: int, in_order: bool) -> None:
        member = self.gateways[gateway]
        if member.is_alive and not self.portal.is_away:
            member.stop() if in_order else member.crash()

    @rule(gateway=GATEWAYS)
    def start_gateway(self, gateway: int) -> None:
        if not self.gateways[gateway].is_alive and not self.portal.is_away:
            self.world.start(self.gateways[gateway])

    @precondition(lambda self: not self.portal.is_away)
    @rule()
    def portal_leaves(self) -> None:
        self.portal.leave()

    @precondition(lambda self: self.portal.is_away)
    @rule()
    def portal_comes_back(self) -> None:
        self.portal.come_back()

    # what must hold

    @invariant()
    def everything_delivered_was_sent_granted_and_new(self) -> None:
        if not hasattr(self, "world"):
            return
        for grant in self.portal.grants:
            self.note(grant)
        for gateway in self.gateways:
            if gateway.is_alive:
                self.check_delivered(gateway)

    @invariant()
    def tables_name_connections_that_exist(self) -> None:
        for member in self.members() if hasattr(self, "world") else ():
            if not member.is_alive:
                continue
            node, machine = member.machine.node, member.machine
            rows = {node.row_of(connection.cid) for connection in node._connections}
            assert set(machine._rows.values()) <= rows
            assert {row for row in machine._routes.values() if row is not None} <= rows
            assert {wanted.peer for wanted in machine._filters.values()} == set(machine._rows.values())

    @invariant()
    def resources_and_gateways_of_a_client_agree(self) -> None:
        for client in self.clients if hasattr(self, "world") else ():
            state = client.machine
            served = {resource: cid for cid, gateway in state._gateways.items() for resource in gateway.resources}
            assert served == state._gateways._serving
            assert set(served) <= set(state._book.resources) - state._book.disabled
            assert all(gateway.resources for _, gateway in state._gateways.items()), "a connection without use is closed"

    def teardown(self) -> None:
        """When everything is in order again, traffic is back within 30 seconds."""
        if not hasattr(self, "world"):
            return
        if self.portal.is_away:
            self.portal.come_back()
        for gateway in self.gateways:
            if not gateway.is_alive:
                self.world.start(gateway)
        self.portal.lifetime = 86_400
        self.portal.add(cidr(15, "10.77.0.0/16"))
        for client in self.clients:
            client.call(client.machine.set_disabled_resources, set())
            self.world.run(0.1)
            self.world.run_until(lambda client=client: self.arrives(client, "10.77.0.7"), 30)  # type: ignore[misc]
        self.everything_delivered_was_sent_granted_and_new()

    # in detail

    def send_from(self, client: ClientMember, server: str) -> bytes:
        self.number += 1
        source = client.ipv4 if "." in server else client.ipv6
        packet = packets.udp(str(source), server, self.number.to_bytes(4, "big"))
        self.sent[packet] = client.id
        client.send(packet)
        return packet

    def arrives(self, client: ClientMember, server: str) -> bool:
        for grant in self.portal.grants:
            self.note(grant)
        self.send_from(client, server)
        return any(self.check_delivered(gateway) for gateway in self.gateways)

    def note(self, grant: Grant) -> None:
        number = next((number for number in POOL if uid(number) == grant.resource), None)
        self.granted.add((grant.client, grant.gateway, "10.77.0.0/16" if number is None else POOL[number]))

    def check_delivered(self, gateway: GatewayMember) -> bool:
        delivered = gateway.received()
        for packet in delivered:
            sender = self.sent.pop(packet)
            header = decode_ip(packet)
            client = next(client for client in self.clients if client.id == sender)
            assert header.source in (client.ipv4, client.ipv6)
            assert any(
                header.destination in network(text)
                for owner, at, text in self.granted
                if (owner, at) == (sender, gateway.id) and network(text).version == header.version
            ), f"{header.destination} was never granted to {sender} at {gateway.id}"
        return bool(delivered)


TestRoles = Roles.TestCase
TestRoles.settings = settings(max_examples=max(10, settings().max_examples // 4), stateful_step_count=30, deadline=None)
