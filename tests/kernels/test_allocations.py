"""No Python object per packet: a million rows through every stage leave the interpreter's allocations where they were."""

from __future__ import annotations

import ipaddress
import sys

import numpy as np

from firezone.kernels.batch import PacketBatch, RunList
from firezone.kernels.demux import cut_datagrams
from firezone.kernels.filter import FilterTable
from firezone.kernels.ip import parse_batch
from firezone.kernels.offload import group_runs, join_batch, split_batch
from firezone.kernels.ring import PacketRing
from firezone.kernels.route import RouteTable
from tests.harness import packets
from tests.harness.rows import address, tun_ring
from tests.harness.twins.offload import TCPV4, vnet

ROUNDS, SEGMENTS = 2000, 250


def test_a_million_rows_allocate_nothing() -> None:
    everything = ipaddress.ip_network("0.0.0.0/0")
    routes, filters = RouteTable(), FilterTable()
    routes.set(everything, 0)
    filters.set_peer(0, [everything], None, [(everything, False, [(1, 65535)], [], True)])
    up, down, runs, slab = PacketBatch(512), PacketBatch(512), RunList(512), np.zeros(1 << 20, np.uint8)
    packet = packets.tcp("10.0.0.1", "10.0.0.2", bytes(100 * SEGMENTS))
    tun = tun_ring([(vnet(1, TCPV4, 0, 100, 20, 16), packet)])
    network = PacketRing(1)
    network.push((b"\4\0\0\0" + bytes(96)) * SEGMENTS, stride=100, local=address(), remote=address())

    def run(rounds: int) -> int:
        for _ in range(rounds):
            assert split_batch(tun, 1, up, slab) == 1
            assert parse_batch(up, False) == routes.lookup_batch(up) == filters.admit_to_tunnel(up) == SEGMENTS
            group_runs(up, runs)
            join_batch(up, runs, True)
            assert cut_datagrams(network, 1, down) == 1
        return sys.getallocatedblocks()

    before = run(100)
    assert run(ROUNDS) - before < 100
