"""The schedule of checks, with the figures of `snownet` 7.8 written out."""

from __future__ import annotations

import pytest

from firezone.base.net import Endpoint
from firezone.base.timing import SECOND, Instant, seconds
from firezone.proto.ice.pair import ACTIVE, IDLE, Check, Nomination, Pair, Timings
from firezone.wire.candidate import Candidate, CandidateKind


def make_pair() -> Pair:
    local, remote = Endpoint.from_text("192.0.2.1", 1), Endpoint.from_text("192.0.2.2", 2)
    return Pair(
        Candidate(CandidateKind.HOST, local, 10, local),
        Candidate(CandidateKind.HOST, remote, 20, remote),
        is_controlling=True,
        now=0,
    )


class Prober:
    """Sends the checks of one pair when they are due, and answers them while it may."""

    def __init__(self, timings: Timings = ACTIVE) -> None:
        self.pair = make_pair()
        self.timings = timings
        self.sent: list[Instant] = []

    def run(self, until: float, *, answers: bool) -> Instant | None:
        """Returns when the pair died."""
        while True:
            dies_at = self.pair.dies_at(self.timings)
            due = self.pair.next_due if dies_at is None else min(dies_at, self.pair.next_due)
            if due > seconds(until):
                return None
            if dies_at is not None and due >= dies_at:
                return dies_at
            transaction = len(self.sent).to_bytes(12, "big")
            self.sent.append(due)
            self.pair.record_check(Check(transaction, due, True, False), self.timings)
            if answers:
                self.pair.record_answer(transaction, self.timings, due)


def test_a_silent_pair_is_checked_and_removed_as_the_original_does() -> None:
    prober = Prober()
    assert prober.run(100, answers=False) == seconds(15.25)
    assert [at / SECOND for at in prober.sent] == [0, 0.25, 0.75, 1.75, 3.25, 4.75, 6.25, 7.75, 9.25, 10.75, 12.25, 13.75]


def test_an_answering_pair_settles_at_one_check_per_1500_ms() -> None:
    prober = Prober()
    assert prober.run(60, answers=True) is None
    assert {second - first for first, second in zip(prober.sent[5:], prober.sent[6:], strict=False)} == {seconds(1.5)}


def test_a_pair_that_goes_silent_is_removed_after_16_and_a_half_seconds() -> None:
    prober = Prober()
    prober.run(60, answers=True)
    count, last = len(prober.sent), prober.sent[-1]
    died = prober.run(100, answers=False)
    silent = [at - last for at in prober.sent[count:]]
    assert [at / SECOND for at in silent[:5]] == [1.5, 3.0, 3.5, 4.5, 6.0]
    assert died == prober.sent[count] + seconds(16.5)


def test_idle_a_pair_is_checked_every_25_s_and_removed_after_100() -> None:
    prober = Prober(IDLE)
    assert prober.run(1000, answers=False) == seconds(100)
    assert [at / SECOND for at in prober.sent] == [0, 25, 50, 75]


def test_waking_makes_a_check_due_at_once() -> None:
    prober = Prober(IDLE)
    prober.run(120, answers=True)
    assert prober.pair.next_due == seconds(125)
    prober.pair.retime(ACTIVE, seconds(110))
    assert prober.pair.next_due <= seconds(110)


def test_going_idle_stretches_the_distance() -> None:
    prober = Prober()
    prober.run(60, answers=True)
    forgotten = prober.pair.retime(IDLE, seconds(60))
    assert len(forgotten) == 8
    assert prober.pair.next_due == prober.sent[-1] + seconds(25)


def test_a_check_of_the_peer_keeps_a_pair_for_15_s() -> None:
    prober = Prober()
    prober.pair.last_peer_check_at = seconds(10)
    assert prober.run(100, answers=False) == seconds(25.75)  # the distance behind the check of 24.25 s


def test_a_late_answer_counts() -> None:
    prober = Prober()
    prober.run(14, answers=False)
    prober.pair.record_answer(bytes(12), ACTIVE, seconds(14))
    assert prober.pair.has_succeeded
    assert prober.pair.rtt_ns == seconds(14)


def test_nomination_goes_ahead_and_is_confirmed_by_its_own_check() -> None:
    pair = make_pair()
    seen: list[Nomination] = []
    pair.record_check(Check(b"a", 0, True, False), ACTIVE)
    pair.nominate(5)
    pair.record_answer(b"a", ACTIVE, 5)
    seen.append(pair.nomination)
    assert pair.next_due == 5
    pair.record_check(Check(b"b", 5, True, True), ACTIVE)
    seen.append(pair.nomination)
    pair.record_answer(b"b", ACTIVE, 6)
    seen.append(pair.nomination)
    assert seen == [Nomination.WANTED, Nomination.ATTEMPTED, Nomination.SUCCEEDED]


@pytest.mark.parametrize("is_controlling", [True, False])
def test_both_sides_rank_a_pair_alike(is_controlling: bool) -> None:
    pair = make_pair()
    mirrored = Pair(pair.remote, pair.local, is_controlling=not is_controlling, now=0)
    pair.rank(is_controlling=is_controlling)
    assert pair.priority == mirrored.priority
