"""The errors of a tick: collected, never in the way of the batch, and every one of them looked at.

`TickErrors` collects; `take` hands them over as one `TunnelError`. A collection that is thrown away with errors in it is a bug
and says so. `classify` decides what the program does with each.
"""

from __future__ import annotations

import enum
import errno
import logging
from collections.abc import Sequence

from firezone.base.errors import FirezoneError, TunnelFatalError

log = logging.getLogger(__name__)


class TunnelError(ExceptionGroup[Exception]):
    """Everything that went wrong in one tick, in order. No member made the tick stop early."""

    def derive(self, excs: Sequence[Exception]) -> TunnelError:  # type: ignore[override]
        return TunnelError(self.message, excs)


class Severity(enum.Enum):
    """What the program does about an error of the tunnel."""

    FATAL = "fatal"
    """End the program: the tunnel cannot work any more."""
    ONCE = "once"
    """Tell the user once, with what to do."""
    COUNT = "count"
    """Count it; visible at DEBUG."""
    BUG = "bug"
    """Not foreseen: ERROR with its traceback, and go on."""


_DENIED = {errno.EPERM, errno.EACCES}


def classify(error: Exception) -> Severity:
    """Decides by the error itself and everything it was raised from."""
    layers = list(_chain(error))
    if any(isinstance(layer, TunnelFatalError) for layer in layers):
        return Severity.FATAL
    if any(isinstance(layer, OSError) and layer.errno in _DENIED for layer in layers):
        return Severity.ONCE
    if any(isinstance(layer, FirezoneError | OSError) for layer in layers):
        return Severity.COUNT
    return Severity.BUG


def _chain(error: BaseException | None) -> list[BaseException]:
    layers: list[BaseException] = []
    while error is not None and error not in layers:
        layers.append(error)
        error = error.__cause__ or error.__context__
    return layers


class TickErrors:
    """Collects what goes wrong in a tick. Whoever drives the engine takes them after each tick."""

    def __init__(self) -> None:
        self._errors: list[Exception] = []

    def push(self, error: Exception) -> None:
        self._errors.append(error)

    def __len__(self) -> int:
        return len(self._errors)

    def take(self) -> TunnelError | None:
        """Returns all errors since the last call, oldest first, or None."""
        if not self._errors:
            return None
        errors, self._errors = self._errors, []
        return TunnelError(f"{len(errors)} errors in one tick", errors)

    def __del__(self) -> None:
        if self._errors:
            log.error("%d tunnel errors were never looked at, the first: %r", len(self._errors), self._errors[0])
