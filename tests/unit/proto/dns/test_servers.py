"""Sentinels and the servers behind them (client 8.1, 17.5)."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from firezone.base.net import SENTINEL_V4, SENTINEL_V6, Endpoint
from firezone.proto.dns.servers import MAX_SERVERS, SentinelMap

ADDRESSES = st.sampled_from(["1.1.1.1", "1.0.0.1", "8.8.8.8", "2606:4700:4700::1111", "2001:4860:4860::8888", "100.100.111.1"])


def pairs(servers: SentinelMap) -> list[tuple[str, str]]:
    return [(str(sentinel), str(servers.upstream_of(sentinel))) for sentinel in servers.sentinels]


def test_each_server_gets_a_sentinel_of_its_family_in_order() -> None:
    servers = SentinelMap()
    assert servers.set_system(["1.1.1.1", "2606:4700:4700::1111", "1.0.0.1"])
    assert pairs(servers) == [
        ("100.100.111.1", "1.1.1.1:53"),
        ("fd00:2021:1111:8000:100:100:111:0", "[2606:4700:4700::1111]:53"),
        ("100.100.111.2", "1.0.0.1:53"),
    ]


def test_the_same_servers_in_any_order_change_nothing_others_change_all() -> None:
    servers = SentinelMap()
    servers.set_system(["1.1.1.1", "1.0.0.1"])
    before = servers.sentinels
    assert not servers.set_system(["1.0.0.1", "1.1.1.1", "1.0.0.1"])
    assert servers.sentinels == before
    assert servers.set_system(["1.1.1.1", "8.8.8.8"])
    assert not set(servers.sentinels) & set(before)
    assert servers.upstream_of(before[0]) is None
    assert servers.set_system(["1.1.1.1"])
    assert servers.sentinels[0] == before[0], "the generation after starts at the beginning"


def test_a_time_without_servers_does_not_bring_old_sentinels_back() -> None:
    servers = SentinelMap()
    servers.set_system(["1.1.1.1", "2606:4700:4700::1111"])
    before = servers.sentinels
    servers.set_system([])
    assert servers.sentinels == ()
    servers.set_system(["8.8.8.8", "2001:4860:4860::8888"])
    assert not set(servers.sentinels) & set(before)


def test_servers_of_the_portal_come_first_and_our_own_sentinels_never() -> None:
    servers = SentinelMap()
    servers.set_system(["100.100.111.1", "fd00:2021:1111:8000:100:100:111:5", "192.168.1.1"])
    assert [upstream for _, upstream in pairs(servers)] == ["192.168.1.1:53"]
    assert not servers.is_portal_defined
    assert servers.set_portal([Endpoint.from_text("10.0.0.53", 5353)])
    assert [upstream for _, upstream in pairs(servers)] == ["10.0.0.53:5353"]
    assert servers.is_portal_defined
    assert not servers.set_system(["9.9.9.9"])
    assert servers.set_portal([])
    assert [upstream for _, upstream in pairs(servers)] == ["9.9.9.9:53"]
    servers.set_portal([Endpoint.from_text("100.100.111.7", 53)])
    assert [upstream for _, upstream in pairs(servers)] == ["9.9.9.9:53"], "a list without a usable server counts for nothing"


def test_no_server_at_all_leaves_no_sentinel() -> None:
    servers = SentinelMap()
    servers.set_system(["1.1.1.1"])
    assert servers.set_system(["what", "fe80::1%eth0", ""])
    assert servers.sentinels == ()


def test_more_servers_than_anybody_asks_are_cut() -> None:
    servers = SentinelMap()
    for generation in range(3):
        servers.set_system([str(ipaddress.IPv4Address(0x0A000000 + 1000 * generation + n)) for n in range(300)])
        assert len(servers.sentinels) == MAX_SERVERS


@given(st.lists(st.tuples(st.booleans(), st.lists(ADDRESSES, max_size=5)), max_size=8))
def test_neighbouring_generations_share_no_sentinel(changes: list[tuple[bool, list[str]]]) -> None:
    servers = SentinelMap()
    for is_portal, addresses in changes:
        before = dict(servers._servers)
        endpoints = [Endpoint.from_text(address, 53) for address in addresses]
        changed = servers.set_portal(endpoints) if is_portal else servers.set_system(addresses)
        after = dict(servers._servers)
        assert changed == (set(before.values()) != set(after.values()))
        assert not changed or not before.keys() & after.keys()
        assert changed or after == before
        for sentinel, server in after.items():
            assert sentinel in (SENTINEL_V4 if server.is_ipv4 else SENTINEL_V6)
            assert ipaddress.ip_address(server.ip) not in SENTINEL_V4
