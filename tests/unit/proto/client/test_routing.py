"""Which resource a packet is for, by networks and filters, and the Internet resource behind them: `client` 15.2."""

from __future__ import annotations

import pytest

from firezone.base.ids import ResourceId
from firezone.proto.client.gateways import Gateways
from firezone.proto.client.names import Names
from firezone.proto.client.resources import ResourceBook
from firezone.proto.client.routing import MAX_FOUND, Match, Routing, permits
from firezone.proto.dns.stub_resolver import StubResolver
from firezone.wire.ip import decode_ip
from firezone.wire.portal import client as wire
from firezone.wire.portal.shared import Filter
from tests.harness import packets
from tests.harness.roles import SITE, cidr, uid
from tests.unit.proto.client.test_resources import WEB, add, book, dns, recompute

OWN = "100.64.0.1"
NAMES = Filter(protocol="udp", port_range_start=53, port_range_end=53)


# whom a packet is for


def routing_of(known: ResourceBook, *, is_one_resource_per_name: bool = False) -> Routing:
    names = Names(StubResolver(), known, Gateways(), is_one_resource_per_name=is_one_resource_per_name)
    routing = Routing(known, names)
    routing.refresh()
    return routing


def match(known: ResourceBook, packet: bytes) -> tuple[str, bool] | None:
    routing = routing_of(known)
    found = routing.match(decode_ip(packet))
    return None if found is None else (found.resource.id, found.is_permitted)


def test_the_longest_prefix_wins_and_nothing_matches_elsewhere() -> None:
    known = book(cidr(2, "10.0.0.0/8"), cidr(1, "10.0.0.0/24"))
    assert match(known, packets.udp(OWN, "10.0.0.7")) == (uid(1), True)
    assert match(known, packets.udp(OWN, "10.9.0.7")) == (uid(2), True)
    assert match(known, packets.udp(OWN, "11.0.0.7")) is None
    assert match(known, packets.udp("fd00::1", "fd00::2")) is None


def test_filters_decide_before_the_length_of_the_prefix() -> None:
    known = book(cidr(1, "10.0.0.0/24", WEB), cidr(2, "10.0.0.0/8", NAMES))
    assert match(known, packets.tcp(OWN, "10.0.0.7", ports=(1, 80))) == (uid(1), True)
    assert match(known, packets.udp(OWN, "10.0.0.7", ports=(1, 53))) == (uid(2), True)
    assert match(known, packets.udp(OWN, "10.0.0.7", ports=(1, 54))) == (uid(1), False)


def test_of_equals_the_active_one_is_asked_for() -> None:
    known = book(cidr(1, "10.0.0.0/24"), connected=(1,))
    add(known, cidr(2, "10.0.0.0/24"))
    recompute(known, 1)
    assert match(known, packets.udp(OWN, "10.0.0.7")) == (uid(1), True)


def test_what_was_found_is_forgotten_with_every_change_and_bounded() -> None:
    known = book(cidr(1, "10.0.0.0/24"))
    routing = routing_of(known)
    header = decode_ip(packets.udp(OWN, "10.0.0.7"))
    assert routing.match(header) == Match(known.resources[ResourceId(uid(1))], True)
    add(known, cidr(2, "10.0.0.7/32"))
    recompute(known)
    routing.refresh()
    assert routing.match(header) == Match(known.resources[ResourceId(uid(2))], True)
    for port in range(MAX_FOUND + 10):
        routing.match(decode_ip(packets.udp(OWN, "10.0.0.7", ports=(1, port))))
    assert len(routing._found) <= MAX_FOUND


def test_disabled_resources_and_names_are_never_asked_for() -> None:
    known = book(cidr(1, "10.0.0.0/24"), dns(2))
    known.disabled = {ResourceId(uid(1))}
    recompute(known)
    assert match(known, packets.udp(OWN, "10.0.0.7")) is None


