"""What an agent does not believe: wrong passwords, unknown addresses, answers nobody asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.base.errors import WireError
from firezone.proto.ice.checks import IceCredentials, encode_success
from firezone.proto.ice.events import IceState
from firezone.wire import stun
from firezone.wire.candidate import decode_candidate
from tests.harness.ice import CONTROLLED, CONTROLLING, OURS, START, THEIRS, Link, agent, check_to, connected, host


@pytest.mark.parametrize("username", ["kwe6:other", "other:w7up", "kwe6:", "kwe6", "w7up:kwe6", ""])
def test_both_halves_of_the_username_must_match(username: str) -> None:
    target = agent(is_controlling=False)
    target.add_local(host("192.0.2.1"), START)
    assert not check_to(target, sender=CONTROLLING, receiver=CONTROLLED, username=username)
    assert target.poll_transmit() is None


def test_a_request_under_a_wrong_password_is_not_accepted() -> None:
    target = agent(is_controlling=False)
    target.add_local(host("192.0.2.1"), START)
    assert not check_to(target, sender=CONTROLLING, receiver=IceCredentials("kwe6", "wrong"))
    assert target.remote_candidates() == []


def test_a_request_to_an_address_that_is_no_candidate_is_not_answered() -> None:
    target = agent(is_controlling=False)
    target.add_local(host("192.0.2.1"), START)
    assert check_to(target, sender=CONTROLLING, receiver=CONTROLLED, destination=THEIRS)
    assert target.poll_transmit() is None


def test_an_invalidated_address_stays_dead_until_announced_again() -> None:
    link = connected()
    candidate = link.left.agent.remote_candidates()[0]
    link.left.agent.invalidate_remote(candidate, link.now)
    answers = len(link.left.answers())
    link.run(5)
    assert len(link.left.answers()) == answers
    link.left.agent.add_remote(candidate, link.now)
    link.run(1)
    states = [state for _, state in link.left.states]
    assert states[-3:] == [IceState.DISCONNECTED, IceState.CHECKING, IceState.COMPLETED]


def test_a_repeated_announcement_gives_a_pair_that_died_another_chance() -> None:
    link = Link()
    link.drop = lambda _side, _transmit: True
    link.offer(link.left, host("192.0.2.1"))
    announced = link.offer(link.right, host("198.51.100.1"))
    assert announced is not None
    assert not link.left.agent.add_remote(announced, link.now)
    link.run(20)
    assert link.left.agent.pairs == ()
    assert link.left.agent.add_remote(announced, link.now)
    assert len(link.left.agent.pairs) == 1


def test_an_invalidation_matches_by_fields_not_by_text() -> None:
    target = agent(is_controlling=True)
    target.add_local(host("192.0.2.1"), START)
    announced = "candidate:1 1 udp 37748479 203.0.113.1 60000 typ relay raddr 0.0.0.0 rport 0 ufrag kwe6"
    target.add_remote(decode_candidate(announced), START)
    other = "candidate:2 1 udp 37748479 203.0.113.1 60000 typ srflx raddr 0.0.0.0 rport 0"
    assert not target.invalidate_remote(decode_candidate(other), START)
    line = "candidate:fffeff02 1 udp 50331391 203.0.113.1 60000 typ relay raddr 0.0.0.0 rport 0"
    assert target.invalidate_remote(decode_candidate(line), START)
    assert target.pairs == ()


def test_use_candidate_towards_a_controlling_agent_is_ignored() -> None:
    target = agent(is_controlling=True)
    target.add_local(host("192.0.2.1"), START)
    handled = check_to(target, sender=CONTROLLED, receiver=CONTROLLING, claims_control=False, use_candidate=True)
    assert handled
    assert target.poll_transmit() is None
    assert target.is_controlling


def test_an_answer_that_was_not_asked_for_or_is_not_signed_is_not_accepted() -> None:
    link = Link()
    link.drop = lambda _side, _transmit: True
    link.offer(link.left, host("192.0.2.1"))
    link.offer(link.right, host("198.51.100.1"))
    link.run(0.1)
    asked = link.left.requests()[0][1].transaction_id
    target = link.left.agent
    for transaction_id, credentials in ((bytes(12), CONTROLLED), (asked, CONTROLLING)):
        forged = stun.decode(encode_success(transaction_id, OURS, credentials))
        assert not target.handle_message(OURS, THEIRS, forged, link.now)
    assert not target.pairs[0].has_succeeded
    genuine = stun.decode(encode_success(asked, OURS, CONTROLLED))
    assert target.handle_message(OURS, THEIRS, genuine, link.now)
    assert target.pairs[0].has_succeeded


def test_other_methods_and_indications_are_not_for_us() -> None:
    target = agent(is_controlling=True)
    for message_class in stun.MessageClass:
        for method in (stun.Method.BINDING, stun.Method.ALLOCATE):
            message = stun.Message(message_class, method, bytes(12))
            received = stun.decode(stun.encode(message, key=b"x"))
            assert not target.handle_message(OURS, THEIRS, received, START)


@given(st.binary(max_size=100), st.integers(0, 0x1FF))
def test_any_bytes_in_no_exception_out(body: bytes, kind: int) -> None:
    target = agent(is_controlling=True)
    target.add_local(host("192.0.2.1"), START)
    body += bytes(-len(body) % 4)
    datagram = kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + stun.MAGIC_COOKIE_BYTES + bytes(12) + body
    try:
        received = stun.decode(datagram)
    except WireError:
        return
    assert not target.handle_message(OURS, THEIRS, received, START)
