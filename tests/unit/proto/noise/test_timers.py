"""When a peer speaks without being asked: rekeys, retransmissions, keepalives, and when it gives up.

The figures are written again from the WireGuard paper and Firezone's changes to it. The link is woken at announced deadlines
only, so each test also shows that the announcement was complete.
"""

from __future__ import annotations

import pytest

from firezone.base.timing import MILLISECOND, SECOND, seconds
from firezone.proto.noise.peer import Expired
from firezone.proto.noise.timers import FIREZONE, STANDARD, PeerTiming
from tests.harness.noise import DATA, EPOCH, INITIATION, KEEPALIVE, RESPONSE, Side, Sim, ipv4_packet, kind_of

pytestmark = pytest.mark.usefixtures("store_kind")

JITTER = 0.333
LATENCY = 0.010


def cut(sim: Sim) -> None:
    """Loses everything from now on."""
    sim.fate = lambda _sender, _datagram, _now: []


def only(sim: Sim, sender: str) -> None:
    """Loses everything that the other side sends from now on."""
    sim.fate = lambda name, _datagram, _now: [sim.latency] if name == sender else []


def talk(sim: Sim, side: Side, until_s: float, every_s: float = 1.0) -> None:
    """Sends a packet at a steady pace."""
    while sim.elapsed < seconds(until_s):
        sim.send(side, ipv4_packet())
        sim.run(seconds(every_s))


def expired(side: Side) -> list[str]:
    return [event.reason for event in side.events if isinstance(event, Expired)]


def test_constants_are_those_of_paper_and_firezone() -> None:
    assert STANDARD.rekey_after == 120 * SECOND
    assert STANDARD.reject_after == 180 * SECOND
    assert STANDARD.rekey_attempt == 90 * SECOND
    assert STANDARD.rekey_timeout == 5 * SECOND
    assert STANDARD.keepalive_timeout == 10 * SECOND
    assert STANDARD.rekey_on_receive_after == 165 * SECOND
    assert STANDARD.initiator_stops_after == 170 * SECOND
    assert STANDARD.expire_after == 540 * SECOND
    assert STANDARD.no_answer_after == 15 * SECOND
    assert PeerTiming(rekey_attempt=15 * SECOND) == FIREZONE


def test_unanswered_initiation_is_sent_again_after_five_seconds_and_jitter() -> None:
    sim = Sim()
    cut(sim)
    sim.initiate(sim.a)
    sim.run(14 * SECOND)
    first, second, third = sim.times("a", INITIATION)
    assert first == 0
    assert 5 <= second - first <= 5 + JITTER
    assert 5 <= third - second <= 5 + JITTER


def test_jitter_differs_between_peers() -> None:
    gaps = set()
    for seed in range(1, 6):
        sim = Sim(seed=seed)
        cut(sim)
        sim.initiate(sim.a)
        sim.run(6 * SECOND)
        gaps.add(sim.times("a", INITIATION)[1])
    assert len(gaps) == 5


def test_every_initiation_has_a_new_key_stamp_and_index() -> None:
    sim = Sim()
    cut(sim)
    sim.initiate(sim.a)
    sim.run(14 * SECOND)
    sent = sim.sent("a", INITIATION)
    assert len({datagram[4:8] for datagram in sent}) == len({datagram[8:40] for datagram in sent}) == len(sent) == 3
    assert [datagram[4] for datagram in sent] == [1, 2, 3]


@pytest.mark.parametrize(("timing", "attempt_s", "initiations"), [(FIREZONE, 15, 3), (STANDARD, 90, 17)])
def test_attempt_ends_and_takes_the_queue_with_it(timing: PeerTiming, attempt_s: int, initiations: int) -> None:
    sim = Sim(timing=timing)
    cut(sim)
    sim.send(sim.a, ipv4_packet())
    sim.run(attempt_s * SECOND - 1)
    assert expired(sim.a) == []
    sim.run(1)
    assert expired(sim.a) == ["handshake not answered"]
    assert abs(len(sim.times("a", INITIATION)) - initiations) <= 1
    assert sim.a.peer.queued_packets == 0
    assert sim.a.peer.dropped_packets == 1
    assert sim.a.peer.poll_timeout() is None


def test_expired_peer_starts_anew_with_the_next_packet() -> None:
    sim = Sim()
    cut(sim)
    sim.send(sim.a, ipv4_packet())
    sim.run(20 * SECOND)
    sim.fate = lambda _sender, _datagram, _now: [sim.latency]
    sim.send(sim.a, ipv4_packet(b"again"))
    sim.run(SECOND)
    assert sim.b.packets == [ipv4_packet(b"again")]


