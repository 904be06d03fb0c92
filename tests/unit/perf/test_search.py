"""The search for the highest rate without loss, against links of known capacity."""

from __future__ import annotations

import pytest

from perf.search import GAP, TRIALS, Trial, highest_without_loss


class Link:
    """Loses what is beyond its capacity; the generator before it gives `most` per second."""

    def __init__(self, capacity: float, most: float = 1e9) -> None:
        self.capacity, self.most, self.tried = capacity, most, list[float]()
        self.losing_anyway = 0
        """Attempts that lose something whatever their rate."""

    def attempt(self, rate: float) -> Trial:
        self.tried.append(rate)
        offered = min(rate, self.most)
        sent, share = round(offered), min(1.0, self.capacity / offered)
        if self.losing_anyway:
            self.losing_anyway -= 1
            share *= 0.9
        return Trial(offered, sent, round(sent * share))


@pytest.mark.parametrize("guess", [50_000, 90_000, 100_000, 110_000, 180_000])
def test_finds_the_capacity_from_either_side(guess: float) -> None:
    link = Link(100_000)
    found = highest_without_loss(link.attempt, guess)
    assert 100_000 / (GAP * 1.01) <= found <= 100_100
    assert len(link.tried) <= TRIALS


def test_ends_where_the_generator_gives_no_more() -> None:
    link = Link(1e6, most=150_000)
    assert highest_without_loss(link.attempt, 140_000) == 150_000
    assert len(link.tried) == 2


def test_is_zero_when_everything_is_lossy() -> None:
    link = Link(1.0)
    assert highest_without_loss(link.attempt, 1e6) == 0.0
    assert len(link.tried) == TRIALS


def test_next_to_nothing_lost_counts_as_nothing() -> None:
    assert Trial(1.0, 10_000, 9_990).is_loss_free
    assert not Trial(1.0, 10_000, 9_989).is_loss_free


def test_second_chance_forgives_one_late_wake_up() -> None:
    link = Link(100_000)
    link.losing_anyway = 1
    assert highest_without_loss(link.attempt, 95_000, chances=2) > 94_000
    link.losing_anyway = 1
    assert highest_without_loss(link.attempt, 95_000) < 94_000
