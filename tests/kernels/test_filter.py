"""Admission in both directions against its twin, and the rules of the gateway's filter table."""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.base.ids import PeerRow
from firezone.base.net import Network
from firezone.kernels.filter import MAX_PEERS, FilterTable, merge_ranges
from firezone.kernels.ip import parse_batch
from firezone.kernels.types import FIRST_PUNT, Reason, Verdict
from firezone.proto.updates import PeerFilterSet, Rule
from tests.harness import packets
from tests.harness.rows import batch_of, outcome
from tests.harness.twins import filter as twin
from tests.harness.twins import ip as ip_twin

RuleTuple = tuple[Network, bool, list[tuple[int, int]], list[tuple[int, int]], bool]
NETWORKS = st.sampled_from(
    [
        ipaddress.ip_network(text)
        for text in (
            "0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.1/32", "10.0.0.2/32", "192.0.2.0/24",
            "::/0", "fd00::/16", "fd00::/64", "fd00::1/128", "fd00::2/128",
        )
    ]
)  # fmt: skip
PORT_RANGES = st.lists(st.tuples(packets.PORTS, packets.PORTS).map(lambda pair: (min(pair), max(pair))), max_size=3).map(tuple)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    tcp, udp = draw(PORT_RANGES), draw(PORT_RANGES)
    return Rule(draw(NETWORKS), draw(st.integers(0, 3)) == 0, tcp, udp, draw(st.booleans()))


@st.composite
def filters(draw: st.DrawFn, peer: int = 0) -> PeerFilterSet:
    remote = draw(st.lists(NETWORKS, max_size=4))
    local = draw(st.none() | st.lists(NETWORKS, max_size=4).map(tuple))
    chosen = draw(st.none() | st.lists(rules(), max_size=4).map(tuple))
    return PeerFilterSet(PeerRow(peer), tuple(remote), local, chosen)


def apply(table: FilterTable, wanted: PeerFilterSet) -> None:
    flat = None if wanted.rules is None else [(r.network, r.permit_all, r.tcp, r.udp, r.icmp) for r in wanted.rules]
    table.set_peer(wanted.peer, wanted.remote, wanted.local, flat)


def admit(table: FilterTable, rows: list[bytes], peers: list[int], *, from_tunnel: bool) -> list[Reason]:
    """The reason of every row, NONE when admitted."""
    batch = batch_of(rows, gap=1)
    parse_batch(batch, False)
    for row, peer in enumerate(peers):
        batch.peer[row] = peer
    left = (table.admit_from_tunnel if from_tunnel else table.admit_to_tunnel)(batch)
    assert left == len(batch.rows(Verdict.FORWARD))
    for row in range(batch.n):
        verdict, reason = outcome(batch, row)
        assert verdict == (Verdict.FORWARD if not reason else Verdict.PUNT if reason >= FIRST_PUNT else Verdict.DROP)
    return [outcome(batch, row)[1] for row in range(batch.n)]


@given(
    st.lists(st.tuples(packets.well_formed(), st.integers(-1, 3)), max_size=20),
    filters(0), filters(1), st.booleans(),
)  # fmt: skip
def test_decisions_equal_the_twin(
    rows: list[tuple[bytes, int]], first: PeerFilterSet, second: PeerFilterSet, from_tunnel: bool
) -> None:
    table, wanted = FilterTable(), {0: first, 1: second}
    apply(table, first)
    apply(table, second)
    decide = twin.from_tunnel if from_tunnel else twin.to_tunnel
    expected = [decide(wanted.get(peer), ip_twin.parse(packet, False)) for packet, peer in rows]
    assert admit(table, [p for p, _ in rows], [peer for _, peer in rows], from_tunnel=from_tunnel) == expected


