"""The replay window against a set of all counters ever seen."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.kernels.session import REPLAY_WINDOW, ReplayWindow

NEWEST = (1 << 64) - 2


class SlowWindow:
    """Remembers everything."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.newest = -1

    def check(self, counter: int) -> bool:
        return counter + REPLAY_WINDOW > self.newest and counter not in self.seen

    def mark(self, counter: int) -> None:
        self.seen.add(counter)
        self.newest = max(self.newest, counter)


def compare(counters: list[int]) -> None:
    window, slow = ReplayWindow(), SlowWindow()
    for counter in counters:
        assert window.check(counter) == slow.check(counter), counter
        if slow.check(counter):
            window.mark(counter)
            slow.mark(counter)


JUMPS = st.one_of(
    st.integers(-3, 3),
    st.integers(-REPLAY_WINDOW - 130, REPLAY_WINDOW + 130),
    st.sampled_from([64, -64, 63, -63, REPLAY_WINDOW, -REPLAY_WINDOW, REPLAY_WINDOW - 1, 1 - REPLAY_WINDOW, 1 << 40]),
)


@given(start=st.one_of(st.integers(0, 200), st.integers(0, NEWEST)), jumps=st.lists(JUMPS, max_size=60))
def test_any_order_of_counters(start: int, jumps: list[int]) -> None:
    counters, at = [start], start
    for jump in jumps:
        at = min(max(at + jump, 0), NEWEST)
        counters.append(at)
    compare(counters)


def test_long_reordered_streams() -> None:
    rng = random.Random(1)
    for spread in (1, 60, 1000, REPLAY_WINDOW - 1, REPLAY_WINDOW + 500):
        counters = sorted(range(30_000), key=lambda counter: counter + rng.randrange(spread))
        compare(counters + counters[-50:])


def test_window_is_as_wide_as_it_says() -> None:
    assert REPLAY_WINDOW >= 1024
    window = ReplayWindow()
    window.mark(100_000)
    assert not window.check(100_000 - REPLAY_WINDOW)
    assert window.check(100_000 - REPLAY_WINDOW + 1)


def test_sliding_forgets_nothing_inside_and_everything_outside() -> None:
    """After a jump over the whole ring no bit of an earlier lap may be left."""
    window = ReplayWindow()
    for counter in range(20_000):
        window.mark(counter)
    window.mark(20_000 + 3 * REPLAY_WINDOW)
    for counter in range(20_001 + 2 * REPLAY_WINDOW, 20_000 + 3 * REPLAY_WINDOW):
        assert window.check(counter)


def test_a_counter_is_marked_once() -> None:
    window = ReplayWindow()
    window.mark(0)
    with pytest.raises(ValueError, match="Counter 0 is not fresh"):
        window.mark(0)
    with pytest.raises(ValueError, match="not fresh"):
        window.mark((1 << 64) - 1)
