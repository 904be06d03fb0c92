"""The programs' clock: monotonic time that goes on during suspend, and the wall clock."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firezone.base.timing import Instant, UnixTime


class BootClock:
    """CLOCK_BOOTTIME and CLOCK_REALTIME in nanoseconds."""

    def now(self) -> Instant:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def utc(self) -> UnixTime:
        return time.time_ns()

    def awake(self) -> Instant:
        """CLOCK_MONOTONIC, which stands still while the host sleeps."""
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
