"""Longest-prefix match against a scan over all networks, and the route stage."""

from __future__ import annotations

import ipaddress
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.base.net import Network
from firezone.kernels.ip import parse_batch
from firezone.kernels.route import RouteTable
from firezone.kernels.types import Reason, Verdict
from tests.harness import packets
from tests.harness.rows import batch_of, outcomes
from tests.harness.twins.filter import longest_match


def network_of(base: int, bits: int, v6: bool) -> Network:
    kind: type[Network] = ipaddress.IPv6Network if v6 else ipaddress.IPv4Network
    width = 128 if v6 else 32
    return kind((base >> (width - bits) << (width - bits), bits))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Networks that often contain or neighbour each other."""
    v6 = draw(st.booleans())
    width = 128 if v6 else 32
    bits = draw(st.one_of(st.integers(0, width), st.sampled_from([0, width, width - 1, 64 if v6 else 8])))
    seed = draw(st.sampled_from([0, 1, 1 << (width - 1), (1 << width) - 1, 0x0A000001 << (width - 32), 0xFD << (width - 8)]))
    return network_of(seed ^ draw(st.sampled_from([0, 1, 2, 1 << (width // 2)])), bits, v6)


@st.composite
def nearby(draw: st.DrawFn, table: list[Network]) -> bytes:
    """An address inside or next to one of the networks."""
    network = draw(st.sampled_from(table))
    width = network.max_prefixlen
    value = int(draw(st.sampled_from([network.network_address, network.broadcast_address])))
    value = (value ^ draw(st.sampled_from([0, 1, 1 << draw(st.integers(0, width - 1))]))) % (1 << width)
    return value.to_bytes(width // 8, "big")


@given(st.lists(st.tuples(networks(), st.integers(-1, 5), st.booleans()), min_size=1, max_size=30), st.data())
def test_table_equals_a_scan_after_any_changes(changes: list[tuple[Network, int, bool]], data: st.DataObject) -> None:
    table, model = RouteTable(), dict[Network, int]()
    for network, peer, is_removal in changes:
        if is_removal and model:
            network = data.draw(st.sampled_from(sorted(model, key=str)))  # noqa: PLW2901
            model.pop(network)
            table.remove(network)
        else:
            model[network] = peer
            table.set(network, peer)
        assert len(table) == len(model)
    for _ in range(10):
        address = data.draw(nearby([network for network, _, _ in changes]))
        found = longest_match(model, address)
        assert table.lookup(address) == (None if found is None else model[found])
    for network, _, _ in changes:
        assert table.get(network) == model.get(network)


@pytest.mark.parametrize("v6", [False, True])
def test_a_hundred_thousand_prefixes_are_found_again_and_removed_again(v6: bool) -> None:
    rng, width = random.Random(1), 128 if v6 else 32
    model: dict[Network, int] = {}
    while len(model) < 100_000:
        bits = rng.choice((16, 20, 24, 28, 32) if not v6 else (32, 48, 64, 96, 128))
        model[network_of(rng.getrandbits(width), bits, v6)] = len(model)
    table = RouteTable()
    for network, peer in model.items():
        table.set(network, peer)
    assert len(table) == 100_000
    probes = [rng.getrandbits(width) for _ in range(2_000)]
    probes += [int(network.network_address) | rng.getrandbits(width - network.prefixlen) for network in list(model)[:2_000]]
    for value in probes:
        candidates = (network_of(value, bits, v6) for bits in range(width, 15, -1))
        wanted = next((model[network] for network in candidates if network in model), None)
        assert table.lookup(value.to_bytes(width // 8, "big")) == wanted
    for network in model:
        table.remove(network)
    assert len(table) == 0
    assert table.lookup(bytes(width // 8)) is None


def test_removing_what_is_not_there_changes_nothing() -> None:
    table = RouteTable()
    table.remove(ipaddress.ip_network("10.0.0.0/8"))
    table.set(ipaddress.ip_network("10.0.0.0/8"), 1)
    table.set(ipaddress.ip_network("10.128.0.0/9"), 2)
    table.set(ipaddress.ip_network("10.0.0.0/9"), 3)
    table.remove(ipaddress.ip_network("10.0.0.0/16"))
    table.remove(ipaddress.ip_network("::/8"))
    assert len(table) == 3


def test_families_do_not_mix() -> None:
    table = RouteTable()
    table.set(ipaddress.ip_network("0.0.0.0/0"), 4)
    assert table.lookup(bytes(16)) is None
    table.set(ipaddress.ip_network("::/0"), 6)
    assert (table.lookup(bytes(4)), table.lookup(bytes(16))) == (4, 6)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="-2 is no peer row"):
        RouteTable().set(ipaddress.ip_network("::/0"), -2)
    with pytest.raises(ValueError, match="4 or 16 bytes, not 5"):
        RouteTable().lookup(bytes(5))
    with pytest.raises(ValueError, match="16 bytes, not 5"):
        RouteTable(bytes(5))


def test_stage_sets_peers_punts_those_without_and_drops_those_without_route() -> None:
    table = RouteTable()
    table.set(ipaddress.ip_network("10.0.0.0/24"), 3)
    table.set(ipaddress.ip_network("10.0.1.0/24"), -1)
    table.set(ipaddress.ip_network("fd00::/64"), 0)
    to = ["10.0.0.1", "10.0.0.1", "10.0.1.7", "192.0.2.1", "10.0.0.2", "fd00::9", "fd00:0:0:1::1", "10.0.0.1"]
    batch = batch_of([packets.udp("fd00::1" if ":" in host else "10.9.9.9", host) for host in to])
    batch.verdict[7] = Verdict.REPLY
    assert parse_batch(batch, False) == 7
    assert table.lookup_batch(batch) == 4
    forward, no_route = (Verdict.FORWARD, Reason.NONE), (Verdict.DROP, Reason.NO_ROUTE)
    punt, reply = (Verdict.PUNT, Reason.NO_PEER), (Verdict.REPLY, Reason.NONE)
    assert outcomes(batch) == [forward, forward, punt, no_route, forward, forward, no_route, reply]
    assert batch.peer[:8].tolist() == [3, 3, -1, -1, 3, 0, -1, -1]


@given(st.lists(packets.well_formed(), max_size=20), st.lists(st.tuples(networks(), st.integers(-1, 3)), max_size=8))
def test_stage_equals_single_look_ups(rows: list[bytes], routes: list[tuple[Network, int]]) -> None:
    table, batch = RouteTable(), batch_of(rows, gap=1)
    for network, peer in routes:
        table.set(network, peer)
    parse_batch(batch, False)
    table.lookup_batch(batch)
    for row, packet in enumerate(rows):
        wanted = table.lookup(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40])
        verdict = Verdict.DROP if wanted is None else Verdict.PUNT if wanted < 0 else Verdict.FORWARD
        assert batch.verdict[row] == verdict
        assert batch.peer[row] == (wanted if verdict == Verdict.FORWARD else -1)


@given(st.data())
def test_stage_remembers_nothing_that_a_change_made_wrong(data: st.DataObject) -> None:
    hosts = ["10.0.0.1", "10.0.0.2", "10.1.0.1", "fd00::1", "fd00::2", "fd00:1::1"]
    texts = ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", *hosts[:3], "::/0", "fd00::/16", *hosts[3:]]
    batch_rows = [packets.udp("fd00::9" if ":" in host else "10.9.9.9", host) for host in hosts]
    table, model = RouteTable(bytes(range(16))), dict[Network, int]()
    for _ in range(data.draw(st.integers(1, 12))):
        network = ipaddress.ip_network(data.draw(st.sampled_from(texts)))
        if data.draw(st.booleans()):
            model[network] = data.draw(st.integers(-1, 3))
            table.set(network, model[network])
        else:
            model.pop(network, None)
            table.remove(network)
        batch = batch_of(batch_rows)
        parse_batch(batch, False)
        table.lookup_batch(batch)
        for row, host in enumerate(hosts):
            found = longest_match(model, ipaddress.ip_address(host).packed)
            verdict = Verdict.DROP if found is None else Verdict.PUNT if model[found] < 0 else Verdict.FORWARD
            assert batch.verdict[row] == verdict
            assert found is None or batch.peer[row] == model[found]


def test_many_destinations_are_found_whether_they_are_remembered_or_not() -> None:
    table, rng = RouteTable(), random.Random(4)
    for peer in range(256):
        table.set(network_of(peer << 24, 8, False), peer)
    for _ in range(40):
        values = [rng.getrandbits(32) for _ in range(256)]
        batch = batch_of([packets.udp("10.9.9.9", str(ipaddress.IPv4Address(value))) for value in values])
        parse_batch(batch, False)
        for _ in range(2):
            batch.peer[: batch.n] = -1
            assert table.lookup_batch(batch) == 256
            assert batch.peer[:256].tolist() == [value >> 24 for value in values]


def test_rows_that_were_never_parsed_are_dropped_not_read() -> None:
    table, batch = RouteTable(), batch_of([b"", b"\x45"])
    table.set(ipaddress.ip_network("0.0.0.0/0"), 1)
    assert table.lookup_batch(batch) == 0
    assert outcomes(batch) == [(Verdict.DROP, Reason.NO_ROUTE)] * 2


def test_setting_and_removing_for_ever_needs_no_more_memory() -> None:
    table, rng = RouteTable(), random.Random(2)
    started = time.monotonic()
    for _ in range(20_000):
        network = network_of(rng.getrandbits(32), rng.randint(0, 32), False)
        table.set(network, 1)
        table.remove(network)
    assert len(table) == 0
    assert time.monotonic() - started < 30
