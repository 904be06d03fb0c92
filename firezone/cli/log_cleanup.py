"""Keeps log directories small: the oldest files go first, at start and then every hour.

Source: Firezone `rust/logging/src/cleanup.rs`.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

log = structlog.get_logger(__name__)

MAX_TOTAL_SIZE = 100 * 1024 * 1024
"""Bytes in all directories together. Half loses the night before a report, double surprises small disks."""
MIN_AGE_S = 5 * 60
"""Younger files stay: somebody is writing or reading them."""
INTERVAL_S = 3600.0


def start_log_cleanup(directories: list[Path]) -> None:
    """Starts the thread that cleans up. It ends with the program."""
    threading.Thread(target=_run, args=(directories,), name="log-cleanup", daemon=True).start()


def clean_up_logs(directories: Iterable[Path], now: float, *, max_size: int = MAX_TOTAL_SIZE) -> list[Path]:
    """Deletes `*.log` files, oldest first, until all directories together hold at most `max_size` bytes; 0 switches this off.

    The newest file of each directory and files younger than five minutes stay.
    Returns: what was deleted.
    """
    found: list[tuple[float, int, Path]] = []
    total = 0
    for directory in directories:
        files = sorted(_files(directory))
        total += sum(size for _, size, _ in files)
        found.extend(files[:-1])
    deleted: list[Path] = []
    for modified, size, path in sorted(found):
        if not max_size or total <= max_size:
            break
        if now - modified < MIN_AGE_S:
            continue
        try:
            path.unlink()
        except OSError as error:
            log.debug("an old log file cannot be deleted", path=str(path), error=error.strerror)
            continue
        total -= size
        deleted.append(path)
    return deleted


def _files(directory: Path) -> Iterable[tuple[float, int, Path]]:
    """Yields (modified, size, path) of the regular log files of a directory."""
    for path in directory.glob("*.log"):
        try:
            status = path.lstat()
        except OSError:
            continue
        if path.is_file() and not path.is_symlink():
            yield status.st_mtime, status.st_size, path


def _run(directories: list[Path]) -> None:
    while True:
        if deleted := clean_up_logs(directories, time.time()):
            log.info("old log files deleted", count=len(deleted))
        time.sleep(INTERVAL_S)
