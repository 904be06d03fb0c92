"""Histograms in powers of two, as the kernels keep them (`csrc/fz_histogram.h`): bucket 0 counts zeros, bucket i what lies from
2^(i-1) to 2^i - 1, and the last one all above as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def bucket_name(bucket: int, buckets: int) -> str:
    """Says what a bucket counts: `0`, `1`, `2-3`, `4-7`, and for the last one `2048+`."""
    if bucket < 2 and bucket < buckets - 1:
        return str(bucket)
    low = 1 << max(bucket - 1, 0)
    return f"{low}+" if bucket == buckets - 1 else f"{low}-{2 * low - 1}"


def histogram_report(counts: Sequence[int], total: int) -> dict[str, Any]:
    """Returns a histogram as one JSON-ready object: how many were counted, their sum and mean, and the buckets in use."""
    count = sum(counts)
    return {
        "count": count,
        "sum": total,
        "mean": round(total / count, 2) if count else 0.0,
        "sizes": {bucket_name(bucket, len(counts)): number for bucket, number in enumerate(counts) if number},
    }
