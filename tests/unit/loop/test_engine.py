"""The fair tick: scenarios E1 to E12 of the event loop's specification, over rings in memory."""

from __future__ import annotations

import ipaddress

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP

from firezone.base.errors import ReaderStopped, RemoteError
from firezone.base.ids import PeerRow
from firezone.base.limits import READS_PER_ROUND
from firezone.base.net import Endpoint, Transmit
from firezone.base.timing import SECOND
from firezone.datapath.punt import PUNTS_PER_BATCH
from firezone.kernels.types import Reason
from firezone.loop.engine import OUTPUTS_PER_TICK, ROUNDS_PER_TICK
from firezone.loop.errors import Severity, classify
from firezone.loop.memory import MemorySockets, address_of
from firezone.proto.updates import RouteRemoved, RouteSet
from tests.harness.engines import INNER, OUTER, ManualClock, pair

BACK = (INNER[1], INNER[0])


def udp(payload: bytes, source: str = INNER[0], destination: str = INNER[1], port: int = 9) -> bytes:
    return bytes(IP(src=source, dst=destination) / UDP(sport=4000, dport=port) / payload)


def test_packet_crosses_two_engines_unchanged() -> None:
    alice, bob = pair()
    packets = [udp(b"x" * size) for size in (0, 1, 100, 1252)]
    bob.tun.coalesce = False
    for packet in packets:
        assert alice.tun.send(packet)
    alice.engine.tick()
    bob.engine.tick()
    assert [packet for _, packet in bob.tun.receive()] == packets


def test_both_directions_and_a_due_timer_are_served_in_one_tick() -> None:
    alice, bob = pair()
    bob.tun.send(udp(b"from bob", *BACK))
    bob.engine.tick()
    alice.tun.send(udp(b"from alice"))
    alice.machine.deadline = (alice.clock.time, "test")
    alice.engine.touch()
    alice.machine.calls.clear()
    alice.engine.tick()
    assert "timeout" in alice.machine.names()
    assert len(alice.tun.receive()) == 1
    assert bob.sockets.source.ring.ready() == 1


def test_one_failing_packet_costs_only_itself() -> None:
    alice, bob = pair()
    lost = udp(b"3", destination="203.0.113.9")
    alice.machine.updates.append(RouteSet(ipaddress.ip_network("203.0.113.9"), None))
    alice.engine.touch()
    alice.machine.failure, alice.machine.fails_on = RemoteError("no"), {lost}
    bob.tun.coalesce = False
    for number in range(60):
        alice.tun.send(lost if number == 2 else udp(bytes([number])))
    while alice.engine.tick():
        pass
    while bob.engine.tick():
        pass
    errors = alice.engine.errors.take()
    assert errors is not None
    assert len(errors.exceptions) == 1
    assert len(bob.tun.receive()) == 59


def test_a_source_with_a_million_items_starves_nobody() -> None:
    """Alice's TUN never runs dry, yet each of Bob's packets reaches her TUN one tick after it arrived."""
    alice, bob = pair()
    flood = udp(b"flood")
    sent = 0
    for number in range(40):
        while alice.tun.send(flood):
            sent += 1
        bob.tun.send(udp(bytes([number]), *BACK))
        bob.engine.tick()
        bob.tun.receive()
        assert alice.engine.tick(), "a full batch must ask for another tick"
        assert len(alice.tun.receive()) == 1, f"packet {number} had to wait"
    assert sent >= 40 * READS_PER_ROUND


def test_tick_takes_a_bounded_batch_and_asks_to_come_back() -> None:
    alice, _ = pair()
    for _ in range(ROUNDS_PER_TICK * READS_PER_ROUND + 3):
        alice.tun.send(udp(b"x"))
    assert alice.engine.tick()
    assert alice.tun.source.ring.ready() == 3
    assert not alice.engine.tick()
    assert alice.tun.source.ring.ready() == 0


def test_clock_is_read_once_per_tick() -> None:
    alice, _ = pair()
    alice.tun.send(udp(b"x"))
    before = alice.clock.readings
    alice.engine.tick()
    assert alice.clock.readings == before + 1


def test_deadline_in_the_past_fires_once_and_is_gone() -> None:
    alice, _ = pair()
    alice.machine.deadline = (alice.clock.time - SECOND, "late")
    alice.engine.touch()
    alice.engine.tick()
    timeouts = [call for call in alice.machine.calls if call[0] == "timeout"]
    assert [call[1] for call in timeouts] == [alice.clock.time]
    alice.engine.tick()
    assert alice.machine.names().count("timeout") == 1
    assert alice.engine.deadline is None


