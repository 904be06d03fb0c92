"""Client and gateway on a host whose network changes under them, with a flow of 50 packets a second through the tunnel.

The gaps are bounded with room for a busy machine; alone, a change of address costs 0.6 s. Most of every scenario is waiting, and
each has networks of its own, so those that are wanted run side by side from the moment the first is.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import lab

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

AFTER_S = 3.0
"""Longest time until packets flow again after the network is there."""
AT_ONCE = 3
"""Labs at a time: their flows leave the processors idle, and their programs start one after the other."""

Found = dict[str, Any]


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, ...], Future[Found]]]:
    """The scenarios of all tests of this file that are to run."""
    here = [item for item in request.session.items if item.path == request.path]
    wanted = [mark.args for item in here if (mark := item.get_closest_marker("scenario")) is not None]
    # The longest first, so that nobody waits for one that has begun last.
    wanted.sort(key=lambda words: -max((float(word) for word in words[1:]), default=10.0))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {words: pool.submit(lab.run, *words, timeout=180) for words in wanted}


@pytest.fixture
def found(request: pytest.FixtureRequest, running: dict[tuple[str, ...], Future[Found]]) -> Found:
    """What the scenario of a test has found."""
    mark = request.node.get_closest_marker("scenario")
    return running[mark.args].result()


def check(found: Found, *, resets: int, gap_s: float) -> None:
    assert found["is_running"], found
    assert found["resets"] == resets, found
    assert found["gap_s"] <= gap_s, found
    assert not found["complaints"], found


@pytest.mark.scenario("new_address")
def test_a_new_address_is_noticed_and_costs_little(found: Found) -> None:
    check(found, resets=1, gap_s=AFTER_S)


@pytest.mark.scenario("link_down", "60")
def test_a_link_that_was_away_for_a_minute_is_begun_anew(found: Found) -> None:
    check(found, resets=1, gap_s=60 + AFTER_S)
    assert found["gap_s"] >= 59.5  # It was away.


@pytest.mark.scenario("carrier_lost", "1.5")
def test_a_short_loss_of_the_carrier_keeps_everything(found: Found) -> None:
    check(found, resets=0, gap_s=1.5 + AFTER_S)


@pytest.mark.scenario("carrier_lost", "20")
def test_a_long_loss_of_the_carrier_is_over_soon_after_its_end(found: Found) -> None:
    check(found, resets=1, gap_s=20 + AFTER_S)
    assert found["gap_s"] >= 19.5


@pytest.mark.scenario("to_open_network")
def test_from_behind_a_nat_into_an_open_network(found: Found) -> None:
    check(found, resets=1, gap_s=AFTER_S)
    assert found["path"].endswith("(client host, gateway host)")  # No NAT is between them any more.


@pytest.mark.scenario("unrelated_changes")
def test_changes_that_do_not_concern_us_change_nothing(found: Found) -> None:
    check(found, resets=0, gap_s=0.5)


@pytest.mark.scenario("reset_without_portal")
def test_a_reset_without_the_portal_says_so_and_ends_by_itself_when_it_returns(found: Found) -> None:
    assert found["is_running"]
    assert not found["is_reached_without"]
    assert (found["says_so"], found["says_back"]) == (1, 1)
    assert found["back_after_s"] <= 25


@pytest.mark.scenario("link_down", "3")
def test_a_short_loss_of_the_link_keeps_everything(found: Found) -> None:
    check(found, resets=0, gap_s=3 + AFTER_S)
    assert found["gap_s"] >= 2.5


@pytest.mark.scenario("sleep_an_hour")
def test_a_wake_after_a_long_suspend_is_noticed_by_the_clocks(found: Found) -> None:
    check(found, resets=1, gap_s=2 + AFTER_S)
    assert found["woke_up"] == 1


@pytest.mark.scenario("gateway_restarted")
def test_a_gateway_that_is_restarted_is_found_again_without_a_reset(found: Found) -> None:
    check(found, resets=0, gap_s=8)
    assert found["gap_s"] >= 1


@pytest.mark.scenario("gateway_renumbered")
def test_a_gateway_with_a_new_address_keeps_its_connections_and_tells_its_clients(found: Found) -> None:
    check(found, resets=0, gap_s=AFTER_S)
    assert found["gateway_resets"] == 0
    assert found["logins"] == 1
