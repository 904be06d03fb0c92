"""A client and two gateways against a model of access, in any order of changes that Hypothesis can think of.

After every step a packet may be sent. The model knows who may reach what: what is granted arrives in the end, and what is not
arrives never. The compiled tables must say the same as the states they were made from.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from firezone.base.errors import FirezoneError
from firezone.base.ids import ConnectionId, ResourceId
from firezone.wire.portal.shared import Filter
from tests.harness import packets
from tests.harness.roles import ClientMember, GatewayMember, World, cidr, uid

NUMBERS = (10, 11, 12, 13)
NETWORKS = ("10.0.0.0/16", "10.0.0.0/16", "10.0.1.0/24", "10.0.1.0/24", "10.0.1.7/32", "10.2.0.0/16", "fd00:1::/64")
SERVERS = ("10.0.1.7", "10.0.1.8", "10.0.9.9", "10.2.3.4", "fd00:1::7")
PORTS = (53, 80)
FILTERS = (
    (),
    (Filter(protocol="udp", port_range_start=53, port_range_end=53),),
    (Filter(protocol="udp", port_range_start=80, port_range_end=80),),
    (Filter(protocol="tcp"),),
)
LIFETIME_S = 300
TRIES = 16
"""One each 2.1 seconds: until ICE gives up on a dead gateway, the portal is asked again, and another connection is there."""
SWEEP_S = 2
"""How long an expired grant may still work."""

DESTINATIONS = st.lists(st.tuples(st.sampled_from(SERVERS), st.sampled_from(PORTS)), min_size=3, max_size=8)


@dataclass(frozen=True)
class Known:
    """A resource of the model."""

    network: str
    filters: tuple[Filter, ...]

    def covers(self, server: str) -> bool:
        address, network = ipaddress.ip_address(server), ipaddress.ip_network(self.network)
        return address.version == network.version and address in network

    def admits(self, server: str, port: int) -> bool:
        """Whether UDP to this port is within the resource."""
        is_open = not self.filters or any(
            item.protocol == "udp" and item.port_range_start <= port <= item.port_range_end for item in self.filters
        )
        return is_open and self.covers(server)


class Access(RuleBasedStateMachine):
    """The model beside the world."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.portal.lifetime = LIFETIME_S
        self.known: dict[int, Known] = {}
        self.disabled: set[int] = set()
        self.sent = 0

    @initialize(offers=st.lists(st.tuples(st.sampled_from(NETWORKS), st.sampled_from(FILTERS)), min_size=2, max_size=4))
    def start(self, offers: list[tuple[str, tuple[Filter, ...]]]) -> None:
        self.gateways: list[GatewayMember] = [self.world.gateway(2), self.world.gateway(3, "198.51.100.2")]
        self.client: ClientMember = self.world.client(9)
        for member in (*self.gateways, self.client):
            member.expected_errors = (FirezoneError,)
        for number, (network, filters) in zip(NUMBERS, offers, strict=False):
            self.offer(number, network, filters)

    # what the portal decides

    @precondition(lambda self: not self.world.portal.is_away)
    @rule(number=st.sampled_from(NUMBERS), network=st.sampled_from(NETWORKS), filters=st.sampled_from(FILTERS))
    def offer(self, number: int, network: str, filters: tuple[Filter, ...]) -> None:
        """A resource is made, or becomes another one."""
        if self.known.get(number) not in (None, Known(network, filters)):
            self.world.portal.revoke(self.client.id, number)
        self.known[number] = Known(network, filters)
        self.world.portal.add(cidr(number, network, *filters))
        self.world.run(1)

    @precondition(lambda self: self.known and not self.world.portal.is_away)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        """A resource is removed."""
        number = data.draw(st.sampled_from(sorted(self.known)))
        del self.known[number]
        self.world.portal.remove(number)
        self.world.run(2)

    @precondition(lambda self: not self.world.portal.is_away)
    @rule(number=st.sampled_from(NUMBERS))
    def revoke(self, number: int) -> None:
        """The gateway alone is told that access ended; to the client it comes with a fresh start."""
        self.world.portal.revoke(self.client.id, number)
        self.world.run(2)
        self.client.call(self.client.machine.reset)
        self.world.run(1)

    @rule(number=st.sampled_from(NUMBERS), gateway=st.integers(0, 1))
    def prefer(self, number: int, gateway: int) -> None:
        """The portal sends new flows of a resource to this gateway."""
        self.world.portal.gateway_for[uid(number)] = self.gateways[gateway].id

    @rule()
    def portal_comes_and_goes(self) -> None:
        if self.world.portal.is_away:
            self.world.portal.come_back()
        else:
            self.world.portal.leave()
        self.world.run(1)

    @precondition(lambda self: not self.world.portal.is_away)
    @rule(duration=st.sampled_from([1, LIFETIME_S + SWEEP_S + 1]), destinations=DESTINATIONS)
    def outage(self, duration: int, destinations: list[tuple[str, int]]) -> None:
        """The portal is away for a while, perhaps longer than any grant lasts."""
        self.world.portal.leave()
        self.world.run(duration)
        self.send(destinations)
        self.world.portal.come_back()
        self.world.run(1)

    # what else happens

    @rule(disabled=st.sets(st.sampled_from(NUMBERS), max_size=2))
    def switch(self, disabled: set[int]) -> None:
        """The user switches resources off and on."""
        self.disabled = disabled
        self.client.call(self.client.machine.set_disabled_resources, {ResourceId(uid(number)) for number in disabled})
        self.world.run(1)

    @rule()
    def roam(self) -> None:
        self.client.call(self.client.machine.reset)
        self.world.run(1)

    @rule(index=st.integers(0, 1), duration=st.sampled_from([0.2, 5, 40]))
    def restart_gateway(self, index: int, duration: float) -> None:
        """A gateway is killed and started again at once; the client finds out by itself."""
        gateway = self.gateways[index]
        gateway.crash()
        self.world.portal.grants = [grant for grant in self.world.portal.grants if grant.gateway != gateway.id]
        self.world.start(gateway)
        self.world.run(duration)

    @rule(duration=st.sampled_from([1, 20, 200, 400]))
    def wait(self, duration: int) -> None:
        self.world.run(duration)

    @rule(destinations=DESTINATIONS)
    def send(self, destinations: list[tuple[str, int]]) -> None:
        """Applications send, and repeat what gets no answer."""
        for server, port in destinations:
            self._check(server, port)

    def _check(self, server: str, port: int) -> None:
        """What an enabled resource admits must arrive; what no granted resource admits, or no enabled one covers, must not.

        In between: switching off is the client's own affair, so a gateway may still grant a port of a resource that is off.
        """
        enabled = [known for number, known in self.known.items() if number not in self.disabled]
        must = any(known.admits(server, port) for known in enabled)
        is_covered = any(known.covers(server) for known in enabled)
        admitting = [number for number, known in self.known.items() if known.admits(server, port)]
        is_away = self.world.portal.is_away
        for _ in range(TRIES if must and not is_away else 2):
            may = is_covered and (any(self._is_granted(number) for number in admitting) if is_away else bool(admitting))
            if self._arrives(server, port):
                assert may, f"{server}:{port} was reached although nobody may"
                return
        assert not must or is_away, f"{server}:{port} was not reached"

    def _is_granted(self, number: int) -> bool:
        """Whether a gateway may let this through while the portal cannot say otherwise."""
        return any(
            grant.resource == uid(number) and grant.expires_at + SWEEP_S >= self.world.utc for grant in self.world.portal.grants
        )

    def _arrives(self, server: str, port: int) -> bool:
        self.sent += 1
        source = str(self.client.ipv6 if ":" in server else self.client.ipv4)
        packet = packets.udp(source, server, self.sent.to_bytes(4, "big"), ports=(5000, port))
        self.client.send(packet)
        self.world.run(2.1)
        arrived = [received for gateway in self.gateways for received in gateway.received()]
        assert arrived.count(packet) <= 1, "a packet arrived twice"
        return packet in arrived

    # always

    @invariant()
    def tables_say_what_the_states_say(self) -> None:
        """Every route leads to the row of a connection that is there, and every row is one of the node's."""
        for member in self.world.members:
            machine: Any = member.machine
            assert machine.poll_update() is None
            for network, row in machine._routes.items():
                found = member.tables.routes.lookup(network.network_address.packed)
                longest = max(
                    (other for other in machine._routes if other.version == network.version
                     and network.network_address in other),
                    key=lambda other: other.prefixlen,
                )  # fmt: skip
                expected = machine._routes[longest]
                assert found == (-1 if expected is None else expected), network
                assert row is None or machine.node.connection_of(row) is not None, f"{network} leads to a row of nobody"
            for cid, row in machine._rows.items():
                assert machine.node.row_of(ConnectionId(cid)) == row

    @invariant()
    def no_deadline_lies_in_the_past(self) -> None:
        for member in self.world.members:
            deadline = member.machine.poll_timeout()
            assert deadline is None or deadline[0] >= self.world.clock.time, deadline


Access.TestCase.settings = settings(deadline=None, max_examples=25, stateful_step_count=25)
TestAccess = Access.TestCase
