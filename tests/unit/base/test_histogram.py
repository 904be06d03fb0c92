"""Histograms in powers of two: what kernels count, and how it is reported."""

from __future__ import annotations

import pytest

from firezone.base.histogram import bucket_name, histogram_report
from firezone.kernels.batch import PacketBatch
from firezone.kernels.ring import PacketRing

BUCKETS = 13


@pytest.mark.parametrize(
    ("size", "name"),
    [(0, "0"), (1, "1"), (2, "2-3"), (3, "2-3"), (4, "4-7"), (1023, "512-1023"), (1024, "1024-2047"), (2048, "2048+"),
     (65_536, "2048+")],
)  # fmt: skip
def test_a_size_is_counted_under_the_name_that_says_it(size: int, name: str) -> None:
    assert bucket_name(min(size.bit_length(), BUCKETS - 1), BUCKETS) == name


def test_batches_are_counted_by_their_rows() -> None:
    import numpy as np

    batch, reasons = PacketBatch(4096), np.zeros(256, np.uint32)
    batch.over(np.zeros(4096, np.uint8))
    for rows in (0, 1, 2, 3, 4, 2047, 2048, 4096):
        batch.clear()
        for row in range(rows):
            batch.append(row, 1)
        batch.count_reasons(reasons)
    report = histogram_report(*batch.sizes())
    assert report == {
        "count": 8, "sum": 8201, "mean": 1025.12,
        "sizes": {"0": 1, "1": 1, "2-3": 2, "4-7": 1, "1024-2047": 1, "2048+": 2},
    }  # fmt: skip


def test_a_ring_counts_what_is_taken_at_once_and_its_highest_fill() -> None:
    ring = PacketRing(8, 64)
    for fill, taken in ((3, 1), (4, 5), (1, 2)):
        for _ in range(fill):
            assert ring.push(b"x")
        ring.release(taken)
    counts, total = ring.taken()
    assert (sum(counts), total) == (3, 8)
    assert histogram_report(counts, total)["sizes"] == {"1": 1, "2-3": 1, "4-7": 1}
    assert ring.most_used == 6
    assert ring.ready() == 0


def test_nothing_counted_has_no_mean() -> None:
    assert histogram_report([0] * BUCKETS, 0) == {"count": 0, "sum": 0, "mean": 0.0, "sizes": {}}