@given(st.data())
def test_decisions_equal_the_twin_after_any_changes(data: st.DataObject) -> None:
    """What was decided before a peer's filter changed, or before its row went to another, has no say any more."""
    rows = data.draw(st.lists(st.tuples(packets.well_formed(), st.integers(0, 1)), min_size=1, max_size=12))
    parsed = [(ip_twin.parse(packet, False), peer) for packet, peer in rows]
    table, wanted = FilterTable(bytes(range(32))), dict[int, PeerFilterSet]()
    for _ in range(data.draw(st.integers(1, 8))):
        peer = data.draw(st.integers(0, 1))
        match data.draw(st.sampled_from(["set", "add", "remove"])):
            case "set":
                wanted[peer] = data.draw(filters(peer))
                apply(table, wanted[peer])
            case "add":
                more = data.draw(st.lists(rules(), max_size=2).map(tuple))
                table.add_rules(peer, [(r.network, r.permit_all, r.tcp, r.udp, r.icmp) for r in more])
                if peer in wanted and (former := wanted[peer].rules) is not None:
                    wanted[peer] = dataclasses.replace(wanted[peer], rules=(*former, *more))
            case "remove":
                wanted.pop(peer, None)
                table.remove_peer(peer)
        for from_tunnel, decide in ((True, twin.from_tunnel), (False, twin.to_tunnel)):
            expected = [decide(wanted.get(peer), one) for one, peer in parsed]
            assert admit(table, [p for p, _ in rows], [peer for _, peer in rows], from_tunnel=from_tunnel) == expected


def test_a_seed_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 3"):
        FilterTable(b"abc")


def nets(*texts: str) -> list[Network]:
    return [ipaddress.ip_network(text) for text in texts]


def test_without_a_filter_nothing_is_admitted() -> None:
    packet = packets.tcp("10.0.0.1", "10.0.0.2")
    table = FilterTable()
    assert admit(table, [packet] * 2, [0, -1], from_tunnel=True) == [Reason.NOT_PERMITTED] * 2
    table.set_peer(0, nets("0.0.0.0/0"), None, None)
    assert admit(table, [packet] * 2, [0, 1], from_tunnel=True) == [Reason.NONE, Reason.NOT_PERMITTED]
    table.remove_peer(0)
    table.remove_peer(99)
    assert admit(table, [packet], [0], from_tunnel=False) == [Reason.NOT_PERMITTED]


def test_overlapping_resources_behave_as_their_union_when_merged_by_the_maker() -> None:
    table = FilterTable()
    wide: RuleTuple = (nets("10.0.0.0/8")[0], False, [(80, 80)], [], False)
    narrow: RuleTuple = (nets("10.0.0.0/24")[0], False, [(80, 80)], [(53, 53)], False)
    table.set_peer(0, nets("100.64.0.1/32"), None, [wide, narrow])
    rows = [
        packets.tcp("100.64.0.1", "10.0.0.7", ports=(9, 80)),
        packets.udp("100.64.0.1", "10.0.0.7", ports=(9, 53)),
        packets.udp("100.64.0.1", "10.0.1.7", ports=(9, 53)),
        packets.tcp("100.64.0.1", "11.0.0.7", ports=(9, 80)),
        packets.tcp("100.64.0.2", "10.0.0.7", ports=(9, 80)),
    ]
    refused = [Reason.REFUSED_DESTINATION, Reason.REFUSED_DESTINATION, Reason.REFUSED_SOURCE]
    assert admit(table, rows, [0] * 5, from_tunnel=True) == [Reason.NONE, Reason.NONE, *refused]


def test_answers_are_judged_by_the_port_of_the_resource() -> None:
    table = FilterTable()
    table.set_peer(0, nets("100.64.0.1/32"), None, [(nets("10.0.0.0/8")[0], False, [(443, 443)], [], False)])
    rows = [
        packets.tcp("10.0.0.7", "100.64.0.1", ports=(443, 9)),
        packets.tcp("10.0.0.7", "100.64.0.1", ports=(9, 443)),
        packets.tcp("10.0.0.7", "100.64.0.2", ports=(443, 9)),
    ]
    expected = [Reason.NONE, Reason.NOT_PERMITTED, Reason.FOREIGN_DESTINATION]
    assert admit(table, rows, [0] * 3, from_tunnel=False) == expected


DIFFERING = {
    "source port": packets.tcp("10.0.0.7", "100.64.0.1", ports=(444, 9)),
    "source": packets.tcp("10.0.0.8", "100.64.0.1", ports=(443, 9)),
    "destination": packets.tcp("10.0.0.7", "100.64.0.2", ports=(443, 9)),
    "protocol": packets.udp("10.0.0.7", "100.64.0.1", ports=(443, 9)),
    "flags": packets.ip("10.0.0.7", "100.64.0.1", packets.ICMP, bytes([14]) + bytes(19)),
}


