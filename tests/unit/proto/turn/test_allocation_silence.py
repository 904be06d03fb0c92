"""A relay that falls silent, and questions that find out: T10, T26 and what follows from them."""

from __future__ import annotations

from firezone.base.net import Endpoint
from firezone.base.timing import SECOND
from firezone.proto.turn.allocation import KEEP_ALIVE
from firezone.proto.turn.events import RelaySilent
from firezone.wire.stun import Attribute, Method
from tests.unit.proto.turn.bench import (
    LENT4,
    LENT6,
    RELAY4,
    RELAY6,
    Bench,
    times,
)


def test_silent_relay_is_asked_four_times() -> None:  # T8
    bench = Bench()
    bench.run(8.124)
    assert times(bench.sent) == [0, 1, 2.5, 4.75]
    assert len({sent.message.transaction_id for sent in bench.sent}) == 1
    assert bench.allocation.end_reason is None
    bench.run(0.002)
    assert bench.allocation.end_reason == "no response"


def test_unanswered_keep_alive_loses_both_families() -> None:  # T10
    bench = Bench().allocated(LENT4, LENT6)
    bench.run(25 + 8.124)
    assert bench.lost() == []
    bench.run(0.002)
    assert sorted(bench.lost()) == sorted([LENT4, LENT6])
    assert bench.allocation.end_reason == "no response"


def test_unanswered_binding_of_the_other_family_is_harmless() -> None:
    bench = Bench((RELAY4, RELAY6)).allocated()
    bench.run(9)
    assert bench.lost() == []
    assert bench.allocation.end_reason is None


def test_unmentioned_relay_is_probed_and_gone_soon_when_dead() -> None:  # T26
    bench = Bench().allocated()
    bench.run(5)
    bench.take_sent()
    bench.allocation.probe(bench.now)
    bench.collect()
    assert [sent.method for sent in bench.sent] == [Method.REFRESH]
    assert bench.sent[0].get(Attribute.LIFETIME) is None
    bench.run(1.6)
    assert bench.lost() == [LENT4]
    assert bench.allocation.end_reason == "no response"


def test_answered_probe_changes_nothing() -> None:
    bench = Bench().allocated()
    bench.run(5)
    bench.allocation.probe(bench.now)
    bench.collect()
    bench.refresh()
    bench.run(3)
    assert bench.lost() == []
    assert bench.allocation.end_reason is None


def test_relay_that_sees_us_elsewhere_is_asked_whether_it_still_knows_us() -> None:
    """A NAT that has forgotten us: the allocation belongs to the former address, and nothing but the answer to a BINDING tells."""
    bench = Bench().allocated()
    bench.run(26)
    bench.bound()
    assert bench.of(Method.REFRESH) == []
    bench.run(26)
    elsewhere = (Attribute.XOR_MAPPED_ADDRESS, Endpoint.from_text("198.51.100.7", 40001))
    bench.answer(bench.last(Method.BINDING), elsewhere)
    bench.answer(bench.last(Method.REFRESH), error=437)
    assert bench.lost() == [LENT4]
    bench.grant(Endpoint.from_text("203.0.113.10", 50001))
    bench.run(26)
    bench.answer(bench.last(Method.BINDING), elsewhere)
    assert len(bench.of(Method.REFRESH)) == 1, "asked once for each change"


def test_probe_of_a_starting_allocation_does_nothing() -> None:
    bench = Bench()
    bench.allocation.probe(bench.now)
    bench.collect()
    assert len(bench.sent) == 1
    bench.bound()
    bench.allocation.probe(bench.now)
    bench.collect()
    assert len(bench.of(Method.ALLOCATE)) == 1
    assert bench.of(Method.REFRESH) == []


def test_channel_data_counts_as_keep_alive() -> None:
    bench = Bench().allocated()
    number = bench.channel()
    for _ in range(20):
        bench.run(10)
        bench.send()
        bench.receive(number)
    assert len(bench.of(Method.BINDING)) == 1
    bench.run(KEEP_ALIVE / SECOND)
    assert len(bench.of(Method.BINDING)) == 2


def test_relay_in_use_that_falls_silent_is_asked_at_once_and_kept_without_another() -> None:
    bench = Bench().allocated()
    bench.channel()
    bench.run(5)
    bench.take_sent()
    bench.send()
    began = bench.now
    bench.run(4)
    assert [(sent.at - began) / SECOND for sent in bench.of(Method.BINDING)] == [2, 2.5, 3]
    assert [event.since for event in bench.events if isinstance(event, RelaySilent)] == [began + 2 * SECOND] * 2
    assert bench.allocation.end_reason is None
    assert bench.lost() == []


def test_relay_in_use_that_falls_silent_while_others_answer_is_left() -> None:
    bench = Bench().allocated()
    bench.channel()
    bench.send()
    bench.run(2.6)
    bench.allocation.note_others_answer()
    bench.run(1)
    assert bench.allocation.end_reason == "silent while others answer"
    assert bench.lost() == [LENT4]


def test_answer_to_a_question_ends_the_doubt() -> None:
    bench = Bench().allocated()
    bench.channel()
    bench.send()
    bench.run(2.6)
    bench.allocation.note_others_answer()
    bench.bound()
    bench.run(10)
    assert bench.allocation.end_reason is None
    bench.send()
    bench.run(5)
    assert bench.allocation.end_reason is None