def test_initiator_renews_after_two_minutes_of_sending() -> None:
    sim = Sim()
    sim.connect()
    talk(sim, sim.a, 130)
    assert len(sim.times("a", INITIATION)) == 2
    assert 120 <= sim.times("a", INITIATION)[1] - 2 * LATENCY <= 120 + JITTER
    assert sim.times("b", INITIATION) == []


def test_responder_does_not_renew_after_two_minutes_of_sending() -> None:
    sim = Sim()
    sim.connect()
    talk(sim, sim.b, 160, every_s=0.5)
    assert sim.times("b", INITIATION) == []
    assert len(sim.times("a", INITIATION)) == 1


def test_initiator_renews_a_session_it_only_received_on_after_165_seconds() -> None:
    sim = Sim()
    sim.connect()
    talk(sim, sim.b, 170)
    assert len(sim.times("a", INITIATION)) == 2
    assert 165 <= sim.times("a", INITIATION)[1] - 2 * LATENCY <= 165 + JITTER


def test_idle_initiator_makes_a_new_session_every_three_minutes() -> None:
    sim = Sim()
    sim.connect()
    sim.run(600 * SECOND)
    gaps = [later - earlier for earlier, later in zip(sim.times("a", INITIATION), sim.times("a", INITIATION)[1:], strict=False)]
    assert len(gaps) == 3
    assert all(180 <= gap - 2 * LATENCY <= 180 + JITTER for gap in gaps)
    assert sim.times("b", INITIATION) == []
    assert expired(sim.a) == expired(sim.b) == []
    assert sim.times("a", DATA) == []


def test_no_packet_is_lost_across_rekeys() -> None:
    sim = Sim()
    sim.connect()
    for number in range(4000):
        sim.send(sim.a, ipv4_packet(number=number))
        sim.send(sim.b, ipv4_packet(number=number))
        sim.run(100 * MILLISECOND)
    expected = [ipv4_packet(number=number) for number in range(4000)]
    assert len(sim.times("a", INITIATION)) == 4
    assert sim.b.packets == expected
    assert sim.a.packets == expected
    assert sim.a.refused == sim.b.refused == []


def test_initiator_stops_sending_on_a_session_of_170_seconds() -> None:
    sim = Sim()
    sim.connect()
    sim.run(EPOCH + 170 * SECOND + seconds(2 * LATENCY) - sim.now - 1)
    sim.send(sim.a, ipv4_packet())
    assert sim.kinds("a")[-1] == DATA
    sim.run(1)
    sim.send(sim.a, ipv4_packet())
    assert sim.kinds("a")[-1] == INITIATION
    assert sim.a.peer.queued_packets == 1
    sim.run(SECOND)
    assert len(sim.b.packets) == 2


def test_responder_sends_on_a_session_until_it_is_dropped() -> None:
    sim = Sim()
    sim.connect()
    only(sim, "b")
    sim.run(EPOCH + 180 * SECOND + seconds(LATENCY) - sim.now - 1)
    sim.send(sim.b, ipv4_packet())
    assert sim.kinds("b")[-1] == DATA
    sim.run(1)
    sim.send(sim.b, ipv4_packet())
    assert sim.kinds("b")[-1] == INITIATION


def test_session_is_dropped_by_both_sides_after_three_minutes() -> None:
    sim = Sim()
    sim.connect()
    datagram_for_b = sim.a.store.seal(sim.a.peer._keyring.current.slot, ipv4_packet())  # type: ignore[union-attr]
    cut(sim)
    sim.run(181 * SECOND)
    assert not sim.a.peer.has_session
    assert not sim.b.peer.has_session
    sim.deliver(sim.b, datagram_for_b)
    assert sim.b.packets == []
    assert sim.b.refused == ["A data message is for no session of ours."]


def test_received_data_is_answered_by_one_keepalive_after_ten_seconds() -> None:
    sim = Sim()
    sim.connect()
    started = sim.elapsed
    sim.send(sim.a, ipv4_packet())
    sim.run(4 * SECOND)
    sim.send(sim.a, ipv4_packet())
    sim.run(30 * SECOND)
    assert sim.kinds("b", since=started) == [KEEPALIVE]
    # Counted from the first unanswered packet: one-way traffic with gaps below 10 s must not postpone it.
    assert sim.times("b", KEEPALIVE)[-1] == pytest.approx(started / SECOND + LATENCY + 10)


def test_no_keepalive_when_something_was_sent_in_between() -> None:
    sim = Sim()
    sim.connect()
    started = sim.elapsed
    sim.send(sim.a, ipv4_packet())
    sim.run(SECOND)
    sim.send(sim.b, ipv4_packet())
    sim.run(9 * SECOND)
    assert sim.kinds("b", since=started) == [DATA]


