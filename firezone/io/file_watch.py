"""Tells when a file changed, was replaced, or the link it is reached through: inotify on the running loop.

The file and the directories on the way to it are watched: a rename into place shows only in the directory, a write to a bind
mount only at the file. Where inotify is refused, a timer looks instead.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)

SETTLE_TIME_S = 0.2
"""Quiet time after the last event: a file written in several calls is looked at once."""
POLL_INTERVAL_S = 5.0
"""The original's interval; used where inotify is refused."""
_CLOSE_WRITE, _MODIFY, _ATTRIB, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x8, 0x2, 0x4, 0x40, 0x80, 0x100, 0x200
_OF_FILE = _CLOSE_WRITE | _MODIFY | _ATTRIB
_OF_DIRECTORY = _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _CLOSE_WRITE
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_LIBC = ctypes.CDLL(None, use_errno=True)


class FileWatch:
    """Calls back after changes of one path, until closed. `on_change` looks for itself what changed, if anything."""

    def __init__(self, path: Path, on_change: Callable[[], None]) -> None:
        self._path = path
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._file = _LIBC.inotify_init1(_NONBLOCK_CLOEXEC)
        if self._file < 0:
            log.info("inotify is refused; looking every few seconds instead", error=errno.errorcode.get(ctypes.get_errno()))
            self._poll()
            return
        self._watch()
        self._loop.add_reader(self._file, self._on_events)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)

    def _watch(self) -> None:
        """Watches what the path leads to now; watching again what is watched changes nothing."""
        step = self._path
        for _ in range(8):  # Links to links end somewhere.
            self._add(step.parent, _OF_DIRECTORY)
            if not step.is_symlink():
                break
            step = step.parent / os.readlink(step)
        self._add(self._path, _OF_FILE)

    def _add(self, path: Path, events: int) -> None:
        _LIBC.inotify_add_watch(self._file, os.fsencode(path), events)  # What does not exist yet shows in its directory.

    def _on_events(self) -> None:
        try:
            os.read(self._file, 65536)
        except BlockingIOError:
            return
        self._watch()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(SETTLE_TIME_S, self._on_change)

    def _poll(self) -> None:
        self._timer = self._loop.call_later(POLL_INTERVAL_S, self._poll)
        self._on_change()
