"""Addresses made up for names: their order, their ranges, and that they stay (client 8.6, 8.7, 17.4)."""

from __future__ import annotations

import gc
import ipaddress
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from firezone.base.net import PROXY_V4, PROXY_V6, SENTINEL_V4
from firezone.proto.dns import records
from firezone.proto.dns.records import BLOCKS, MAX_NAMES, PER_FAMILY, ProxyAddresses

FIRST = ("100.96.0.1", "100.96.0.2", "100.96.0.3", "100.96.0.4", *(f"fd00:2021:1111:8000::{n or ''}" for n in range(4)))


def texts(addresses: tuple[object, ...]) -> tuple[str, ...]:
    return tuple(map(str, addresses))


def test_first_names_get_the_first_addresses_of_both_families() -> None:
    proxies = ProxyAddresses()
    assert texts(proxies.assign("one.example.com")) == FIRST
    second = texts(proxies.assign("two.example.com"))
    assert second == (*(f"100.96.0.{n}" for n in range(5, 9)), *(f"fd00:2021:1111:8000::{n}" for n in range(4, 8)))


def test_a_name_keeps_its_addresses_and_the_case_it_was_first_asked_in() -> None:
    proxies = ProxyAddresses()
    first = proxies.assign("FOO.example.com")
    proxies.assign("other.example.com")
    assert proxies.assign("foo.EXAMPLE.com") == first == proxies.of_name("foo.example.com")
    assert {proxies.name_of(address) for address in first} == {"FOO.example.com"}
    assert len(proxies) == 2


def test_addresses_nobody_has_stand_for_nothing() -> None:
    proxies = ProxyAddresses()
    proxies.assign("one.example.com")
    for text in (
        "100.96.0.5",
        "100.96.0.0",
        "100.127.255.255",
        "100.100.111.1",
        "10.0.0.1",
        "fd00:2021:1111:8000::4",
        "::1",
        "fd00::1",
    ):
        assert proxies.name_of(ipaddress.ip_address(text)) is None
    assert proxies.of_name("two.example.com") == ()


def test_all_blocks_together_are_the_ranges_without_what_is_reserved() -> None:
    """Every block's addresses lead back to it, lie in the ranges, and none is used twice or belongs to a sentinel."""
    near = (SENTINEL_V4.network_address - int(PROXY_V4.network_address)).packed
    edge = int.from_bytes(near, "big") // PER_FAMILY
    blocks = [*range(50), *range(edge - 50, edge + 50), *range(BLOCKS - 50, BLOCKS)]
    seen = set()
    for block in blocks:
        addresses = records._addresses(block)
        assert [address.version for address in addresses] == [4] * 4 + [6] * 4
        for address in addresses:
            assert address not in seen
            seen.add(address)
            assert records._block_of(address) == block
            assert address in (PROXY_V4 if address.version == 4 else PROXY_V6)
            assert address not in SENTINEL_V4
            assert address not in (PROXY_V4.network_address, PROXY_V4.broadcast_address)
    last = max(int(address) for address in seen if address.version == 4)
    assert int(PROXY_V4.broadcast_address) - last <= PER_FAMILY, "the range is used to its end"


@given(st.lists(st.integers(0, 12), max_size=60))
def test_what_gives_way_is_the_name_asked_for_longest_ago(asked: list[int]) -> None:
    proxies, model = ProxyAddresses(most_names=5), list[int]()
    known: dict[int, tuple[object, ...]] = {}
    for number in asked:
        addresses = proxies.assign(f"host{number}.example.com")
        if number in model:
            model.remove(number)
            assert addresses == known[number]
        model.append(number)
        known[number] = addresses
        for gone in model[:-5]:
            assert proxies.of_name(f"host{gone}.example.com") == ()
        model = model[-5:]
        held = [address for one in model for address in proxies.of_name(f"host{one}.example.com")]
        assert len(set(held)) == len(held) == 8 * len(model)
        assert all(proxies.name_of(address) == f"host{number}.example.com" for address in addresses)
    assert len(proxies) == len(model)


def test_a_name_in_use_does_not_give_way() -> None:
    proxies = ProxyAddresses(most_names=4)
    kept = proxies.assign("Kept.example")
    proxies.is_in_use = lambda name: name == "kept.example"
    for number in range(20):
        proxies.assign(f"host{number}.example")
    assert proxies.of_name("kept.example") == kept
    assert len(proxies) == 4
    proxies.is_in_use = lambda name: True
    proxies.assign("more.example")
    assert len(proxies) == 4, "the bound holds even if all are"


def test_addresses_of_a_forgotten_name_come_last() -> None:
    proxies = ProxyAddresses(most_names=1)
    before = proxies.assign("a.example")
    assert proxies.assign("b.example") != before
    proxies._next = BLOCKS - 1
    proxies.assign("c.example")
    assert proxies.assign("d.example") == before, "the range has gone round"


def test_a_hundred_thousand_names_cost_bounded_memory() -> None:
    proxies = ProxyAddresses()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(100_000):
            proxies.assign(f"host{number:06}.some.example.com")
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(proxies) == 100_000
    assert grown / len(proxies) < 330
    assert MAX_NAMES * 330 < 42 << 20
