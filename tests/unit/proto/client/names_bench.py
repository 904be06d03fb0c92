"""A client alone that asks for names, and what it tells gateways of them."""

from __future__ import annotations

import ipaddress

from dns import message as dns_message

from firezone.base.ids import ConnectionId, ResourceId
from firezone.proto.client.dns_outcomes import DnsAnswer, DnsOutcome
from firezone.wire.control import AssignedIps, ControlEvent, decode_assigned_ips, decode_control, encode_domain_status
from firezone.wire.portal import client as wire
from tests.harness.roles import dns, uid
from tests.unit.proto.client.bench import Client, granted

PATTERN, NAME, OTHER = "*.corp.test", "app.corp.test", "db.corp.test"
GATEWAY = ConnectionId(uid(2))


def query(name: str, kind: str = "A") -> bytes:
    """A question as programs ask it."""
    return dns_message.make_query(name, kind).to_wire()


def records(outcome: DnsOutcome | None) -> list[str]:
    """The data of an answer's records."""
    assert isinstance(outcome, DnsAnswer)
    return [str(record) for rrset in dns_message.from_wire(outcome.message).answer for record in rrset]


class NamesClient(Client):
    """Its gateways never come up: what it would send them waits where it can be read."""

    def ask(self, name: str = NAME, version: int = 4) -> str:
        """A program asks for a name; returns the first address of the answer."""
        assert isinstance(self.question(name, "A" if version == 4 else "AAAA"), DnsAnswer)
        return next(str(a) for a in self.state._dns.resolver.proxies.of_name(name) if a.version == version)

    def question(self, name: str, kind: str = "A", sentinel: str = "100.100.111.1") -> DnsOutcome | None:
        """Asks a sentinel; returns what is to be done."""
        return self.state.handle_dns_query(ipaddress.ip_address(sentinel), query(name, kind), self.now)

    def waiting(self, gateway: int = 2) -> list[bytes | AssignedIps]:
        """What the connection with a gateway was given since the last call, announcements decoded."""
        connection = next(c for c in self.state.node._connections if c.cid == uid(gateway))
        found: list[bytes | AssignedIps] = []
        while connection._packets:
            packet = connection._packets.popleft()
            is_control = packet[0] >> 4 == 6 and packet[6] == 0xFF
            found.append(decode_assigned_ips(decode_control(packet).body) if is_control else packet)
        return found

    def told(self, gateway: int = 2) -> list[tuple[str, str, int]]:
        """Name, resource and number of addresses of the announcements since the last call."""
        return [(a.domain, a.resource, len(a.proxy_ips)) for a in self.waiting(gateway) if isinstance(a, AssignedIps)]

    def status(self, name: str = NAME, resource: int = 20, gateway: int = 2, *, is_active: bool = True) -> None:
        packet = encode_domain_status(ResourceId(uid(resource)), name, is_active=is_active)
        assert decode_control(packet).event == ControlEvent.DOMAIN_STATUS
        self.state._handle_control(ConnectionId(uid(gateway)), packet, self.now)

    def table(self) -> dict[str, int | None]:
        """All routes of names."""
        found = {
            str(network): rows[0 if network.version == 4 else 1]
            for networks, rows in self.state._name_routes.values()
            for network in networks
        }
        return {network: row for network, row in found.items() if row is not None}

    def proxies(self, name: str = NAME, version: int | None = None) -> list[str]:
        return [
            str(ipaddress.ip_network(a)) for a in self.state._dns.resolver.proxies.of_name(name) if version in (None, a.version)
        ]


def named(*resources: wire.Resource, has_flow: bool = True) -> NamesClient:
    """A client that has asked for NAME, and whose resource 20 has a gateway that was told nothing yet."""
    from tests.unit.proto.client.bench import udp

    client = NamesClient(*(resources or (dns(20, PATTERN),)))
    if has_flow:
        client.send(udp(client.ask("first.corp.test")))
        client.tell(granted(20))
        client.status("first.corp.test")
        client.waiting()
        client.events()
        client.updates()
    return client
