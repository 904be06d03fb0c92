"""The session stages over whole batches, changes of a full table, and what an idle tick pays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from firezone.base.net import Endpoint
from firezone.kernels.batch import PacketBatch
from firezone.kernels.session import SessionTable

SEND, RECEIVE = bytes(range(32)), bytes(range(32, 64))
NEVER = (1 << 64) - 1
LOCAL = Endpoint.from_text("192.0.2.1", 52625)
REMOTE = Endpoint.from_text("198.51.100.7", 4000)


def connected(table: SessionTable, peers: int, send: bytes, receive: bytes) -> list[int]:
    """Rows of new peers with a path and a session each, by the indices 256, 512 and so on."""
    rows = []
    for number in range(1, peers + 1):
        row = table.add_peer()
        session = table.install(row, number << 8, number << 8, send, receive, NEVER)
        table.use_for_sending(row, session, NEVER)
        table.set_path(row, LOCAL, REMOTE)
        rows.append(int(row))
    return rows


class Packets:
    """Packets to `peers` peers in turn, laid out as splitting leaves them."""

    def __init__(self, size: int, rows: list[int], count: int) -> None:
        stride = size + 32
        self.slab = np.zeros(stride * count, np.uint8)
        self.batch = PacketBatch(count)
        self._size, self._peers = size, np.resize(np.array(rows, np.int32), count)
        self._offsets = range(16, stride * count, stride)

    def lay_out(self) -> None:
        self.batch.over(self.slab)
        for offset in self._offsets:
            self.batch.append(offset, self._size)
        self.batch.peer[:] = self._peers


@pytest.mark.parametrize("peers", [1, 16, 1000])
@pytest.mark.parametrize("count", [1, 64, 256])
@pytest.mark.parametrize("size", [64, 1280])
def bench_seal_batch(benchmark: Any, size: int, count: int, peers: int) -> None:
    table = SessionTable()
    packets = Packets(size, connected(table, peers, SEND, RECEIVE), count)
    benchmark.extra_info.update(packets=count, bytes=count * size)
    benchmark.pedantic(table.seal_batch, (packets.batch, 0), setup=packets.lay_out, rounds=300, warmup_rounds=10)


@pytest.mark.parametrize("peers", [1, 16, 1000])
@pytest.mark.parametrize("count", [1, 64, 256])
@pytest.mark.parametrize("size", [64, 1280])
def bench_open_batch(benchmark: Any, size: int, count: int, peers: int) -> None:
    sender, receiver = SessionTable(), SessionTable()
    packets = Packets(size, connected(sender, peers, SEND, RECEIVE), count)
    connected(receiver, peers, RECEIVE, SEND)
    benchmark.extra_info.update(packets=count, bytes=count * size)

    def setup() -> None:
        packets.lay_out()
        sender.seal_batch(packets.batch, 0)

    benchmark.pedantic(receiver.open_batch, (packets.batch, 0), setup=setup, rounds=300, warmup_rounds=10)


def bench_take_no_activity(benchmark: Any) -> None:
    """What every idle tick pays, whatever the number of sessions."""
    table = SessionTable()
    connected(table, 20_000, SEND, RECEIVE)
    benchmark(table.take_activity)


def bench_take_activity_of_a_few(benchmark: Any) -> None:
    """Sixteen sessions touched among twenty thousand."""
    table = SessionTable()
    packets = Packets(64, connected(table, 20_000, SEND, RECEIVE)[:16], 16)

    def setup() -> None:
        packets.lay_out()
        table.seal_batch(packets.batch, 0)

    benchmark.pedantic(table.take_activity, setup=setup, rounds=500)


def bench_rekey_in_a_large_table(benchmark: Any) -> None:
    """One session installed and one removed among twenty thousand."""
    table = SessionTable()
    row = connected(table, 20_000, SEND, RECEIVE)[77]

    def rekey() -> None:
        table.remove(table.install(row, 0xFFFFFF00, 0, SEND, RECEIVE, NEVER))  # type: ignore[arg-type]

    benchmark(rekey)