def test_keepalives_are_not_answered() -> None:
    sim = Sim()
    sim.connect()
    sim.run(100 * SECOND)
    assert sim.kinds("a") == [INITIATION, KEEPALIVE]
    assert sim.kinds("b") == [RESPONSE]


@pytest.mark.parametrize("name", ["a", "b"])
def test_either_side_rekeys_when_data_is_not_answered_for_fifteen_seconds(name: str) -> None:
    sim = Sim()
    sim.connect()
    side = sim.a if name == "a" else sim.b
    started = sim.elapsed / SECOND
    cut(sim)
    sim.send(side, ipv4_packet())
    sim.run(7 * SECOND)
    sim.send(side, ipv4_packet())  # from the first packet on, not from the last
    before = len(sim.times(name, INITIATION))
    sim.run(20 * SECOND)
    assert 15 <= sim.times(name, INITIATION)[before] - started <= 15 + JITTER


def test_one_way_traffic_is_kept_up_by_keepalives_alone() -> None:
    sim = Sim()
    sim.connect()
    talk(sim, sim.a, 100, every_s=0.5)
    assert len(sim.times("a", INITIATION)) == 1
    assert 8 <= len(sim.times("b", KEEPALIVE)) <= 10


def test_packet_without_a_session_is_not_delayed_by_the_jitter_of_a_due_rekey() -> None:
    sim = Sim()
    sim.connect()
    dropped_at = EPOCH + seconds(2 * LATENCY) + 180 * SECOND
    sim.run(dropped_at - sim.now)
    sim.send(sim.a, ipv4_packet())
    assert sim.now == dropped_at
    assert len(sim.times("a", INITIATION)) == 2
    sim.run(SECOND)
    assert len(sim.times("a", INITIATION)) == 2


def test_peer_without_any_session_expires_after_nine_minutes() -> None:
    sim = Sim()
    sim.run(540 * SECOND - 1)
    assert expired(sim.a) == []
    sim.run(1)
    assert expired(sim.a) == ["no new session for too long"]


def test_responder_whose_peer_is_gone_expires_after_nine_minutes() -> None:
    sim = Sim()
    sim.connect()
    sim.a.peer.close()
    sim.run(600 * SECOND)
    assert expired(sim.b) == ["no new session for too long"]
    assert sim.times("b", INITIATION) == []


def test_keepalive_due_without_a_session_starts_a_handshake() -> None:
    sim = Sim()
    sim.connect()
    sim.run(172 * SECOND)
    sim.send(sim.b, ipv4_packet())
    cut(sim)
    before = len(sim.times("a", INITIATION))
    assert before == 1
    sim.run(0)
    sim.fate = lambda _sender, _datagram, _now: [sim.latency]
    sim.run(3 * SECOND)
    assert len(sim.times("a", INITIATION)) == 2  # received at 172 s on a session older than 165 s


def test_own_initiation_is_left_alone_after_the_peers_crossed_it() -> None:
    sim = Sim()
    cut(sim)
    sim.initiate(sim.a)
    sim.run(4 * SECOND)
    # The peer's initiation and our answer pass, its confirmation does not.
    sim.fate = lambda _sender, datagram, _now: [sim.latency] if kind_of(datagram) in {INITIATION, RESPONSE} else []
    sim.initiate(sim.b)
    sim.run(100 * MILLISECOND)
    assert not sim.a.peer.is_handshake_in_flight
    sim.run(4800 * MILLISECOND)
    assert sim.times("a", INITIATION) == [0]
    sim.run(500 * MILLISECOND)
    assert len(sim.times("a", INITIATION)) == 2
    assert sim.a.peer.has_session


def test_confirmation_after_a_retry_ends_the_attempt() -> None:
    sim = Sim()
    sim.fate = lambda _sender, datagram, _now: [6 * SECOND] if kind_of(datagram) == KEEPALIVE else []
    sim.initiate(sim.a)
    sim.deliver(sim.a, initiation_of_b := _initiation_of(sim, sim.b))
    sim.deliver(sim.b, sim.sent("a", RESPONSE)[0])
    sim.run(20 * SECOND)
    assert initiation_of_b in sim.sent("b", INITIATION)
    assert len(sim.times("a", INITIATION)) == 2
    assert expired(sim.a) == []


def _initiation_of(sim: Sim, side: Side) -> bytes:
    """Makes a side start a handshake that the link loses, and returns the initiation."""
    sim.initiate(side)
    return sim.sent(side.name, INITIATION)[0]


