"""The life of an allocation: how it starts, what keeps it, what ends it. T numbers are the scenarios of the specification."""

from __future__ import annotations

from firezone.proto.turn.recovery import MAX_RECOVERIES
from firezone.proto.turn.requests import MAX_CHALLENGES
from firezone.wire.candidate import CandidateKind
from firezone.wire.stun import Attribute, Method
from tests.unit.proto.turn.bench import (
    LENT4,
    LENT6,
    LOCAL4,
    LOCAL6,
    MAPPED4,
    MAPPED6,
    PEER,
    RELAY4,
    RELAY6,
    Bench,
    Sent,
    peer,
    times,
)


def test_start_asks_each_family_for_our_address() -> None:  # T1
    bench = Bench((RELAY4, RELAY6))
    assert [(sent.method, sent.server) for sent in bench.sent] == [(Method.BINDING, RELAY4), (Method.BINDING, RELAY6)]
    assert all(sent.received.integrity is None and sent.get(Attribute.USERNAME) is None for sent in bench.sent)
    assert bench.sent[0].message.attributes == ((Attribute.SOFTWARE, "snownet"),)


def test_first_family_to_answer_is_used() -> None:  # T2
    bench = Bench((RELAY4, RELAY6))
    bench.bound(RELAY6)
    assert bench.last(Method.ALLOCATE).server == RELAY6
    bench.bound(RELAY4)
    assert bench.allocation.active_server == RELAY6
    assert len(bench.of(Method.ALLOCATE)) == 1
    assert bench.found(CandidateKind.HOST) == [LOCAL6, LOCAL4]
    assert bench.found(CandidateKind.SERVER_REFLEXIVE) == [MAPPED6, MAPPED4]


def test_first_allocate_is_signed_without_a_nonce() -> None:  # T3
    bench = Bench()
    bench.bound()
    request = bench.last(Method.ALLOCATE)
    kinds = [kind for kind, _ in request.message.attributes]
    assert kinds == [
        Attribute.REQUESTED_TRANSPORT,
        Attribute.ADDITIONAL_ADDRESS_FAMILY,
        Attribute.SOFTWARE,
        Attribute.USERNAME,
        Attribute.REALM,
    ]
    assert request.received.integrity is not None
    assert request.received.fingerprint is None


def test_challenge_is_answered_with_its_nonce() -> None:  # T4
    bench = Bench()
    bench.bound()
    first = bench.last(Method.ALLOCATE)
    bench.challenge(first, "n1")
    second = bench.last(Method.ALLOCATE)
    assert second.get(Attribute.NONCE) == "n1"
    assert second.message.transaction_id != first.message.transaction_id


def test_second_refusal_of_our_credentials_ends_it() -> None:  # T5
    bench = Bench().allocated()
    bench.keep_alive(299)
    bench.run(2)
    bench.challenge(bench.last(Method.REFRESH), "n2")
    assert bench.lost() == [LENT4]
    assert bench.allocation.end_reason == "authentication error"
    bench.take_sent()
    bench.run(60)
    assert bench.sent == []


def test_stale_nonce_is_replaced() -> None:  # T6
    bench = Bench().allocated()
    request = bench.bind()
    bench.challenge(request, "n2", code=438)
    again = bench.last(Method.CHANNEL_BIND)
    assert again.get(Attribute.NONCE) == "n2"
    assert again.get(Attribute.CHANNEL_NUMBER) == request.get(Attribute.CHANNEL_NUMBER)
    assert bench.answer(again)


def test_other_realm_is_refused() -> None:  # T7
    bench = Bench()
    bench.bound()
    request = bench.last(Method.ALLOCATE)
    bench.take_sent()
    bench.challenge(request, realm="other")
    assert bench.sent == []
    assert bench.allocation.is_suspended


