"""Where proxy IPs lead: `gateway` 7.4, 15.5, 17 and 18 (29 to 35)."""

from __future__ import annotations

import ipaddress

import pytest

from firezone.base.ids import ResourceId
from firezone.base.net import Address
from firezone.proto.gateway.names import Names, deal_out, may_be_real, read_proxies

A, B = ResourceId("a"), ResourceId("b")


def ips(*texts: str) -> tuple[Address, ...]:
    return tuple(ipaddress.ip_address(text) for text in texts)


PROXIES = ips("100.96.0.1", "100.96.0.2", "100.96.0.3", "100.96.0.4")
PROXIES6 = ips("fd00:2021:1111:8000::", "fd00:2021:1111:8000::1")


def test_two_addresses_are_dealt_out_in_turn_whatever_their_order() -> None:
    for resolved in (ips("10.0.0.8", "10.0.0.9"), ips("10.0.0.9", "10.0.0.8", "10.0.0.9")):
        for proxies in (PROXIES, PROXIES[::-1]):
            assert dict(deal_out(proxies, resolved)) == dict(zip(PROXIES, ips("10.0.0.8", "10.0.0.9") * 2, strict=True))


def test_of_more_addresses_than_proxies_the_surplus_is_unused() -> None:
    assert [real for _, real in deal_out(PROXIES, ips(*(f"10.0.0.{n}" for n in range(9, 3, -1))))] == list(
        ips("10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7")
    )


@pytest.mark.parametrize("resolved", [ips("10.0.0.9"), ips("fd12::9"), ()])
def test_every_proxy_gets_an_entry_and_none_an_address_of_the_other_family(resolved: tuple[Address, ...]) -> None:
    dealt = dict(deal_out(PROXIES + PROXIES6, resolved))
    assert set(dealt) == set(PROXIES + PROXIES6)
    for proxy, real in dealt.items():
        alike = [ip for ip in resolved if ip.version == proxy.version]
        assert real == (alike[0] if alike else None)


def test_no_name_leads_to_other_clients_or_to_ourselves() -> None:
    closed = ips("100.64.0.9", "100.96.0.9", "fd00:2021:1111::9", "224.0.0.251", "127.0.0.1", "0.0.0.0", "ff02::1", "::", "::1")
    assert not any(may_be_real(ip) for ip in closed)
    assert {real for _, real in deal_out(PROXIES + PROXIES6, closed)} == {None}
    assert all(may_be_real(ip) for ip in ips("10.0.0.1", "169.254.1.1", "1.1.1.1", "fe80::1", "fd12::1"))


def test_a_second_resource_of_the_same_name_shares_its_proxies() -> None:
    names = Names()
    assert not names.assign(A, "x.test", PROXIES, ()).is_known
    assert names.assign(A, "x.test", PROXIES[:2], ()).is_known
    other = names.assign(B, "x.test", PROXIES, ())
    assert other.forgotten == ()
    assert not other.is_known
    name = names.get("x.test")
    assert name is not None
    assert list(name.resources) == [A, B]


def test_a_proxy_that_comes_under_another_name_leaves_all_others_where_they_are() -> None:
    """A client that was started anew announces names one by one, under proxies that old ones have: none may cost the others."""
    names = Names()
    names.assign(A, "x.test", PROXIES[:2], ())
    names.assign(A, "y.test", PROXIES[2:], ())
    assert names.assign(A, "z.test", PROXIES[1:2], ()).forgotten == tuple(PROXIES[1:2])
    assert {name.domain: tuple(name.proxies) for name in names} == {
        "x.test": PROXIES[:1], "y.test": PROXIES[2:], "z.test": PROXIES[1:2]
    }  # fmt: skip
    assert names.assign(A, "z.test", PROXIES[:1], ()).forgotten == tuple(PROXIES[:1])
    assert [name.domain for name in names] == ["y.test", "z.test"], "a name without proxies is none"
    assert names.of(PROXIES[0]) is names.get("z.test")


def test_the_name_announced_longest_ago_makes_place() -> None:
    names = Names()
    for domain, proxy in (("x", 0), ("y", 1), ("x", 0)):
        names.assign(A, domain, PROXIES[proxy : proxy + 1], (), most=2)
    assignment = names.assign(A, "z", PROXIES[2:3], (), most=2)
    assert assignment.forgotten == (PROXIES[1],)
    assert [name.domain for name in names] == ["x", "z"]
    assert names.assign(A, "w", PROXIES[1:2], (), most=3).forgotten == ()


@pytest.mark.parametrize(
    "texts",
    [
        ["8.8.8.8"], ["100.96.0.1", "100.95.0.1"], ["fd00:2021:1111::1"], ["x"], ["100.96.0.1/32"], [],
        [f"100.96.0.{n}" for n in range(9)],
    ],
)  # fmt: skip
def test_addresses_outside_the_ranges_and_too_many_are_refused(texts: list[str]) -> None:
    assert read_proxies(texts) is None
