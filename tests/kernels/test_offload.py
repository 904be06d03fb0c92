"""Split and group against their twins, and the rows U1-U6 and T1-T4 of the specification."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP

from firezone.kernels.batch import PacketBatch, RunList
from firezone.kernels.offload import group_runs, split_batch
from firezone.kernels.ring import PacketRing
from firezone.kernels.types import Reason, Verdict
from tests.harness import packets
from tests.harness.rows import address, batch_of, gathered, members, outcomes, tun_ring
from tests.harness.twins import offload as twin
from tests.harness.twins.checksum import pseudo_sum
from tests.harness.twins.offload import ACK, FIN, PSH, TCPV4, TCPV6, UDP_L4, vnet

if TYPE_CHECKING:
    from collections.abc import Sequence

A, B = ("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")


def split(reads: Sequence[tuple[bytes, bytes]], capacity: int = 1024, size: int = 1 << 20) -> tuple[int, PacketBatch]:
    batch, out = PacketBatch(capacity), np.full(size, 0xAA, np.uint8)
    return split_batch(tun_ring(reads), 64, batch, out), batch


def split_one(header: bytes, packet: bytes) -> list[bytes] | Reason:
    taken, batch = split([(header, packet)])
    assert taken == 1
    if batch.verdict[0] == Verdict.DROP:
        assert batch.n == 1
        return Reason(int(batch.reason[0]))
    return [batch.row_bytes(row) for row in range(batch.n)]


def bare(packet: bytes, protocol: int) -> bytes:
    """The packet with the sum of its pseudo-header where the checksum will be, as the kernel hands it over."""
    start, size = (12, 4) if packet[0] >> 4 == 4 else (8, 16)
    transport = 20 if size == 4 else 40
    at = transport + (16 if protocol == packets.TCP else 6)
    a, b = packet[start : start + size], packet[start + size : start + 2 * size]
    value = pseudo_sum(a, b, protocol, len(packet) - transport)
    return packet[:at] + value.to_bytes(2, "big") + packet[at + 2 :]


# --- splitting: T1 to T4 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [ACK, ACK | PSH, ACK | PSH | FIN])
def test_full_tcp_super_packet_is_cut_with_everything_right(flags: int) -> None:
    payload = bytes(range(256)) * 255
    packet = packets.tcp(*A, payload[: 65_160 - 40], seq=0xFFFFFF00, ident=0xFFF0, tcp_flags=flags)
    rows = split_one(vnet(1, TCPV4, 40, 1240, 20, 16), bare(packet, packets.TCP))
    assert isinstance(rows, list)
    assert len(rows) == 53
    joined = b""
    for index, row in enumerate(rows):
        parsed = IP(row)
        assert parsed.id == (0xFFF0 + index) & 0xFFFF
        assert parsed[TCP].seq == (0xFFFFFF00 + index * 1240) & 0xFFFFFFFF
        assert int(parsed[TCP].flags) == (flags if index == 52 else flags & ~(PSH | FIN))
        del parsed.chksum, parsed[TCP].chksum
        assert bytes(parsed) == row
        joined += row[40:]
    assert joined == packet[40:]


@pytest.mark.parametrize(("hosts", "kind"), [(A, TCPV4), (B, TCPV6)])
def test_super_packet_of_one_segment_keeps_its_flags(hosts: tuple[str, str], kind: int) -> None:
    packet = packets.tcp(*hosts, b"x" * 500, tcp_flags=ACK | PSH)
    assert split_one(vnet(1, kind, 0, 500, 0, 0), packet) == [packet]


def test_computed_udp_checksum_of_zero_is_written_as_ffff() -> None:
    filler = packets.udp(*A, bytes(4))
    zero = packets.udp(*A, filler[26:28] + bytes(2))
    assert zero[26:28] == b"\xff\xff"
    packet = zero[:20] + zero[20:24] + (16).to_bytes(2, "big") + bytes(2) + zero[28:] * 2
    rows = split_one(vnet(1, UDP_L4, 0, 4, 20, 6), packet)
    assert isinstance(rows, list)
    assert [row[26:28] for row in rows] == [b"\xff\xff"] * 2
    assert [IP(row)[UDP].len for row in rows] == [12, 12]


@pytest.mark.parametrize("hosts", [A, B])
def test_single_packet_gets_its_checksum_completed(hosts: tuple[str, str]) -> None:
    transport = 20 if hosts is A else 40
    segment = packets.tcp(*hosts, b"abcde")
    assert split_one(vnet(1, 0, 0, 0, transport, 16), bare(segment, packets.TCP)) == [segment]
    datagram = packets.udp(*hosts, b"abcde")
    assert split_one(vnet(1, 0, 0, 0, transport, 6), bare(datagram, packets.UDP)) == [datagram]
    assert split_one(vnet(), b"whatever") == [b"whatever"]


MALFORMED = {
    "size 0": (vnet(1, TCPV4, 0, 0, 20, 16), packets.tcp(*A, b"abc")),
    "257 segments": (vnet(1, TCPV4, 0, 1, 20, 16), packets.tcp(*A, bytes(257))),
    "type 3": (vnet(1, 3, 0, 100, 20, 16), packets.tcp(*A, b"abc")),
    "type with ECN bit": (vnet(1, 0x81, 0, 100, 20, 16), packets.tcp(*A, b"abc")),
    "UDP type on TCP": (vnet(1, UDP_L4, 0, 100, 20, 6), packets.tcp(*A, b"abc")),
    "TCP type on UDP": (vnet(1, TCPV4, 0, 100, 20, 16), packets.udp(*A, b"abc")),
    "v6 type on v4": (vnet(1, TCPV6, 0, 100, 20, 16), packets.tcp(*A, b"abc")),
    "v4 type on v6": (vnet(1, TCPV4, 0, 100, 40, 16), packets.tcp(*B, b"abc")),
    "start beyond the end": (vnet(1, 0, 0, 0, 44, 16), packets.tcp(*A, b"abc")),
    "checksum field cut": (vnet(1, 0, 0, 0, 20, 22), packets.tcp(*A, b"abc")),
    "odd checksum offset": (vnet(1, 0, 0, 0, 20, 15), packets.tcp(*A, b"abc")),
    "no payload": (vnet(1, TCPV4, 0, 100, 20, 16), packets.tcp(*A)),
    "TCP offset 4": (vnet(1, TCPV4, 0, 100, 20, 16), packets.tcp(*A, b"abc")[:32] + b"\x40" + bytes(13)),
    "cut in the TCP header": (vnet(0, TCPV4, 0, 100, 20, 16), packets.tcp(*A)[:39]),
    "cut in the IP header": (vnet(0, TCPV4, 0, 100, 20, 16), packets.tcp(*A)[:19]),
    "fragment": (vnet(0, TCPV4, 0, 100, 20, 16), packets.tcp(*A, b"abc", flags=0x2000)),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_read_is_refused_and_the_next_is_taken(case: str) -> None:
    good = packets.tcp(*A, b"abc")
    taken, batch = split([MALFORMED[case], (vnet(), good)])
    assert taken == 2
    assert outcomes(batch) == [(Verdict.DROP, Reason.MALFORMED_OFFLOAD), (Verdict.FORWARD, Reason.NONE)]
    assert batch.row_bytes(1) == good


def test_256_segments_are_accepted() -> None:
    rows = split_one(vnet(1, UDP_L4, 0, 1, 20, 6), packets.udp(*A, bytes(256)))
    assert isinstance(rows, list)
    assert len(rows) == 256


def test_packets_above_1280_are_refused_single_or_cut() -> None:
    assert split_one(vnet(), bytes(1281)) == Reason.OVERSIZED
    assert split_one(vnet(), bytes(1280)) == [bytes(1280)]
    big = packets.tcp(*A, bytes(3000))
    assert split_one(vnet(1, TCPV4, 0, 1241, 20, 16), big) == Reason.OVERSIZED
    assert isinstance(split_one(vnet(1, TCPV4, 0, 1240, 20, 16), big), list)
    assert split_one(vnet(1, TCPV4, 0, 1300, 20, 16), packets.tcp(*A, bytes(100))) == [packets.tcp(*A, bytes(100))]


def test_descriptor_without_room_for_the_header_is_refused() -> None:
    ring = PacketRing(4, 128)
    for offset, length in ((9, 50), (10, 119), (129, 1), (10, 0)):
        ring.push(bytes(60), offset=10, stride=0)
        ring.offset[(ring.ready() - 1) % 4], ring.length[(ring.ready() - 1) % 4] = offset, length
    batch = PacketBatch(8)
    assert split_batch(ring, 8, batch, np.zeros(1000, np.uint8)) == 4
    assert outcomes(batch) == [(Verdict.DROP, Reason.MALFORMED_OFFLOAD)] * 4


# --- splitting: twin, layout, bounds -----------------------------------------------------------------------------------


@st.composite
def reads(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A virtio-net header and a packet, most of the time made for each other."""
    hosts = draw(st.sampled_from([A, B]))
    payload = draw(st.binary(min_size=1, max_size=64)) * draw(st.integers(1, 40))
    options = b"".join(draw(st.lists(st.binary(min_size=4, max_size=4), max_size=3)))
    if draw(st.booleans()):
        flags = draw(st.integers(0, 255))
        packet = packets.tcp(*hosts, payload, seq=0xFFFFFFF0, ident=0xFFFF, tcp_flags=flags, tcp_options=options)
        kind, offset = (TCPV4 if hosts is A else TCPV6), 16
    else:
        packet, kind, offset = packets.udp(*hosts, payload, ident=7), UDP_L4, 6
    size = draw(st.sampled_from([1, 8, 100, 536, 1200, 1300]))
    start = 20 if hosts is A else 40
    header = vnet(draw(st.integers(0, 1)), draw(st.sampled_from([kind, kind, kind, 0])), 0, size, start, offset)
    if draw(st.integers(0, 3)) == 0:
        fields = struct.unpack("=BBHHHH", header)
        place = draw(st.integers(0, 5))
        header = vnet(*(draw(st.integers(0, 70)) if i == place else value for i, value in enumerate(fields)))
        packet = draw(packets.mutated(st.just(packet)))
    return header, packet


