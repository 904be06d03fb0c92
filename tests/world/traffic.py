"""Packets and questions of programs, and what must become of them."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import dns.message
import dns.rcode

from firezone.proto.client.dns_outcomes import DnsAnswer, DnsForward, DnsInSite
from firezone.proto.client.state import TunConfig
from tests.world.base import Base
from tests.world.policy import HOSTS, ZONE
from tests.world.reference import Expectation, Fate

if TYPE_CHECKING:
    from tests.world.system import Probe

PATIENCE, LONG_PATIENCE = 6, 45
"""Seconds that a packet's outcome may take: when all is quiet (a connection must be made first), and after a disturbance."""
PROTOCOLS = ("udp", "tcp", "icmp")
PORTS = (443, 80, 5000)
KINDS = ("A", "AAAA", "HTTPS", "TXT", "SRV", "MX", "PTR")


class Traffic(Base):
    """Transitions of applications."""

    # packets

    def send(self, client: int, destination: str, protocol: str, port: int) -> None:
        self._probe(client, destination, destination, protocol, port)

    def send_to_name(self, client: int, name: str, version: int, place: int, protocol: str, port: int) -> None:
        known = self.reference.people[client].addresses.get(name, ())
        addresses = [text for text in known if ipaddress.ip_address(text).version == version]
        if addresses:
            self._probe(client, addresses[place], name, protocol, port, version)

    def send_from_elsewhere(self, client: int, destination: str, protocol: str, port: int) -> None:
        """A source that is not the client's: nobody must ever see it."""
        source = "100.64.250.1" if "." in destination else "fd00:2021:1111::fa:1"
        probe = self.system.send_probe(client, destination, protocol, port, source)
        self.system.run(0.3)
        self.expect(not (probe.arrived or probe.answers or probe.errors), f"{probe} came from another's address")

    def _probe(self, client: int, destination: str, meant: str, protocol: str, port: int, version: int = 0) -> None:
        person = self.reference.people[client]
        version = version or ipaddress.ip_address(destination).version
        wanted = self.reference.expect(person, meant, protocol, port, version)
        limit = LONG_PATIENCE if person.unsure.intersection(wanted.sites or person.unsure) else PATIENCE
        probe = self.system.send_probe(client, destination, protocol, port)
        for _ in range(limit):
            fate = self._fate(probe, wanted, meant)
            if fate in wanted.fates and fate is not Fate.LOST:
                break
            self.system.run(1)
            fate = self._fate(probe, wanted, meant)
            if fate is Fate.LOST and wanted.fates != (Fate.LOST,) and fate not in wanted.fates:
                probe = self.system.send_probe(client, destination, protocol, port)
            else:
                break
        self.expect(
            fate in wanted.fates,
            f"{protocol}/{port} of {person.user} to {meant} ({destination}): {fate}, expected {wanted}; {probe}",
        )
        if fate is Fate.ANSWERED:
            person.unsure.discard(probe.arrived[0][0])

    def _fate(self, probe: Probe, wanted: Expectation, meant: str) -> Fate:
        if probe.arrived:
            self.expect(len(probe.arrived) == 1, f"{meant}: delivered {len(probe.arrived)} times")
            ((site, header),) = probe.arrived
            self.expect(Fate.ANSWERED in wanted.fates, f"{meant} must not be reached, but was in {site}; expected {wanted}")
            self.expect(site in wanted.sites, f"{meant} was reached in {site}, expected {wanted}")
            self.expect(str(header.destination) in wanted.destinations, f"{meant} became {header.destination}, expected {wanted}")
            client = self.system.clients[probe.client]
            self.expect(header.source in (client.ipv4, client.ipv6), f"{meant}: source {header.source}")
            if probe.answers:
                self.expect(probe.answers == 1, f"{meant}: answered {probe.answers} times")
                return Fate.ANSWERED
            return Fate.LOST
        return Fate.REFUSED if probe.errors else Fate.LOST

    # questions

    def ask(self, client: int, name: str, kind: str, place: int) -> None:
        """A program asks one of the machine's name servers."""
        person, member = self.reference.people[client], self.system.clients[client]
        servers = self.reference.servers(person)
        if not servers or person.is_blank:
            return
        sentinels = member.events_of(TunConfig)[-1].dns_servers
        self.expect(len(sentinels) == len(servers), f"{person.user} has sentinels {sentinels} for {servers}")
        place %= len(servers)
        if kind == "PTR":
            asked, name = name, self._pointer(person.addresses.get(name))
        message = dns.message.make_query(name, kind).to_wire()
        outcome = member.machine.handle_dns_query(ipaddress.ip_address(sentinels[place]), message, self.system.clock.time)
        member.settle()
        self.system.run(0.2)
        resource = self.reference.owner(person, name)
        told = f"{kind} of {name} by {person.user}: {outcome}"
        match kind:
            case "PTR" if asked in person.addresses:
                self.expect(self._answers(outcome) == [f"{asked}."], told)
            case "A" | "AAAA" if resource is not None:
                self._check_addresses(client, name, 4 if kind == "A" else 6, self._answers(outcome), told)
            case "HTTPS" if resource is not None:
                self.expect(self._answers(outcome) == [], told)
            case "TXT" | "SRV" if resource is not None:
                self.expect(isinstance(outcome, DnsInSite) and outcome.resource == resource.id, told)
            case _:
                wanted = DnsForward(servers[place], self.reference.is_tunnelled(person, servers[place]))
                self.expect(outcome == wanted, f"{told}, expected {wanted}")

    def _check_addresses(self, client: int, name: str, version: int, found: list[str] | None, told: str) -> None:
        person = self.reference.people[client]
        self.expect(len(found or ()) == self.reference.answer_size(person, name, version), told)
        proxies = self.system.clients[client].machine._dns.resolver.proxies.of_name(name)
        known = person.addresses.setdefault(name, tuple(map(str, proxies)))
        self.expect(known == tuple(map(str, proxies)), f"the addresses of {name} have changed: {known}, {proxies}")
        self.expect(set(found or ()) <= set(known), told)

    @staticmethod
    def _answers(outcome: object) -> list[str] | None:
        """The records of an answer; None for no answer or an error."""
        if not isinstance(outcome, DnsAnswer):
            return None
        message = dns.message.from_wire(outcome.message)
        return [str(item) for rrset in message.answer for item in rrset] if message.rcode() == dns.rcode.NOERROR else None

    @staticmethod
    def _pointer(addresses: tuple[str, ...] | None) -> str:
        return ipaddress.ip_address((addresses or ("192.0.2.99",))[0]).reverse_pointer

    # drawing

    def some_packet(self) -> list[Any]:
        return [self.rng.randrange(2), self.rng.choice(HOSTS), self.rng.choice(PROTOCOLS), self.rng.choice(PORTS)]

    def some_named_packet(self) -> list[Any] | None:
        client = self.rng.randrange(2)
        names = list(self.reference.people[client].addresses)
        if not names:
            return None
        packet = [self.rng.choice([4, 6]), self.rng.randrange(4), self.rng.choice(PROTOCOLS), self.rng.choice(PORTS)]
        return [client, self.rng.choice(names), *packet]

    def some_question(self) -> list[Any]:
        kind = self.rng.choice(KINDS) if self.rng.random() < 0.5 else "A"
        return [self.rng.randrange(2), self.rng.choice(list(ZONE)), kind, self.rng.randrange(3)]