def test_refresh_refused_by_another_realm_is_not_repeated_at_once() -> None:  # T7
    bench = Bench().allocated()
    bench.keep_alive(299)
    bench.take_sent()
    bench.run(1)
    bench.challenge(bench.last(Method.REFRESH), "n2", 438, realm="other")
    bench.take_sent()
    bench.run(1)
    assert bench.of(Method.REFRESH) == []
    bench.keep_alive(60)
    assert bench.allocation.has_allocation
    assert bench.allocation.has_lent(LENT4)


def test_repeated_allocate_has_ids_of_its_own_and_any_answer_counts() -> None:
    bench = Bench()
    bench.bound()
    bench.challenge(bench.last(Method.ALLOCATE))
    bench.run(3)
    first, second, third = bench.of(Method.ALLOCATE)[1:]
    assert len({sent.message.transaction_id for sent in (first, second, third)}) == 3
    assert bench.answer(first, (Attribute.XOR_RELAYED_ADDRESS, LENT4), (Attribute.LIFETIME, 600))
    assert not bench.answer(second, error=437)
    assert bench.allocation.has_lent(LENT4)


def test_refresh_is_sent_once_at_half_the_lifetime() -> None:  # T9
    bench = Bench().allocated()
    bench.keep_alive(299)
    bench.take_sent()
    bench.run(1.5)
    assert times(bench.of(Method.REFRESH)) == [300]
    assert times(bench.of(Method.REFRESH, since=bench.now)) == []
    bench.run(0.4)
    bench.refresh()
    bench.keep_alive(298)
    assert bench.allocation.has_allocation


def test_second_refresh_waits_for_the_first() -> None:  # T9
    bench = Bench().allocated()
    bench.keep_alive(299)
    bench.run(1.1)
    request = bench.last(Method.REFRESH)
    bench.allocation.probe(bench.now)
    bench.collect()
    assert bench.last(Method.REFRESH) is request


def test_allocation_expires_unless_refreshed() -> None:  # T11
    bench = Bench()
    bench.bound()
    bench.grant(lifetime=20)
    bench.run(10)
    for _ in range(20):
        bench.answer(bench.last(Method.REFRESH), error=400)
        bench.run(0.5)
    assert len(bench.of(Method.REFRESH)) == 1
    assert bench.lost() == [LENT4]


def test_forgotten_allocation_is_deleted_and_made_anew() -> None:  # T12
    bench = Bench()
    bench.bound()
    bench.answer(bench.last(Method.ALLOCATE), error=437)
    release = bench.last(Method.REFRESH)
    assert release.get(Attribute.LIFETIME) == 0
    bench.answer(release, (Attribute.LIFETIME, 0))
    bench.grant()
    assert bench.allocation.has_lent(LENT4)


def test_mismatch_on_refresh_makes_a_new_allocation() -> None:  # T13
    bench = Bench().allocated()
    number = bench.channel()
    bench.keep_alive(299)
    bench.run(1.1)
    bench.take_events()
    bench.answer(bench.last(Method.REFRESH), error=437)
    assert bench.lost() == [LENT4]
    assert bench.changed() == [PEER]
    assert bench.receive(number) is None
    assert bench.last(Method.ALLOCATE).at == bench.now


def test_mismatch_on_channel_bind_binds_the_peer_again() -> None:  # T13
    bench = Bench().allocated()
    bench.answer(bench.bind(), error=437)
    assert bench.lost() == [LENT4]
    bench.grant(LENT6, LENT4)
    again = bench.last(Method.CHANNEL_BIND)
    assert again.get(Attribute.XOR_PEER_ADDRESS) == PEER
    assert len(bench.of(Method.CHANNEL_BIND)) == 2


def test_refused_allocation_waits_for_the_portal() -> None:  # T14
    for code in (500, 508):
        bench = Bench()
        bench.bound()
        bench.allocation.bind_channel(PEER, bench.now)
        bench.answer(bench.last(Method.ALLOCATE), error=code)
        assert bench.allocation.is_suspended
        assert bench.allocation.poll_timeout() is None
        bench.take_sent()
        bench.bind_nothing(PEER)
        bench.allocation.probe(bench.now)
        bench.collect()
        assert [sent.method for sent in bench.take_sent()] == [Method.BINDING]