@given(st.lists(st.one_of(reads(), st.tuples(st.binary(min_size=10, max_size=10), packets.any_packet())), max_size=6))
def test_splitting_equals_the_twin(given_reads: list[tuple[bytes, bytes]]) -> None:
    taken, batch = split(given_reads, capacity=2048)
    assert taken == len(given_reads)
    row = 0
    for slot, (header, packet) in enumerate(given_reads):
        wanted = twin.split(header, packet)
        if isinstance(wanted, Reason):
            assert outcomes(batch)[row] == (Verdict.DROP, wanted)
            row += 1
            continue
        for piece in wanted:
            assert (batch.verdict[row], batch.slot[row]) == (Verdict.FORWARD, slot)
            assert batch.row_bytes(row) == piece
            row += 1
    assert row == batch.n


def test_sealed_datagrams_of_a_super_packet_will_lie_back_to_back() -> None:
    packet = packets.tcp(*A, bytes(1000))
    _, batch = split([(vnet(1, TCPV4, 0, 300, 20, 16), packet)] * 2)
    starts = batch.offset[: batch.n].astype(int) - 16
    ends = batch.offset[: batch.n].astype(int) + batch.length[: batch.n] + 16
    assert starts[0] == 0
    assert (starts[1:] == ends[:-1]).all()
    used = bytearray(batch.slab[: int(ends[-1])])
    for row in range(batch.n):
        start = int(batch.offset[row])
        assert used[start - 16 : start] == used[start + int(batch.length[row]) :][:16] == b"\xaa" * 16