def test_command_that_creates_an_earlier_deadline_rearms_without_input() -> None:
    alice, _ = pair()
    alice.machine.deadline = (alice.clock.time + 60 * SECOND, "far")
    alice.engine.tick()
    alice.machine.deadline = (alice.clock.time + SECOND, "near")
    alice.engine.touch()
    assert (alice.engine.deadline, alice.engine.deadline_reason) == (alice.clock.time + SECOND, "near")


def test_timers_keep_moving_under_load() -> None:
    clock = ManualClock()
    alice, _ = pair(clock)
    fired = 0
    alice.machine.deadline = (clock.time + 1_000_000, "next")
    alice.engine.touch()
    for _ in range(100):
        while alice.tun.send(udp(b"x")):
            pass
        alice.engine.tick()
        clock.time += 1_000_000
        if alice.machine.deadline is None:
            fired += 1
            alice.machine.deadline = (clock.time, "next")
            alice.engine.touch()
    assert fired >= 99


def test_updates_beyond_a_ticks_share_follow_by_themselves_and_before_what_must_meet_them() -> None:
    """A policy edit that touches thousands of clients; nothing else may happen that would call for another tick."""
    host, _ = pair()
    networks = [ipaddress.ip_network((0x0B000000 + number, 32)) for number in range(2 * OUTPUTS_PER_TICK + 1)]
    host.machine.updates.extend(RouteSet(network, PeerRow(0)) for network in networks)
    host.machine.packets.append(b"\x45" + bytes(19))
    host.engine.touch()
    ticks = 0
    while not host.tun.ring.ready():
        assert len(host.machine.updates) == 0 or host.machine.packets, "the packet waits for its tables"
        assert host.engine.tick() or host.tun.ring.ready(), "the engine sleeps with work left"
        ticks += 1
    assert ticks == 2
    assert all(host.tables.routes.get(network) == 0 for network in (networks[0], networks[-1]))


def test_machine_outputs_leave_in_the_tick_that_made_them() -> None:
    alice, bob = pair()
    alice.machine.deadline = (alice.clock.time, "now")
    alice.engine.touch()
    alice.machine.transmits.append(Transmit(OUTER[0], OUTER[1], b"\x00" * 20))
    alice.machine.packets.append(udp(b"for tun", *BACK))
    alice.engine.tick()
    assert len(alice.tun.receive()) == 1
    assert bob.sockets.source.ring.ready() == 1


def test_a_message_is_answered_before_the_next_one_of_its_batch_is_handled(monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = pair()
    check = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)
    answers_out: list[int] = []

    def handle(local: Endpoint, remote: Endpoint, datagram: bytes, ecn: int, now: int) -> None:
        answers_out.append(alice.sockets.source.ring.ready())
        bob.machine.transmits.append(Transmit(local, remote, datagram))

    monkeypatch.setattr(bob.machine, "handle_datagram", handle)
    for _ in range(3):
        alice.machine.transmits.append(Transmit(OUTER[0], OUTER[1], check))
    alice.engine.touch()
    bob.engine.tick()
    assert answers_out == [0, 1, 2]
    assert alice.sockets.source.ring.ready() == 3


def test_table_update_meets_the_next_packet() -> None:
    alice, _ = pair()
    network = ipaddress.ip_network(INNER[1])
    alice.machine.updates.append(RouteRemoved(network))
    alice.engine.touch()
    alice.tun.send(udp(b"x"))
    alice.engine.tick()
    assert alice.engine.reasons[Reason.NO_ROUTE] == 1


def test_garbage_datagrams_are_counted_and_reach_nobody() -> None:
    alice, bob = pair()
    for payload in (b"", b"\x07garbage", b"\x04\x00\x00\x00" + bytes(40), b"\xff" * 1400):
        alice.machine.transmits.append(Transmit(OUTER[0], OUTER[1], payload))
    alice.engine.touch()
    bob.engine.tick()
    assert bob.tun.receive() == []
    assert bob.machine.calls == []
    reasons = {reason: int(bob.engine.reasons[reason]) for reason in Reason if bob.engine.reasons[reason]}
    assert reasons == {Reason.EMPTY: 1, Reason.UNKNOWN_DATAGRAM: 1, Reason.UNKNOWN_SESSION: 1, Reason.OVERSIZED: 1}


def test_peer_cannot_speak_for_another_address() -> None:
    alice, bob = pair()
    alice.machine.updates.clear()
    alice.tables.filters.remove_peer(0)
    alice.tables.filters.set_peer(0, [ipaddress.ip_network(INNER[1])], None, None)
    alice.tun.send(udp(b"spoofed", source="10.8.0.77"))
    alice.engine.tick()
    bob.engine.tick()
    assert bob.tun.receive() == []
    assert [(call[0], call[3]) for call in bob.machine.calls if call[0] == "refused"] == [("refused", Reason.REFUSED_SOURCE)]


