"""WireGuard's timings (paper 6.1) and the rules that follow from what was sent and received.

`TrafficTimers` holds no clock: it notes instants and names the next deadline; `peer.py` acts on them.
"""

from __future__ import annotations

from dataclasses import dataclass

from firezone.base.timing import MILLISECOND, SECOND, Instant


@dataclass(frozen=True, slots=True)
class PeerTiming:
    """Durations in nanoseconds. The defaults are WireGuard's; `FIREZONE` is what Firezone's peers use."""

    rekey_after: int = 120 * SECOND
    """REKEY_AFTER_TIME: the initiator renews a session of this age that it sent data on."""
    rekey_on_receive_after: int = 165 * SECOND
    """REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT: the same when it only received."""
    initiator_stops_after: int = 170 * SECOND
    """The initiator sends on a session no longer than this; at 179.9 s the responder may have dropped it already."""
    reject_after: int = 180 * SECOND
    """REJECT_AFTER_TIME: a session is dropped."""
    expire_after: int = 540 * SECOND
    """Three times REJECT_AFTER_TIME without a new session: all is wiped."""
    rekey_timeout: int = 5 * SECOND
    """REKEY_TIMEOUT: an unanswered initiation is sent again."""
    rekey_attempt: int = 90 * SECOND
    """REKEY_ATTEMPT_TIME: how long an attempt goes on."""
    keepalive_timeout: int = 10 * SECOND
    """KEEPALIVE_TIMEOUT: received data is answered by a keepalive when nothing else was sent."""
    max_jitter: int = 333 * MILLISECOND
    """Rekeys and retransmissions wait a random time up to this, so that two peers do not collide for ever."""

    @property
    def no_answer_after(self) -> int:
        """KEEPALIVE_TIMEOUT + REKEY_TIMEOUT: sent data was neither answered nor acknowledged by a keepalive."""
        return self.keepalive_timeout + self.rekey_timeout


STANDARD = PeerTiming()
"""For plain WireGuard peers."""

FIREZONE = PeerTiming(rekey_attempt=15 * SECOND)
"""Users do not wait 90 s for a gateway that is gone: an attempt fails after 15 s (baseline)."""


class TrafficTimers:
    """What we owe the peer and what the peer owes us, by the first packet that was not answered."""

    def __init__(self, timing: PeerTiming) -> None:
        self._timing = timing
        self._unanswered_since: Instant | None = None
        self._owes_keepalive_since: Instant | None = None

    def on_data_sent(self, now: Instant) -> None:
        """Notes a non-empty data message to the peer."""
        if self._unanswered_since is None:
            self._unanswered_since = now
        self._owes_keepalive_since = None

    def on_other_sent(self) -> None:
        """Notes an authenticated message without data to the peer: handshake or keepalive."""
        self._owes_keepalive_since = None

    def on_received(self) -> None:
        """Notes any authenticated message from the peer."""
        self._unanswered_since = None

    def on_data_received(self, now: Instant) -> None:
        """Notes a non-empty data message from the peer."""
        self._unanswered_since = None
        if self._owes_keepalive_since is None:
            self._owes_keepalive_since = now

    def clear(self) -> None:
        """Forgets everything."""
        self._unanswered_since = self._owes_keepalive_since = None

    @property
    def keepalive_at(self) -> Instant | None:
        """When we send a keepalive, or None when nothing is owed."""
        return None if self._owes_keepalive_since is None else self._owes_keepalive_since + self._timing.keepalive_timeout

    @property
    def no_answer_at(self) -> Instant | None:
        """When the peer's silence asks for a new handshake, or None when nothing is unanswered."""
        return None if self._unanswered_since is None else self._unanswered_since + self._timing.no_answer_after
