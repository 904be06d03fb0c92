"""Whether a relay that is being used still answers. Ours; the original waits for ICE to give the path up, 17 seconds.

    data sent ── nothing heard for 2 s ── BINDING at 0, 0.5 and 1 s ── nothing heard for 1.5 s ── left
                                                       and others are asked, who must answer before ours is asked the last time

A silent relay is left only if another was heard meanwhile, so that an outage of our own network costs no relay.
"""

from __future__ import annotations

from firezone.base.timing import SECOND, Instant

PATIENCE = 2 * SECOND
"""Longer than the distance of two checks on a path in use (1.5 s), so that one lost answer asks nobody."""


class Silence:
    """When one relay was used and when it was heard."""

    def __init__(self, now: Instant) -> None:
        self.heard_at = now
        """Of anything: answers, and peers' data that the machine saw."""
        self.do_others_answer = False
        """Whether another relay was heard since the first of the present questions."""
        self._unheard_since: Instant | None = None

    def on_sent(self, now: Instant) -> None:
        if self._unheard_since is None:
            self._unheard_since = now

    def on_heard(self, now: Instant) -> None:
        self.heard_at = now
        self._unheard_since = None

    def deadline(self) -> Instant | None:
        """Returns when to ask."""
        return None if self._unheard_since is None else self._unheard_since + PATIENCE

    def is_due(self, now: Instant) -> bool:
        """Tells whether to ask now; if so, a new span begins with what is sent next."""
        deadline = self.deadline()
        if deadline is None or now < deadline:
            return False
        self._unheard_since = None
        return True
