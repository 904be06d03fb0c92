"""Which resource owns a network, what its status is and how the list looks: `client` 3 and 17.1."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.base.ids import ResourceId, SiteId
from firezone.base.timing import SECOND
from firezone.proto.client.resources import ResourceBook, Status
from firezone.wire.portal import client as wire
from firezone.wire.portal.shared import Filter, Site
from tests.harness.roles import SITE, cidr, network, uid

OTHER_SITE = Site(id=SiteId(uid(0x52)), name="Paris")
WEB = Filter(protocol="tcp", port_range_start=80, port_range_end=80)


def dns(number: int, name: str = "", address: str = "*.example.com") -> wire.DnsResource:
    return wire.DnsResource(id=ResourceId(uid(number)), name=name or address, address=address, sites=(SITE,))


def book(*resources: wire.Resource, connected: tuple[int, ...] = ()) -> ResourceBook:
    made = ResourceBook({resource.id: resource for resource in resources})
    recompute(made, *connected)
    return made


def recompute(known: ResourceBook, *connected: int) -> None:
    ids = {uid(number) for number in connected}
    known.recompute(lambda resource: resource in ids)


def owner(known: ResourceBook, text: str) -> str:
    return known.active[network(text)].id


def add(known: ResourceBook, resource: wire.Resource) -> None:
    known.resources[resource.id] = resource


# who owns a network


def test_different_prefixes_coexist() -> None:
    known = book(cidr(1, "10.0.0.0/8"), cidr(2, "10.0.0.0/24"), cidr(3, "fd00:1::/64"))
    assert set(known.active) == {network("10.0.0.0/8"), network("10.0.0.0/24"), network("fd00:1::/64")}


def test_of_equal_prefixes_the_larger_id_is_active_whatever_came_first() -> None:
    for order in ((1, 2), (2, 1)):
        assert owner(book(*(cidr(number, "10.0.0.0/24") for number in order)), "10.0.0.0/24") == uid(2)


def test_a_connected_resource_keeps_its_prefix_until_its_gateway_is_gone() -> None:
    known = book(cidr(1, "10.0.0.0/24"), connected=(1,))
    add(known, cidr(2, "10.0.0.0/24"))
    recompute(known, 1)
    assert owner(known, "10.0.0.0/24") == uid(1)
    recompute(known)
    assert owner(known, "10.0.0.0/24") == uid(2)


def test_a_late_answer_for_another_resource_moves_no_traffic_that_flows() -> None:
    known = book(cidr(1, "10.0.0.0/24"), cidr(2, "10.0.0.0/24"), connected=(2,))
    recompute(known, 1, 2)
    assert owner(known, "10.0.0.0/24") == uid(2)


def test_a_disabled_resource_gives_way() -> None:
    known = book(cidr(1, "10.0.0.0/24"), cidr(2, "10.0.0.0/24"))
    known.disabled = {ResourceId(uid(2))}
    recompute(known)
    assert owner(known, "10.0.0.0/24") == uid(1)
    known.disabled = {ResourceId(uid(1)), ResourceId(uid(2))}
    recompute(known)
    assert known.active == {}


def test_names_own_no_network() -> None:
    assert book(dns(1)).active == {}


@given(
    st.dictionaries(st.integers(1, 5), st.sampled_from(["10.0.0.0/24", "10.0.1.0/24"]), min_size=1),
    st.lists(st.sets(st.integers(1, 5)), max_size=6),
)
def test_an_active_and_connected_resource_never_loses_its_prefix(resources: dict[int, str], connections: list[set[int]]) -> None:
    known = book(*(cidr(number, address) for number, address in resources.items()))
    for connected in connections:
        before = dict(known.active)
        recompute(known, *connected)
        for prefix, resource in before.items():
            if resource.id in {uid(number) for number in connected}:
                assert known.active[prefix].id == resource.id
        for prefix, resource in known.active.items():
            rivals = {uid(number) for number, address in resources.items() if network(address) == prefix}
            live = rivals & {uid(number) for number in connected}
            assert resource.id in live if live else resource.id == max(rivals)


# what must restart


@pytest.mark.parametrize(
    ("changed", "restarts"),
    [
        (cidr(1, "10.0.0.0/24", name="other name"), False),
        (msgspec.structs.replace(cidr(1, "10.0.0.0/24"), address_description="x"), False),
        (cidr(1, "10.0.0.0/24", sites=(Site(id=SITE.id, name="new name"),)), False),
        (cidr(1, "10.0.1.0/24"), True),
        (cidr(1, "10.0.0.0/24", WEB), True),
        (cidr(1, "10.0.0.0/24", sites=(OTHER_SITE,)), True),
        (cidr(1, "10.0.0.0/24", sites=(SITE, OTHER_SITE)), True),
        (dns(1), True),
        (wire.InternetResource(id=ResourceId(uid(1)), sites=(SITE,)), True),
        (cidr(2, "10.0.1.0/24"), False),
    ],
    ids=["name", "description", "site's name", "address", "filters", "site", "more sites", "name for network", "internet", "new"],
)  # fmt: skip
def test_only_what_traffic_depends_on_restarts_a_resource(changed: wire.Resource, restarts: bool) -> None:
    assert book(cidr(1, "10.0.0.0/24")).must_restart(changed) is restarts


def test_a_name_restarts_by_address_and_ip_stack() -> None:
    known = book(dns(1))
    assert not known.must_restart(dns(1, "other"))
    assert known.must_restart(dns(1, address="*.example.org"))
    only_v4 = wire.DnsResource(id=ResourceId(uid(1)), name="n", address="*.example.com", sites=(SITE,), ip_stack="ipv4_only")
    assert known.must_restart(only_v4)


# status and display


def test_a_resource_of_two_sites() -> None:
    resource = cidr(1, "10.0.0.0/24", sites=(SITE, OTHER_SITE))
    known = book(resource)
    assert known.status(resource) is Status.UNKNOWN
    known.set_offline([SITE.id], 0)
    assert known.status(resource) is Status.UNKNOWN
    known.set_offline([OTHER_SITE.id], 0)
    assert known.status(resource) is Status.OFFLINE
    known.set_site_status([SITE.id], Status.ONLINE)
    assert known.status(resource) is Status.ONLINE


def test_a_resource_without_sites_is_unknown() -> None:
    assert book().status(cidr(1, "10.0.0.0/24", sites=())) is Status.UNKNOWN


def test_offline_is_forgiven_after_five_minutes_unless_something_else_was_learnt() -> None:
    known = book()
    known.set_offline([SITE.id, OTHER_SITE.id], 0)
    known.set_site_status([OTHER_SITE.id], Status.ONLINE)
    assert known.offline_until == {SITE.id: 300 * SECOND}
    assert not known.forgive_offline(300 * SECOND - 1)
    assert known.forgive_offline(300 * SECOND)
    assert known.site_status == {SITE.id: Status.UNKNOWN, OTHER_SITE.id: Status.ONLINE}
    assert known.offline_until == {}


def test_the_list_is_sorted_for_display() -> None:
    internet = wire.InternetResource(id=ResourceId(uid(9)), sites=(SITE,))
    names = ["🙂", "ifconfig", "Metabase", "Metabase", "Example", "Cloud", "9", "10", "*.x"]
    known = book(*(cidr(number, f"10.0.{number}.0/24", name=name) for number, name in enumerate(names, 10)), internet)
    views = known.views()
    assert [view.name for view in views] == ["Internet Resource", *reversed(names)]
    metabases = [view.id for view in views if view.name == "Metabase"]
    assert metabases == sorted(metabases)


def test_a_view_says_what_a_user_wants_to_know() -> None:
    named = cidr(1, "10.0.0.0/24", name="db", sites=(SITE, OTHER_SITE))
    resource = msgspec.structs.replace(named, address_description="the database")
    known = book(resource)
    known.disabled = {ResourceId(uid(1))}
    (view,) = known.views()
    assert (view.name, view.address, view.sites, view.status, view.is_enabled, view.description) == (
        "db", "10.0.0.0/24", ("Berlin", "Paris"), Status.UNKNOWN, False, "the database",
    )  # fmt: skip
