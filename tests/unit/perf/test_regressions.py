"""What counts as worse than an earlier run, and what as reached."""

from __future__ import annotations

import random

import pytest

from perf.goals import GOALS, LIMITS, judge
from perf.regressions import Change, compare
from perf.results import Result, Run
from perf.tunnels import COTURN, DEBIANS, NEWEST, OURS, RELAYED


def run_of(**results: list[dict[str, float]]) -> Run:
    names = {"ours": OURS, "newest": NEWEST, "debians": DEBIANS, "relayed": RELAYED, "coturn": COTURN}
    return Run([Result(names[key], "1", rounds) for key, rounds in results.items()], 3, 1.0)


def figure(key: str, *values: float) -> list[dict[str, float]]:
    return [{key: value} for value in values]


def only(before: Run, now: Run, references: tuple[str, ...] = ()) -> Change:
    changes = compare(before, now, [OURS], list(references), [])
    assert len(changes) == 1
    return changes[0]


def test_less_throughput_and_more_delay_are_worse() -> None:
    slower = only(run_of(ours=figure("up_gbps", 4, 4, 4)), run_of(ours=figure("up_gbps", 3, 3, 3)))
    assert slower.is_regression
    assert slower.worse_by == pytest.approx(0.25)
    later = only(run_of(ours=figure("rtt_p50_ms", 1, 1, 1)), run_of(ours=figure("rtt_p50_ms", 2, 2, 2)))
    assert later.is_regression
    assert later.worse_by == pytest.approx(1.0)


def test_more_throughput_and_less_delay_are_better() -> None:
    for key, then, today in (("up_gbps", 3, 4), ("rtt_p50_ms", 2, 1)):
        change = only(run_of(ours=figure(key, then)), run_of(ours=figure(key, today)))
        assert change.is_improvement
        assert not change.is_regression


def test_what_both_runs_scatter_is_allowed() -> None:
    before = run_of(ours=figure("up_gbps", 3.5, 4, 4.5))
    assert not only(before, run_of(ours=figure("up_gbps", 2.9, 3.0, 3.9))).is_regression
    before = run_of(ours=figure("up_gbps", 3.9, 4, 4.1))
    assert only(before, run_of(ours=figure("up_gbps", 2.9, 3.0, 3.1))).is_regression


def test_runs_that_differ_by_chance_alone_are_hardly_ever_called_worse() -> None:
    chance = random.Random(5)
    wrong = 0
    for _ in range(2000):
        before, now = (figure("up_gbps", *(chance.gauss(10, 1) for _ in range(3))) for _ in range(2))
        wrong += only(run_of(ours=before), run_of(ours=now)).is_regression
    assert wrong < 20


def test_few_rounds_without_scatter_are_not_trusted_beyond_a_tenth() -> None:
    assert not only(run_of(ours=figure("up_gbps", 4)), run_of(ours=figure("up_gbps", 3.7))).is_regression
    assert only(run_of(ours=figure("up_gbps", 4)), run_of(ours=figure("up_gbps", 3.5))).is_regression


def test_slower_machine_is_no_regression_where_a_reference_tells() -> None:
    before = run_of(ours=figure("up_gbps", 4, 4), newest=figure("up_gbps", 2, 2))
    today = run_of(ours=figure("up_gbps", 2, 2), newest=figure("up_gbps", 1, 1))
    change = only(before, today, (NEWEST,))
    assert change.against == NEWEST
    assert (change.before, change.now) == (2.0, 2.0)
    assert not change.is_regression


def test_relay_is_measured_by_the_other_relay_alone() -> None:
    before = run_of(relayed=figure("relay_up_per_cpu", 600, 600), coturn=figure("relay_up_per_cpu", 200, 200))
    today = run_of(relayed=figure("relay_up_per_cpu", 300, 300), coturn=figure("relay_up_per_cpu", 100, 100))
    [change] = compare(before, today, [RELAYED], [NEWEST], [COTURN])
    assert (change.against, change.now, change.is_regression) == (COTURN, 3.0, False)
    before, today = (run_of(relayed=one.results[0].rounds, coturn=figure("up_gbps", 1, 1)) for one in (before, today))
    [change] = compare(before, today, [RELAYED], [NEWEST], [COTURN])
    assert change.is_regression


def test_reference_of_another_version_is_none() -> None:
    before = run_of(ours=figure("up_gbps", 4), newest=figure("up_gbps", 2))
    today = run_of(ours=figure("up_gbps", 2), newest=figure("up_gbps", 1))
    today.results[1].version = "2"
    assert only(before, today, (NEWEST,)).is_regression


def test_loss_is_compared_with_nothing_lost() -> None:
    nothing = run_of(ours=figure("resent_percent", 0, 0))
    assert not only(nothing, run_of(ours=figure("resent_percent", 0.005, 0.005))).is_regression
    assert only(nothing, run_of(ours=figure("resent_percent", 0.5, 0.5))).is_regression


def test_contender_or_figure_of_one_run_only_is_left_out() -> None:
    before = run_of(ours=figure("up_gbps", 4), relayed=figure("up_gbps", 4))
    assert compare(before, run_of(ours=figure("down_gbps", 4)), [OURS, RELAYED], [], []) == []


def test_goals_are_judged_round_by_round() -> None:
    run = run_of(ours=figure("up_gbps", 4, 6), newest=figure("up_gbps", 2, 2), debians=figure("up_gbps", 1, 1))
    scores = {score.goal.other: score for score in judge(run, [Result("prototype", rounds=[{"up_gbps": 10.0}])])}
    assert scores[NEWEST].value == 2.5
    assert scores[NEWEST].spread == 0.5
    assert scores[NEWEST].is_reached
    assert not scores[DEBIANS].is_reached
    assert scores[LIMITS].value == 0.5
    assert not scores[LIMITS].is_reached


def test_goal_without_figures_is_not_judged() -> None:
    assert judge(run_of(ours=figure("up_gbps", 4)), []) == []
    scores = judge(run_of(ours=figure("client_mib", 100), relayed=figure("resent_percent", 0.2)), [])
    assert [(score.goal.figure, score.is_reached) for score in scores] == [("resent_percent", False), ("client_mib", True)]


def test_every_goal_says_what_is_wanted() -> None:
    wanted = {goal.figure: goal.wanted for goal in GOALS if goal.other in ("", COTURN)}
    assert wanted == {
        "relay_up_per_cpu": f"≥ 4 × {COTURN}", "relay_down_per_cpu": f"≥ 4 × {COTURN}", "resent_percent": "≤ 0.1 %",
        "first_packet_ms": "≤ 15 ms", "client_mib": "≤ 120 MiB",
    }  # fmt: skip