def test_unknown_attribute_ends_it_at_once() -> None:
    bench = Bench()
    bench.bound()
    bench.answer(bench.last(Method.ALLOCATE), error=420)
    assert bench.allocation.end_reason is not None


def test_forged_answer_does_not_cancel_the_request() -> None:  # T24
    bench = Bench()
    bench.bound()
    request = bench.last(Method.ALLOCATE)
    lent = ((Attribute.XOR_RELAYED_ADDRESS, LENT6), (Attribute.LIFETIME, 600))
    assert not bench.answer(request, *lent, key=b"guess")
    assert not bench.answer(request, *lent, sign=False)
    assert not bench.answer(request, error=420, sign=False)
    bench.grant()
    assert bench.allocation.has_lent(LENT4)
    assert not bench.allocation.has_lent(LENT6)
    bind = bench.bind()
    for code in (401, 403, 437, 508):
        assert not bench.answer(bind, error=code, sign=False)
    assert bench.answer(bind)
    assert bench.lost() == []


def test_unsigned_challenge_makes_us_ask_again_but_never_give_up() -> None:
    bench = Bench()
    bench.bound()
    for number in range(2 * MAX_CHALLENGES):
        request = bench.last(Method.ALLOCATE)
        bench.answer(request, (Attribute.NONCE, f"n{number}"), error=438, sign=False)
    assert len(bench.of(Method.ALLOCATE)) == 1 + MAX_CHALLENGES
    assert not bench.answer(bench.last(Method.ALLOCATE), (Attribute.NONCE, "n"), error=401, sign=False)
    bench.grant()
    assert bench.allocation.has_lent(LENT4)


def test_relay_that_wants_no_signature_without_a_nonce_is_asked_bare() -> None:
    bench = Bench()
    bench.bound()
    assert bench.answer(bench.last(Method.ALLOCATE), error=400, sign=False)
    bare = bench.last(Method.ALLOCATE)
    assert bare.received.integrity is None
    assert bare.get(Attribute.USERNAME) is None
    assert not bench.answer(bare, error=400, sign=False)
    bench.answer(bare, (Attribute.NONCE, "n1"), error=401, sign=False)
    assert bench.last(Method.ALLOCATE).received.integrity is not None
    assert bench.last(Method.ALLOCATE).get(Attribute.NONCE) == "n1"
    assert not bench.answer(bench.last(Method.ALLOCATE), error=400, sign=False)
    bench.grant()
    assert bench.allocation.has_lent(LENT4)


def test_relay_that_never_likes_its_nonce_is_given_up() -> None:
    bench = Bench()
    bench.bound()
    for number in range(2 * MAX_CHALLENGES):
        bench.challenge(bench.last(Method.ALLOCATE), f"n{number}", code=438)
    assert len(bench.of(Method.ALLOCATE)) == 1 + MAX_CHALLENGES
    assert bench.allocation.end_reason == "authentication error"


def test_relay_that_always_forgets_us_is_given_up() -> None:
    bench = Bench()
    bench.bound()
    for _ in range(4 * MAX_RECOVERIES):
        bench.answer(bench.last(Method.ALLOCATE), error=437)
        if bench.allocation.end_reason is not None:
            break
        asked = len(bench.of(Method.ALLOCATE))
        bench.answer(bench.last(Method.REFRESH), (Attribute.LIFETIME, 0))
        while len(bench.of(Method.ALLOCATE)) == asked:
            bench.run(0.5)
    assert bench.allocation.end_reason == "the relay forgets our allocation again and again"
    assert len(bench.of(Method.ALLOCATE)) == MAX_RECOVERIES + 1


