"""The agent of `snownet` 7: pairs, checks, nomination, invalidation, conflicts, and what it must not be talked into."""

from __future__ import annotations

import pytest

from firezone.base.net import Endpoint
from firezone.base.timing import SECOND, seconds
from firezone.proto.ice.agent import MAX_PAIRS, IceAgent
from firezone.proto.ice.candidates import reflexive_candidate, relay_candidate
from firezone.proto.ice.events import IceState, Nominated
from firezone.proto.ice.pair import IDLE, Pair
from firezone.wire import stun
from firezone.wire.candidate import Candidate, CandidateKind, decode_candidate, encode_candidate
from tests.harness.ice import CONTROLLED, CONTROLLING, OURS, START, THEIRS, Link, agent, check_to, connected, host, is_answer

# Connecting


def test_two_agents_nominate_the_same_path() -> None:
    link = connected()
    assert [event for _, event in link.left.nominated] == [Nominated(OURS, THEIRS)]
    assert [event for _, event in link.right.nominated] == [Nominated(THEIRS, OURS)]
    assert link.left.agent.state is IceState.COMPLETED
    assert link.right.agent.state is IceState.COMPLETED


def test_the_controlling_side_selects_on_the_first_success_the_other_on_use_candidate() -> None:
    link = connected()
    nominating = [at for at, message in link.left.requests() if message.get(stun.Attribute.USE_CANDIDATE)]
    assert link.left.nominated[0][0] == nominating[0]
    assert link.right.nominated[0][0] == nominating[0] + link.latency


def test_every_check_of_a_nominated_pair_carries_use_candidate_and_only_from_the_controlling_side() -> None:
    link = connected()
    link.run(10)
    later = [message for at, message in link.left.requests() if at > link.left.nominated[0][0]]
    assert later
    assert all(message.get(stun.Attribute.USE_CANDIDATE) for message in later)
    assert not any(message.get(stun.Attribute.USE_CANDIDATE) for _, message in link.right.requests())


def test_a_check_has_the_attributes_in_their_order() -> None:
    link = connected()
    for side, role in ((link.left, stun.Attribute.ICE_CONTROLLING), (link.right, stun.Attribute.ICE_CONTROLLED)):
        message = side.requests()[0][1]
        kinds = [kind for kind, _ in message.attributes]
        assert kinds == [stun.Attribute.USERNAME, role, stun.Attribute.PRIORITY]
    received = stun.decode(link.left.sent[0][1].payload)
    assert received.message.get(stun.Attribute.USERNAME) == "kwe6:w7up"
    assert received.message.get(stun.Attribute.PRIORITY) == 1862270719
    assert received.verify_integrity(CONTROLLED.password.encode())
    assert received.verify_fingerprint()


def test_transaction_ids_are_never_used_twice() -> None:
    link = connected()
    link.run(30)
    ids = [message.transaction_id for _, message in link.left.requests()]
    assert len(set(ids)) == len(ids) > 15


def test_a_better_pair_that_succeeds_later_is_nominated_too() -> None:
    link = connected()
    link.offer(link.left, host("2001:db8::1"))
    link.offer(link.right, host("2001:db8::2"))
    link.run(1)
    for side in (link.left, link.right):
        assert not side.nominated[-1][1].source.is_ipv4


def with_two_ways() -> tuple[Link, Candidate, Candidate]:
    """Returns agents that use a way, and two candidates of the right side: the one in use and another."""
    link = connected()
    first = link.right.agent.local_candidates()[0]
    second = link.right.agent.add_local(host("198.51.100.2"), link.now)
    assert second is not None
    return link, first, second


def test_a_pair_that_was_overtaken_is_checked_without_use_candidate() -> None:
    link, first, second = with_two_ways()
    link.left.agent.add_remote(second.with_priority(first.priority + 1), link.now)
    link.run(0.5)
    since = link.now
    link.run(5)
    nominating = {
        sent.destination: stun.decode(sent.payload).message.get(stun.Attribute.USE_CANDIDATE) is not None
        for at, sent in link.left.sent
        if at > since and stun.decode(sent.payload).message.message_class is stun.MessageClass.REQUEST
    }
    assert nominating == {first.endpoint: False, second.endpoint: True}


