"""The tunnel's one timer: a timerfd on the clock that counts suspend.

asyncio's own timers have millisecond grain under uvloop and may fire early; a timerfd fires at its nanosecond, also after
the machine was asleep.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firezone.base.timing import Instant

_CLOCK_BOOTTIME = 7
_TFD_NONBLOCK = 0o4000
_TFD_CLOEXEC = 0o2000000
_TFD_TIMER_ABSTIME = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))


class DeadlineTimer:
    """A one-shot timer with a descriptor that becomes readable at the deadline."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._libc.timerfd_create(_CLOCK_BOOTTIME, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._deadline: Instant | None = None

    def arm(self, deadline: Instant | None) -> None:
        """Sets the deadline; None disarms. A deadline in the past fires at once.

        A deadline that only moved back leaves the timer as it is: it then fires early, once, and is armed anew. Most packets
        move some deadline back, and a system call for each would be wasted.
        """
        if deadline == self._deadline or (deadline is not None and self._deadline is not None and deadline > self._deadline):
            return
        self._deadline = deadline
        # Zero disarms a timerfd, so the earliest deadline is one nanosecond after boot.
        at = 0 if deadline is None else max(deadline, 1)
        spec = _Itimerspec(_Timespec(0, 0), _Timespec(at // 1_000_000_000, at % 1_000_000_000))
        if self._libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def clear(self) -> None:
        """Takes note that it fired; the next `arm` sets it anew even to the same deadline."""
        self._deadline = None
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 8)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
