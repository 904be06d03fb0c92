"""Two peers and a link: who says what when, in both roles, until both send on the same keys."""

from __future__ import annotations

import pytest

from firezone.base.errors import NoSession, RemoteError
from firezone.base.ids import SessionSlot
from firezone.base.timing import MILLISECOND, SECOND
from firezone.proto.noise.cookie import receive_initiation
from firezone.proto.noise.handshake import ReceivedInitiation
from firezone.proto.noise.peer import MAX_QUEUED_PACKETS, MAX_QUEUED_TRANSMITS, Established, Expired
from firezone.proto.noise.plaintext import cut_to_packet
from tests.harness.noise import (
    DATA,
    EPOCH,
    INITIATION,
    KEEPALIVE,
    RESPONSE,
    UTC,
    Side,
    Sim,
    ipv4_packet,
    ipv6_packet,
    kind_of,
)
from tests.harness.sessions import SlowSessionStore

pytestmark = pytest.mark.usefixtures("store_kind")


def agreed_keys(sim: Sim) -> bool:
    """Tells whether what either side seals on its current session opens on the other side's."""
    slots = current_slot(sim.a), current_slot(sim.b)
    to_b = sim.b.store.open(sim.a.store.seal(slots[0], b"to b"), sim.now)
    to_a = sim.a.store.open(sim.b.store.seal(slots[1], b"to a"), sim.now)
    return (to_a, to_b) == ((slots[0], sim.a.peer.row, b"to a"), (slots[1], sim.b.peer.row, b"to b"))


def test_first_packet_starts_a_handshake_and_arrives() -> None:
    sim = Sim()
    sim.send(sim.a, ipv4_packet(b"hello"))
    sim.run(SECOND)
    assert sim.b.packets == [ipv4_packet(b"hello")]
    assert sim.kinds("a") == [INITIATION, KEEPALIVE, DATA]
    assert sim.kinds("b") == [RESPONSE]
    assert agreed_keys(sim)


def test_each_side_reports_the_handshake_once() -> None:
    sim = Sim()
    sim.connect()
    assert [type(event) for event in sim.a.events + sim.b.events] == [Established, Established]
    first, second = sim.a.events + sim.b.events
    assert isinstance(first, Established)
    assert isinstance(second, Established)
    assert (first.is_first, first.is_initiator) == (True, True)
    assert (second.is_first, second.is_initiator) == (True, False)


def test_responder_sends_on_the_new_session_only_after_data_on_it() -> None:
    sim = Sim()
    sim.fate = lambda sender, _datagram, _now: [sim.latency] if sender == "a" else []
    sim.initiate(sim.a)
    sim.run(SECOND)
    assert not sim.b.peer.has_session
    sim.send(sim.b, ipv4_packet())
    assert sim.kinds("b") == [RESPONSE]
    assert sim.b.peer.queued_packets == 1


@pytest.mark.parametrize("packet", [ipv4_packet(b"x" * 1260), ipv6_packet(b"y"), ipv4_packet()])
def test_packets_cross_in_both_directions_without_padding(packet: bytes) -> None:
    sim = Sim()
    sim.connect()
    sim.send(sim.a, packet)
    sim.send(sim.b, packet)
    sim.run(SECOND)
    assert sim.a.packets == sim.b.packets == [packet]
    assert {len(datagram) for datagram in sim.sent("a", DATA)} == {len(packet) + 32}


def test_queue_keeps_the_oldest_packets_and_leaves_after_the_keepalive() -> None:
    sim = Sim()
    for number in range(MAX_QUEUED_PACKETS + 3):
        sim.send(sim.a, ipv4_packet(number=number))
    assert sim.a.peer.dropped_packets == 3
    sim.run(SECOND)
    assert sim.kinds("a") == [INITIATION, KEEPALIVE] + [DATA] * MAX_QUEUED_PACKETS
    assert sim.b.packets == [ipv4_packet(number=number) for number in range(MAX_QUEUED_PACKETS)]


def test_answers_to_both_of_two_initiations_are_accepted() -> None:
    sim = Sim()
    sim.latency = 5200 * MILLISECOND // 2 + 100 * MILLISECOND
    sim.initiate(sim.a)
    sim.run(20 * SECOND)
    assert len(sim.times("a", INITIATION)) == 2
    assert len(established(sim.a)) == 2
    assert agreed_keys(sim)
    sim.send(sim.a, ipv4_packet(b"1"))
    sim.send(sim.b, ipv4_packet(b"2"))
    sim.run(20 * SECOND)
    assert (sim.a.packets, sim.b.packets) == ([ipv4_packet(b"2")], [ipv4_packet(b"1")])


