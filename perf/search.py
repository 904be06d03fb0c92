"""The search for the highest rate that something takes without loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LOSS_FREE = 0.001
"""Less than this share lost counts as nothing lost: one wake-up that came late on a shared machine is no limit of a program."""
TRIALS, STEP, GAP = 7, 1.2, 1.05


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of offering a rate for a while."""

    offered: float
    """Per second. Less than was asked for when the generator gives no more."""
    sent: int
    received: int

    @property
    def is_loss_free(self) -> bool:
        return self.received >= self.sent * (1 - LOSS_FREE)


def highest_without_loss(attempt: Callable[[float], Trial], guess: float, *, trials: int = TRIALS, chances: int = 1) -> float:
    """Returns the highest rate offered of which nothing was lost, to 5 %: up or down from a guess, then by halves. 0 if none was.

    A rate has so many `chances`: where other programs share the machine one loss says little.
    """
    low, high, rate = 0.0, 0.0, guess
    for _ in range(trials):
        trial = _best(attempt, rate, chances)
        if trial.is_loss_free:
            low = max(low, trial.offered)
            if trial.offered < rate * 0.95:
                break  # the generator gives no more
        else:
            high = min(high or rate, rate)
        if high and low and high / low < GAP:
            break
        rate = (low + high) / 2 if low and high else rate * STEP if low else rate * 0.7
    return low


def _best(attempt: Callable[[float], Trial], rate: float, chances: int) -> Trial:
    """Tries a rate until it has gone without loss, or has had its chances."""
    trial = attempt(rate)
    while chances > 1 and not trial.is_loss_free:
        trial, chances = attempt(rate), chances - 1
    return trial
