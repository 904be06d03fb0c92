"""How every program runs: one line for whatever ends it, and the exit status that says so."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

from firezone.base.errors import FirezoneError

if TYPE_CHECKING:
    from collections.abc import Coroutine

SWITCH_INTERVAL_S = 0.0005
"""How long another thread (netlink) may keep the interpreter from the tick; the default of 5 ms would show in the latency."""


def run_program(main: Coroutine[Any, Any, None], *, prefix: str) -> None:
    """Runs a program's coroutine on uvloop. Errors that a user can do something about end it with one line and status 1."""
    import uvloop

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        uvloop.run(main)
    except (FirezoneError, OSError) as error:
        fail(prefix, error)


def fail(prefix: str, error: BaseException) -> NoReturn:
    """Prints the error and its causes as one line on stderr and exits with status 1."""
    parts = [prefix] if prefix else []
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause) or type(cause).__name__
        if not parts or text not in parts[-1]:
            parts.append(text)
        cause = cause.__cause__
    print(": ".join(parts), file=sys.stderr)
    sys.exit(1)
