"""When to try again, and when to give up.

Until the portal has been reached once, attempts come every second for at most 15 s, so that a wrong address shows at once.
After that the first retry is immediate, then delays grow from 0.5 s by half up to 60 s, each spread over half to one and a half
times its value.

Source: portal protocol sections 4.5, 4.6, 11.3. Reconnecting is nobody's business but ours, so the newest rules hold (only 401
is final, Retry-After is honoured), with the baseline's immediate first retry and spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from firezone.base.rng import Rng, below
from firezone.base.timing import MILLISECOND, SECOND, Instant, UnixTime

FIRST_DELAY = 500 * MILLISECOND
MAX_DELAY = 60 * SECOND
STARTUP_DELAY = 1 * SECOND
STARTUP_BUDGET = 15 * SECOND
"""How long the portal may be unreachable before it was ever reached; longer hides a wrong URL from whoever starts us."""
STABLE_AFTER = 5 * SECOND
"""A connection that stood this long ends a series of failures; less, and a portal that accepts and closes makes us spin."""
MAX_RETRY_AFTER = 3600 * SECOND
"""Longest pause a portal can ask for."""


@dataclass(frozen=True, slots=True)
class UpgradeRejected:
    """An HTTP answer other than 101."""

    status: int
    content_type: str = ""
    body: str = ""
    retry_after: str = ""
    """Header `Retry-After`: seconds or an HTTP date."""


class RetrySchedule:
    """One series of failures: starts with the first, ends with a connection that stands."""

    def __init__(self, rng: Rng, max_partition_ns: int | None) -> None:
        self._rng = rng
        self._max_partition_ns = max_partition_ns
        self._was_reached = False
        self._since: Instant | None = None
        self._failures = 0

    def on_reached(self) -> None:
        """Notes that the portal accepted us: from now on the long budget counts."""
        if not self._was_reached:
            self._was_reached = True
            self.restart()

    def restart(self) -> None:
        """Forgets the series, after success or because the network changed."""
        self._since = None
        self._failures = 0

    def next_delay(self, now: Instant) -> int | None:
        """Counts one more failure. Returns the nanoseconds to wait, or None when the budget is spent."""
        if self._since is None:
            self._since = now
        delay = self._delay()
        self._failures += 1
        budget = self._max_partition_ns
        if not self._was_reached:
            budget = STARTUP_BUDGET if budget is None else min(budget, STARTUP_BUDGET)
        if budget is not None and now - self._since + delay > budget:
            return None
        return delay

    def _delay(self) -> int:
        if not self._was_reached:
            return STARTUP_DELAY
        if self._failures == 0:
            return 0
        base = FIRST_DELAY
        for _ in range(min(self._failures - 1, 20)):
            base = min(base * 3 // 2, MAX_DELAY)
        return base // 2 + below(self._rng, base + 1)


def parse_retry_after(text: str, utc: UnixTime) -> int | None:
    """Returns the nanoseconds a `Retry-After` header asks for, None when it says nothing that can be read."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(int(text[:9]) * SECOND, MAX_RETRY_AFTER)
    try:
        until = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(round(until * SECOND) - utc, 0), MAX_RETRY_AFTER)
