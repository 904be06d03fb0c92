"""What the gateway knows of one client: grants, their expiry and renewal (`gateway` 2.2, 3.3, 15.3)."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.base.ids import ClientId, ResourceId
from firezone.base.timing import SECOND
from firezone.proto.gateway.client_on_gateway import ClientOnGateway, unix_time
from firezone.wire.portal import gateway as wire
from firezone.wire.portal.shared import Filter
from tests.harness.roles import interface_of, network, uid

WEB, DNS = Filter(protocol="tcp", port_range_start=80, port_range_end=80), Filter(protocol="udp", port_range_start=53)


def client() -> ClientOnGateway:
    return ClientOnGateway(ClientId(uid(1)), *interface_of(1))


def cidr(number: int, address: str = "10.0.0.0/24", *filters: Filter) -> wire.CidrResource:
    return wire.CidrResource(id=ResourceId(uid(number)), name="r", address=network(address), filters=filters)


def name(number: int, *filters: Filter) -> wire.DnsResource:
    return wire.DnsResource(id=ResourceId(uid(number)), name="r", address="*.example.com", filters=filters)


def test_its_networks_are_its_two_addresses() -> None:
    assert client().networks == (ipaddress.ip_network("100.64.0.1/32"), ipaddress.ip_network("fd00:2021:1111::1/128"))


def test_never_is_never_and_seconds_are_seconds() -> None:
    assert unix_time(None) is None
    assert unix_time(3) == 3 * SECOND


def test_a_renewed_grant_has_the_new_expiry_earlier_or_later() -> None:
    known = client()
    for expiry in (10, 20, 5, None):
        assert known.allow(cidr(1), expiry)
        assert known.authorizations[ResourceId(uid(1))].expires_at == expiry


@pytest.mark.parametrize("other", [name(1), wire.InternetResource(id=ResourceId(uid(1)))])
def test_another_kind_under_a_known_id_is_refused_and_leaves_the_expiry(other: wire.Resource) -> None:
    known = client()
    known.allow(cidr(1), 10)
    assert not known.allow(other, 99)
    assert not known.update(other)
    assert known.authorizations[ResourceId(uid(1))].resource == cidr(1)
    assert known.authorizations[ResourceId(uid(1))].expires_at == 10


def test_an_update_of_a_network_takes_the_filters_alone() -> None:
    known = client()
    known.allow(cidr(1, "10.0.0.0/24", WEB), 10)
    assert known.update(cidr(1, "10.0.1.0/24", DNS))
    assert known.authorizations[ResourceId(uid(1))].resource == cidr(1, "10.0.0.0/24", DNS)


def test_an_update_of_a_name_takes_the_filters() -> None:
    known = client()
    known.allow(name(1, WEB), 10)
    assert known.update(name(1, DNS))
    assert known.authorizations[ResourceId(uid(1))].resource == name(1, DNS)


def test_a_name_alone_opens_no_address() -> None:
    known = client()
    known.allow(name(1), None)
    assert not any(rule.permit_all or rule.icmp or rule.tcp or rule.udp for rule in known.rules(()))


def test_the_expiry_of_what_is_not_granted_cannot_be_set() -> None:
    assert not client().set_expiry(ResourceId(uid(1)), 5)
    assert not client().update(cidr(1))


@given(st.dictionaries(st.integers(0, 9), st.none() | st.integers(0, 20)), st.integers(0, 20))
def test_exactly_what_lies_in_the_future_is_left(grants: dict[int, int | None], now: int) -> None:
    known = client()
    for number, expiry in grants.items():
        known.allow(cidr(number), expiry)
    gone = known.expire(now)
    assert gone == [uid(number) for number, expiry in grants.items() if expiry is not None and expiry <= now]
    assert set(known.authorizations).isdisjoint(gone)
    assert len(known.authorizations) + len(gone) == len(grants)


@given(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_only_what_is_listed_is_retained(granted: set[int], listed: set[int]) -> None:
    known = client()
    for number in sorted(granted):
        known.allow(cidr(number), None)
    gone = known.retain(ResourceId(uid(number)) for number in listed)
    assert gone == [uid(number) for number in sorted(granted - listed)]
    assert set(known.authorizations) == {uid(number) for number in granted & listed}
