"""The parse stage against its twin, and the rows P1-P5, P9, P10 of the specification."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.packet import Raw

from firezone.kernels.batch import PacketBatch
from firezone.kernels.ip import parse_batch
from firezone.kernels.types import Reason, Verdict
from tests.harness import packets
from tests.harness.rows import batch_of, outcome, raw_bytes
from tests.harness.twins import ip as twin
from tests.harness.twins.checksum import checksum


def row_of(batch: PacketBatch, row: int) -> twin.Parsed:
    """The row in the form of the twin."""
    verdict, reason = outcome(batch, row)
    if verdict != Verdict.FORWARD:
        return twin.Parsed(verdict, reason, raw_bytes(batch, row))
    columns = (
        batch.ip_version, batch.protocol, batch.transport, batch.flags, batch.source_port, batch.destination_port, batch.ecn,
    )  # fmt: skip
    return twin.Parsed(verdict, reason, raw_bytes(batch, row), *(int(column[row]) for column in columns))


@given(st.lists(st.tuples(packets.any_packet(), st.integers(0, 3)), max_size=12), st.booleans(), st.integers(0, 3))
def test_every_row_equals_the_twin(rows: list[tuple[bytes, int]], from_tunnel: bool, gap: int) -> None:
    batch = batch_of([packet for packet, _ in rows], gap)
    for row, (_, ecn) in enumerate(rows):
        batch.ecn[row] = ecn
    left = parse_batch(batch, from_tunnel)
    assert [row_of(batch, row) for row in range(batch.n)] == [twin.parse(p, from_tunnel, e) for p, e in rows]
    assert left == len(batch.rows(Verdict.FORWARD))


@pytest.mark.parametrize("verdict", [Verdict.FREE, Verdict.REPLY, Verdict.DROP, Verdict.PUNT])
def test_rows_with_another_verdict_are_not_touched(verdict: Verdict) -> None:
    batch = batch_of([packets.tcp("10.0.0.1", "10.0.0.2")])
    batch.verdict[0], batch.reason[0] = verdict, 7
    assert parse_batch(batch, False) == 0
    assert (batch.verdict[0], batch.reason[0], batch.ip_version[0]) == (verdict, 7, 0)


def parse_one(packet: bytes, from_tunnel: bool = False, ecn: int = 0) -> twin.Parsed:
    batch = batch_of([packet])
    batch.ecn[0] = ecn
    parse_batch(batch, from_tunnel)
    return row_of(batch, 0)


@pytest.mark.parametrize("source", ["10.0.0.1", "fd00::1"])
def test_largest_packet_is_accepted_and_one_byte_more_is_not(source: str) -> None:
    headers = 28 if source[0] == "1" else 48
    assert parse_one(packets.udp(source, source, bytes(1280 - headers))).verdict == Verdict.FORWARD
    assert parse_one(packets.udp(source, source, bytes(1281 - headers))).reason == Reason.OVERSIZED


def test_icmp_of_the_other_family_is_refused() -> None:
    body = bytes([8]) + bytes(7)
    assert parse_one(packets.ip("10.0.0.1", "10.0.0.2", packets.ICMPV6, body)).reason == Reason.MALFORMED_PACKET
    assert parse_one(packets.ip("fd00::1", "fd00::2", packets.ICMP, body)).reason == Reason.MALFORMED_PACKET


def test_unknown_protocol_is_accepted_without_flow_identity() -> None:
    parsed = parse_one(packets.ip("10.0.0.1", "10.0.0.2", 132, b"abc"))
    assert (parsed.verdict, parsed.protocol, parsed.flags, parsed.source_port) == (Verdict.FORWARD, 132, 0, 0)


@pytest.mark.parametrize("flags", [0x2000, 0x0001, 0x2001, 0x1FFF])
def test_ipv4_fragment_is_dropped_by_name(flags: int) -> None:
    assert parse_one(packets.ip("10.0.0.1", "10.0.0.2", 17, bytes(8), flags=flags)).reason == Reason.FRAGMENT


def test_ipv6_fragment_is_dropped_by_name_but_an_atomic_one_is_none() -> None:
    head = IPv6(src="fd00::1", dst="fd00::2")
    assert parse_one(bytes(head / IPv6ExtHdrFragment(offset=0, m=1) / TCP())).reason == Reason.FRAGMENT
    assert parse_one(bytes(head / IPv6ExtHdrFragment(offset=3) / Raw(b"x" * 8))).reason == Reason.FRAGMENT
    atomic = parse_one(bytes(head / IPv6ExtHdrFragment() / TCP(sport=5, dport=6)))
    assert (atomic.verdict, atomic.protocol, atomic.transport, atomic.destination_port) == (Verdict.FORWARD, 6, 48, 6)


def test_packets_built_by_scapy_are_named_by_their_flow() -> None:
    options = parse_one(bytes(IP(options=[b"\x44\x04\x05\x00"]) / TCP(sport=7, dport=8)))
    assert (options.transport, options.source_port, options.destination_port) == (24, 7, 8)
    extension = parse_one(bytes(IPv6() / IPv6ExtHdrDestOpt() / ICMPv6EchoRequest(id=77)))
    assert (extension.protocol, extension.transport, extension.source_port, extension.flags) == (58, 48, 77, 5)
    error = parse_one(bytes(IP() / ICMP(type=3, code=1) / IP() / TCP()))
    assert error.flags == twin.ICMP | twin.ICMP_ERROR


def test_authentication_header_is_walked_in_both_families() -> None:
    ah = bytes([6, 1]) + bytes(10) + bytes(12) + b"\x50" + bytes(7)
    assert parse_one(packets.ip("10.0.0.1", "10.0.0.2", 51, ah)).transport == 32
    assert parse_one(packets.ip("fd00::1", "fd00::2", 51, ah)).transport == 52


ECN_TABLE = {(1, 3): 3, (2, 3): 3}
"""(inner, outer) -> inner afterwards, where it changes: section 4.7."""


@pytest.mark.parametrize("source", ["10.0.0.1", "fd00::1"])
@pytest.mark.parametrize("inner", range(4))
@pytest.mark.parametrize("outer", range(4))
def test_outer_ecn_is_merged_by_the_table_with_a_valid_header(source: str, inner: int, outer: int) -> None:
    parsed = parse_one(packets.udp(source, source, b"abc", ecn=inner, dscp=46), True, outer)
    assert twin.inner_ecn(parsed.packet) == ECN_TABLE.get((inner, outer), inner)
    wanted = packets.udp(source, source, b"abc", ecn=ECN_TABLE.get((inner, outer), inner), dscp=46)
    assert parsed.packet == wanted
    assert source == "fd00::1" or checksum(parsed.packet[:20]) == 0


@given(packets.well_formed(), st.integers(0, 3))
def test_merged_ipv4_headers_equal_a_full_recomputation(packet: bytes, outer: int) -> None:
    parsed = parse_one(packet, True, outer)
    if packet[0] >> 4 == 4:
        assert checksum(parsed.packet[:20]) == 0


@pytest.mark.parametrize("source", ["10.0.0.1", "fd00::1"])
def test_ecn_of_the_packet_is_reported_towards_the_tunnel(source: str) -> None:
    assert [parse_one(packets.udp(source, source, ecn=ecn)).ecn for ecn in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize("source", ["10.0.0.1", "fd00::1"])
@pytest.mark.parametrize("padding", [1, 7, 15])
def test_padding_is_cut_out_of_the_tunnel_and_refused_into_it(source: str, padding: int) -> None:
    packet = packets.udp(source, source, b"abc")
    assert parse_one(packet + bytes(padding), True).packet == packet
    assert parse_one(packet + bytes(padding), False).reason == Reason.MALFORMED_PACKET


@pytest.mark.parametrize(
    ("body", "reason"), [(bytes(8), Reason.CONTROL_PACKET), (bytes(7), Reason.NONE), (bytes([9] * 90), Reason.CONTROL_PACKET)]
)
def test_control_packet_needs_its_header_of_eight_bytes(body: bytes, reason: Reason) -> None:
    packet = packets.ip("::", "::", 255, body, ttl=0)
    assert parse_one(packet, True).reason == reason
    assert parse_one(packet, False).verdict == Verdict.FORWARD


def test_empty_row_is_malformed() -> None:
    assert parse_one(b"").reason == Reason.MALFORMED_PACKET
