"""Two peers and a link: who says what when, in both roles, until both send on the same keys."""

from __future__ import annotations

import pytest

from firezone.base.timing import SECOND
from firezone.proto.noise.peer import MAX_QUEUED_PACKETS, Established
from tests.harness.noise import DATA, INITIATION, KEEPALIVE, RESPONSE, Sim, ipv4_packet, ipv6_packet
from tests.harness.sessions import SlowSessionStore


def agreed_keys(sim: Sim) -> bool:
    """Tells whether the two sides send on keys that the other receives on."""
    stores = sim.a.store, sim.b.store
    assert isinstance(stores[0], SlowSessionStore)
    assert isinstance(stores[1], SlowSessionStore)
    slot_a, _ = stores[0].sending[sim.a.peer.row]
    slot_b, _ = stores[1].sending[sim.b.peer.row]
    a, b = stores[0].sessions[slot_a], stores[1].sessions[slot_b]
    return (
        (a.send_key, a.receive_key) == (b.receive_key, b.send_key)
        and (a.local_index, a.remote_index) == (b.remote_index, b.local_index)
        and a.send_key != a.receive_key
    )


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
