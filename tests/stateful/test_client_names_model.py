"""A client's names in any order of questions, packets, grants, answers, changes of resources and losses of gateways.

No packet reaches a gateway that was not told of its name, or may not have it; the compiled tables are at every moment what a
recomputation from scratch would make them.
"""

from __future__ import annotations

import ipaddress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from firezone.base.ids import ConnectionId, PeerRow, ResourceId
from firezone.base.timing import SECOND
from firezone.datapath.tables import NO_PEER_YET, Tables
from firezone.kernels.types import Reason
from firezone.proto.client.name_nat import MAX_HELD_PER_NAME
from firezone.proto.tunnel_state import SendToPortal
from firezone.wire.control import AssignedIps
from firezone.wire.domain_pattern import matches
from firezone.wire.ip import decode_ip
from firezone.wire.portal import client as wire
from firezone.wire.portal.shared import Filter
from tests.harness import packets
from tests.harness.roles import cidr, dns, uid
from tests.unit.proto.client.bench import OWN_V4, OWN_V6, failed, granted, init
from tests.unit.proto.client.names_bench import NamesClient

NAMES = ("app.corp.test", "db.corp.test", "x.other.test")
NUMBERS = (20, 21, 22)
PATTERNS = ("*.corp.test", "**.test", "app.corp.test")
STACKS = ("dual", "ipv4_only", "ipv6_only")
FILTERS = ((), (Filter(protocol="udp", port_range_start=80, port_range_end=80),))
GATEWAYS = (2, 3)
VERSIONS = st.sampled_from([4, 6])


