"""How often a relay may say that the allocation is not what we think, before we take it for broken.

The original begins anew as fast as it is told to, for ever.
"""

from __future__ import annotations

from firezone.base.timing import SECOND, Instant

MAX_RECOVERIES = 8
"""In a row, with less than `PAUSE` in between."""
PAUSE = 10 * SECOND
DELAY = 1 * SECOND
"""Before the second attempt in a row, growing by as much: relays may take a while to forget what they were told to."""


class Recoveries:
    """Those of one allocation."""

    def __init__(self) -> None:
        self._count = 0
        self._last_at: Instant = 0

    def may_begin(self, now: Instant) -> bool:
        """Tells whether there may be another one."""
        return self._count < MAX_RECOVERIES or now >= self._last_at + PAUSE

    def begin(self, now: Instant) -> None:
        """Notes another one."""
        self._count = self._count + 1 if now < self._last_at + PAUSE else 1
        self._last_at = now

    def delay(self) -> int:
        """Returns how long to wait before the allocation is asked for again."""
        return max(0, self._count - 1) * DELAY