@pytest.mark.parametrize(
    ("filters", "packet", "expected"),
    [
        ((), packets.ip(OWN, "10.0.0.7", 47, b"x"), True),
        ((WEB,), packets.tcp(OWN, "10.0.0.7", ports=(80, 81)), False),
        ((WEB,), packets.tcp(OWN, "10.0.0.7", ports=(81, 80)), True),
        ((WEB,), packets.udp(OWN, "10.0.0.7", ports=(80, 80)), False),
        ((Filter(protocol="icmp"),), packets.echo(OWN, "10.0.0.7"), True),
        ((Filter(protocol="icmp"),), packets.echo("fd00::1", "fd00::2"), True),
        ((Filter(protocol="icmp"),), packets.ip(OWN, "10.0.0.7", packets.ICMP, bytes([13, 0]) + bytes(18)), True),
        ((Filter(protocol="icmp"),), packets.udp(OWN, "10.0.0.7"), False),
        ((Filter(protocol="tcp", port_range_start=90, port_range_end=80),), packets.tcp(OWN, "10.0.0.7", ports=(1, 85)), False),
    ],
)
def test_filters_are_judged_as_the_gateway_judges(filters: tuple[Filter, ...], packet: bytes, expected: bool) -> None:
    assert permits(filters, decode_ip(packet)) is expected


# the Internet


def with_internet(*others: wire.Resource) -> ResourceBook:
    known = book(*others, wire.InternetResource(id=ResourceId(uid(9)), sites=(SITE,)))
    known.is_internet_on = True
    return known


def test_the_internet_is_what_no_network_covers() -> None:
    known = with_internet(cidr(1, "10.0.0.0/8", WEB))
    assert match(known, packets.udp(OWN, "8.8.8.8")) == (uid(9), True)
    assert match(known, packets.udp("fd00::1", "2001:db8::7")) == (uid(9), True)
    assert match(known, packets.udp(OWN, "10.0.0.7")) == (uid(1), False), "what a network denies is not the Internet's"


@pytest.mark.parametrize(
    "destination",
    ["100.64.0.9", "100.95.1.1", "100.96.0.1", "100.127.0.1", "100.100.111.9", "224.0.0.22", "224.0.0.252", "239.1.2.3",
     "fd00:2021:1111::9", "fd00:2021:1111:8000::7", "fd00:2021:1111:8000:100:100:111:9", "ff02::2", "ff05::1"],
)  # fmt: skip
def test_tunnel_addresses_proxies_sentinels_and_groups_are_never_the_internet(destination: str) -> None:
    source = "fd00::1" if ":" in destination else OWN
    assert match(with_internet(cidr(1, "100.64.0.0/10"), cidr(2, "224.0.0.0/4")), packets.udp(source, destination)) is None


def test_the_internet_is_off_until_somebody_wants_it_or_disables_it() -> None:
    known = with_internet()
    known.is_internet_on = False
    assert match(known, packets.udp(OWN, "8.8.8.8")) is None
    known.is_internet_on = True
    known.disabled = {ResourceId(uid(9))}
    assert match(known, packets.udp(OWN, "8.8.8.8")) is None


def test_of_several_internet_resources_the_last_is_used_and_only_its_end_switches_it_off() -> None:
    known = with_internet()
    add(known, wire.InternetResource(id=ResourceId(uid(8)), sites=(SITE,)))
    assert match(known, packets.udp(OWN, "8.8.8.8")) == (uid(8), True)
    known.remove(ResourceId(uid(9)))
    assert known.is_internet_on
    known.remove(ResourceId(uid(8)))
    assert not known.is_internet_on


def test_rivals_are_found_without_walking_all_resources() -> None:
    """Of 5000 filtered networks with a common cover each has one rival; a walk over all would take 25 million steps."""
    networks = [cidr(100 + n, f"10.{n >> 8}.{n & 255}.0/24", WEB) for n in range(5000)]
    known = book(cidr(1, "10.0.0.0/8", NAMES), *networks)
    routing = routing_of(known)
    found = dict(routing.networks())
    assert all(found[resource.address] == [resource.id, uid(1)] for resource in networks)