@pytest.mark.parametrize(("capacity", "size"), [(5, 1 << 16), (4, 1 << 16), (100, 4 * 372 + 172), (100, 4 * 372)])
def test_splitting_stops_in_front_of_a_read_that_does_not_fit(capacity: int, size: int) -> None:
    single, big = (vnet(), bytes(140)), (vnet(1, TCPV4, 0, 300, 20, 16), packets.tcp(*A, bytes(1200)))
    taken, batch = split([big, single, single], capacity, size)
    fits_single = (capacity, size) in ((5, 1 << 16), (100, 4 * 372 + 172))
    assert (taken, batch.n) == ((2, 5) if fits_single else (1, 4))
    assert int(batch.offset[batch.n - 1] + batch.length[batch.n - 1]) + 16 <= size


def test_a_read_that_can_never_fit_is_dropped_instead_of_blocking_for_ever() -> None:
    big = (vnet(1, TCPV4, 0, 300, 20, 16), packets.tcp(*A, bytes(1200)))
    for capacity, size in ((3, 1 << 16), (64, 1000)):
        taken, batch = split([big, (vnet(), b"x")], capacity, size)
        assert taken == 2
        assert outcomes(batch) == [(Verdict.DROP, Reason.BATCH_FULL), (Verdict.FORWARD, Reason.NONE)]