def test_answer_to_the_initiation_before_the_previous_one_is_refused() -> None:
    sim = Sim()
    held: list[bytes] = []

    def hold(sender: str, datagram: bytes, _now: int) -> list[int]:
        held.append(datagram) if sender == "b" else None
        return [sim.latency] if sender == "a" else []

    sim.fate = hold
    sim.initiate(sim.a)
    sim.run(14 * SECOND)
    assert [kind_of(datagram) for datagram in held] == [RESPONSE] * 3
    sim.deliver(sim.a, held[0])
    assert sim.a.refused == ["A handshake response answers none of our initiations."]
    sim.fate = lambda _sender, _datagram, _now: [sim.latency]
    sim.deliver(sim.a, held[1])
    sim.deliver(sim.a, held[1])
    assert len(sim.a.refused) == 2
    assert len(established(sim.a)) == 1
    sim.run(SECOND)
    assert agreed_keys(sim)


def test_crossing_initiations_settle_without_another() -> None:
    sim = Sim()
    sim.send(sim.a, ipv4_packet(b"1"))
    sim.send(sim.b, ipv4_packet(b"2"))
    sim.run(10 * SECOND)
    assert len(sim.times("a", INITIATION)) == len(sim.times("b", INITIATION)) == 1
    assert (sim.a.packets, sim.b.packets) == ([ipv4_packet(b"2")], [ipv4_packet(b"1")])
    assert sim.a.refused == sim.b.refused == []


def test_crossing_initiations_whose_answers_are_both_lost_are_tried_again() -> None:
    sim = Sim()
    sim.fate = lambda _sender, datagram, now: [] if kind_of(datagram) == RESPONSE and now < EPOCH + SECOND else [sim.latency]
    sim.send(sim.a, ipv4_packet(b"1"))
    sim.send(sim.b, ipv4_packet(b"2"))
    sim.run(10 * SECOND)
    assert (sim.a.packets, sim.b.packets) == ([ipv4_packet(b"2")], [ipv4_packet(b"1")])


def test_responder_with_a_packet_waits_for_the_confirmation_and_then_asks_itself() -> None:
    sim = Sim()
    sim.fate = lambda sender, datagram, _now: [sim.latency] if kind_of(datagram) == INITIATION else []
    sim.initiate(sim.a)
    sim.run(100 * MILLISECOND)
    sim.a.peer.close()
    sim.renew(sim.a)
    sim.send(sim.b, ipv4_packet(b"late"))
    assert sim.times("b", INITIATION) == []
    sim.fate = lambda _sender, _datagram, _now: [sim.latency]
    sim.run(6 * SECOND)
    assert len(sim.times("b", INITIATION)) == 1
    assert sim.a.packets == [ipv4_packet(b"late")]


def test_replayed_initiation_changes_nothing() -> None:
    sim = Sim()
    sim.connect()
    before = sim.b.peer.poll_timeout()
    sim.deliver(sim.b, sim.sent("a", INITIATION)[0])
    assert sim.b.refused == ["An initiation's timestamp is not newer than the last one accepted: it is replayed."]
    assert sim.kinds("b") == [RESPONSE]
    assert sim.b.peer.poll_timeout() == before
    assert len(established(sim.b)) == 1


def test_replayed_response_and_data_change_nothing() -> None:
    sim = Sim()
    sim.connect()
    sim.send(sim.a, ipv4_packet())
    sim.run(SECOND)
    before = sim.a.peer.poll_timeout(), sim.b.peer.poll_timeout()
    sim.deliver(sim.a, sim.sent("b", RESPONSE)[0])
    sim.deliver(sim.b, sim.sent("a", DATA)[0])
    sim.deliver(sim.b, sim.sent("a", KEEPALIVE)[0])
    assert len(sim.b.packets) == 1
    assert (len(sim.a.refused), len(sim.b.refused)) == (1, 2)
    assert (sim.a.peer.poll_timeout(), sim.b.peer.poll_timeout()) == before


def test_initiations_at_one_instant_or_with_a_clock_set_back_are_not_replays() -> None:
    sim = Sim()
    stamps = [UTC, UTC, UTC - 3600 * SECOND, UTC + 1]
    for utc in stamps:
        sim.a.peer._end_attempt()
        sim.a.peer.initiate(sim.now, utc)
    sim._collect(sim.a)
    sim.run(SECOND)
    assert sim.b.refused == []
    assert sim.kinds("b") == [RESPONSE] * len(stamps)


