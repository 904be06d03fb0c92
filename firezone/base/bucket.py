"""A token bucket: so much at once, so much per second, whoever asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firezone.base.timing import SECOND

if TYPE_CHECKING:
    from firezone.base.timing import Instant


class TokenBucket:
    """Lets `burst` things happen at once and `rate` per second in the long run."""

    def __init__(self, rate: int, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._tokens = float(burst)
        self._filled_at: Instant | None = None

    def take(self, now: Instant) -> bool:
        """Takes one token. False: none is left."""
        if self.level(now) < 1:
            return False
        self._tokens -= 1
        return True

    def level(self, now: Instant) -> int:
        """Returns how many tokens there are."""
        if self._filled_at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate / SECOND)
        self._filled_at = now
        return int(self._tokens)

    def spend(self, tokens: int) -> None:
        """Takes as many as `level` has shown, or fewer."""
        self._tokens -= tokens
