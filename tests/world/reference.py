"""What must become of a packet or a question, from the account and from who is there."""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass, field

from firezone.base.net import Endpoint
from tests.world.policy import SITES, ZONE, Account, Resource

RESERVED = tuple(
    ipaddress.ip_network(text)
    for text in ("100.64.0.0/11", "100.96.0.0/11", "fd00:2021:1111::/107", "fd00:2021:1111:8000::/107", "224.0.0.0/4", "ff00::/8")
)
"""Never a resource."""
NO_INTERNET = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "100.64.0.0/10", "240.0.0.0/4",
        "::1/128", "::ffff:0:0/96", "fc00::/7", "fe80::/10",
    )
)  # fmt: skip


class Fate(enum.Enum):
    """What becomes of a packet."""

    ANSWERED = "answered"
    """It reaches a site and its answer comes back."""
    REFUSED = "refused"
    """An ICMP error comes back, and it reaches nobody."""
    LOST = "lost"
    """Nothing comes back, and it reaches nobody."""


@dataclass(frozen=True)
class Expectation:
    """What may become of a packet, and if it arrives, where."""

    fates: tuple[Fate, ...]
    sites: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()


@dataclass
class Person:
    """One user with one client."""

    user: str
    is_internet_on: bool = False
    is_blank: bool = False
    """Started while the portal was away: the client knows nothing, not even its addresses."""
    unsure: set[str] = field(default_factory=set)
    """Sites that something has happened on the way to which may cost packets for a while."""
    addresses: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What its programs were told of names; it stays until the client is started anew."""
    resolvers: tuple[str, ...] = ("192.168.1.1",)

    def disturb(self) -> None:
        self.unsure.update(SITES)


@dataclass
class Reference:
    """The world as it should be."""

    account: Account
    people: list[Person]
    gateways: dict[str, list[bool]]
    """By site, which gateways run."""
    is_portal_away: bool = False
    relays: list[bool] = field(default_factory=lambda: [True, True])
    needs_relay: bool = False

    def disturb(self) -> None:
        for person in self.people:
            person.disturb()

    def expect(self, person: Person, destination: str, protocol: str, port: int, version: int) -> Expectation:
        """`destination`: an address, or a name whose address of the version is used."""
        if person.is_blank:
            return Expectation((Fate.LOST,))
        chosen = self._choose(person, destination, protocol, port, version)
        if not chosen:  # A name was a resource's when it was asked for, and its addresses lead nowhere else.
            return Expectation((Fate.REFUSED if destination in ZONE else Fate.LOST,))
        if not chosen[0].permits(protocol, port):
            return Expectation((Fate.REFUSED,))
        open_sites = [[site for site in resource.sites if any(self.gateways[site])] for resource in chosen]
        reached = self._reached(chosen[0], destination, version, tuple(site for sites in open_sites for site in sites))
        if not all(
            open_sites
        ):  # Of equal ones the one that is connected is used, else the last, whether somebody serves it or not.
            fates = (*reached.fates, Fate.LOST, Fate.REFUSED) if any(open_sites) else (Fate.LOST, Fate.REFUSED)
            reached = Expectation(fates, reached.sites, reached.destinations)
        return self._certainly(reached)

    def _reached(self, resource: Resource, destination: str, version: int, sites: tuple[str, ...]) -> Expectation:
        """What becomes of a packet at the gateway."""
        destinations: tuple[str, ...] = (destination,)
        if resource.kind == "dns":
            destinations = tuple(text for text in ZONE[destination] if ipaddress.ip_address(text).version == version)
        is_closed = resource.kind == "internet" and any(ipaddress.ip_address(destination) in network for network in NO_INTERNET)
        return Expectation((Fate.REFUSED,)) if is_closed or not destinations else Expectation((Fate.ANSWERED,), sites, destinations)

    def _certainly(self, expectation: Expectation) -> Expectation:
        """Without a portal, or without a relay where one is needed, nothing new can be reached; what is connected goes on."""
        if self.is_portal_away or (self.needs_relay and not any(self.relays)):
            return Expectation((*expectation.fates, Fate.LOST, Fate.REFUSED), expectation.sites, expectation.destinations)
        return expectation

    def _choose(self, person: Person, destination: str, protocol: str, port: int, version: int) -> list[Resource]:
        """The resources that are the best for a packet, several where a prefix is owned by several."""
        usable = self.account.of(person.user)
        if destination in ZONE:
            candidates = [one for one in usable if one.names(destination) and one.allows(version)]
            return [max(candidates, key=lambda one: one.specificity)] if candidates else []
        address = ipaddress.ip_address(destination)
        if any(address in network for network in RESERVED):
            return []
        covering = [one for one in usable if one.covers(destination)]
        if covering:

            def rank(one: Resource) -> tuple[bool, int]:
                return one.permits(protocol, port), ipaddress.ip_network(one.address).prefixlen

            best = max(map(rank, covering))
            return [one for one in covering if rank(one) == best]
        return [one for one in usable if one.kind == "internet"][:1] if person.is_internet_on else []

    def routes(self, person: Person) -> set[str]:
        """The networks that the client's device must attract."""
        fixed = {"100.100.111.0/24", "fd00:2021:1111:8000:100:100:111:0/120"} | {str(one) for one in RESERVED[:4]}
        usable = self.account.of(person.user)
        fixed |= {one.address for one in usable if one.kind == "cidr"}
        if person.is_internet_on and any(one.kind == "internet" for one in usable):
            fixed |= {"0.0.0.0/0", "::/0"}
        return fixed

    def owner(self, person: Person, name: str) -> Resource | None:
        """The resource that a name belongs to first of all."""
        candidates = [one for one in self.account.of(person.user) if one.names(name)]
        return max(candidates, key=lambda one: one.specificity, default=None)

    def answer_size(self, person: Person, name: str, version: int) -> int:
        """How many addresses a question for a resource's name is answered with."""
        return 4 if any(one.names(name) and one.allows(version) for one in self.account.of(person.user)) else 0

    def servers(self, person: Person) -> tuple[Endpoint, ...]:
        """The name servers that a client's questions go to, in order."""
        if person.is_blank:
            return ()
        lists = [
            [text for text in texts if not text.startswith("100.100.111.")] for texts in (self.account.upstream, person.resolvers)
        ]
        return tuple(Endpoint.from_text(text, 53) for text in lists[0] or lists[1])

    def is_tunnelled(self, person: Person, server: Endpoint) -> bool:
        """Servers of the portal are asked through the tunnel where a resource takes questions to them."""
        if not self.account.upstream:
            return False
        version = 4 if server.is_ipv4 else 6
        chosen = [self._choose(person, server.host, protocol, 53, version) for protocol in ("udp", "tcp")]
        return all(found and found[0].permits(protocol, 53) for found, protocol in zip(chosen, ("udp", "tcp"), strict=True))


def new_reference(needs_relay: bool) -> Reference:
    people = [Person("alice"), Person("bob")]
    return Reference(Account(), people, {site: [True] * (2 if site == "Office" else 1) for site in SITES}, needs_relay=needs_relay)