def test_ring_wraps_around_and_the_batch_is_reused() -> None:
    ring, batch, out = PacketRing(4), PacketBatch(16), np.zeros(5000, np.uint8)
    for step in range(10):
        for piece in (bytes([step]) * 30, bytes([step]) * 40, bytes([step]) * 50):
            assert ring.push(vnet() + piece, offset=10, stride=0)
        assert split_batch(ring, 2, batch, out) == 2
        assert [batch.row_bytes(row) for row in range(batch.n)] == [bytes([step]) * 30, bytes([step]) * 40]
        ring.release(2)
        assert split_batch(ring, 2, batch, out) == 1
        assert batch.row_bytes(0) == bytes([step]) * 50
        ring.release(1)


# --- grouping: U1 to U6 ------------------------------------------------------------------------------------------------


def group(rows: Sequence[tuple[str, int]], ecn: Sequence[int] = (), capacity: int = 256) -> tuple[PacketBatch, RunList]:
    """Rows of (name of a destination, length); names that start with 6 are IPv6."""
    batch = batch_of([bytes([number & 0xFF]) * length for number, (_, length) in enumerate(rows)])
    for number, (name, _) in enumerate(rows):
        batch.remote[number] = address(name.encode().ljust(16 if name[0] == "6" else 4, b"\0"), 1)
        batch.ecn[number] = ecn[number] if ecn else 0
    runs = RunList(capacity)
    assert group_runs(batch, runs) == runs.n
    return batch, runs


def sizes(rows: Sequence[tuple[str, int]], ecn: Sequence[int] = ()) -> list[tuple[int, int]]:
    """(bytes, segment size) of each run."""
    _, runs = group(rows, ecn)
    return [(int(run["total"]), int(run["stride"])) for run in runs.runs[: runs.n]]


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ("a6 a6 a6 a3", [(21, 6)]),
        ("a6 a6 a3 a6", [(15, 6), (6, 6)]),
        ("a6 a6 b8 b6", [(12, 6), (14, 8)]),
        ("a6 a6 b8 b6 a6 a6", [(24, 6), (14, 8)]),
        ("b6 a6 b6", [(12, 6), (6, 6)]),
        ("a6 a8 a6 a6", [(6, 6), (14, 8), (6, 6)]),
    ],
)
def test_table_of_runs(rows: str, wanted: list[tuple[int, int]]) -> None:
    assert sizes([(word[0], int(word[1:])) for word in rows.split()]) == wanted


