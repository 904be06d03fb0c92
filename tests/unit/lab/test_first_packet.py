"""What the measure of first packets makes of its times."""

from __future__ import annotations

import json

import pytest

from firezone.lab.first_packet import LIMIT_MS, FirstPackets


def found(started: list[float], running: list[float], errors: list[str] | None = None) -> FirstPackets:
    return FirstPackets(True, "/logs", {"started": started, "running": running}, {"relayed": 2}, errors or [])


def test_the_summary_is_of_each_kind_of_round() -> None:
    report = json.loads(found([float(value) for value in range(1, 22)], [7.0]).to_json())
    assert report["started"] == {"p50": 11.0, "p95": 20.0, "max": 21.0}
    assert report["running"] == {"p50": 7.0, "p95": 7.0, "max": 7.0}
    assert report["ok"]
    assert report["paths"] == {"relayed": 2}


@pytest.mark.parametrize(
    ("started", "running", "errors"),
    [([LIMIT_MS + 1], [1.0], []), ([1.0], [LIMIT_MS + 1], []), ([1.0], [], []), ([1.0], [1.0], ["the page did not come"])],
    ids=["slow when started", "slow when running", "not measured", "an error"],
)
def test_what_is_slow_or_was_not_measured_is_not_ok(started: list[float], running: list[float], errors: list[str]) -> None:
    assert not found(started, running, errors).ok
