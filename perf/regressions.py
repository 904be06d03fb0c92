"""What has become worse since an earlier run, beyond what both runs scatter by themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perf.figures import FIGURES, Figure
from perf.results import error, middle

if TYPE_CHECKING:
    from perf.results import Result, Run

FLOOR = 0.1
"""Share that a figure may be worse by in any case: two or three rounds show less scatter than there is."""
ERRORS = 4.0
"""Standard errors of the difference that it may be worse by: of a hundred figures that have not changed, three rounds call one at
most worse."""
PERCENT, LEAST = "%", 0.1
"""Shares are compared as they are, and those below the least as if they were that: nothing is a multiple of no loss."""


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one contender, then and now."""

    contender: str
    figure: Figure
    before: float
    now: float
    allowance: float
    """Share that it may be worse by."""
    against: str = ""
    """The contender whose multiple both figures are; empty when they are absolute."""

    @property
    def worse_by(self) -> float:
        """The share of the earlier figure that it is worse by; negative when it is better."""
        share = (self.now - self.before) / max(self.before, LEAST if self.figure.unit == PERCENT else 0)
        return -share if self.figure.is_higher_better else share

    @property
    def is_regression(self) -> bool:
        return self.worse_by > self.allowance

    @property
    def is_improvement(self) -> bool:
        return -self.worse_by > self.allowance


def compare(before: Run, now: Run, contenders: list[str], references: list[str], relays: list[str]) -> list[Change]:
    """Returns every figure of these contenders that both runs have.

    Where both runs have one of the references with the same version and that figure, multiples of the first such are compared:
    a machine that is slower today slows it as well. `relays` are the references of what a relay alone does. Other figures are
    compared as they are.
    """
    changes = []
    for name in contenders:
        old, new = before.of(name), now.of(name)
        if old is None or new is None:
            continue
        for figure in FIGURES:
            others = relays if "relay" in figure.key else references
            change = _compare_one(figure, (old, before), (new, now), [one for one in others if one != name])
            if change is not None:
                changes.append(change)
    return changes


def _compare_one(figure: Figure, old: tuple[Result, Run], new: tuple[Result, Run], references: list[str]) -> Change | None:
    then, today, against = old[0].values(figure.key), new[0].values(figure.key), ""
    for name in references if figure.unit != PERCENT else []:
        first, second = old[1].of(name), new[1].of(name)
        if first is None or second is None or first.version != second.version:
            continue
        ratios = old[0].ratios(first, figure.key), new[0].ratios(second, figure.key)
        if all(ratios):
            (then, today), against = ratios, name
            break
    median_then, median_today = middle(then), middle(today)
    least = LEAST if figure.unit == PERCENT else 0
    if median_then is None or median_today is None or max(median_then, least) <= 0:
        return None
    allowance = max(FLOOR, ERRORS * math.hypot(error(then), error(today)) / max(median_then, least))
    return Change(new[0].name, figure, median_then, median_today, allowance, against)