class ClientNames(RuleBasedStateMachine):
    """What was announced, answered and granted, per gateway."""

    def __init__(self) -> None:
        super().__init__()
        self.client = NamesClient()
        self.tables = Tables()
        self.key = 10
        self.resources: dict[int, wire.DnsResource] = {}
        self.granted: dict[int, int] = {}
        self.told: dict[int, dict[tuple[str, int], bool]] = {}
        """By gateway: name and resource, and whether that was answered."""
        self.sent: set[bytes] = set()
        self.number = 0

    # what happens

    @initialize(patterns=st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3))
    def begin(self, patterns: list[str]) -> None:
        for number, pattern in zip(NUMBERS, patterns, strict=False):
            self.put(dns(number, pattern))
        for name in NAMES:
            self.client.question(name)
            self.client.state._dns.resolver.proxies.assign(name)
        self.settle()

    @rule(
        number=st.sampled_from(NUMBERS), pattern=st.sampled_from(PATTERNS), stack=st.sampled_from(STACKS),
        filters=st.sampled_from(FILTERS),
    )  # fmt: skip
    def set_resource(self, number: int, pattern: str, stack: str, filters: tuple[Filter, ...]) -> None:
        self.put(dns(number, pattern, *filters, ip_stack=stack))
        self.settle()

    def put(self, resource: wire.DnsResource) -> None:
        number = next(number for number in NUMBERS if uid(number) == resource.id)
        if self.resources.get(number) != resource:
            self.end(number)
        self.resources[number] = resource
        self.client.tell(wire.ResourceCreatedOrUpdated(resource=resource))

    def end(self, number: int) -> None:
        self.granted.pop(number, None)
        for told in self.told.values():
            for place in [place for place in told if place[1] == number]:
                del told[place]

    @rule(name=st.sampled_from(NAMES), version=VERSIONS)
    def ask(self, name: str, version: int) -> None:
        self.client.question(name, "A" if version == 4 else "AAAA")
        self.settle()

    @rule(name=st.sampled_from(NAMES), version=VERSIONS, port=st.sampled_from([80, 443]), count=st.integers(1, 3))
    def send(self, name: str, version: int, port: int, count: int) -> None:
        addresses = [a for a in self.client.state._dns.resolver.proxies.of_name(name) if a.version == version]
        for _ in range(count if addresses else 0):
            self.number += 1
            own = OWN_V4 if version == 4 else OWN_V6
            packet = packets.udp(own, str(addresses[0]), self.number.to_bytes(4, "big"), ports=(5000, port))
            self.sent.add(packet)
            self.route(packet, addresses[0].packed, name, version, port)
        self.settle()

    def route(self, packet: bytes, destination: bytes, name: str, version: int, port: int) -> None:
        """As the compiled path does; what it would send itself is judged here."""
        row = self.tables.routes.lookup(destination)
        if row is None or row == NO_PEER_YET:
            self.client.state.handle_packet(packet, 0, Reason.NO_PEER, self.client.now)
            return
        cid = self.client.state.node.connection_of(PeerRow(row))
        assert cid is not None
        self.judge(packet, next(number for number in GATEWAYS if uid(number) == cid), is_looked_at=False)

    def pending(self) -> list[int]:
        return [number for number in NUMBERS if ResourceId(uid(number)) in self.client.state._pending]

    @precondition(lambda self: self.pending())
    @rule(data=st.data(), gateway=st.sampled_from(GATEWAYS), outcome=st.sampled_from(["", "", "", "new", "offline", "forbidden"]))
    def decide(self, data: st.DataObject, gateway: int, outcome: str) -> None:
        """The portal grants what is asked for, perhaps at a gateway that was started anew, or refuses it."""
        number = data.draw(st.sampled_from(self.pending()))
        if outcome in ("offline", "forbidden"):
            self.client.tell(failed(number, outcome))
        else:
            if outcome == "new":
                self.key += 1
                self.told.pop(gateway, None)
                self.granted = {resource: at for resource, at in self.granted.items() if at != gateway}
            self.client.tell(granted(number, gateway=gateway, key=self.key * 2 + gateway))
            self.granted[number] = gateway
        self.settle()

    def places(self) -> list[tuple[int, str, int]]:
        return sorted((gateway, *place) for gateway, told in self.told.items() for place in told)

    @precondition(lambda self: self.places())
    @rule(data=st.data(), is_active=st.booleans())
    def answer(self, data: st.DataObject, is_active: bool) -> None:
        gateway, name, number = data.draw(st.sampled_from(self.places()))
        self.told[gateway][name, number] = True
        self.client.status(name, number, gateway, is_active=is_active)
        self.settle()

    @rule(data=st.data(), kind=st.sampled_from(["remove", "lose", "reset", "list"]))
    def disturb(self, data: st.DataObject, kind: str) -> None:
        match kind:
            case "remove":
                number = data.draw(st.sampled_from(NUMBERS))
                self.resources.pop(number, None)
                self.end(number)
                self.client.tell(wire.ResourceDeleted(resource_id=ResourceId(uid(number))))
            case "lose":
                cid = ConnectionId(uid(data.draw(st.sampled_from(GATEWAYS))))
                self.client.state.node.remove_connection(cid)
                self.client.state._on_gone(cid, self.client.now)
            case "reset":
                self.client.state.reset(self.client.now)
            case _:
                self.client.tell(init(*self.resources.values(), cidr(10, "10.0.0.0/24")))
        self.settle()

    @rule(seconds=st.sampled_from([1, 2, 5]))
    def wait(self, seconds: int) -> None:
        self.client.now += seconds * SECOND

    # what must hold

    def settle(self) -> None:
        """Applies what the state wants and reads what gateways were given."""
        while (update := self.client.state.poll_update()) is not None:
            self.tables.apply(update)
        while self.client.state.poll_packet() is not None:
            pass
        for event in self.client.events():
            if isinstance(event, SendToPortal) and isinstance(event.message, wire.CreateFlow):
                assert event.message.resource_id in {uid(number) for number in self.resources}
        alive = {connection.cid for connection in self.client.state.node._connections}
        for gateway in GATEWAYS:
            if uid(gateway) not in alive:
                self.told.pop(gateway, None)
                self.granted = {resource: at for resource, at in self.granted.items() if at != gateway}
                continue
            for item in self.client.waiting(gateway):
                if isinstance(item, AssignedIps):
                    self.hear(gateway, item)
                else:
                    self.judge(item, gateway)

    def hear(self, gateway: int, told: AssignedIps) -> None:
        number = next(number for number in NUMBERS if uid(number) == told.resource)
        assert self.granted[number] == gateway, "a gateway hears of names of its own resources only"
        assert matches(self.resources[number].address, told.domain)
        assert len(told.proxy_ips) in (4, 8)
        self.told.setdefault(gateway, {}).setdefault((told.domain, number), False)

    def judge(self, packet: bytes, gateway: int, *, is_looked_at: bool = True) -> None:
        """Where nothing is to be chosen nobody looks at ports; the gateway does."""
        assert packet in self.sent
        header = decode_ip(packet)
        name = self.client.state._names.name_of(header.destination)
        assert name is not None
        entitled = [
            number for number, resource in self.resources.items()
            if matches(resource.address, name) and self.granted.get(number) == gateway
            and resource.ip_stack in ("dual", f"ipv{header.version}_only")
            and (not resource.filters or header.destination_port == 80 or not is_looked_at)
        ]  # fmt: skip
        assert any(self.told.get(gateway, {}).get((name, number)) for number in entitled), "told, answered, and entitled"

    @invariant()
    def tables_are_what_a_recomputation_would_make_them(self) -> None:
        state = self.client.state
        state._names.nat.shrunk.clear()
        state._sync()
        assert list(state._updates) == []

    @invariant()
    def routes_of_names_lead_to_connections(self) -> None:
        state = self.client.state
        rows = {state.node.row_of(connection.cid) for connection in state.node._connections}
        for name in NAMES:
            for address in state._dns.resolver.proxies.of_name(name):
                row = self.tables.routes.lookup(address.packed)
                assert row in rows | {NO_PEER_YET, None}

    @invariant()
    def what_is_held_is_bounded_and_counted(self) -> None:
        nat = self.client.state._names.nat
        held = [len(set_up.buffer) for cid in self.client.state._gateways for set_up in nat.at(cid)]
        assert nat._held == sum(held)
        assert max(held, default=0) <= MAX_HELD_PER_NAME
        assert len(nat) == len(held)

    @invariant()
    def addresses_of_names_never_change(self) -> None:
        proxies = self.client.state._dns.resolver.proxies
        for name in NAMES:
            for address in proxies.of_name(name):
                assert proxies.name_of(ipaddress.ip_address(str(address))) == name


TestClientNames = ClientNames.TestCase
TestClientNames.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)


class ChoosingClientNames(ClientNames):
    """The same with filters that choose among the resources of a name."""

    def __init__(self) -> None:
        super().__init__()
        self.client.state._names._is_one_resource_per_name = False


TestChoosingClientNames = ChoosingClientNames.TestCase
TestChoosingClientNames.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