@pytest.mark.parametrize("case", DIFFERING)
def test_neighbours_that_differ_in_one_field_are_judged_one_by_one(case: str) -> None:
    table = FilterTable()
    table.set_peer(0, nets("100.64.0.1/32"), None, [(nets("10.0.0.7/32")[0], False, [(443, 443)], [], False)])
    good = packets.tcp("10.0.0.7", "100.64.0.1", ports=(443, 9))
    first, second, third = admit(table, [good, DIFFERING[case], good], [0, 0, 0], from_tunnel=False)
    assert (first, third) == (Reason.NONE, Reason.NONE)
    assert second != Reason.NONE
    assert admit(table, [good, good], [0, 1], from_tunnel=False) == [Reason.NONE, Reason.NOT_PERMITTED]


@pytest.mark.parametrize("port", [442, 444])
def test_neighbours_that_differ_in_the_destination_port_are_judged_one_by_one(port: int) -> None:
    table = FilterTable()
    table.set_peer(0, nets("100.64.0.1/32"), None, [(nets("10.0.0.0/8")[0], False, [(443, 443)], [], False)])
    rows = [packets.tcp("100.64.0.1", "10.0.0.7", ports=(9, to)) for to in (443, port, 443)]
    expected = [Reason.NONE, Reason.REFUSED_DESTINATION, Reason.NONE]
    assert admit(table, rows, [0] * 3, from_tunnel=True) == expected


@pytest.mark.parametrize(("icmp", "expected"), [(True, Reason.NONE), (False, Reason.NOT_PERMITTED)])
def test_icmp_errors_pass_into_the_tunnel_unseen_and_other_icmp_by_the_flag(icmp: bool, expected: Reason) -> None:
    table = FilterTable()
    table.set_peer(0, nets("100.64.0.1/32"), None, [(nets("10.0.0.0/8")[0], False, [], [], icmp)])
    error = packets.ip("10.0.0.7", "100.64.0.1", packets.ICMP, bytes([3]) + bytes(35))
    elsewhere = packets.ip("192.0.2.1", "100.64.0.1", packets.ICMP, bytes([11]) + bytes(35))
    timestamp = packets.ip("10.0.0.7", "100.64.0.1", packets.ICMP, bytes([14]) + bytes(19))
    echo = packets.echo("10.0.0.7", "100.64.0.1", reply=True)
    reasons = admit(table, [error, elsewhere, timestamp, echo], [0] * 4, from_tunnel=False)
    assert reasons == [Reason.NONE, Reason.NONE, expected, expected]


def test_unknown_protocols_pass_only_where_everything_is_permitted() -> None:
    table = FilterTable()
    everything = [(0, 65535)]
    permits = [
        (nets("10.0.0.0/24")[0], True, [], [], False),
        (nets("10.0.1.0/24")[0], False, everything, everything, True),
    ]
    table.set_peer(0, nets("100.64.0.1/32"), None, permits)
    rows = [packets.ip("100.64.0.1", host, 47, b"abcd") for host in ("10.0.0.7", "10.0.1.7")]
    assert admit(table, rows, [0, 0], from_tunnel=True) == [Reason.NONE, Reason.REFUSED_DESTINATION]


def test_a_filter_that_cannot_be_built_leaves_the_old_one() -> None:
    table = FilterTable()
    table.set_peer(0, nets("0.0.0.0/0"), None, None)
    with pytest.raises(ValueError, match=r"9\.\.3 is no range of ports"):
        table.set_peer(0, nets("10.0.0.0/8"), None, [(nets("0.0.0.0/0")[0], False, [(9, 3)], [], False)])
    assert admit(table, [packets.tcp("192.0.2.1", "10.0.0.2")], [0], from_tunnel=True) == [Reason.NONE]
    with pytest.raises(ValueError, match="is no peer row"):
        table.set_peer(MAX_PEERS, [], None, None)


def test_replacing_and_removing_for_ever_keeps_the_last_filter() -> None:
    table = FilterTable()
    for step in range(2000):
        many: list[RuleTuple] = [
            (ipaddress.ip_network((0x0A000000 + i, 32)), False, [(i, i + step % 7)], [], False) for i in range(20)
        ]
        table.set_peer(step % 50, nets("::/0", "0.0.0.0/0"), nets("10.0.0.0/8"), many)
        table.remove_peer((step * 7) % 50)
    packet = packets.tcp("192.0.2.1", "10.0.0.5", ports=(1, 5))
    assert Reason.NONE in admit(table, [packet] * 50, list(range(50)), from_tunnel=True)


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(lambda p: (min(p), max(p))), max_size=8))
def test_merged_ranges_hold_the_same_ports_and_never_touch(ranges: list[tuple[int, int]]) -> None:
    merged = merge_ranges(ranges)
    assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(merged))
    edges = {port for first, last in ranges for port in (first - 1, first, last, last + 1)}
    for port in edges:
        assert any(a <= port <= b for a, b in merged) == any(a <= port <= b for a, b in ranges)


