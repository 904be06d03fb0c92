"""What a change of the host's networks means, on a virtual clock: table of apps 11."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firezone.base.network_view import NetworkView, WayOut
from firezone.base.timing import SECOND
from firezone.proto.roaming import LONGEST_ABSENCE, LONGEST_NAP, Roaming, Verdict

WIFI = WayOut(2, "192.168.1.1", "192.168.1.7")
WIFI6 = WayOut(2, None, "2001:db8:1::/64")
HOME = NetworkView(("192.168.1.7", "2001:db8:1::7"), WIFI, WIFI6)
MOBILE = NetworkView(("10.7.7.7",), WayOut(3, None, "10.7.7.7"), None)
NOWHERE = NetworkView()
ISLAND = NetworkView(("10.0.0.5",))
START = 100 * SECOND


def at(view: NetworkView) -> Roaming:
    roaming = Roaming()
    assert roaming.handle_view(view, START) is Verdict.OTHER_ADDRESSES
    return roaming


@pytest.mark.parametrize(
    ("former", "now", "expected"),
    [
        (HOME, HOME, Verdict.SAME),
        (HOME, replace(HOME, addresses=(*HOME.addresses, "172.17.0.1")), Verdict.OTHER_ADDRESSES),  # a bridge of containers
        (HOME, replace(HOME, addresses=("192.168.1.7", "2001:db8:1::99")), Verdict.OTHER_ADDRESSES),  # a privacy address renewed
        (HOME, MOBILE, Verdict.MOVED),
        (HOME, replace(HOME, ipv4=replace(WIFI, source="192.168.1.8")), Verdict.MOVED),  # DHCP gave another address
        (HOME, replace(HOME, ipv4=replace(WIFI, gateway="192.168.1.254")), Verdict.MOVED),
        (HOME, replace(HOME, ipv4=replace(WIFI, device=5)), Verdict.MOVED),
        (HOME, replace(HOME, ipv6=None), Verdict.MOVED),  # paths over IPv6 are dead
        (replace(HOME, ipv6=None), HOME, Verdict.SAME),  # a family gained harms nothing
        (HOME, replace(HOME, ipv6=replace(WIFI6, source="2001:db8:2::/64")), Verdict.MOVED),
        (HOME, NOWHERE, Verdict.AWAY),
        (NOWHERE, HOME, Verdict.OTHER_ADDRESSES),  # started before there was a network
        (ISLAND, ISLAND, Verdict.SAME),
        (ISLAND, NetworkView(("10.0.0.5", "10.0.0.6")), Verdict.OTHER_ADDRESSES),
        (ISLAND, NetworkView(("10.9.9.9",)), Verdict.MOVED),
        (HOME, ISLAND, Verdict.MOVED),  # a closed network in place of an open one
        (HOME, NetworkView(("192.168.1.7",)), Verdict.AWAY),  # the default route is gone, the local network is not
    ],
)
def test_view_after_another_is_judged(former: NetworkView, now: NetworkView, expected: Verdict) -> None:
    assert at(former).handle_view(now, START + SECOND) is expected


def test_a_short_absence_ends_where_it_began() -> None:
    roaming = at(HOME)
    assert roaming.handle_view(NOWHERE, START) is Verdict.AWAY
    assert roaming.is_away
    assert roaming.handle_view(NOWHERE, START + SECOND) is Verdict.SAME
    assert roaming.handle_view(HOME, START + LONGEST_ABSENCE) is Verdict.BACK
    assert not roaming.is_away


def test_a_long_absence_counts_as_another_network() -> None:
    roaming = at(HOME)
    roaming.handle_view(NOWHERE, START)
    assert roaming.handle_view(HOME, START + LONGEST_ABSENCE + 1) is Verdict.MOVED
    assert roaming.handle_view(HOME, START + LONGEST_ABSENCE + 2) is Verdict.SAME


def test_another_network_after_a_short_absence_is_another_network() -> None:
    roaming = at(HOME)
    roaming.handle_view(NOWHERE, START)
    assert roaming.handle_view(MOBILE, START + SECOND) is Verdict.MOVED


def test_steps_that_each_keep_an_address_still_are_a_move() -> None:
    """An address added, then the one in use removed: each view overlaps with the one before."""
    roaming = at(HOME)
    both = replace(HOME, addresses=("192.168.1.7", "192.168.1.8", "2001:db8:1::7"))
    assert roaming.handle_view(both, START) is Verdict.OTHER_ADDRESSES
    moved = replace(HOME, addresses=("192.168.1.8", "2001:db8:1::7"), ipv4=replace(WIFI, source="192.168.1.8"))
    assert roaming.handle_view(moved, START) is Verdict.MOVED


@pytest.mark.parametrize(("slept", "is_noticed", "expected"), [
    (0, False, Verdict.SAME),
    (SECOND // 2, False, Verdict.SAME),
    (3 * SECOND, True, Verdict.SAME),
    (LONGEST_NAP + SECOND, True, Verdict.MOVED),
])  # fmt: skip
def test_a_long_suspend_counts_as_another_network(slept: int, is_noticed: bool, expected: Verdict) -> None:
    roaming = at(HOME)
    assert not roaming.handle_clocks(START, 7)
    assert roaming.handle_clocks(START + SECOND + slept, 7 + SECOND) is is_noticed
    assert roaming.handle_view(HOME, START + SECOND + slept) is expected
    assert roaming.handle_view(HOME, START + SECOND + slept) is Verdict.SAME


def test_a_wake_without_a_network_waits_for_one() -> None:
    roaming = at(HOME)
    roaming.handle_clocks(START, 0)
    assert roaming.handle_clocks(START + LONGEST_NAP + SECOND, 0)
    assert roaming.handle_view(NOWHERE, START) is Verdict.AWAY
    assert roaming.handle_view(HOME, START + SECOND) is Verdict.MOVED
