"""Who controls, and addresses that change under a path."""

from __future__ import annotations

import pytest

from firezone.base.net import Endpoint
from firezone.base.rng import SeededRng
from firezone.base.timing import SECOND
from firezone.proto.ice.agent import IceAgent
from firezone.proto.ice.checks import encode_role_conflict
from firezone.proto.ice.events import IceState, IceTransmit, Nominated
from firezone.wire import stun
from tests.harness.ice import CONTROLLED, CONTROLLING, OURS, START, THEIRS, Link, Side, agent, check_to, host

# Roles


def test_two_controlling_agents_settle_by_tie_breaker() -> None:
    settle_conflict(is_controlling=True)


def test_two_controlled_agents_settle_by_tie_breaker() -> None:
    settle_conflict(is_controlling=False)


def settle_conflict(*, is_controlling: bool) -> None:
    left = IceAgent(is_controlling=is_controlling, local=CONTROLLING, remote=CONTROLLED, rng=SeededRng(1))
    right = IceAgent(is_controlling=is_controlling, local=CONTROLLED, remote=CONTROLLING, rng=SeededRng(2))
    link = Link(left, right)
    link.offer(link.left, host("192.0.2.1"))
    link.offer(link.right, host("198.51.100.1"))
    link.run(3)
    assert left.is_controlling != right.is_controlling
    assert link.left.nominated[-1][1] == Nominated(OURS, THEIRS)
    assert link.right.nominated[-1][1] == Nominated(THEIRS, OURS)


def test_the_smaller_tie_breaker_is_refused_with_487() -> None:
    target = agent(is_controlling=True)
    target.add_local(host("192.0.2.1"), START)
    assert check_to(target, sender=CONTROLLED, receiver=CONTROLLING, claims_control=True, tie_breaker=0)
    transmit = target.poll_transmit()
    assert transmit is not None
    refusal = stun.decode(transmit.payload)
    assert refusal.message.get(stun.Attribute.ERROR_CODE) == stun.ErrorCode(487, "Role Conflict")
    assert refusal.verify_integrity(CONTROLLING.password.encode())


def test_several_refusals_of_one_role_make_us_yield_once() -> None:
    link = Link()
    link.drop = lambda _side, _transmit: True
    link.offer(link.left, host("192.0.2.1"))
    link.offer(link.right, host("198.51.100.1"))
    link.run(0.5)
    asked = [message.transaction_id for _, message in link.left.requests()]
    assert len(asked) == 2
    for transaction_id in asked:
        refusal = stun.decode(encode_role_conflict(transaction_id, CONTROLLED))
        assert link.left.agent.handle_message(OURS, THEIRS, refusal, link.now)
    assert not link.left.agent.is_controlling


def test_other_errors_are_ignored() -> None:
    link = Link()
    link.drop = lambda _side, _transmit: True
    link.offer(link.left, host("192.0.2.1"))
    link.offer(link.right, host("198.51.100.1"))
    link.run(0.1)
    asked = link.left.requests()[0][1].transaction_id
    error = (stun.Attribute.ERROR_CODE, stun.ErrorCode(400, "Bad Request"))
    message = stun.Message(stun.MessageClass.ERROR, stun.Method.BINDING, asked, (error,))
    received = stun.decode(stun.encode(message, key=CONTROLLED.password.encode()))
    assert not link.left.agent.handle_message(OURS, THEIRS, received, link.now)
    assert link.left.agent.is_controlling


def test_transactions_shared_with_an_owner_are_kept_tidy() -> None:
    transactions: dict[bytes, IceAgent] = {}
    left = IceAgent(is_controlling=True, local=CONTROLLING, remote=CONTROLLED, rng=SeededRng(1), transactions=transactions)
    link = Link(left)
    link.offer(link.left, host("192.0.2.1"))
    link.offer(link.right, host("198.51.100.1"))
    link.run(60)
    assert 0 < len(transactions) <= 12
    left.close()
    assert transactions == {}