def test_icmp_errors_out_of_the_tunnel_are_dropped_by_whoever_has_rules_and_pass_at_who_has_none() -> None:
    table, anywhere = FilterTable(), (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    apply(table, PeerFilterSet(PeerRow(0), anywhere, rules=tuple(Rule(network, permit_all=True) for network in anywhere)))
    apply(table, PeerFilterSet(PeerRow(1), anywhere))
    errors = [packets.ip("100.64.0.1", "10.0.0.7", packets.ICMP, bytes([kind]) + bytes(35)) for kind in (3, 11)] + [
        packets.ip("fd00:2021:1111::1", "fd00::7", packets.ICMPV6, bytes([kind]) + bytes(35)) for kind in (1, 2, 3)
    ]
    assert admit(table, errors, [0] * 5, from_tunnel=True) == [Reason.NOT_PERMITTED] * 5
    assert admit(table, errors, [1] * 5, from_tunnel=True) == [Reason.NONE] * 5
    questions = [
        packets.echo("100.64.0.1", "10.0.0.7"),
        packets.ip("100.64.0.1", "10.0.0.7", packets.ICMP, bytes([13]) + bytes(19)),
    ]
    assert admit(table, questions, [0] * 2, from_tunnel=True) == [Reason.NONE] * 2


def test_added_addresses_are_admitted_at_once_both_ways_and_only_for_their_peer() -> None:
    table, own = FilterTable(), nets("100.64.0.1/32")
    for peer in (0, 1):
        table.set_peer(peer, nets("10.0.0.0/24"), own, None)
    inwards, outwards = packets.udp("100.96.0.1", "100.64.0.1"), packets.udp("100.64.0.1", "100.96.0.1")
    for _ in range(2):  # Twice, as decisions are remembered.
        assert admit(table, [inwards], [0], from_tunnel=True) == [Reason.REFUSED_SOURCE]
        assert admit(table, [outwards], [0], from_tunnel=False) == [Reason.FOREIGN_DESTINATION]
    table.add_remote(0, nets("100.96.0.1/32", "fd00:2021:1111:8000::/128"))
    table.add_remote(7, nets("0.0.0.0/0"))
    assert admit(table, [inwards], [0], from_tunnel=True) == [Reason.NONE]
    assert admit(table, [outwards], [0], from_tunnel=False) == [Reason.NONE]
    assert admit(table, [inwards], [1], from_tunnel=True) == [Reason.REFUSED_SOURCE]
    table.set_peer(0, nets("10.0.0.0/24"), own, None)
    assert admit(table, [inwards], [0], from_tunnel=True) == [Reason.REFUSED_SOURCE]


@given(st.lists(st.tuples(packets.well_formed(), st.booleans()), max_size=12), filters(0), st.lists(rules(), max_size=4))
def test_added_rules_are_as_if_they_had_been_there(rows: list[tuple[bytes, bool]], first: PeerFilterSet, more: list[Rule]) -> None:
    table = FilterTable()
    apply(table, first)
    table.add_rules(0, [(r.network, r.permit_all, r.tcp, r.udp, r.icmp) for r in more])
    wanted = first if first.rules is None else dataclasses.replace(first, rules=first.rules + tuple(more))
    for packet, is_out in rows:
        decide = twin.from_tunnel if is_out else twin.to_tunnel
        assert admit(table, [packet], [0], from_tunnel=is_out) == [decide(wanted, ip_twin.parse(packet, False))]


def test_rules_of_a_peer_without_a_filter_are_not_added() -> None:
    table = FilterTable()
    table.add_rules(0, [(ipaddress.ip_network("0.0.0.0/0"), True, (), (), True)])
    table.set_peer(1, [], None, None)
    table.add_rules(1, [(ipaddress.ip_network("0.0.0.0/0"), False, (), (), False)])
    packet = packets.udp("10.0.0.1", "10.0.0.2")
    assert admit(table, [packet], [0], from_tunnel=True) == [Reason.NOT_PERMITTED]
    assert admit(table, [packet], [1], from_tunnel=True) == [Reason.REFUSED_SOURCE]
