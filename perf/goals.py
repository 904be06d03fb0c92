"""What is to be reached, each as a ratio within one run or as a figure of this tunnel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from perf.figures import BY_KEY
from perf.results import middle, spread
from perf.tunnels import COTURN, DEBIANS, NEWEST, OURS, RELAYED

if TYPE_CHECKING:
    from perf.results import Result, Run


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on a figure, or on how many times another contender's it is."""

    figure: str
    bound: float
    is_least: bool
    """Whether the bound is the least that will do; else it is the most."""
    other: str = ""
    """The contender whose multiple is meant; LIMITS for the best ceiling given; empty for the figure itself."""
    contender: str = OURS

    @property
    def title(self) -> str:
        title = BY_KEY[self.figure].title
        return title if self.contender == OURS else f"{title} ({self.contender})"

    @property
    def wanted(self) -> str:
        sign = "≥" if self.is_least else "≤"
        return f"{sign} {self.bound:g} × {self.other}" if self.other else f"{sign} {self.bound:g} {BY_KEY[self.figure].unit}"


@dataclass(frozen=True, slots=True)
class Score:
    """A goal, and how far it was reached."""

    goal: Goal
    value: float
    spread: float

    @property
    def is_reached(self) -> bool:
        return self.value >= self.goal.bound if self.goal.is_least else self.value <= self.goal.bound


LIMITS = "the best limit given"
LEAST, MOST = True, False
GOALS = (
    *(Goal(way, 2, LEAST, NEWEST) for way in ("up_gbps", "down_gbps")),
    *(Goal(way, 6, LEAST, DEBIANS) for way in ("up_gbps", "down_gbps")),
    *(Goal(way, 0.85, LEAST, LIMITS) for way in ("up_gbps", "down_gbps")),
    Goal("cpu_s_per_gb", 0.5, MOST, NEWEST),
    Goal("rtt_p50_ms", 1, MOST, NEWEST),
    Goal("rtt_p99_ms", 1, MOST, NEWEST),
    Goal("loaded_up_p99_ms", 1, MOST, NEWEST),
    Goal("loaded_down_p99_ms", 1, MOST, NEWEST),
    *(Goal(way, 1.5, LEAST, NEWEST) for way in ("small_up_per_cpu", "small_down_per_cpu", "udp_up_kpps", "udp_down_kpps")),
    *(Goal(way, 4, LEAST, COTURN, RELAYED) for way in ("relay_up_per_cpu", "relay_down_per_cpu")),
    *(Goal(way, 0.6, LEAST, OURS, RELAYED) for way in ("up_gbps", "down_gbps")),
    Goal("resent_percent", 0.1, MOST, contender=RELAYED),
    Goal("first_packet_ms", 15, MOST),
    Goal("client_mib", 120, MOST),
)


def judge(run: Run, limits: list[Result]) -> list[Score]:
    """Returns the goals that this run can tell about, each as the median over its rounds."""
    scores = []
    for goal in GOALS:
        values = _values(goal, run, limits)
        value = middle(values)
        if value is not None:
            scores.append(Score(goal, value, spread(values)))
    return scores


def _values(goal: Goal, run: Run, limits: list[Result]) -> list[float]:
    """Returns the goal's figure, or multiple, of every round."""
    mine = run.of(goal.contender)
    if mine is None:
        return []
    if not goal.other:
        return mine.values(goal.figure)
    if goal.other == LIMITS:
        ceilings = [limit.median(goal.figure) for limit in limits]
        best = max((ceiling for ceiling in ceilings if ceiling), default=None)
        return [value / best for value in mine.values(goal.figure)] if best else []
    other = run.of(goal.other)
    return mine.ratios(other, goal.figure) if other is not None else []
