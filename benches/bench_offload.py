"""Both ends of the data path: splitting and joining super-packets, grouping datagrams into GSO runs."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from firezone.kernels.batch import PacketBatch, RunList
from firezone.kernels.ip import parse_batch
from firezone.kernels.offload import group_runs, join_batch, split_batch
from tests.harness import packets
from tests.harness.rows import address, batch_of, tun_ring
from tests.harness.twins import offload as twin
from tests.harness.twins.offload import vnet

HOSTS = {4: ("10.0.0.1", "10.0.0.2"), 6: ("fd00::1", "fd00::2")}


def super_packet(version: int, size: int, kind: str) -> tuple[bytes, bytes]:
    """A full super-packet and its virtio-net header."""
    payload = os.urandom(min(52 * size, 64_000))
    header = 20 if version == 4 else 40
    if kind == "udp":
        return vnet(1, 5, 0, size, header, 6), packets.udp(*HOSTS[version], payload)
    return vnet(1, 1 if version == 4 else 4, 0, size, header, 16), packets.tcp(*HOSTS[version], payload)


@pytest.mark.parametrize("size", [64, 576, 1220])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def bench_split(benchmark: Any, kind: str, version: int, size: int) -> None:
    read = super_packet(version, size, kind)
    ring, batch, out = tun_ring([read] * 4), PacketBatch(2048), np.zeros(1 << 20, np.uint8)
    assert benchmark(split_batch, ring, 4, batch, out) == 4
    benchmark.extra_info.update(packets=batch.n, bytes=4 * len(read[1]))


def bench_twin_split(benchmark: Any) -> None:
    header, packet = super_packet(4, 1220, "tcp")
    benchmark.pedantic(twin.split, (header, packet), rounds=5)
    benchmark.extra_info.update(packets=52, bytes=len(packet))


@pytest.mark.parametrize("rows", [1, 16, 64, 256])
@pytest.mark.parametrize("receivers", [1, 16])
def bench_group(benchmark: Any, rows: int, receivers: int) -> None:
    batch, runs = batch_of([bytes(1316)] * rows), RunList(256)
    for row in range(rows):
        batch.remote[row] = address(port=row % receivers)
    benchmark(group_runs, batch, runs)
    benchmark.extra_info.update(packets=rows, runs=runs.n)


@pytest.mark.parametrize("rows", [1, 16, 64, 256])
@pytest.mark.parametrize("flows", [1, 16])
@pytest.mark.parametrize("coalesce", [True, False], ids=["joined", "single"])
def bench_join(benchmark: Any, coalesce: bool, flows: int, rows: int) -> None:
    data = [packets.tcp(*HOSTS[4], bytes(1240), ports=(1 + row % flows, 443), seq=row // flows * 1240) for row in range(rows)]
    batch, runs = batch_of(data), RunList(256)
    parse_batch(batch, False)
    benchmark(join_batch, batch, runs, coalesce)
    benchmark.extra_info.update(packets=rows, runs=runs.n)
