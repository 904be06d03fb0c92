"""How every program runs: its log, one line for whatever ends it, and the exit status that says so."""

from __future__ import annotations

import os
import platform
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from firezone.base.errors import FirezoneError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import structlog

SWITCH_INTERVAL_S = 0.0005
"""How long another thread (netlink) may keep the interpreter from the tick; the default of 5 ms would show in the latency."""


def start_logging(
    name: str, *, file_base: str, directory: Path | None, log_format: str, checks_only: bool = False
) -> structlog.stdlib.BoundLogger:
    """Sets logging up as $RUST_LOG says, keeps the directory small, writes the first line and returns the program's logger.

    A program that only checks its options writes no first line.

    Raises: ConfigError for a filter that is not understood or a directory that cannot be used.
    """
    import structlog

    import firezone
    from firezone.base.log import set_up_logging
    from firezone.cli.log_cleanup import start_log_cleanup

    set_up_logging(os.environ.get("RUST_LOG"), file_base=file_base, directory=directory, log_format=log_format)
    if directory is not None:
        start_log_cleanup([directory])
    log: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    if not checks_only:
        log.info("starting", arch=platform.machine(), os=platform.system(), version=firezone.__version__, uptime_s=_uptime_s())
    return log


def run_program(main: Coroutine[Any, Any, None], *, prefix: str) -> None:
    """Runs a program's coroutine on uvloop. Errors that a user can do something about end it with one line and status 1."""
    # Who asks for counters before the program can answer, or asks one that does not know them, must not end it.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    import uvloop

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        uvloop.run(main)
    except (FirezoneError, OSError) as error:
        fail(prefix, error)
    except KeyboardInterrupt:
        return  # Before the program's own handlers were there.


def fail(prefix: str, error: BaseException) -> NoReturn:
    """Prints the error and its causes as one line on stderr and exits with status 1."""
    from firezone.base.log import without_secrets

    parts = [prefix] if prefix else []
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause) or type(cause).__name__
        reason = (isinstance(cause, OSError) and cause.strerror) or text
        if not parts or reason not in parts[-1]:
            parts.append(text)
        cause = cause.__cause__
    print(without_secrets(": ".join(parts)), file=sys.stderr)
    sys.exit(1)


def _uptime_s() -> int:
    """Returns how long the machine has been up: a program that starts right after it is a different case."""
    try:
        return int(float(Path("/proc/uptime").read_text().split()[0]))
    except (OSError, ValueError, IndexError):
        return 0
