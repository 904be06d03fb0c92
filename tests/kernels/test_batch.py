"""The batch and its rows as Python sees them."""

from __future__ import annotations

import numpy as np
import pytest

from firezone.kernels.batch import PacketBatch, RunList
from firezone.kernels.types import PREFIX_SIZE, Reason, Verdict
from tests.harness.rows import batch_of


@pytest.mark.parametrize("capacity", [0, -1, 65537])
def test_capacity_is_bounded(capacity: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 65536 rows"):
        PacketBatch(capacity)


def test_append_resets_every_column_of_a_reused_row() -> None:
    batch = batch_of([b"abc"])
    for name in (
        "peer",
        "session",
        "channel",
        "prefix_len",
        "skip",
        "flags",
        "next",
        "ecn",
        "ip_version",
        "transport",
        "socket",
    ):
        getattr(batch, name)[0] = 9
    batch.local[0]["family"] = 4
    batch.clear()
    batch.append(1, 2)
    assert (batch.peer[0], batch.session[0], batch.next[0]) == (-1, -1, -1)
    for name in ("channel", "prefix_len", "skip", "flags", "ecn", "ip_version", "transport", "socket"):
        assert getattr(batch, name)[0] == 0
    assert batch.local[0]["family"] == 0


def test_append_refuses_rows_without_room_and_bytes_outside_the_slab() -> None:
    batch = PacketBatch(1)
    batch.over(np.zeros(10, np.uint8))
    for offset, length in ((0, 11), (10, 1), (-1, 2), (5, -1)):
        with pytest.raises(ValueError, match="lie outside a slab of 10"):
            batch.append(offset, length)
    batch.append(10, 0)
    with pytest.raises(IndexError, match="full"):
        batch.append(0, 1)


def test_row_bytes_are_prefix_and_what_it_does_not_replace() -> None:
    batch = batch_of([b"abcdef"])
    batch.prefix[0, :2], batch.prefix_len[0], batch.skip[0] = (0x58, 0x59), 2, 4
    assert batch.row_bytes(0) == b"XYef"
    with pytest.raises(IndexError):
        batch.row_bytes(1)


def test_rows_and_counters_by_verdict() -> None:
    batch = batch_of([b"x"] * 5)
    batch.verdict[:5] = [Verdict.FORWARD, Verdict.DROP, Verdict.PUNT, Verdict.DROP, Verdict.FREE]
    batch.reason[:5] = [0, Reason.EMPTY, Reason.STUN, Reason.EMPTY, 0]
    assert batch.rows(Verdict.DROP).tolist() == [1, 3]
    counters = np.zeros(256, np.uint32)
    assert batch.count_reasons(counters) == 1
    assert {int(reason): int(counters[reason]) for reason in np.flatnonzero(counters)} == {Reason.EMPTY: 2, Reason.STUN: 1}
    with pytest.raises(ValueError, match="256 places"):
        batch.count_reasons(np.zeros(255, np.uint32))


def test_over_takes_arrays_of_any_shape_but_no_copies() -> None:
    batch, slab = PacketBatch(2), np.zeros((4, 16), np.uint8)
    batch.over(slab)
    batch.append(16, 3)
    slab[1, :3] = 7
    assert batch.row_bytes(0) == b"\7\7\7"
    for wrong in (slab[:, ::2], slab.T, np.zeros(0, np.uint8)):
        with pytest.raises(ValueError, match="one contiguous piece"):
            batch.over(wrong)
    flat = np.zeros(8, np.uint8)
    batch.over(flat)
    assert batch.slab is flat
    assert batch.n == 0


def test_columns_have_the_documented_shapes() -> None:
    batch, runs = PacketBatch(7), RunList(3)
    assert (batch.n, batch.capacity, runs.n, runs.capacity) == (0, 7, 0, 3)
    assert batch.prefix.shape == (7, PREFIX_SIZE)
    assert runs.runs.shape == (3,)
