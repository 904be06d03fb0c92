"""The NAT of named resources: 100 to 100 000 flows in equal shares, spread over clients; opening sessions; the twin."""

from __future__ import annotations

import ipaddress
import random
from typing import Any

import pytest

from firezone.kernels.batch import PacketBatch
from firezone.kernels.ip import parse_batch
from firezone.kernels.nat import NatTable
from tests.harness import packets
from tests.harness.rows import batch_of
from tests.harness.twins import ip as ip_twin
from tests.harness.twins import nat as twin

ROWS = 256
PROXIES = [ipaddress.ip_address("100.96.0.0") + n for n in range(1, 5)]
REALS = [ipaddress.ip_address("10.0.0.0") + n for n in range(1, 5)]


def table_of(clients: int) -> NatTable:
    table = NatTable(bytes(48))
    for client in range(clients):
        table.attach(client, client)
        for proxy, real in zip(PROXIES, REALS, strict=True):
            table.set_translation(client, proxy.packed, real.packed)
    return table


def batches(flows: int, clients: int) -> list[PacketBatch]:
    """Every flow once, in random order."""
    order = list(range(flows))
    random.Random(3).shuffle(order)
    made = []
    for start in range(0, flows, ROWS):
        some = order[start : start + ROWS]
        rows = [packets.udp("100.64.0.1", str(PROXIES[flow % 4]), b"x" * 8, ports=(1 + flow // 4 // clients, 80)) for flow in some]
        batch = batch_of(rows)
        parse_batch(batch, False)
        batch.peer[: len(some)] = [flow // 4 % clients for flow in some]
        made.append(batch)
    return made


def renew(made: list[PacketBatch], slabs: list[Any]) -> None:
    for batch, slab in zip(made, slabs, strict=True):
        batch.slab[:] = slab
        peers = batch.peer.copy()
        parse_batch(batch, False)
        batch.peer[:] = peers


@pytest.mark.parametrize(("flows", "clients"), [(100, 1), (10_000, 1), (100_000, 1), (100_000, 100), (100_000, 10_000)])
def bench_out(benchmark: Any, flows: int, clients: int) -> None:
    table, made = table_of(clients), batches(flows, clients)
    slabs = [batch.slab.copy() for batch in made]
    for batch in made:
        table.translate_from_tunnel(batch, 0)

    def run() -> None:
        for batch in made:
            table.translate_from_tunnel(batch, 1)

    benchmark.pedantic(run, setup=lambda: renew(made, slabs), rounds=10)
    assert len(table) == flows
    benchmark.extra_info["packets"] = flows


def bench_open(benchmark: Any) -> None:
    made = batches(50_000, 10)
    slabs = [batch.slab.copy() for batch in made]

    def fresh() -> tuple[tuple[NatTable], dict[str, Any]]:
        renew(made, slabs)
        return (table_of(10),), {}

    def run(table: NatTable) -> None:
        for batch in made:
            table.translate_from_tunnel(batch, 0)

    benchmark.pedantic(run, setup=fresh, rounds=5)
    benchmark.extra_info["packets"] = 50_000


def bench_twin(benchmark: Any) -> None:
    nat = twin.Nat(translations={(0, proxy.packed): real.packed for proxy, real in zip(PROXIES, REALS, strict=True)})
    parsed = [ip_twin.parse(packets.udp("100.64.0.1", str(PROXIES[0]), b"x", ports=(n, 80)), False) for n in range(1, 101)]

    def run() -> None:
        for one in parsed:
            nat.from_tunnel(0, one, 0)

    benchmark(run)
    benchmark.extra_info["packets"] = 100
