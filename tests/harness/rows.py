"""Batches and rings from plain bytes, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from firezone.kernels.batch import PacketBatch, RunList
from firezone.kernels.ring import PacketRing
from firezone.kernels.types import ADDRESS, Reason, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

VNET_SIZE = 10


def address(host: bytes = b"\x7f\0\0\1", port: int = 1) -> NDArray[Any]:
    """One element of an address column."""
    value = np.zeros((), ADDRESS)
    value["ip"][: len(host)] = np.frombuffer(host, np.uint8)
    value["port"], value["family"] = port, 4 if len(host) == 4 else 6
    return value


def batch_of(packets: Sequence[bytes], gap: int = 0, capacity: int | None = None) -> PacketBatch:
    """A batch with one FORWARD row per packet; `gap` bytes of 0xAA stand around each."""
    slab = np.full(sum(len(packet) + gap for packet in packets) + gap + 1, 0xAA, np.uint8)
    batch = PacketBatch(capacity or max(len(packets), 1))
    batch.over(slab)
    at = gap
    for packet in packets:
        slab[at : at + len(packet)] = np.frombuffer(packet, np.uint8)
        batch.append(at, len(packet))
        at += len(packet) + gap
    return batch


def tun_ring(reads: Iterable[tuple[bytes, bytes]], slots: int = 64) -> PacketRing:
    """A ring as a TUN device fills it: (virtio-net header, packet) each."""
    ring = PacketRing(slots)
    for header, packet in reads:
        assert ring.push(header + packet, offset=VNET_SIZE, stride=0)
    return ring


def outcome(batch: PacketBatch, row: int) -> tuple[Verdict, Reason]:
    return Verdict(int(batch.verdict[row])), Reason(int(batch.reason[row]))


def outcomes(batch: PacketBatch) -> list[tuple[Verdict, Reason]]:
    return [outcome(batch, row) for row in range(batch.n)]


def raw_bytes(batch: PacketBatch, row: int) -> bytes:
    """The row's bytes in the slab, whatever prefix it has."""
    start = int(batch.offset[row])
    return bytes(batch.slab[start : start + int(batch.length[row])])


def members(batch: PacketBatch, runs: RunList) -> list[list[int]]:
    """The rows of each run, following the links."""
    found = []
    for run in runs.runs[: runs.n]:
        rows, row = [], int(run["first"])
        while row >= 0:
            rows.append(row)
            row = int(batch.next[row])
        assert rows[-1] == run["last"]
        assert len(rows) == run["count"]
        found.append(rows)
    return found


def gathered(batch: PacketBatch, runs: RunList) -> list[tuple[bytes, bytes]]:
    """What one system call per run would write: (virtio-net header, bytes)."""
    written = []
    for run, rows in zip(runs.runs[: runs.n], members(batch, runs), strict=True):
        data = b"".join(batch.row_bytes(row) for row in rows)
        assert len(data) == run["total"]
        written.append((run["vnet"].tobytes(), data))
    return written
