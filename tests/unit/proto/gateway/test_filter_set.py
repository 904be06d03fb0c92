"""What a client may reach: `gateway` 6.1, 6.2, 15.4 and 17, and the compiled filter against its slow twin."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.base.ids import PeerRow
from firezone.base.net import PROXY_V4, TUNNEL_V4, TUNNEL_V6, Address, Network
from firezone.kernels.filter import FilterTable
from firezone.kernels.ip import parse_batch
from firezone.kernels.types import Verdict
from firezone.proto.gateway.filter_set import INTERNET, NOT_INTERNET, Grant, build_rules, is_no_internet, permits, permits_outbound
from firezone.wire.ip import ICMP, ICMPV6, TCP, UDP, decode_ip
from firezone.wire.portal.shared import Filter
from tests.harness import packets
from tests.harness.rows import batch_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firezone.proto.updates import Rule

GRE = 47
OWN = (ipaddress.ip_address("100.64.0.2"), ipaddress.ip_address("fd00:2021:1111::2"))


def tcp(start: int = 0, end: int | None = None) -> Filter:
    return Filter(protocol="tcp", port_range_start=start, port_range_end=start if end is None else end)


def udp(start: int = 0, end: int | None = None) -> Filter:
    return Filter(protocol="udp", port_range_start=start, port_range_end=start if end is None else end)


PING = Filter(protocol="icmp")


def grant(network: str, *filters: Filter) -> Grant:
    return Grant(ipaddress.ip_network(network), filters)


def allows(rules: Iterable[Rule], address: str, protocol: int, port: int | None = None) -> bool:
    return permits(rules, ipaddress.ip_address(address), protocol, port)


def test_without_filters_every_protocol_passes() -> None:
    rules = build_rules([grant("10.0.0.0/24")], ())
    assert all(allows(rules, "10.0.0.7", protocol, port) for protocol, port in ((TCP, 1), (UDP, 2), (ICMP, None), (GRE, None)))


def test_a_filter_permits_its_protocol_and_port_and_nothing_else() -> None:
    rules = build_rules([grant("10.0.0.0/24", tcp(443))], ())
    assert allows(rules, "10.0.0.7", TCP, 443)
    refused = [(UDP, 443), (TCP, 442), (TCP, 444), (ICMP, 443), (ICMP, None), (GRE, None)]
    assert not any(allows(rules, "10.0.0.7", protocol, port) for protocol, port in refused)


def test_the_icmp_filter_permits_every_icmp_and_nothing_else() -> None:
    rules = build_rules([grant("10.0.0.0/24", PING), grant("fd00:1::/64", PING)], ())
    assert allows(rules, "10.0.0.7", ICMP, 77)
    assert allows(rules, "10.0.0.7", ICMP)
    assert allows(rules, "fd00:1::7", ICMPV6)
    assert not allows(rules, "10.0.0.7", TCP, 443)


def test_an_icmp_error_of_the_client_is_never_permitted() -> None:
    rules = build_rules([grant("10.0.0.0/24")], ())
    error = packets.ip("100.64.0.1", "10.0.0.7", ICMP, bytes([3, 3]) + bytes(34))
    timestamp = packets.ip("100.64.0.1", "10.0.0.7", ICMP, bytes([13, 0]) + bytes(18))
    assert not permits_outbound(rules, decode_ip(error))
    assert permits_outbound(rules, decode_ip(timestamp))


@pytest.mark.parametrize("port", [0, 1, 65535])
def test_a_filter_without_ports_permits_all_of_them(port: int) -> None:
    rules = build_rules([grant("10.0.0.0/24", Filter(protocol="tcp"))], ())
    assert allows(rules, "10.0.0.7", TCP, port)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ((tcp(20, 30), tcp(31, 40)), ((20, 40),)),
        ((tcp(20, 30), tcp(25, 40)), ((20, 40),)),
        ((tcp(20, 40), tcp(25, 30)), ((20, 40),)),
        ((tcp(80), tcp(22)), ((22, 22), (80, 80))),
        ((tcp(80), tcp(80)), ((80, 80),)),
        ((tcp(65535), tcp(0)), ((0, 0), (65535, 65535))),
    ],
    ids=["adjacent", "overlapping", "nested", "apart", "equal", "the ends"],
)
def test_port_ranges_are_merged(filters: tuple[Filter, ...], expected: tuple[tuple[int, int], ...]) -> None:
    rule = next(rule for rule in build_rules([grant("10.0.0.0/24", *filters)], ()) if str(rule.network) == "10.0.0.0/24")
    assert rule.tcp == expected


def test_a_range_that_ends_before_it_starts_permits_nothing_and_does_not_open_the_resource() -> None:
    rules = build_rules([grant("10.0.0.0/24", tcp(90, 80))], ())
    assert not any(allows(rules, "10.0.0.7", TCP, port) for port in (0, 79, 80, 85, 90, 91, 65535))
    assert not allows(rules, "10.0.0.7", UDP, 85)


def test_a_wrong_range_does_not_spoil_the_right_ones_beside_it() -> None:
    rules = build_rules([grant("10.0.0.0/24", tcp(90, 80), tcp(443))], ())
    assert allows(rules, "10.0.0.7", TCP, 443)
    assert not allows(rules, "10.0.0.7", TCP, 85)
    assert [rule.tcp for rule in rules if str(rule.network) == "10.0.0.0/24"] == [((443, 443),)]


def test_nested_networks_are_a_union_inside_and_the_outer_alone_outside() -> None:
    outer, inner = grant("10.0.0.0/8", tcp(80)), grant("10.0.0.0/24", udp(53))
    rules = build_rules([outer, inner], ())
    assert allows(rules, "10.0.0.7", TCP, 80)
    assert allows(rules, "10.0.0.7", UDP, 53)
    assert allows(rules, "10.1.0.7", TCP, 80)
    assert not allows(rules, "10.1.0.7", UDP, 53)
    without_inner = build_rules([outer], ())
    assert not allows(without_inner, "10.0.0.7", UDP, 53)


def test_a_network_granted_twice_once_without_filters_lets_everything_through() -> None:
    for grants in ([grant("10.0.0.0/24", tcp(443)), grant("10.0.0.0/24")], [grant("10.0.0.0/24"), grant("10.0.0.0/24", tcp(443))]):
        assert allows(build_rules(grants, ()), "10.0.0.7", GRE)


def test_what_no_resource_covers_is_refused() -> None:
    rules = build_rules([grant("10.0.0.0/24"), grant("fd00:1::/64")], ())
    assert not allows(rules, "10.0.1.0", TCP, 80)
    assert not allows(rules, "fd00:2::1", TCP, 80)
    assert not allows(build_rules([], ()), "10.0.0.7", TCP, 80)


@pytest.mark.parametrize("wide", ["0.0.0.0/0", "100.0.0.0/8", "100.64.0.0/11", "100.64.0.7/32"])
def test_tunnel_addresses_are_closed_whatever_covers_them(wide: str) -> None:
    rules = build_rules([grant(wide)], OWN)
    assert not allows(rules, "100.64.0.7", TCP, 80)


@pytest.mark.parametrize("address", ["224.0.0.251", "239.1.2.3", "ff02::fb"])
def test_multicast_is_closed_whatever_covers_it(address: str) -> None:
    everything = [grant("0.0.0.0/0"), grant("::/0"), grant("224.0.0.0/8")]
    assert not allows(build_rules(everything, OWN), address, UDP, 5353)


def test_the_gateways_own_addresses_are_open_to_everybody() -> None:
    for grants in ([], [grant("100.64.0.0/16", tcp(1))]):
        rules = build_rules(grants, OWN)
        assert allows(rules, "100.64.0.2", GRE)
        assert allows(rules, "fd00:2021:1111::2", UDP, 53535)
        assert not allows(rules, "100.64.0.3", ICMP)


INTERNET_GRANTS = [Grant(network, (), is_internet=True) for network in INTERNET]


@pytest.mark.parametrize("address", ["1.1.1.1", "172.32.0.1", "100.63.255.255", "100.128.0.1", "2606:4700::1111", "fbff::1"])
def test_the_internet_resource_opens_the_internet(address: str) -> None:
    assert allows(build_rules(INTERNET_GRANTS, OWN), address, GRE)


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "127.0.0.1", "169.254.169.254", "100.64.0.9", "100.100.0.1",
        "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::ffff:10.0.0.1", "fd12::1", "fe80::1", "ff02::1",
    ],
)  # fmt: skip
def test_the_internet_resource_opens_neither_the_gateways_network_nor_other_clients(address: str) -> None:
    assert not allows(build_rules(INTERNET_GRANTS, OWN), address, TCP, 80)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.2.3", True), ("169.254.169.254", True), ("255.255.255.255", True), ("fd12::1", True), ("::1", True),
        ("1.1.1.1", False), ("2606:4700::1111", False),
        ("100.64.0.9", False), ("fd00:2021:1111::9", False), ("224.0.0.1", False), ("ff02::1", False),
    ],
)  # fmt: skip
def test_what_is_no_internet_is_told_from_what_is_closed(address: str, expected: bool) -> None:
    assert is_no_internet(ipaddress.ip_address(address)) is expected


def test_another_resource_opens_what_the_internet_resource_leaves_out() -> None:
    grants = [*INTERNET_GRANTS, grant("10.0.0.0/24", tcp(443)), grant("192.0.0.0/8", tcp(22))]
    rules = build_rules(grants, OWN)
    assert allows(rules, "10.0.0.7", TCP, 443)
    assert not allows(rules, "10.0.0.7", TCP, 80)
    assert not allows(rules, "10.0.1.7", TCP, 443)
    assert allows(rules, "192.168.0.1", TCP, 22)
    assert not allows(rules, "192.168.0.1", TCP, 80)
    assert allows(rules, "192.1.0.1", TCP, 80)


NETWORKS = st.sampled_from(
    [
        ipaddress.ip_network(text)
        for text in (
            "0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.1/32", "10.0.0.2/32", "100.64.0.0/10", "100.64.0.9/32",
            "192.0.2.0/24", "::/0", "fd00::/16", "fd00::/64", "fd00::1/128", "fd00:2021:1111::/64", "2001:db8::/32",
        )
    ]
)  # fmt: skip
FILTERS = st.one_of(
    st.just(PING),
    st.builds(
        lambda protocol, start, end: Filter(protocol=protocol, port_range_start=start, port_range_end=end),
        st.sampled_from(["tcp", "udp"]), packets.PORTS, packets.PORTS,
    ),
)  # fmt: skip
GRANTS = st.lists(
    st.builds(Grant, NETWORKS, st.lists(FILTERS, max_size=3).map(tuple)) | st.sampled_from(INTERNET_GRANTS), max_size=5
)


def union_says(grants: list[Grant], own: tuple[Address, ...], packet: bytes) -> bool:
    """The rule in words: our own address, else no closed range, else any grant that covers the address and lets it through."""
    header = decode_ip(packet)
    address = header.destination
    if header.is_icmp_error:
        return False
    if address in own:
        return True
    if any(address in closed for closed in (TUNNEL_V4, TUNNEL_V6) if closed.version == address.version) or address.is_multicast:
        return False
    return any(_lets_through(grant, address, header.protocol, header.destination_port) for grant in grants)


def _lets_through(grant: Grant, address: Address, protocol: int, port: int | None) -> bool:
    def holds(network: Network) -> bool:
        return network.version == address.version and address in network

    if not holds(grant.network) or (grant.is_internet and any(holds(network) for network in NOT_INTERNET)):
        return False
    if not grant.filters:
        return True
    kind = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMPV6: "icmp"}.get(protocol)
    return any(
        item.protocol == kind and (kind == "icmp" or (port is not None and item.port_range_start <= port <= item.port_range_end))
        for item in grant.filters
    )


@given(GRANTS, st.sampled_from([(), OWN]), packets.well_formed())
def test_overlapping_resources_behave_as_their_union(grants: list[Grant], own: tuple[Address, ...], packet: bytes) -> None:
    assert permits_outbound(build_rules(grants, own), decode_ip(packet)) == union_says(grants, own, packet)


@given(GRANTS, st.sampled_from([(), OWN]), st.lists(packets.well_formed(), max_size=12))
def test_the_compiled_filter_decides_as_the_slow_one(grants: list[Grant], own: tuple[Address, ...], outbound: list[bytes]) -> None:
    rules = build_rules(grants, own)
    table = FilterTable()
    flat = [(rule.network, rule.permit_all, rule.tcp, rule.udp, rule.icmp) for rule in rules]
    table.set_peer(PeerRow(0), INTERNET, None, flat)
    batch = batch_of(outbound, gap=1)
    parse_batch(batch, False)
    batch.peer[: batch.n] = 0
    table.admit_from_tunnel(batch)
    passed = [Verdict(int(verdict)) is Verdict.FORWARD for verdict in batch.verdict[: batch.n]]
    assert passed == [permits_outbound(rules, decode_ip(packet)) for packet in outbound]


def test_proxy_addresses_belong_to_names_not_to_the_internet() -> None:
    assert not allows(build_rules(INTERNET_GRANTS, OWN), str(PROXY_V4[1]), TCP, 80)
