"""Parsing, demultiplexing and admission per batch: divide by `packets` for the cost of a row."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from firezone.base.net import Endpoint
from firezone.kernels.batch import PacketBatch
from firezone.kernels.channel import ChannelTable
from firezone.kernels.demux import cut_datagrams
from firezone.kernels.filter import FilterTable
from firezone.kernels.ip import parse_batch
from firezone.kernels.ring import PacketRing
from firezone.kernels.types import Verdict
from tests.harness import packets
from tests.harness.rows import address, batch_of
from tests.harness.twins import ip as twin

ROWS = [1, 16, 64, 256]
HOSTS = {4: ("10.0.0.1", "10.0.0.2"), 6: ("fd00::1", "fd00::2")}


def rows_of(version: int, rows: int, size: int = 1000) -> list[bytes]:
    return [packets.tcp(*HOSTS[version], bytes(size), ports=(1000 + row, 443)) for row in range(rows)]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("from_tunnel", [False, True], ids=["up", "down"])
def bench_parse(benchmark: Any, version: int, rows: int, from_tunnel: bool) -> None:
    batch = batch_of(rows_of(version, rows))
    batch.ecn[:rows] = 3
    assert benchmark(parse_batch, batch, from_tunnel) == rows
    benchmark.extra_info["packets"] = rows


def bench_twin_parse(benchmark: Any) -> None:
    benchmark(twin.parse, rows_of(4, 1)[0], True, 3)
    benchmark.extra_info["packets"] = 1


@pytest.mark.parametrize("datagrams", [1, 49])
@pytest.mark.parametrize("reads", [1, 8])
def bench_cut(benchmark: Any, reads: int, datagrams: int) -> None:
    ring, batch = PacketRing(8), PacketBatch(2048)
    for _ in range(reads):
        ring.push((b"\4\0\0\0" + bytes(1312)) * datagrams, stride=1316, local=address(), remote=address())
    assert benchmark(cut_datagrams, ring, reads, batch) == reads
    benchmark.extra_info["packets"] = reads * datagrams


@pytest.mark.parametrize("datagrams", [1, 49])
@pytest.mark.parametrize("relays", [1, 4])
def bench_cut_relayed(benchmark: Any, relays: int, datagrams: int) -> None:
    """Eight reads of channel data from the last of several relays; compare with `bench_cut`."""
    table, ring, batch = ChannelTable(), PacketRing(8), PacketBatch(2048)
    servers = [Endpoint(bytes((203, 0, 113, 10 + number)), 3478) for number in range(relays)]
    for server in servers:
        table.add_relay(server)
        table.open(server, 0x4000)
    datagram = bytes.fromhex("40000520") + b"\4\0\0\0" + bytes(1308)
    for _ in range(8):
        ring.push(datagram * datagrams, stride=1316, local=address(), remote=address(servers[-1].ip, 3478))
    assert benchmark(cut_datagrams, ring, 8, batch, table) == 8
    assert batch.verdict[0] == Verdict.FORWARD
    benchmark.extra_info["packets"] = 8 * datagrams


@pytest.mark.parametrize("rules", [1, 100])
@pytest.mark.parametrize("flows", [1, 64])
def bench_admit(benchmark: Any, rules: int, flows: int) -> None:
    table, any_v4 = FilterTable(), ipaddress.ip_network("0.0.0.0/0")
    hosts: list[Any] = [(ipaddress.ip_network((0x0A000000 + i, 32)), False, [(443, 443)], [], False) for i in range(rules + 2)]
    table.set_peer(0, [any_v4], None, hosts)
    batch = batch_of([packets.tcp("100.64.0.1", "10.0.0.2", b"x", ports=(1000 + row % flows, 443)) for row in range(64)])
    parse_batch(batch, True)
    batch.peer[:64] = 0
    assert benchmark(table.admit_from_tunnel, batch) == 64
    benchmark.extra_info["packets"] = 64