def test_check_of_the_peer_repeats_ours_that_was_lost_at_once() -> None:
    """RFC 8445 section 7.3.1.4: behind NATs and relays the first check of one side is the one that is lost."""
    link = Link()
    lost: list[int] = []

    def loses_first(side: Side, _: IceTransmit) -> bool:
        is_first = side is link.left and not lost
        if is_first:
            lost.append(1)
        return is_first

    link.drop = loses_first
    link.offer(link.left, host("192.0.2.1"))
    link.offer(link.right, host("198.51.100.1"))
    link.run(0.06)
    assert link.left.agent.state is IceState.COMPLETED
    first, second = (at for at, _ in link.left.requests()[:2])
    assert second - first == 10_000_000


def test_checks_of_the_peer_trigger_no_storm() -> None:
    """Ours never arrive, theirs always do: ours are as many as theirs at most, besides the schedule."""
    link = Link()
    link.drop = lambda side, _: side is link.left
    link.offer(link.left, host("192.0.2.1"))
    link.offer(link.right, host("198.51.100.1"))
    link.run(10)
    assert len(link.left.requests()) <= 2 * len(link.right.requests())


# Addresses that change under a path


def rebinding_nat(link: Link, side: Side) -> list[int]:
    """Puts a NAT in front of a side. Returns its outer port, for changing; answers to other ports do not arrive."""
    port = [40000]
    link.translate = lambda who, source: Endpoint.from_text("203.0.113.9", port[0]) if who is side else source
    link.arrive = lambda who, destination: Endpoint.from_text("192.168.1.7", 52625) if who is side else destination
    link.drop = lambda who, transmit: who is not side and transmit.destination.port != port[0]
    return port


def through_nat(*, is_controlled_behind: bool = False) -> tuple[Link, Side, Side, list[int]]:
    """A connected pair of agents of which one is behind a NAT: the link, the open side, the other, and the NAT's port."""
    link = Link()
    inside, outside = (link.right, link.left) if is_controlled_behind else (link.left, link.right)
    port = rebinding_nat(link, inside)
    inside.agent.add_local(host("192.168.1.7"), link.now)
    inside.agent.add_remote(host("198.51.100.1"), link.now)
    outside.agent.add_local(host("198.51.100.1"), link.now)
    link.run(10)
    selected = outside.agent.selected
    assert selected is not None
    assert selected.remote.endpoint.port == port[0]
    return link, outside, inside, port


@pytest.mark.parametrize("is_controlled_behind", [False, True])
def test_a_nat_that_gives_another_port_is_followed_with_the_next_check(is_controlled_behind: bool) -> None:
    link, outside, _, port = through_nat(is_controlled_behind=is_controlled_behind)
    for port[0] in (40001, 40002, 40000):
        link.run(2)
        selected = outside.agent.selected
        assert selected is not None
        assert selected.remote.endpoint.port == port[0]
        link.run(20)


def test_a_check_repeated_from_elsewhere_moves_nothing_unless_somebody_there_knows_the_password() -> None:
    link, outside, inside, _ = through_nat()
    at, check = next((at, sent) for at, sent in reversed(inside.sent) if stun.decode(sent.payload).message.message_class == 0)
    assert at <= link.now
    link.now += 3 * SECOND // 2
    outside.agent.handle_message(check.destination, Endpoint.from_text("192.0.2.66", 666), stun.decode(check.payload), link.now)
    link.run(20)
    assert {event.destination.port for _, event in outside.nominated} == {40000}


def test_two_ways_that_both_live_are_not_taken_for_one_that_moved() -> None:
    """A peer with two sockets behind one NAT; the checks of both arrive, one 0.2 s after the other."""
    link, outside, _, _ = through_nat()
    before = len(outside.nominated)
    other = Endpoint.from_text("203.0.113.9", 41000)
    link.drop = lambda who, transmit: False
    for _ in range(20):
        link.run(0.2)
        check_to(
            outside.agent,
            sender=CONTROLLING,
            receiver=CONTROLLED,
            source=other,
            destination=Endpoint.from_text("198.51.100.1", 52625),
        )
        link.run(1.3)
    assert len(outside.nominated) - before <= 1