def test_peer_that_lost_its_state_is_answered_again() -> None:
    sim = Sim()
    sim.connect()
    sim.run(SECOND)
    sim.a.peer.close()
    sim.renew(sim.a)
    sim.send(sim.a, ipv4_packet(b"back"))
    sim.send(sim.b, ipv4_packet(b"old session"))
    sim.run(SECOND)
    assert sim.b.packets == [ipv4_packet(b"back")]
    sim.send(sim.b, ipv4_packet(b"new session"))
    sim.run(SECOND)
    assert sim.a.packets == [ipv4_packet(b"new session")]


def test_data_on_an_older_session_never_switches_back() -> None:
    sim = Sim()
    sim.connect()
    old = current_slot(sim.a)
    sim.initiate(sim.a)
    sim.run(SECOND)
    new_at_b = current_slot(sim.b)
    sim.deliver(sim.b, sim.a.store.seal(old, ipv4_packet(b"late")))
    assert sim.b.packets == [ipv4_packet(b"late")]
    assert current_slot(sim.b) == new_at_b


def test_session_confirmed_late_does_not_replace_a_newer_one() -> None:
    sim = Sim()
    sim.fate = lambda _sender, datagram, _now: [] if kind_of(datagram) == KEEPALIVE else [sim.latency]
    sim.initiate(sim.a)
    sim.run(SECOND)
    old = current_slot(sim.a)
    sim.fate = lambda _sender, _datagram, _now: [sim.latency]
    sim.initiate(sim.a)
    sim.run(SECOND)
    newer = current_slot(sim.b)
    sim.deliver(sim.b, sim.a.store.seal(old, ipv4_packet(b"late")))
    assert sim.b.packets == [ipv4_packet(b"late")]
    assert current_slot(sim.b) == newer


def test_eight_sessions_are_kept_and_the_one_in_use_among_them() -> None:
    sim = Sim()
    sim.connect()
    in_use = current_slot(sim.b)
    sim.fate = lambda sender, _datagram, _now: [sim.latency] if sender == "a" else []
    for _ in range(20):
        sim.a.peer._end_attempt()
        sim.run(10 * MILLISECOND)
        sim.initiate(sim.a)
    sim.run(SECOND)
    assert len(sim.b.peer._keyring) == 8
    assert current_slot(sim.b) == in_use


def test_indices_in_use_are_not_given_again() -> None:
    sim = Sim()
    sim.connect()
    first = sim.sent("a", INITIATION)[0][4:8]
    for _ in range(300):
        sim.a.peer._end_attempt()
        sim.a.peer.initiate(sim.now, sim.utc)
    sim._collect(sim.a)
    assert sim.sent("a", INITIATION)[0][4:8] not in {datagram[4:8] for datagram in sim.sent("a", INITIATION)[1:]}
    assert first[1:] == sim.sent("a", INITIATION)[-1][5:8]


@pytest.mark.parametrize("preshared", [(b"\x01" * 32, b"\x02" * 32), (None, b"\x01" * 32)])
def test_other_preshared_key_fails_when_the_attempt_ends(preshared: tuple[bytes | None, bytes | None]) -> None:
    sim = Sim(preshared=preshared)
    sim.initiate(sim.a)
    sim.run(15 * SECOND)
    assert sim.a.events == [Expired("handshake not answered")]
    assert set(sim.a.refused) == {"The handshake response does not authenticate."}
    assert not sim.b.peer.has_session


def test_same_preshared_key_connects() -> None:
    sim = Sim(preshared=(b"\x07" * 32, b"\x07" * 32))
    sim.connect()
    assert agreed_keys(sim)


def test_no_preshared_key_is_the_same_as_one_of_zeros() -> None:
    sim = Sim(preshared=(None, bytes(32)))
    sim.connect()
    assert agreed_keys(sim)


def test_initiation_of_a_stranger_is_refused() -> None:
    sim, other = Sim(), Sim(seed=50)
    other.initiate(other.a)
    datagram = bytearray(other.sent("a", INITIATION)[0])
    sim.deliver(sim.b, bytes(datagram))
    assert sim.b.refused == ["The mac1 of a handshake message does not verify."]
    received = receive_initiation(other.b.static, other.b.limiter, bytes(datagram), b"\0" * 4, other.now)
    assert isinstance(received, ReceivedInitiation)
    with pytest.raises(RemoteError, match="another static key"):
        sim.b.peer.handle_initiation(received, sim.now)


