"""Join against its twin, the rows T5 to T11 of the specification, and the round trip through split."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP

from firezone.kernels.batch import PacketBatch, RunList
from firezone.kernels.ip import parse_batch
from firezone.kernels.offload import join_batch, split_batch
from firezone.kernels.ring import PacketRing
from firezone.kernels.types import Reason, Verdict
from tests.harness import packets
from tests.harness.rows import batch_of, gathered, members, outcomes, raw_bytes
from tests.harness.twins import offload as twin
from tests.harness.twins.checksum import pseudo_sum
from tests.harness.twins.offload import ACK, FIN, NEEDS_CSUM, PSH, TCPV6

if TYPE_CHECKING:
    from collections.abc import Sequence

A, B = ("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")


def join(rows: Sequence[bytes], coalesce: bool = True, capacity: int = 256) -> list[tuple[bytes, bytes]]:
    batch, runs = batch_of(rows, gap=1), RunList(capacity)
    assert parse_batch(batch, False) == len(rows)
    assert join_batch(batch, runs, coalesce) == runs.n
    return gathered(batch, runs)


def joined_rows(rows: Sequence[bytes]) -> list[list[int]]:
    batch, runs = batch_of(rows), RunList(256)
    assert parse_batch(batch, False) == len(rows)
    join_batch(batch, runs, True)
    return members(batch, runs)


def stream(count: int, size: int = 10, hosts: tuple[str, str] = A, **fields: Any) -> list[bytes]:
    return [packets.tcp(*hosts, bytes([number]) * size, seq=number * size, ident=number, **fields) for number in range(count)]


def test_interleaved_flows_join_across_each_other() -> None:
    (first, second), other = stream(2), packets.udp(*A, b"xyz")
    assert joined_rows([first, other, second]) == [[0, 2], [1]]


@pytest.mark.parametrize("flags", [ACK | FIN, 2, ACK | 0x40, ACK | 0x80, ACK | 0x20, ACK | 4, ACK | 0x100, 0])
def test_other_tcp_flags_stay_alone_and_are_not_stepped_over(flags: int) -> None:
    a, b, c = stream(3)
    odd = packets.tcp(*A, b"0123456789", seq=10, tcp_flags=flags)
    assert joined_rows([a, odd, b, c]) == [[0], [1], [2, 3]]


def test_pure_acknowledgement_separates() -> None:
    a, b = stream(2)
    assert joined_rows([a, packets.tcp(*A, seq=10), b]) == [[0], [1], [2]]


def test_push_ends_a_super_packet_and_is_set_on_it() -> None:
    a, _, c = stream(3)
    pushed = packets.tcp(*A, bytes([1]) * 10, seq=10, tcp_flags=ACK | PSH)
    assert joined_rows([a, pushed, c]) == [[0, 1], [2]]
    assert int(IP(join([a, pushed])[0][1])[TCP].flags) == ACK | PSH


def test_short_segment_seals_and_a_longer_one_starts_anew() -> None:
    a, b = stream(2)
    short, after = packets.tcp(*A, b"xyz", seq=20), packets.tcp(*A, b"abc", seq=23)
    longer = packets.tcp(*A, bytes(11), seq=20)
    assert joined_rows([a, b, short, after]) == [[0, 1, 2], [3]]
    assert joined_rows([a, b, longer]) == [[0, 1], [2]]


DIFFERING: dict[str, dict[str, Any]] = {
    "TTL": {"ttl": 63}, "DSCP": {"dscp": 1}, "ECN": {"ecn": 1}, "DF": {"flags": 0},
    "options": {"tcp_options": b"\1\1\1\1"}, "acknowledgement": {"ack": 1},
    "window": {"window": 511}, "gap": {"seq": 11}, "overlap": {"seq": 9},
}  # fmt: skip


@pytest.mark.parametrize("hosts", [A, B])
@pytest.mark.parametrize("case", DIFFERING)
def test_packets_that_differ_where_they_must_not_stay_apart(case: str, hosts: tuple[str, str]) -> None:
    second = {"seq": 10} | DIFFERING[case]
    rows = [packets.tcp(*hosts, bytes(10)), packets.tcp(*hosts, bytes(10), **second)]
    assert joined_rows(rows) == ([[0, 1]] if (case, hosts) == ("DF", B) else [[0], [1]])


def test_equal_options_identification_and_flow_label_do_not_matter() -> None:
    options = bytes.fromhex("0101080a0000000100000002")
    rows = [packets.tcp(*A, bytes(10), seq=10 * i, ident=9 * i, tcp_options=options) for i in range(3)]
    assert joined_rows(rows) == [[0, 1, 2]]
    assert joined_rows([packets.tcp(*B, bytes(10), seq=10 * i, label=i) for i in range(3)]) == [[0, 1, 2]]


def test_packets_with_ip_options_or_extensions_stay_alone() -> None:
    assert joined_rows([packets.ip(*A, 17, packets.udp(*A, b"abc")[20:], options=b"\1\1\1\0")] * 2) == [[0], [1]]
    chain = bytes([17, 0]) + bytes(6)
    assert joined_rows([packets.ip(*B, 60, packets.udp(*B, b"abc")[40:], extensions=chain)] * 2) == [[0], [1]]


@pytest.mark.parametrize("hosts", [A, B])
def test_at_most_128_udp_datagrams_join(hosts: tuple[str, str]) -> None:
    assert [len(run) for run in joined_rows([packets.udp(*hosts, b"abc")] * 129)] == [128, 1]


def test_udp_without_checksum_stays_alone() -> None:
    packet = packets.udp(*A, b"abc")
    none = packet[:26] + bytes(2) + packet[28:]
    assert joined_rows([none, none]) == [[0], [1]]


@pytest.mark.parametrize("hosts", [A, B])
def test_a_super_packet_has_at_most_65535_bytes(hosts: tuple[str, str]) -> None:
    headers = 40 if hosts is A else 60
    size = 1280 - headers
    room, count = (65535 - headers) % size, (65535 - headers) // size
    full = stream(count, size, hosts)
    fits, too_long = (packets.tcp(*hosts, bytes(room + extra), seq=count * size) for extra in (0, 1))
    assert [len(data) for _, data in join([*full, fits])] == [65535]
    assert len(join([*full, too_long])) == 2


def test_without_coalescing_every_packet_leaves_alone_and_unchanged() -> None:
    rows = stream(5)
    assert join(rows, coalesce=False) == [(bytes(10), row) for row in rows]


@given(packets.flow_packets(), st.booleans())
def test_joining_equals_the_twin(rows: list[bytes], coalesce: bool) -> None:
    accepted = [row for row in rows if parse_batch(batch_of([row]), False)]
    assert join(accepted, coalesce) == twin.join(accepted, coalesce)


@given(st.lists(packets.any_packet(), max_size=16))
def test_joining_odd_packets_equals_the_twin(rows: list[bytes]) -> None:
    accepted = [row for row in rows if parse_batch(batch_of([row]), False)]
    assert join(accepted) == twin.join(accepted, True)


def without_identification(packet: bytes) -> bytes:
    if packet[0] >> 4 == 6:
        return packet
    return packet[:4] + bytes(2) + packet[6:10] + bytes(2) + packet[12:]


@given(packets.flow_packets())
def test_what_was_joined_splits_into_the_same_packets(rows: list[bytes]) -> None:
    accepted = [row for row in rows if parse_batch(batch_of([row]), False)]
    batch, runs = batch_of(accepted), RunList(64)
    parse_batch(batch, False)
    join_batch(batch, runs, True)
    order = [row for run in members(batch, runs) for row in run]
    ring = PacketRing(64)
    assert ring.push_packet_runs(batch, runs) == runs.n
    again = PacketBatch(64)
    assert split_batch(ring, 64, again, np.zeros(100_000, np.uint8)) == runs.n
    got = [without_identification(raw_bytes(again, row)) for row in range(again.n)]
    assert got == [without_identification(accepted[row]) for row in order]


def test_joining_leaves_the_payloads_where_they_are() -> None:
    rows = stream(3, 500)
    batch, runs = batch_of(rows), RunList(4)
    parse_batch(batch, False)
    before = bytes(batch.slab)
    join_batch(batch, runs, True)
    assert bytes(batch.slab) == before
    assert batch.prefix_len[:3].tolist() == [40, 0, 0]
    assert batch.skip[:3].tolist() == [40, 40, 40]


def test_runs_beyond_the_capacity_drop_their_rows() -> None:
    batch, runs = batch_of([packets.udp(*A, b"abc", ports=(port, 1)) for port in (1, 2, 3, 1)]), RunList(2)
    parse_batch(batch, False)
    assert join_batch(batch, runs, True) == 2
    assert members(batch, runs) == [[0, 3], [1]]
    assert outcomes(batch)[2] == (Verdict.DROP, Reason.BATCH_FULL)


def test_joined_header_says_needs_csum_with_the_uncomplemented_sum() -> None:
    header, data = join(stream(3, 100, B))[0]
    assert struct.unpack("=BBHHHH", header) == (NEEDS_CSUM, TCPV6, 60, 100, 40, 16)
    value = pseudo_sum(data[8:24], data[24:40], 6, 320)
    assert data[56:58] == value.to_bytes(2, "big")
