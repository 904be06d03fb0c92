"""Longest-prefix match: tables of a client's, a big gateway's and an Internet router's size; one flow and scattered ones."""

from __future__ import annotations

import ipaddress
import random
from typing import Any

import pytest

from firezone.kernels.ip import parse_batch
from firezone.kernels.route import RouteTable
from tests.harness import packets
from tests.harness.rows import batch_of
from tests.harness.twins.filter import longest_match

ROWS = 64


def networks(count: int, v6: bool) -> list[Any]:
    rng, width = random.Random(1), 128 if v6 else 32
    kind: Any = ipaddress.IPv6Network if v6 else ipaddress.IPv4Network
    found = {kind((0, 0))}
    while len(found) < count:
        bits = rng.choice([32, 48, 64, 128] if v6 else [8, 16, 24, 32])
        found.add(kind((rng.getrandbits(width) >> (width - bits) << (width - bits), bits)))
    return sorted(found)


@pytest.mark.parametrize("destinations", [1, ROWS])
@pytest.mark.parametrize("prefixes", [10, 1000, 100_000])
@pytest.mark.parametrize("v6", [False, True], ids=["v4", "v6"])
def bench_lookup(benchmark: Any, v6: bool, prefixes: int, destinations: int) -> None:
    table, rng, known = RouteTable(), random.Random(2), networks(prefixes, v6)
    for peer, network in enumerate(known):
        table.set(network, peer)
    to = [str(rng.choice(known).network_address) for _ in range(destinations)]
    source = "fd00::1" if v6 else "10.0.0.1"
    batch = batch_of([packets.udp(source, to[row % destinations]) for row in range(ROWS)])
    parse_batch(batch, False)
    assert benchmark(table.lookup_batch, batch) == ROWS
    benchmark.extra_info["packets"] = ROWS


def bench_set(benchmark: Any) -> None:
    table, known = RouteTable(), networks(1000, False)

    def fill() -> None:
        for network in known:
            table.set(network, 1)

    benchmark(fill)
    benchmark.extra_info["updates"] = len(known)


def bench_twin_lookup(benchmark: Any) -> None:
    benchmark(longest_match, networks(10, False), bytes(4))
