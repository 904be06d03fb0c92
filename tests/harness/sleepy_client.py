"""`python -m tests.harness.sleepy_client`: the client on a clock that can sleep.

SIGUSR1 is a wake after an hour: CLOCK_BOOTTIME has gone on for all that the program reads and arms, CLOCK_MONOTONIC has not.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from firezone.base.timing import SECOND
from firezone.client.__main__ import main
from firezone.io.clock import BootClock
from firezone.io.deadline import DeadlineTimer

if TYPE_CHECKING:
    from firezone.base.timing import Instant

SLEEP = 3600 * SECOND
_naps: list[int] = []
_arm = DeadlineTimer.arm


def _now(_: BootClock) -> Instant:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + sum(_naps)


def _arm_awake(timer: DeadlineTimer, deadline: Instant | None) -> None:
    _arm(timer, None if deadline is None else deadline - sum(_naps))


def _wake(*_: object) -> None:
    _naps.append(SLEEP)


if __name__ == "__main__":
    BootClock.now = _now  # type: ignore[method-assign, assignment]
    DeadlineTimer.arm = _arm_awake  # type: ignore[method-assign, assignment]
    signal.signal(signal.SIGUSR1, _wake)
    main()
