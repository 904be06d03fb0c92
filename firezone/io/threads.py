"""The names of threads, as `ps -L`, `top -H` and profilers show them, and what each has used."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

NAME_SIZE = 15
"""Bytes of a name; the kernel cuts the rest."""
MAX_THREADS = 64
"""Threads that a report lists; a program has a dozen."""
_TASKS = Path("/proc/self/task")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def name_thread(name: str) -> None:
    """Names the calling thread for the system; the main thread's name is the process's. Where that is refused, it stays unnamed."""
    with suppress(OSError):
        Path("/proc/thread-self/comm").write_bytes(name.encode()[:NAME_SIZE])


def thread_report() -> list[dict[str, Any]]:
    """Returns name and CPU seconds of each thread, the main one first, as JSON-ready objects."""
    found = []
    main = os.getpid()
    for tid in sorted((int(task.name) for task in _TASKS.iterdir()), key=lambda tid: (tid != main, tid))[:MAX_THREADS]:
        with suppress(OSError):  # It may have ended meanwhile.
            head, _, rest = (_TASKS / str(tid) / "stat").read_text().rpartition(")")
            fields = rest.split()
            user, system = (int(fields[place]) / _TICKS_PER_SECOND for place in (11, 12))
            found.append({"tid": tid, "name": head.partition("(")[2], "user_s": user, "system_s": system})
    return found
