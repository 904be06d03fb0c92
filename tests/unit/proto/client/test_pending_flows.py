"""When the portal is asked, and what waits meanwhile: `client` 5.1, 5.2, 17.2."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from firezone.base.ids import ResourceId
from firezone.base.timing import SECOND, seconds
from firezone.proto.client.pending_flows import MAX_BUFFERED, PacketBuffer, PendingFlows
from firezone.wire.ip import decode_ip
from tests.harness import packets

SYN = 0x02
A, B = ResourceId("a"), ResourceId("b")
OWN, SERVER = "100.64.0.1", "10.0.0.7"


def udp(number: int) -> bytes:
    return packets.udp(OWN, SERVER, number.to_bytes(4, "big"))


def syn(seq: int, stamp: int = 0) -> bytes:
    options = b"\1\1\x08\x0a" + stamp.to_bytes(4, "big") + bytes(4)
    return packets.tcp(OWN, SERVER, seq=seq, tcp_flags=SYN, tcp_options=options, ident=stamp)


def add(flows: PendingFlows, resource: ResourceId, packet: bytes, at: float) -> bool:
    return flows.add(resource, packet, decode_ip(packet), seconds(at))


def filled(*kept: bytes) -> PacketBuffer:
    buffer = PacketBuffer()
    for packet in kept:
        buffer.add(packet, decode_ip(packet))
    return buffer


def test_the_first_packet_asks_and_others_only_two_seconds_later() -> None:
    flows = PendingFlows()
    asked = [add(flows, A, udp(number), at) for number, at in enumerate((0.0, 0.5, 1.9, 2.0, 3.999, 4.0))]
    assert asked == [True, False, False, True, False, True]


def test_resources_wait_independently() -> None:
    flows = PendingFlows()
    assert add(flows, A, udp(1), 0)
    assert add(flows, B, udp(2), 0.1)
    assert flows.take(A) == [udp(1)]
    assert B in flows
    assert flows.take(A) is None


def test_after_an_answer_the_next_packet_asks_at_once() -> None:
    flows = PendingFlows()
    add(flows, A, udp(1), 0)
    flows.take(A)
    assert add(flows, A, udp(2), 0.1)


def test_of_130_packets_the_last_128_are_kept_in_order() -> None:
    buffer = filled(*map(udp, range(130)))
    assert MAX_BUFFERED == 128
    assert buffer.packets == [udp(number) for number in range(2, 130)]
    assert buffer.dropped == 2


def test_an_identical_packet_is_kept_once_at_its_first_place() -> None:
    assert filled(udp(1), udp(2), udp(1)).packets == [udp(1), udp(2)]


def test_of_four_retransmitted_syns_the_newest_is_kept_in_the_place_of_the_first() -> None:
    buffer = filled(syn(7, 1), udp(1), syn(7, 2), syn(7, 3), syn(7, 4))
    assert buffer.packets == [syn(7, 4), udp(1)]


def test_a_repetition_costs_a_full_buffer_nothing() -> None:
    buffer = filled(*map(udp, range(MAX_BUFFERED)), udp(5))
    assert buffer.packets == [udp(number) for number in range(MAX_BUFFERED)]
    assert buffer.dropped == 0


def test_syns_of_other_flows_are_kept_beside_it() -> None:
    assert filled(syn(7), syn(8)).packets == [syn(7), syn(8)]


def test_a_flood_of_new_flows_leaves_no_more_behind_than_the_bound() -> None:
    buffer = PacketBuffer()
    for seq in range(1000):
        buffer.add(packet := syn(seq), decode_ip(packet))
    assert len(buffer) == MAX_BUFFERED
    assert len(buffer._packets) == MAX_BUFFERED
    assert buffer.packets == [syn(seq) for seq in range(1000 - MAX_BUFFERED, 1000)]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 200), st.integers(0, 3)), max_size=300))
def test_the_buffer_behaves_as_its_rules_in_words(steps: list[tuple[bool, int, int]]) -> None:
    buffer, model = PacketBuffer(), []  # type: ignore[var-annotated]
    for is_syn, number, stamp in steps:
        packet = syn(number, stamp) if is_syn else udp(number)
        buffer.add(packet, decode_ip(packet))
        same = [index for index, (kind, kept, _) in enumerate(model) if (kind, kept) == (is_syn, number)]
        if same:
            model[same[0]] = (is_syn, number, packet)
        else:
            model.append((is_syn, number, packet))
            model = model[-MAX_BUFFERED:]
    assert buffer.packets == [packet for _, _, packet in model]


@given(st.lists(st.integers(0, 5 * SECOND), min_size=1, max_size=30))
def test_never_two_requests_within_two_seconds_and_never_none_for_longer_while_packets_come(times: list[int]) -> None:
    flows = PendingFlows()
    asked = [at for at in sorted(times) if flows.add(A, udp(at % 1000), decode_ip(udp(at % 1000)), at)]
    assert asked[0] == min(times)
    assert all(later - earlier >= 2 * SECOND for earlier, later in itertools.pairwise(asked))
    for at in times:
        assert any(at - 2 * SECOND < request <= at for request in asked)
