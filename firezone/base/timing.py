"""Time as every machine sees it: integer nanoseconds on one monotonic clock that counts suspend."""

from __future__ import annotations

Instant = int
"""Nanoseconds on the monotonic clock (CLOCK_BOOTTIME in programs, a counter in tests)."""

UnixTime = int
"""Nanoseconds since 1970-01-01 UTC."""

MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000


def seconds(value: float) -> int:
    """Returns a duration in nanoseconds."""
    return round(value * SECOND)


def earliest(*deadlines: tuple[Instant, str] | None) -> tuple[Instant, str] | None:
    """Returns the first of several (deadline, reason) pairs, or None when there is none."""
    return min((deadline for deadline in deadlines if deadline is not None), default=None)