@pytest.mark.parametrize(("name", "wanted"), [("a", [49, 49, 2]), ("6", [49, 49, 2])])
def test_a_run_never_exceeds_what_one_send_may_carry(name: str, wanted: list[int]) -> None:
    _, runs = group([(name, 1316)] * 100)
    assert runs.runs[: runs.n]["count"].tolist() == wanted


@pytest.mark.parametrize(
    ("name", "length", "wanted"),
    [("a", 1023, [63, 1]), ("6", 1023, [64]), ("a", 16366, [4]), ("a", 16367, [3, 1]), ("6", 16371, [4]), ("6", 16372, [3, 1])],
)
def test_the_largest_headers_are_left_room_for(name: str, length: int, wanted: list[int]) -> None:
    _, runs = group([(name, length)] * sum(wanted))
    assert runs.runs[: runs.n]["count"].tolist() == wanted


def test_a_run_has_at_most_64_datagrams() -> None:
    _, runs = group([("a", 100)] * 200)
    assert runs.runs[: runs.n]["count"].tolist() == [64, 64, 64, 8]


def test_sizes_are_never_reordered_inside_a_flow() -> None:
    batch, runs = group([("a", 1312), ("a", 80), ("a", 1312)])
    assert members(batch, runs) == [[0, 1], [2]]


def test_marked_and_unmarked_datagrams_never_share_a_run() -> None:
    batch, runs = group([("a", 9)] * 6, ecn=[0, 3] * 3)
    assert members(batch, runs) == [[0, 2, 4], [1, 3, 5]]


@pytest.mark.parametrize("column", ["local", "remote", "socket", "channel", "ecn"])
def test_every_part_of_the_key_separates(column: str) -> None:
    batch = batch_of([b"abc"] * 2)
    if column in ("local", "remote"):
        getattr(batch, column)[1] = address(port=9)
    else:
        getattr(batch, column)[1] = 1
    runs = RunList(4)
    assert group_runs(batch, runs) == 2


@given(
    st.lists(st.tuples(st.sampled_from("abc6"), st.integers(0, 1), st.sampled_from([1, 5, 5, 5, 900, 1300, 1316])), max_size=150),
    st.lists(st.integers(0, 149), max_size=10),
)
def test_grouping_equals_the_twin(rows: list[tuple[str, int, int]], dropped: list[int]) -> None:
    batch = batch_of([bytes(length) for _, _, length in rows])
    for number, (name, ecn, _) in enumerate(rows):
        batch.remote[number] = address(name.encode().ljust(16 if name == "6" else 4, b"\0"), 1)
        batch.ecn[number] = ecn
        batch.prefix_len[number] = 4 * (name == "b")
        if number in dropped:
            batch.verdict[number] = Verdict.DROP
    runs = RunList(256)
    group_runs(batch, runs)
    kept = [number for number in range(len(rows)) if number not in dropped]
    twin_rows = [
        ((name, ecn), 6 if name == "6" else 4, length + 4 * (name == "b"))
        for name, ecn, length in (rows[number] for number in kept)
    ]
    assert members(batch, runs) == [[kept[row] for row in run] for run in twin.group(twin_rows)]
    gathered(batch, runs)


def test_a_thousand_receivers_do_not_confuse_their_runs() -> None:
    rows = [(f"{number % 500:03d}x", 7) for number in range(2000)]
    batch, runs = group(rows, capacity=2000)
    assert members(batch, runs) == [list(range(first, 2000, 500)) for first in range(500)]


def test_rows_beyond_the_capacity_are_dropped_by_name() -> None:
    batch, runs = group([("a", 1), ("b", 1), ("c", 1), ("a", 1)], capacity=2)
    assert members(batch, runs) == [[0, 3], [1]]
    assert outcomes(batch)[2] == (Verdict.DROP, Reason.BATCH_FULL)
