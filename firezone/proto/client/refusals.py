"""How many ICMP errors the host is given: a program that hears of its refusal ends at once instead of waiting for a timeout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firezone.base.timing import SECOND

if TYPE_CHECKING:
    from firezone.base.timing import Instant

REFUSALS_PER_SECOND = 200
"""More than any program needs to hear; a flood that is refused packet by packet costs no more than this. A tenth would leave
browsers waiting that open dozens of connections at once."""


class Refusals:
    """Counts the errors of the current second."""

    def __init__(self) -> None:
        self._since: Instant | None = None
        self._count = 0

    def allow(self, now: Instant) -> bool:
        """Counts one error more. False: there were enough of them."""
        if self._since is None or now - self._since >= SECOND:
            self._since, self._count = now, 0
        self._count += 1
        return self._count <= REFUSALS_PER_SECOND
