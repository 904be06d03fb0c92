"""Cutting and demultiplexing against the twin, and row U11 of the specification."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.kernels.batch import PacketBatch
from firezone.kernels.demux import cut_datagrams
from firezone.kernels.ring import PacketRing
from firezone.kernels.types import ADDRESS, Reason, Verdict
from tests.harness.rows import address, outcomes, raw_bytes
from tests.harness.twins import demux as twin

COOKIE = bytes.fromhex("2112a442")
LOCAL, REMOTE = address(b"\x0a\0\0\1", 1), address(b"\x0a\0\0\2", 2)
VECTORS = Path(__file__).parent.parent / "vectors"


def push(ring: PacketRing, data: bytes, stride: int = -1, **columns: object) -> None:
    wanted: dict[str, object] = {"local": LOCAL, "remote": REMOTE, "ecn": 2, "socket": 4}
    assert ring.push(data, stride=stride, **(wanted | columns))  # type: ignore[arg-type]


def cut(ring: PacketRing, entries: int = 1000, capacity: int = 256) -> tuple[int, PacketBatch]:
    batch = PacketBatch(capacity)
    return cut_datagrams(ring, entries, batch), batch


@st.composite
def datagrams(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from(["data", "handshake", "stun", "channel", "noise"]))
    if kind == "data":
        return b"\4\0\0\0" + draw(st.binary(min_size=0, max_size=60))
    if kind == "handshake":
        number = draw(st.integers(1, 4))
        size = draw(st.sampled_from([148, 92, 64, 63, 93, 31, 32]))
        return (bytes([number, 0, 0, draw(st.sampled_from([0, 0, 1]))]) + draw(st.sampled_from([COOKIE, bytes(4)])))[:size].ljust(
            size, b"x"
        )
    if kind == "stun":
        return draw(st.binary(min_size=4, max_size=4)) + COOKIE + draw(st.binary(max_size=30))
    if kind == "channel":
        return bytes([draw(st.integers(0x3F, 0x50))]) + draw(st.binary(max_size=40))
    return draw(st.binary(min_size=1, max_size=40))


@given(st.lists(datagrams(), min_size=1, max_size=20))
def test_kinds_equal_the_twin(data: list[bytes]) -> None:
    ring = PacketRing(32)
    for datagram in data:
        push(ring, datagram)
    taken, batch = cut(ring)
    assert taken == batch.n == len(data)
    for row, datagram in enumerate(data):
        assert batch.reason[row] == twin.kind(datagram)
        assert batch.verdict[row] == (Verdict.PUNT if batch.reason[row] else Verdict.FORWARD)


STRIDES = st.sampled_from([0, 1, 50, 1000, 1316, 1317, 3000])


@given(
    st.lists(
        st.tuples(st.integers(0, 3000), STRIDES, st.sampled_from([True, True, False])),
        max_size=8,
    ),
    st.integers(0, 8), st.integers(0, 7),
)  # fmt: skip
def test_reads_are_cut_as_by_the_twin_wherever_the_ring_wraps(
    reads: list[tuple[int, int, bool]], entries: int, used_before: int
) -> None:
    ring = PacketRing(8, 4096)
    for _ in range(used_before):
        push(ring, b"x")
    ring.release(used_before)
    wanted: list[tuple[bytes, Reason]] = []
    taken_wanted, full = 0, False
    for index, (length, stride, has_local) in enumerate(reads):
        data = bytes((index + at) & 0xFF for at in range(length))
        push(ring, data, stride, local=LOCAL if has_local else np.zeros((), ADDRESS))
        rows = twin.cut(data, stride, has_local)
        full = full or len(wanted) + len(rows) > 256
        if index < entries and not full:
            wanted, taken_wanted = wanted + rows, taken_wanted + 1
    if len(reads) and len(twin.cut(bytes(reads[0][0]), reads[0][1], reads[0][2])) > 256:
        return  # Its own test below.
    taken, batch = cut(ring, entries)
    assert taken == taken_wanted
    assert [(raw_bytes(batch, row), batch.reason[row]) for row in range(batch.n)] == wanted


@pytest.mark.parametrize("recording", ["base-direct", "base-relayed", "base-ipv6", "new-direct"])
def test_recorded_datagrams_of_the_original_are_told_apart(recording: str) -> None:
    kinds = {"stun": Reason.STUN, "wg-initiation": Reason.HANDSHAKE, "wg-response": Reason.HANDSHAKE, "wg-data": Reason.NONE}
    # Recorded in front of the interface that cuts GSO trains: a handshake message may have STUN behind it.
    strides = {"wg-initiation": 148, "wg-response": 92}
    seen = set()
    for line in (VECTORS / f"{recording}.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "hex" in record:
            kind = Reason.CHANNEL_DATA if record["kind"].startswith("channel:") else kinds[record["kind"]]
            ring = PacketRing(1)
            push(ring, bytes.fromhex(record["hex"]), strides.get(record["kind"], -1))
            assert cut(ring)[1].reason[0] == kind, line
            seen.add(kind)
    assert len(seen) >= 3


def test_row_carries_all_columns_of_its_read() -> None:
    ring = PacketRing(4)
    push(ring, b"a")
    push(ring, b"\4" + bytes(99), 40, ecn=3, socket=6)
    taken, batch = cut(ring)
    assert (taken, batch.n) == (2, 4)
    assert batch.slot[:4].tolist() == [0, 1, 1, 1]
    assert batch.length[:4].tolist() == [1, 40, 40, 20]
    assert batch.offset[:4].tolist() == [0, 65600, 65640, 65680]
    assert batch.stride[:4].tolist() == [1, 40, 40, 40]
    assert batch.ecn[:4].tolist() == [2, 3, 3, 3]
    assert batch.socket[:4].tolist() == [4, 6, 6, 6]
    assert all(batch.local[row] == LOCAL and batch.remote[row] == REMOTE for row in range(4))
    assert batch.peer[:4].tolist() == batch.session[:4].tolist() == batch.next[:4].tolist() == [-1] * 4
    assert not batch.channel[:4].any()


def test_a_read_that_cannot_be_cut_does_not_hide_the_next() -> None:
    ring = PacketRing(16)
    data = b"\4\0\0\0" + bytes(96)
    push(ring, data, 101)
    push(ring, data, 0)
    push(ring, data, local=np.zeros((), ADDRESS))
    push(ring, b"")
    push(ring, bytes(2000), 1317)
    push(ring, bytes(1317))
    push(ring, data)
    taken, batch = cut(ring)
    assert taken == 7
    reasons = [
        Reason.BAD_STRIDE, Reason.BAD_STRIDE, Reason.NO_LOCAL_ADDRESS, Reason.EMPTY, Reason.BAD_STRIDE, Reason.OVERSIZED,
    ]  # fmt: skip
    assert outcomes(batch) == [*((Verdict.DROP, reason) for reason in reasons), (Verdict.FORWARD, Reason.NONE)]


def test_cutting_stops_in_front_of_a_read_that_does_not_fit() -> None:
    ring = PacketRing(4)
    for _ in range(3):
        push(ring, bytes(60), 10)
    taken, batch = cut(ring, capacity=13)
    assert (taken, batch.n) == (2, 12)


def test_a_read_with_more_rows_than_the_batch_can_ever_hold_is_dropped() -> None:
    ring = PacketRing(4)
    push(ring, bytes(60), 1)
    push(ring, b"\4\0\0\0" + bytes(28))
    taken, batch = cut(ring, capacity=8)
    assert taken == 2
    assert outcomes(batch) == [(Verdict.DROP, Reason.BATCH_FULL), (Verdict.FORWARD, Reason.NONE)]


def test_descriptor_that_points_out_of_its_slot_is_dropped() -> None:
    ring = PacketRing(2, 128)
    push(ring, bytes(64))
    push(ring, bytes(64))
    ring.offset[0], ring.length[1] = 65, 129
    taken, batch = cut(ring)
    assert (taken, outcomes(batch)) == (2, [(Verdict.DROP, Reason.OVERSIZED)] * 2)


def test_a_full_gro_train_is_64_datagrams() -> None:
    ring = PacketRing(2, 1 << 17)
    push(ring, (b"\4" + bytes(1315)) * 49, 1316)
    push(ring, (b"\4" + bytes(1315)) * 64, 1316)
    taken, batch = cut(ring)
    assert (taken, batch.n) == (2, 113)
    assert set(batch.length[:113].tolist()) == {1316}


def test_batch_is_reused_without_anything_left_over() -> None:
    ring, batch = PacketRing(4), PacketBatch(8)
    push(ring, b"x" * 10)
    cut_datagrams(ring, 4, batch)
    slab = batch.slab
    batch.peer[0], batch.prefix_len[0], batch.skip[0], batch.next[0], batch.flags[0] = 3, 9, 9, 9, 9
    ring.release(1)
    push(ring, b"y" * 10)
    assert cut_datagrams(ring, 4, batch) == 1
    assert batch.slab is slab
    assert (batch.peer[0], batch.prefix_len[0], batch.skip[0], batch.next[0], batch.flags[0]) == (-1, 0, 0, -1, 0)
    assert batch.row_bytes(0) == b"y" * 10