def test_relay_that_forgets_slowly_is_asked_less_and_less_often() -> None:
    bench = Bench()
    bench.bound()
    for wait in (0, 1, 2, 3):
        bench.answer(bench.last(Method.ALLOCATE), error=437, sign=wait != 1)
        bench.answer(bench.last(Method.REFRESH), (Attribute.LIFETIME, 0))
        asked = len(bench.of(Method.ALLOCATE))
        bench.run(wait - 0.1 if wait else 0)
        assert len(bench.of(Method.ALLOCATE)) == asked
        bench.run(0.1)
    assert len(bench.of(Method.ALLOCATE)) == 5
    bench.grant()
    assert bench.allocation.has_lent(LENT4)


def test_relay_may_forget_us_now_and_then() -> None:
    bench = Bench().allocated()
    for _ in range(3 * MAX_RECOVERIES):
        bench.keep_alive(299)
        bench.run(1.1)
        bench.answer(bench.last(Method.REFRESH), error=437)
        bench.grant()
    assert bench.allocation.end_reason is None


def test_answers_of_other_addresses_methods_and_ids_are_ignored() -> None:
    bench = Bench((RELAY4, RELAY6))
    request = bench.of(Method.BINDING)[0]
    assert not bench.answer(Sent(bench.now, PEER, request.received))
    assert bench.answer(request, (Attribute.XOR_MAPPED_ADDRESS, MAPPED4))
    assert not bench.answer(request, (Attribute.XOR_MAPPED_ADDRESS, MAPPED4))


def test_allocation_without_lifetime_or_address_is_ignored() -> None:
    for attribute in ((Attribute.LIFETIME, 600), (Attribute.XOR_RELAYED_ADDRESS, LENT4)):
        bench = Bench()
        bench.bound()
        bench.answer(bench.last(Method.ALLOCATE), attribute)
        assert not bench.allocation.has_allocation


def test_lifetime_of_zero_on_refresh_allocates_again() -> None:
    bench = Bench().allocated()
    bench.keep_alive(299)
    bench.run(1.1)
    bench.refresh(lifetime=0)
    assert bench.lost() == [LENT4]
    bench.grant()
    assert bench.allocation.has_lent(LENT4)


def test_changed_mapping_is_found_in_addition() -> None:
    bench = Bench().allocated()
    bench.run(25)
    other = peer(7)
    bench.answer(bench.last(Method.BINDING), (Attribute.XOR_MAPPED_ADDRESS, other))
    assert bench.found(CandidateKind.SERVER_REFLEXIVE) == [MAPPED4, other]
    assert bench.lost() == []


def test_mapped_address_of_another_family_is_no_candidate() -> None:
    bench = Bench()
    bench.answer(bench.last(Method.BINDING), (Attribute.XOR_MAPPED_ADDRESS, MAPPED6))
    assert bench.found(CandidateKind.SERVER_REFLEXIVE) == []
    assert bench.allocation.active_server == RELAY4


def test_round_trip_is_smoothed_and_repeated_requests_do_not_count() -> None:
    bench = Bench()
    bench.run(0.08)
    bench.bound()
    assert bench.allocation.rtt == 80_000_000
    bench.run(0.16)
    bench.challenge(bench.last(Method.ALLOCATE))
    assert bench.allocation.rtt == 90_000_000
    bench.run(2)
    bench.grant()
    assert bench.allocation.rtt == 90_000_000


def test_crossing_families_is_told() -> None:
    bench = Bench().allocated(LENT4, LENT6)
    crossing = {found.candidate.endpoint: found.crosses_family for found in bench.allocation.candidates()}
    assert crossing[LENT4] is False
    assert crossing[LENT6] is True


def test_closing_loses_the_lent_addresses_and_the_gate() -> None:
    bench = Bench((RELAY4, RELAY6)).allocated()
    bench.channel()
    assert bench.gate.relays[RELAY4]
    bench.allocation.close()
    bench.collect()
    assert bench.lost() == [LENT4]
    assert bench.gate.relays == {}
