"""Client and gateway on a host whose network changes under them, with a flow of 50 packets a second through the tunnel.

The gaps are bounded with room for a busy machine; alone, a change of address costs 0.6 s.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness import lab

pytestmark = pytest.mark.root

AFTER_S = 3.0
"""Longest time until packets flow again after the network is there."""


def check(found: dict[str, Any], *, resets: int, gap_s: float) -> None:
    assert found["is_running"], found
    assert found["resets"] == resets, found
    assert found["gap_s"] <= gap_s, found
    assert not found["complaints"], found


def test_a_new_address_is_noticed_and_costs_little() -> None:
    check(lab.run("new_address"), resets=1, gap_s=AFTER_S)


def test_a_link_that_was_away_for_long_is_begun_anew() -> None:
    found = lab.run("link_down", "12")
    check(found, resets=1, gap_s=12 + AFTER_S)
    assert found["gap_s"] >= 11.5  # It was away.


def test_a_short_loss_of_the_carrier_keeps_everything() -> None:
    check(lab.run("carrier_lost", "1.5"), resets=0, gap_s=1.5 + AFTER_S)


def test_a_long_loss_of_the_carrier_is_over_soon_after_its_end() -> None:
    check(lab.run("carrier_lost", "20"), resets=1, gap_s=20 + AFTER_S)


def test_from_behind_a_nat_into_an_open_network() -> None:
    check(lab.run("to_open_network"), resets=1, gap_s=AFTER_S)


def test_changes_that_do_not_concern_us_change_nothing() -> None:
    check(lab.run("unrelated_changes"), resets=0, gap_s=0.5)


def test_a_reset_without_the_portal_says_so_and_ends_by_itself_when_it_returns() -> None:
    found = lab.run("reset_without_portal")
    assert found["is_running"]
    assert not found["is_reached_without"]
    assert (found["says_so"], found["says_back"]) == (1, 1)
    assert found["back_after_s"] <= 25


def test_a_short_loss_of_the_link_keeps_everything() -> None:
    check(lab.run("link_down", "3"), resets=0, gap_s=3 + AFTER_S)


def test_a_wake_after_a_long_suspend_is_noticed_by_the_clocks() -> None:
    found = lab.run("sleep_an_hour")
    check(found, resets=1, gap_s=2 + AFTER_S)
    assert found["woke_up"] == 1


def test_a_gateway_that_is_restarted_is_found_again_without_a_reset() -> None:
    check(lab.run("gateway_restarted"), resets=0, gap_s=25)


def test_a_gateway_with_a_new_address_keeps_its_connections_and_tells_its_clients() -> None:
    found = lab.run("gateway_renumbered")
    check(found, resets=0, gap_s=AFTER_S)
    assert found["gateway_resets"] == 0
    assert found["logins"] == 1