@pytest.mark.parametrize("padding", [0, 1, 15, 16, 100])
@pytest.mark.parametrize("packet", [ipv4_packet(b"padded"), ipv6_packet(b"padded too")])
def test_padded_packets_are_cut_to_their_length(packet: bytes, padding: int) -> None:
    assert cut_to_packet(packet + bytes(padding)) == packet


@pytest.mark.parametrize(
    "plaintext",
    [
        ipv4_packet(b"short")[:-1],
        ipv6_packet(b"short")[:-1],
        ipv4_packet()[:19],
        ipv6_packet()[:39],
        b"\x45",
        b"\x00" * 60,
        b"\x50" + bytes(59),
        b"\x45\x00\x00\x13" + bytes(30),
    ],
)
def test_plaintext_that_is_no_packet_is_refused(plaintext: bytes) -> None:
    sim = Sim()
    sim.connect()
    sim.deliver(sim.b, sim.a.store.seal(current_slot(sim.a), plaintext))
    assert len(sim.b.refused) == 1
    assert sim.b.packets == []


def test_fast_path_reports_confirm_a_session_and_move_the_timers() -> None:
    sim = Sim()
    sim.fate = lambda sender, datagram, _now: [] if kind_of(datagram) == KEEPALIVE else [sim.latency]
    sim.initiate(sim.a)
    sim.run(SECOND)
    assert not sim.b.peer.has_session
    sim.send(sim.b, ipv4_packet())
    session = next(event.session for event in sim.b.events if isinstance(event, Established))
    sim.b.peer.on_activity(session, 0, 0, 1, sim.now)
    sim._collect(sim.b)
    assert sim.kinds("b") == [RESPONSE, DATA]
    sim.b.peer.on_activity(session, 0, 3, 0, sim.now)
    assert sim.b.peer.poll_timeout() == (sim.now + 10 * SECOND, "send keepalive")
    sim.b.peer.on_activity(session, 2, 0, 0, sim.now)
    assert sim.b.peer.poll_timeout() == (sim.now + 15 * SECOND, "no answer to data")
    sim.b.peer.on_activity(SessionSlot(999), 1, 1, 1, sim.now)


def test_closing_removes_all_sessions_from_the_store() -> None:
    sim = Sim()
    sim.connect()
    sim.initiate(sim.a)
    sim.run(SECOND)
    late = sim.b.store.seal(current_slot(sim.b), ipv4_packet())
    sim.a.peer.close()
    with pytest.raises(NoSession):
        sim.a.store.open(late, sim.now)
    assert sim.a.peer.poll_timeout() is None
    assert sim.a.peer.poll_transmit() is None


def test_transmits_are_bounded_and_the_newest_stay() -> None:
    sim = Sim()
    sim.connect()
    for number in range(MAX_QUEUED_TRANSMITS + 5):
        sim.a.peer.encapsulate(ipv4_packet(number=number), sim.now, sim.utc)
    sim._collect(sim.a)
    assert len(sim.times("a", DATA)) == MAX_QUEUED_TRANSMITS


def test_garbage_is_refused_without_effect() -> None:
    sim = Sim()
    sim.connect()
    before = sim.a.peer.poll_timeout()
    for datagram in (b"", b"x", bytes(148), b"\x04\0\0\0" + bytes(28), b"\x02\0\0\0" + bytes(88), b"\x03\0\0\0" + bytes(60)):
        sim.deliver(sim.a, datagram)
    assert len(sim.a.refused) == 6
    assert sim.a.peer.poll_timeout() == before


def test_no_repr_shows_a_secret() -> None:
    sim = Sim(preshared=(b"\x07" * 32, b"\x07" * 32))
    sim.initiate(sim.a)
    pending = repr([sim.a.peer._latest, sim.a.peer._attempt, sim.a.peer])
    sim.run(SECOND)
    shown = pending + repr([vars(sim.a.peer), sim.a.events])
    secrets = [b"\x07" * 32, sim.a.peer._remote.static_secret]
    if isinstance(sim.a.store, SlowSessionStore):  # The compiled table shows its keys to nobody.
        keys = next(iter(sim.a.store.sessions.values()))
        secrets += [keys.send_key, keys.receive_key]
    for secret in secrets:
        assert secret.hex()[:16] not in shown
        assert repr(secret)[2:14] not in shown


def established(side: Side) -> list[Established]:
    return [event for event in side.events if isinstance(event, Established)]


def current_slot(side: Side) -> SessionSlot:
    current = side.peer._keyring.current
    assert current is not None
    return current.slot
