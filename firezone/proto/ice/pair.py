"""One pair of candidates under check: when the next check is due, whether the pair still counts as alive.

A pair that ever answered keeps being checked, also after nomination: keep-alive for every NAT mapping and consent at once.

    silent, active timings     0  0.25  0.75  1.75  3.25  4.75 ... 13.75   removed at 15.25 s
    answering                  every 1.5 s
    gone silent                +1.5  +0.5  +1.0  +1.5 ...                  removed 16.5 s after the first unanswered check

Source: RFC 8445 section 6.1.2; the schedule of Firezone's ICE agent (is, str0m), which both sides need not share.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

from firezone.base.net import Endpoint
from firezone.base.timing import MILLISECOND, SECOND, Instant
from firezone.proto.ice.preference import pair_priority
from firezone.wire.candidate import Candidate, CandidateKind

PEER_CHECK_COUNTS_FOR = 15 * SECOND
"""How long a check of the peer keeps a pair alive whose own checks go unanswered: survives loss in one direction only."""


@dataclass(frozen=True, slots=True)
class Timings:
    """How often pairs are checked and how long silence is borne."""

    initial_rto: int
    """Nanoseconds from the first check to the second; doubles from there."""
    max_rto: int
    """Longest distance between two checks."""
    attempts: int
    """So many checks are remembered; as many unanswered ones in a row end the pair."""


ACTIVE = Timings(250 * MILLISECOND, 1500 * MILLISECOND, 12)
"""While packets flow: 15.25 s to give up a pair that never answered, 16.5 s one that did."""
IDLE = Timings(25 * SECOND, 25 * SECOND, 4)
"""Keeps NAT mappings with one check in 25 s; 100 s to give up."""
REBOUND_AFTER = SECOND
"""A pair whose peer checks from another address, while none came on it for so long, has moved there. Two that are both alive are
checked every 1.5 s each, so that half of that cannot make a choice go back and forth between them for ever."""
TRIGGER_SPACING = 10 * MILLISECOND
"""Between a check and the one that a check of the peer triggers. On a long way a superfluous check leaves; on a short one a
lost check costs no more than this."""


class Nomination(Enum):
    """How far the choice of a pair has come."""

    NONE = auto()
    WANTED = auto()
    """The next check is due at once (and carries USE-CANDIDATE if we control)."""
    ATTEMPTED = auto()
    SUCCEEDED = auto()


@dataclass(slots=True)
class Check:
    """One connectivity check we sent."""

    transaction_id: bytes
    sent_at: Instant
    as_controlling: bool
    """The role it claimed, for a conflict reported later."""
    is_nominating: bool
    is_answered: bool = False


class Pair:
    """A local and a remote candidate, identified by our base and the peer's address."""

    __slots__ = (
        "checks",
        "has_succeeded",
        "last_peer_check_at",
        "local",
        "next_due",
        "nominated_at",
        "nomination",
        "priority",
        "remote",
        "rtt_ns",
    )

    def __init__(self, local: Candidate, remote: Candidate, *, is_controlling: bool, now: Instant) -> None:
        self.local = local
        self.remote = remote
        self.priority = 0
        self.checks: deque[Check] = deque()
        self.nomination = Nomination.NONE
        self.nominated_at: Instant = 0
        """When it was nominated last."""
        self.has_succeeded = False
        self.last_peer_check_at: Instant | None = None
        self.next_due = now
        self.rtt_ns: int | None = None
        """Smoothed round trip of its checks; None before the first answer."""
        self.rank(is_controlling=is_controlling)

    @property
    def key(self) -> tuple[Endpoint, Endpoint]:
        """What makes two pairs redundant: checks go from the base to the remote address (RFC 8445 section 6.1.2.4)."""
        return self.local.base, self.remote.endpoint

    @property
    def is_nominated(self) -> bool:
        return self.nomination is not Nomination.NONE

    def rank(self, *, is_controlling: bool) -> None:
        """Computes the priority anew, after a candidate or our role changed."""
        ours, theirs = self.local.priority, self.remote.priority
        self.priority = pair_priority(ours, theirs) if is_controlling else pair_priority(theirs, ours)

    def nominate(self, now: Instant) -> None:
        """Wants this pair: its next check leaves ahead of all others."""
        self.nomination = Nomination.WANTED
        self.nominated_at = self.next_due = now

    def unnominate(self) -> None:
        """Takes the choice back: another pair was chosen, or our role changed."""
        self.nomination = Nomination.NONE

    def has_moved_from(self, former: Pair) -> bool:
        """Tells whether this is `former` behind a NAT that has given its peer another address since."""
        if not self.has_succeeded or self.priority != former.priority or self.local.base != former.local.base:
            return False
        if self.remote.kind is not CandidateKind.PEER_REFLEXIVE or self.last_peer_check_at is None:
            return False
        return former.last_peer_check_at is None or self.last_peer_check_at - former.last_peer_check_at >= REBOUND_AFTER

    def record_check(self, check: Check, timings: Timings) -> list[Check]:
        """Remembers a check just sent. Returns those forgotten for it."""
        self.checks.append(check)
        if self.nomination is Nomination.WANTED:
            self.nomination = Nomination.ATTEMPTED
        forgotten = self._trim(timings)
        self.reschedule(timings, check.sent_at)
        return forgotten

    def record_peer_check(self, now: Instant) -> None:
        """Takes note of a check of the peer: the way is open now, so a check of ours that got lost is repeated soon.

        Source: RFC 8445 section 7.3.1.4. The original checks at once only if the pair is new.
        """
        self.last_peer_check_at = now
        if self.checks and not self.has_succeeded:
            self.next_due = min(self.next_due, max(now, self.checks[-1].sent_at + TRIGGER_SPACING))

    def record_answer(self, transaction_id: bytes, timings: Timings, now: Instant) -> None:
        """Takes the success response to one of the remembered checks."""
        for check in self.checks:
            if check.transaction_id == transaction_id and not check.is_answered:
                check.is_answered = True
                sample = now - check.sent_at
                self.rtt_ns = sample if self.rtt_ns is None else (7 * self.rtt_ns + sample) // 8
                if check.is_nominating and self.nomination is Nomination.ATTEMPTED:
                    self.nomination = Nomination.SUCCEEDED
        self.has_succeeded = True
        if self.nomination is not Nomination.WANTED:
            self.reschedule(timings, now)

    def retime(self, timings: Timings, now: Instant) -> list[Check]:
        """Applies other timings at once. Returns the checks forgotten for it."""
        forgotten = self._trim(timings)
        if self.checks and self.nomination is not Nomination.WANTED:
            self.reschedule(timings, now)
        return forgotten

    def reschedule(self, timings: Timings, now: Instant) -> None:
        """Freezes when the next check is due; only called when a check left, an answer came or timings changed."""
        count = len(self.checks)
        unanswered, since = self._unanswered()
        if unanswered and now - since > timings.max_rto // 2:
            count = unanswered
        last_sent = self.checks[-1].sent_at
        self.next_due = min(last_sent + _delay(count, timings), now + timings.max_rto)

    def dies_at(self, timings: Timings) -> Instant | None:
        """Returns when the pair is given up unless something is heard; None while checks are still to be sent."""
        if len(self.checks) < timings.attempts or self._unanswered()[0] < timings.attempts:
            return None
        deadline = self.checks[-1].sent_at + _delay(timings.attempts, timings)
        if self.last_peer_check_at is not None:
            deadline = max(deadline, self.last_peer_check_at + PEER_CHECK_COUNTS_FOR)
        return deadline

    def silent_since(self) -> Instant | None:
        """Returns when the first of the latest checks was sent that nothing of the peer came after; None while it is heard."""
        count, since = self._unanswered()
        is_heard = self.last_peer_check_at is not None and self.last_peer_check_at >= since
        return None if not count or is_heard else since

    def is_dead(self, timings: Timings, now: Instant) -> bool:
        """Tells whether the pair is to be given up."""
        dies_at = self.dies_at(timings)
        return dies_at is not None and now >= dies_at

    def _unanswered(self) -> tuple[int, Instant]:
        """Returns how many of the latest checks are unanswered, and when the first of them was sent."""
        count, since = 0, 0
        for check in reversed(self.checks):
            if check.is_answered:
                break
            count, since = count + 1, check.sent_at
        return count, since

    def _trim(self, timings: Timings) -> list[Check]:
        return [self.checks.popleft() for _ in range(len(self.checks) - timings.attempts)]


def _delay(count: int, timings: Timings) -> int:
    """Returns the distance to the next check after `count` of them."""
    if count == 0:
        return 0
    return min(timings.initial_rto << min(count - 1, timings.attempts), timings.max_rto)