def test_activity_names_the_session_and_its_bytes() -> None:
    alice, bob = pair()
    alice.tun.send(udp(b"x" * 72))
    alice.engine.tick()
    bob.engine.tick()
    assert alice.engine.deadline_reason == bob.engine.deadline_reason == "activity"
    assert not [call for call in (*alice.machine.calls, *bob.machine.calls) if call[0] == "activity"], "it can wait"
    for host in (alice, bob):
        host.clock.time = host.engine.deadline or 0
        host.engine.tick()
    sent = next(call[1] for call in alice.machine.calls if call[0] == "activity")
    received = next(call[1] for call in bob.machine.calls if call[0] == "activity")
    assert (sent["sent"].tolist(), sent["received"].tolist()) == ([1], [0])
    assert (received["received"].tolist(), received["received_bytes"].tolist()) == ([1], [100])


def test_what_may_confirm_a_session_is_reported_before_tun_is_read_again() -> None:
    """The kernel answers while the packet is written; an answer sealed on the former session is lost."""
    alice, bob = pair()
    bob.tables.sessions.use_for_sending(PeerRow(0), None, 0)
    fill = bob.tun.source.fill

    def noted_fill(max_reads: int, descriptor: int | None = None) -> None:
        bob.machine.calls.append(("fill",))
        fill(max_reads, descriptor)

    bob.tun.source.fill = noted_fill  # type: ignore[method-assign]
    alice.tun.send(udp(b"x"))
    alice.engine.tick()
    bob.engine.tick()
    assert [call[0] for call in bob.machine.calls] == ["fill", "activity", "fill"]


@pytest.mark.parametrize(
    "packet",
    [
        bytes(IP(src=INNER[0], dst=INNER[1]) / ICMP() / b"ping"),
        bytes(IP(src=INNER[0], dst=INNER[1]) / TCP(sport=1, dport=2, flags="S", options=[("MSS", 1240)])),
        bytes(IP(src=INNER[0], dst=INNER[1], proto=132) / b"sctp-like"),
    ],
    ids=["icmp", "tcp-syn", "unknown-protocol"],
)
def test_other_protocols_cross_byte_for_byte(packet: bytes) -> None:
    alice, bob = pair()
    alice.tun.send(packet)
    alice.engine.tick()
    bob.engine.tick()
    assert [received for _, received in bob.tun.receive()] == [packet]


class StuckSockets(MemorySockets):
    """Sockets that refuse to send for as long as the test says."""

    is_stuck = False

    def waiting(self, now: int) -> bool:
        return self.is_stuck


def test_waiting_datagrams_hold_tun_and_nothing_else() -> None:
    alice, bob = pair()
    stuck = StuckSockets(alice.sockets.network, [])
    alice.engine.udp_sink = stuck
    stuck.is_stuck = True
    alice.tun.send(udp(b"held"))
    bob.tun.send(udp(b"received all the same", *BACK))
    bob.engine.tick()
    alice.machine.deadline = (alice.clock.time, "timers too")
    alice.engine.touch()
    alice.engine.tick()
    assert alice.engine.is_held
    assert alice.tun.source.ring.ready() == 1
    assert len(alice.tun.receive()) == 1
    assert "timeout" in alice.machine.names()
    stuck.is_stuck = False
    alice.engine.tick()
    assert alice.tun.source.ring.ready() == 0
    assert bob.sockets.source.ring.ready() == 1


def test_forged_handshakes_take_the_bound_and_not_the_tick() -> None:
    alice, bob = pair()
    forged = b"\x01\0\0\0" + bytes(144)
    for _ in range(8):
        alice.sockets.network.deliver(OUTER[0], Transmit(None, OUTER[1], forged * 1))
    trains = bob.sockets.source.ring
    for _ in range(8):
        trains.push(forged * 64, stride=148, local=address_of(OUTER[1]), remote=address_of(OUTER[0]), socket=4)
    bob.tun.send(udp(b"meanwhile", *BACK))
    while bob.engine.tick():
        pass
    assert bob.machine.names().count("datagram") <= 2 * PUNTS_PER_BATCH + 8
    assert bob.engine.reasons[Reason.PUNT_LIMIT] >= 8 * 64 - 2 * PUNTS_PER_BATCH
    assert alice.sockets.source.ring.ready() == 1


def test_dead_source_is_an_error_and_not_a_spin() -> None:
    alice, _ = pair()
    alice.tun.source.take_errors = lambda: [ReaderStopped("The reader tun stopped.")]  # type: ignore[method-assign]
    assert not alice.engine.tick()
    taken = alice.engine.errors.take()
    assert taken is not None
    assert classify(taken.exceptions[0]) is Severity.FATAL
