"""What a running program has counted, written to a file as one JSON object: on SIGUSR2, and when the program ends.

All programs share the head of the object (who, since when, which threads) and the names of what they have in common. The file is
replaced whole, so that whoever reads it never sees half of it; only its owner may. Writing is bounded: however often the signal
comes, it takes at most a fiftieth of the loop's time, and the last signal is always answered.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import platform
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

import firezone
from firezone.io.threads import thread_report
from firezone.kernels.types import FIRST_PUNT, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

log = structlog.get_logger(__name__)

FORMAT = 1
"""Of the file: it changes when a field goes or changes its meaning, not when one is added."""
MIN_INTERVAL_S = 0.25
"""Between two snapshots that signals ask for."""
PAUSE_PER_WRITE = 50
"""And at least so many times what the last one took."""
_MODE = 0o600
_NOBODYS = (Reason.UNKNOWN_DATAGRAM,)
"""Punts that no machine has a use for: dropped in effect."""


class SnapshotFile:
    """Where one program's snapshots go, and when."""

    def __init__(self, program: str, path: Path | None, collect: Callable[[], dict[str, Any]]) -> None:
        """`program`: `client`, `gateway` or `relay`. `path` None: `default_path` on a signal, nothing at the end."""
        self._program = program
        self._path = path
        self._collect = collect
        self._loop: asyncio.AbstractEventLoop | None = None
        self._not_before = 0.0
        self._later: asyncio.TimerHandle | None = None

    def watch_signal(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answers SIGUSR2 from now on. Comes early: until then that signal ends the process."""
        self._loop = loop
        loop.add_signal_handler(signal.SIGUSR2, self._on_signal)

    def finish(self) -> None:
        """Writes the last snapshot, if a file was named. SIGUSR2 stays harmless until the process is gone."""
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._path is not None:
            self.write()

    def write(self) -> Path | None:
        """Writes a snapshot now and returns where; what goes wrong is logged."""
        path = self._path or default_path(self._program)
        try:
            text = json.dumps({**self.head(), **self._collect()}, indent=1)
            replace_file(path, text)
        except OSError as error:
            log.warning("the counters could not be written", path=str(path), error=error.strerror or str(error))
            return None
        return path

    def head(self) -> dict[str, Any]:
        """Returns what the snapshots of all programs begin with."""
        threads = thread_report()
        return {
            "format": FORMAT,
            "program": self._program,
            "version": firezone.__version__,
            "python": platform.python_version(),
            "pid": os.getpid(),
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            "uptime_s": round(_uptime_s(), 2),
            "cpu_s": round(time.process_time(), 3),
            "threads": threads,
        }

    def _on_signal(self) -> None:
        assert self._loop is not None
        if self._later is None:
            self._later = self._loop.call_at(max(self._not_before, self._loop.time()), self._answer)

    def _answer(self) -> None:
        assert self._loop is not None
        self._later = None
        start = self._loop.time()
        if (path := self.write()) is not None:
            log.info("counters written", path=str(path))
        end = self._loop.time()
        self._not_before = end + max(MIN_INTERVAL_S, PAUSE_PER_WRITE * (end - start))


def default_path(program: str) -> Path:
    """Returns where a program writes that was told nothing: its runtime directory under systemd, /run, or where it may."""
    directory = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0] or "/run"
    if not os.access(directory, os.W_OK | os.X_OK):
        directory = tempfile.gettempdir()
    return Path(directory, f"firezone-{program}.counters.json")


def replace_file(path: Path, text: str) -> None:
    """Replaces a file by another of mode 0600, all at once; nobody's link is followed.

    Raises: OSError, also for what is there and no file: a device or a pipe would be replaced by one.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a file")
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        new.unlink()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise


def reasons_report(reasons: NDArray[np.uint32], ends: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Returns `rows`, dropped and punted ones by reason, and `drops`: of those the dropped, with what the ends have lost.

    Shapes: reasons (256,) uint32. `ends` has the counters of each end under its name.
    """
    rows = {reason: int(reasons[reason]) for reason in Reason if reasons[reason]}
    drops = {reason.name.lower(): count for reason, count in rows.items() if reason < FIRST_PUNT or reason in _NOBODYS}
    for end, counters in ends.items():
        for name in ("no_socket", "refused", "dropped_waiting"):
            if count := counters.get(name, 0):
                drops[f"{end}_{name}"] = count
    return {"rows": {reason.name.lower(): count for reason, count in rows.items()}, "drops": drops}


def _uptime_s() -> float:
    """Seconds since the process began, interpreter start included."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