def test_handshake_of_the_peer_cancels_a_rekey_that_is_due() -> None:
    sim = Sim()
    sim.connect()
    sim.send(sim.a, ipv4_packet())
    sim.run(119 * SECOND)
    while (deadline := sim.a.peer.poll_timeout()) is not None and deadline[1] != "send initiation":
        sim.run(deadline[0] - sim.now)
    sim.initiate(sim.b)
    sim.deliver(sim.a, sim.sent("b", INITIATION)[0])
    sim.run(10 * SECOND)
    assert len(sim.times("a", INITIATION)) == 1


@pytest.mark.parametrize("is_initiator", [True, False])
def test_handshake_answers_for_the_data_before_it(is_initiator: bool) -> None:
    sim = Sim()
    sim.connect()
    sim.fate = lambda _sender, datagram, _now: [] if kind_of(datagram) == DATA else [sim.latency]
    if is_initiator:
        sim.initiate(sim.a)
    sim.send(sim.a, ipv4_packet())
    if not is_initiator:
        sim.initiate(sim.b)
        sim.fate = lambda _sender, datagram, _now: [sim.latency] if kind_of(datagram) in {INITIATION, RESPONSE} else []
    sim.run(30 * SECOND)
    assert len(sim.times("a", INITIATION)) == 1 + is_initiator


@pytest.mark.parametrize("answered", [0, 1])
def test_unanswered_initiation_is_forgotten_when_no_attempt_could_still_want_it(answered: int) -> None:
    sim = Sim()
    cut(sim)
    sim.initiate(sim.a)
    sim.run(6 * SECOND)
    initiations = sim.sent("a", INITIATION)
    for initiation in initiations:
        sim.deliver(sim.b, initiation)
    responses = sim.sent("b", RESPONSE)
    assert len(responses) == 2
    sim.deliver(sim.a, responses[answered])
    assert sim.a.peer.has_session
    assert (sim.a.peer.poll_timeout() or (0, ""))[1] == "forget initiation"
    sim.run(15 * SECOND)
    sim.deliver(sim.a, responses[1 - answered])
    assert sim.a.refused == ["A handshake response answers none of our initiations."]


def test_keepalive_due_during_an_attempt_does_not_spin() -> None:
    # With the usual timing each retransmission comes before the keepalive and stands for it.
    sim = Sim(timing=PeerTiming(rekey_timeout=12 * SECOND, rekey_attempt=15 * SECOND))
    sim.connect()
    sim.run(171 * SECOND)
    only(sim, "b")
    sim.send(sim.a, ipv4_packet())
    sim.run(SECOND)
    sim.send(sim.b, ipv4_packet())
    assert sim.a.peer.is_handshake_in_flight
    sim.run(20 * SECOND)
    assert expired(sim.a) == ["handshake not answered"]


def test_data_sent_by_the_fast_path_counts_for_renewal() -> None:
    sim = Sim()
    sim.connect()
    current = sim.a.peer._keyring.current
    assert current is not None
    sim.a.peer.on_activity(current.slot, 5, 0, 0, sim.now)
    sim.a.peer.on_activity(current.slot, 0, 0, 1, sim.now)
    sim.run(121 * SECOND)
    assert len(sim.times("a", INITIATION)) == 2


def test_proactive_handshake_is_sent_once_and_without_delay() -> None:
    sim = Sim()
    sim.initiate(sim.a)
    sim.initiate(sim.a)
    assert sim.a.peer.is_handshake_in_flight
    assert sim.times("a", INITIATION) == [0]
    sim.run(SECOND)
    assert not sim.a.peer.is_handshake_in_flight
    assert sim.a.peer.last_rtt_ns == 2 * sim.latency
    assert sim.a.peer.last_handshake_at == EPOCH + 2 * sim.latency


def test_deadlines_name_their_reason() -> None:
    sim = Sim()
    assert sim.a.peer.poll_timeout() == (EPOCH + 540 * SECOND, "expire peer")
    sim.initiate(sim.a)
    deadline = sim.a.peer.poll_timeout()
    assert deadline is not None
    assert deadline[1] == "send initiation again"
    sim.run(SECOND)
    deadline = sim.a.peer.poll_timeout()
    assert deadline == (EPOCH + 2 * sim.latency + 180 * SECOND, "drop session")
    sim.send(sim.a, ipv4_packet())
    deadline = sim.a.peer.poll_timeout()
    assert deadline == (sim.now + 15 * SECOND, "no answer to data")
    sim.run(SECOND)
    deadline = sim.b.peer.poll_timeout()
    assert deadline is not None
    assert deadline[1] == "send keepalive"