@pytest.mark.parametrize("is_original", [False, True], ids=["ours", "original"])
def test_the_controlled_side_follows_the_other_though_it_ranks_otherwise(
    is_original: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, first, second = with_two_ways()
    if is_original:  # Firezone's agent goes on nominating what it once did.
        monkeypatch.setattr(Pair, "unnominate", lambda _: None)
    # Only the left side knows the second way as the better one: to the right it is a later and so a lesser candidate.
    link.left.agent.add_remote(second.with_priority(first.priority + 1), link.now)
    link.run(5)
    assert link.left.nominated[-1][1].destination == second.endpoint
    assert link.right.nominated[-1][1].source == second.endpoint
    ranks = [pair.local.endpoint for pair in link.right.agent.pairs]
    assert ranks == [first.endpoint, second.endpoint]


def test_a_relay_pair_is_outranked_by_a_direct_one() -> None:
    link = Link()
    link.offer(link.left, relay_candidate(Endpoint.from_text("203.0.113.1", 60000)))
    link.offer(link.right, host("198.51.100.1"))
    link.run(1)
    assert link.left.nominated[-1][1].source == Endpoint.from_text("203.0.113.1", 60000)
    link.offer(link.left, host("192.0.2.1"))
    link.run(1)
    assert link.left.nominated[-1][1] == Nominated(OURS, THEIRS)
    assert link.right.nominated[-1][1] == Nominated(THEIRS, OURS)


def test_a_peer_behind_a_nat_is_found_by_its_checks() -> None:
    link = Link()
    public = Endpoint.from_text("203.0.113.9", 40000)
    link.translate = lambda side, source: public if side is link.left else source
    link.drop = lambda side, transmit: side is link.right and transmit.destination != public
    link.offer(link.left, host("10.0.0.1"))
    link.offer(link.right, host("198.51.100.1"))
    deliver_through_nat(link, public, Endpoint.from_text("10.0.0.1", 52625))
    link.run(2)
    assert link.left.nominated[-1][1] == Nominated(Endpoint.from_text("10.0.0.1", 52625), THEIRS)
    assert link.right.nominated[-1][1] == Nominated(THEIRS, public)
    assert public in link.left.agent.observed


def deliver_through_nat(link: Link, public: Endpoint, inner: Endpoint) -> None:
    """Rewrites the destination of what the right side sends to the public address."""
    original = link.left.agent.handle_message

    def handle(local: Endpoint, remote: Endpoint, received: stun.Received, now: int) -> bool:
        return original(inner if local == public else local, remote, received, now)

    link.left.agent.handle_message = handle  # type: ignore[method-assign]


def test_candidates_may_come_after_the_first_checks() -> None:
    link = Link()
    link.left.agent.add_local(host("192.0.2.1"), link.now)
    announced = link.right.agent.add_local(host("198.51.100.1"), link.now)
    assert announced is not None
    link.left.agent.add_remote(announced, link.now)
    link.run(1)
    assert link.right.nominated[-1][1] == Nominated(THEIRS, OURS)
    made_up = link.right.agent.remote_candidates()[0]
    assert made_up.kind is CandidateKind.PEER_REFLEXIVE
    assert made_up.priority == 1862270719


def test_a_signalled_candidate_takes_the_place_of_the_made_up_one() -> None:
    link = Link()
    announced = link.left.agent.add_local(host("192.0.2.1"), link.now)
    link.right.agent.add_local(host("198.51.100.1"), link.now)
    check_to(
        link.right.agent,
        sender=CONTROLLING,
        receiver=CONTROLLED,
        source=OURS,
        destination=THEIRS,
        use_candidate=True,
    )
    before = link.right.agent.pairs[0]
    assert announced is not None
    link.right.agent.add_remote(decode_candidate(encode_candidate(announced)), link.now)
    assert link.right.agent.pairs == (before,)
    assert before.remote.kind is CandidateKind.HOST
    assert before.is_nominated
    assert before.priority > 2130706000 << 32


def test_a_signalled_relay_candidate_lowers_the_pair_found_by_a_check() -> None:
    target = agent(is_controlling=False)
    target.add_local(host("198.51.100.1"), START)
    relay = Endpoint.from_text("203.0.113.1", 60000)
    check_to(target, sender=CONTROLLING, receiver=CONTROLLED, source=relay, destination=THEIRS)
    high = target.pairs[0].priority
    line = "candidate:1 1 udp 37748479 203.0.113.1 60000 typ relay raddr 0.0.0.0 rport 0"
    target.add_remote(decode_candidate(line), START)
    assert target.pairs[0].priority < high


# Candidates


def test_later_candidates_of_a_kind_and_family_rank_lower() -> None:
    target = agent(is_controlling=True)
    texts = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"]
    priorities = [added.priority >> 8 & 0xFFFF for text in texts if (added := target.add_local(host(text), START))]
    assert priorities == [65534, 65532, 65535, 65533]


def test_a_repeated_candidate_is_rejected() -> None:
    target = agent(is_controlling=True)
    assert target.add_local(host("192.0.2.1"), START) is not None
    assert target.add_local(host("192.0.2.1"), START) is None


def test_a_discarded_candidate_is_enabled_again_and_announced() -> None:
    target = agent(is_controlling=True)
    first = target.add_local(host("192.0.2.1"), START)
    assert target.invalidate_local(host("192.0.2.1"), START) == first
    assert target.invalidate_local(host("192.0.2.1"), START) is None
    assert target.add_local(host("192.0.2.1"), START) == first


def test_a_reflexive_candidate_is_announced_and_never_paired() -> None:
    target = agent(is_controlling=True)
    target.add_remote(host("198.51.100.1").with_priority(1), START)
    mapped = Endpoint.from_text("203.0.113.7", 40000)
    announced = target.add_local(reflexive_candidate(mapped, OURS), START)
    assert announced is not None
    assert announced.priority == 100 << 24 | 32766 << 8 | 255
    assert encode_candidate(announced).endswith("typ srflx raddr 0.0.0.0 rport 0 ufrag w7up")
    assert target.pairs == ()
    assert target.add_local(reflexive_candidate(mapped, OURS), START) is None


def test_an_address_is_announced_once_however_it_was_learned() -> None:
    target = agent(is_controlling=True)
    other = Endpoint.from_text("192.0.2.77", 52625)
    mapped = Endpoint.from_text("203.0.113.7", 40000)
    assert target.add_local(reflexive_candidate(OURS, OURS), START) is None
    assert target.add_local(reflexive_candidate(mapped, OURS), START) is not None
    assert target.add_local(reflexive_candidate(mapped, other), START) is None
    second = target.add_local(reflexive_candidate(Endpoint.from_text("203.0.113.8", 40000), OURS), START)
    assert second is not None
    assert second.priority == 100 << 24 | 32764 << 8 | 255


def test_invalidating_a_reflexive_candidate_leaves_the_host_pairs() -> None:
    link = connected()
    mapped = reflexive_candidate(Endpoint.from_text("203.0.113.7", 40000), OURS)
    link.left.agent.add_local(mapped, link.now)
    assert link.left.agent.invalidate_local(mapped, link.now) is not None
    assert len(link.left.agent.pairs) == 1


def test_a_relay_candidate_is_taken_back_by_a_line_without_ufrag_and_with_another_priority() -> None:  # C24
    target = agent(is_controlling=True)
    target.add_local(host("192.0.2.1"), START)
    line = "candidate:fffe3f0277aa66bb55cc44dd 1 udp 37748479 198.51.100.9 61000 typ relay raddr 0.0.0.0 rport 0"
    assert not target.add_remote(decode_candidate(f"{line} ufrag other"), START)
    assert target.add_remote(decode_candidate(f"{line} ufrag {CONTROLLED.ufrag}"), START)
    assert len(target.pairs) == 1
    gone = "candidate:77aa66bb55cc44dd 1 udp 1234 198.51.100.9 61000 typ relay raddr 0.0.0.0 rport 0"
    other = gone.replace("61000", "61001")
    assert not target.invalidate_remote(decode_candidate(other), START)
    assert target.invalidate_remote(decode_candidate(gone), START)
    assert not target.pairs


def test_a_reflexive_address_of_another_family_is_refused() -> None:
    with pytest.raises(ValueError, match="family"):
        reflexive_candidate(Endpoint.from_text("2001:db8::1", 1), OURS)


@pytest.mark.parametrize(
    "line",
    [
        "candidate:1 2 udp 1 198.51.100.1 52625 typ host",
        "candidate:1 1 tcp 1 198.51.100.1 52625 typ host",
        "candidate:1 1 udp 1 198.51.100.1 52625 typ host ufrag other",
        "candidate:1 1 udp 1 224.0.0.1 52625 typ host",
        "candidate:1 1 udp 1 198.51.100.1 0 typ host",
    ],
)
def test_candidates_that_cannot_be_checked_are_ignored(line: str) -> None:
    target = agent(is_controlling=True)
    target.add_local(host("192.0.2.1"), START)
    assert not target.add_remote(decode_candidate(line), START)
    assert target.pairs == ()


def test_pairs_are_of_one_family() -> None:
    target = agent(is_controlling=True)
    target.add_local(host("192.0.2.1"), START)
    target.add_local(host("2001:db8::1"), START)
    target.add_remote(host("198.51.100.1").with_priority(1), START)
    target.add_remote(host("2001:db8::2").with_priority(2), START)
    assert len(target.pairs) == 2


def test_relay_and_relay_are_paired_and_not_redundant_with_host_pairs() -> None:
    target = agent(is_controlling=True)
    target.add_local(host("192.0.2.1"), START)
    target.add_local(relay_candidate(Endpoint.from_text("203.0.113.1", 60000)), START)
    target.add_remote(host("198.51.100.1").with_priority(5), START)
    target.add_remote(relay_candidate(Endpoint.from_text("203.0.113.2", 60001)).with_priority(1), START)
    assert len(target.pairs) == 4


def test_of_two_candidates_with_one_address_the_better_makes_the_pair() -> None:
    target = agent(is_controlling=True)
    target.add_local(host("192.0.2.1"), START)
    reflexive = "candidate:1 1 udp 1694498559 198.51.100.1 52625 typ srflx raddr 0.0.0.0 rport 0"
    target.add_remote(decode_candidate(reflexive), START)
    target.add_remote(decode_candidate("candidate:1 1 udp 2130706175 198.51.100.1 52625 typ host"), START)
    assert [pair.remote.kind for pair in target.pairs] == [CandidateKind.HOST]
    target.invalidate_remote(decode_candidate("candidate:9 1 udp 2 198.51.100.1 52625 typ host"), START)
    assert [pair.remote.kind for pair in target.pairs] == [CandidateKind.SERVER_REFLEXIVE]


def test_no_more_than_a_hundred_pairs_and_the_selected_one_stays() -> None:
    link = connected()
    for number in range(1, 250):
        candidate = decode_candidate(f"candidate:1 1 udp 4294967295 203.0.113.{number} 52625 typ host")
        link.left.agent.add_remote(candidate, link.now)
    assert len(link.left.agent.pairs) == MAX_PAIRS
    assert link.left.agent.selected in link.left.agent.pairs
    link.run(0.1)
    assert len(link.left.requests()) < 2 * MAX_PAIRS + 10


def test_a_thousand_nat_rebindings_leave_room_for_the_next() -> None:
    target = agent(is_controlling=False)
    target.add_local(host("198.51.100.1"), START)
    now = START
    for number in range(1000):
        now += 60 * SECOND
        target.handle_timeout(now)
        source = Endpoint.from_text("203.0.113.9", 2000 + number)
        check_to(target, sender=CONTROLLING, receiver=CONTROLLED, source=source, destination=THEIRS)
        assert any(pair.remote.endpoint == source for pair in target.pairs)


# Losing a path


def test_the_next_best_path_is_taken_when_the_selected_one_dies() -> None:
    link = connected()
    link.offer(link.left, host("2001:db8::1"))
    link.offer(link.right, host("2001:db8::2"))
    link.run(30)
    link.drop = lambda _side, transmit: not transmit.source.is_ipv4
    link.run(20)
    assert link.left.nominated[-1][1] == Nominated(OURS, THEIRS)
    assert link.right.nominated[-1][1] == Nominated(THEIRS, OURS)
    assert link.left.agent.state is IceState.COMPLETED


def test_a_dead_path_is_noticed_within_18_seconds() -> None:
    link = connected()
    link.run(30)
    cut = link.now
    link.drop = lambda _side, _transmit: True
    link.run(20)
    for side in (link.left, link.right):
        at, state = side.states[-1]
        assert state is IceState.DISCONNECTED
        assert at - cut <= seconds(1.5 + 16.5)


def test_loss_in_one_direction_is_survived_while_the_peer_is_heard() -> None:
    link = connected()
    link.drop = lambda side, transmit: side is link.right and is_answer(transmit.payload)
    link.run(60)
    assert IceState.DISCONNECTED not in [state for _, state in link.left.states]
    assert len(link.left.nominated) == 1


def test_idle_a_dead_path_is_noticed_within_125_seconds() -> None:
    link = connected()
    for side in (link.left, link.right):
        side.agent.set_timings(IDLE, link.now)
    link.run(30)
    cut = link.now
    link.drop = lambda _side, _transmit: True
    link.run(130)
    assert link.left.states[-1][1] is IceState.DISCONNECTED
    assert link.left.states[-1][0] - cut <= seconds(125)


def test_without_candidates_of_one_side_the_agent_goes_on_waiting() -> None:
    for prepare in (lambda target: target.add_local(host("192.0.2.1"), START), remote_only):
        target = agent(is_controlling=True)
        prepare(target)
        target.handle_timeout(START + 1000 * SECOND)
        assert target.state is IceState.CHECKING


def remote_only(target: IceAgent) -> None:
    target.add_remote(host("198.51.100.1").with_priority(1), START)


def test_the_state_goes_from_disconnected_back_to_connected() -> None:
    link = connected()
    for side in (link.left, link.right):
        side.agent.invalidate_remote(side.agent.remote_candidates()[0], link.now)
    link.run(1)
    link.offer(link.left, host("192.0.2.77"))
    link.offer(link.right, host("198.51.100.77"))
    link.run(1)
    for side in (link.left, link.right):
        states = [state for _, state in side.states]
        assert states[-1] in (IceState.CONNECTED, IceState.COMPLETED)
        assert IceState.DISCONNECTED in states
