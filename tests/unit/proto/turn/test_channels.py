"""Channels on an allocation: which number, for whom, how long. T numbers are the scenarios of the specification."""

from __future__ import annotations

from firezone.proto.turn.allocation import MAX_WAITING
from firezone.proto.turn.channels import FIRST_NUMBER, MAX_CHANNELS, decode_channel_data, encode_channel_data
from firezone.wire.stun import Attribute, Method
from tests.unit.proto.turn.bench import LENT4, LENT6, PEER, PEER6, RELAY4, RELAY6, Bench, peer


def numbers(bench: Bench) -> list[int]:
    return [sent.get(Attribute.CHANNEL_NUMBER) for sent in bench.of(Method.CHANNEL_BIND)]  # type: ignore[misc]


def test_peers_wait_for_the_allocation_each_once() -> None:  # T15
    bench = Bench()
    bench.bind_nothing(peer(1))
    bench.bind_nothing(peer(2))
    bench.bind_nothing(peer(1))
    bench.allocated()
    assert [sent.get(Attribute.XOR_PEER_ADDRESS) for sent in bench.of(Method.CHANNEL_BIND)] == [peer(1), peer(2)]


def test_only_the_latest_peers_wait() -> None:
    bench = Bench()
    for number in range(2 * MAX_WAITING):
        bench.bind_nothing(peer(number))
    bench.allocated()
    waited = [sent.get(Attribute.XOR_PEER_ADDRESS) for sent in bench.of(Method.CHANNEL_BIND)]
    assert waited == [peer(number) for number in range(MAX_WAITING, 2 * MAX_WAITING)]


def test_peer_of_a_family_that_was_not_lent_is_not_bound() -> None:  # T16
    bench = Bench()
    bench.bind_nothing(PEER6)
    bench.allocated(LENT4)
    bench.bind_nothing(PEER6)
    assert bench.of(Method.CHANNEL_BIND) == []


def test_request_names_peer_and_number_and_is_signed() -> None:
    request = Bench().allocated().bind()
    kinds = [kind for kind, _ in request.message.attributes]
    assert kinds[:3] == [Attribute.XOR_PEER_ADDRESS, Attribute.CHANNEL_NUMBER, Attribute.SOFTWARE]
    assert kinds[3:] == [Attribute.USERNAME, Attribute.REALM, Attribute.NONCE]
    assert request.get(Attribute.CHANNEL_NUMBER) == FIRST_NUMBER
    assert request.received.integrity is not None


def test_data_is_sent_while_the_answer_is_under_way() -> None:  # T17
    bench = Bench().allocated()
    bench.send()
    assert bench.data == []
    assert numbers(bench) == [FIRST_NUMBER]
    bench.send(payload=b"x")
    assert bench.data == [(FIRST_NUMBER, b"x")]
    assert len(bench.of(Method.CHANNEL_BIND)) == 1


def test_data_on_an_unconfirmed_channel_is_dropped() -> None:  # T18
    bench = Bench().allocated()
    request = bench.bind()
    number = request.get(Attribute.CHANNEL_NUMBER)
    assert number is not None
    assert bench.receive(number) is None
    assert bench.gate.relays[RELAY4] == {}
    bench.answer(request)
    assert bench.receive(number) == (LENT4, PEER)
    assert bench.gate.relays[RELAY4] == {number: False}


def test_data_from_another_socket_or_an_unknown_channel_is_dropped() -> None:
    bench = Bench((RELAY4, RELAY6)).allocated()
    number = bench.channel()
    assert bench.allocation.decapsulate(RELAY6, number, bench.now) is None
    assert bench.receive(number + 1) is None


def test_peer_keeps_its_number_while_it_cools_down() -> None:  # T19
    bench = Bench().allocated()
    first = bench.channel()
    bench.channel(peer(1))
    bench.keep_alive(599)
    assert bench.allocation.channel_to(PEER, bench.now) == first
    bench.keep_alive(121)
    assert bench.allocation.channel_to(PEER, bench.now) is None
    assert bench.receive(first) is None
    bench.take_events()
    assert bench.channel() == first
    assert bench.changed() == [PEER]
    assert bench.receive(first) == (LENT4, PEER)


def test_expired_channel_is_reported_and_closed() -> None:
    bench = Bench().allocated()
    number = bench.channel()
    bench.keep_alive(599)
    bench.take_events()
    assert number in bench.gate.relays[RELAY4]
    bench.keep_alive(2)
    assert bench.changed() == [PEER]
    assert bench.gate.relays[RELAY4] == {}
    bench.send()
    assert bench.data == []
    assert bench.of(Method.CHANNEL_BIND)[-1].get(Attribute.CHANNEL_NUMBER) == number


def test_unused_numbers_come_before_recycled_ones() -> None:  # T20
    bench = Bench().allocated()
    for number in range(100):
        bench.channel(peer(number))
    bench.keep_alive(1200)
    assert bench.channel(peer(500)) == FIRST_NUMBER + 100


def test_all_numbers_taken_refuses_until_they_have_cooled_down() -> None:  # T21
    bench = Bench().allocated()
    for number in range(MAX_CHANNELS):
        bench.channel(peer(number))
    bench.sent.clear()
    bench.bind_nothing()
    assert bench.allocation.encapsulate(PEER, b"x", bench.now) is None
    bench.keep_alive(899)
    bench.bind_nothing()
    bench.keep_alive(2)
    assert bench.channel() == FIRST_NUMBER
    assert bench.allocation.channel_to(peer(0), bench.now) is None


def test_channel_in_use_is_bound_again_once() -> None:  # T22
    bench = Bench().allocated()
    number = bench.channel()
    bench.receive(number)
    bench.kept.clear()
    bench.sent.clear()
    bench.keep_alive(299)
    assert bench.kept == []
    bench.keep_alive(0.99)
    bench.run(0.02)
    (request,) = bench.of(Method.CHANNEL_BIND)
    assert request.get(Attribute.CHANNEL_NUMBER) == number
    assert request.get(Attribute.XOR_PEER_ADDRESS) == PEER
    assert bench.receive(number) == (LENT4, PEER)
    bench.answer(request)
    bench.keep_alive(400)
    assert bench.allocation.channel_to(PEER, bench.now) == number


def test_compiled_path_seeing_data_refreshes_the_channel() -> None:  # T22
    bench = Bench().allocated()
    number = bench.channel()
    bench.keep_alive(330)
    bench.gate.relays[RELAY4][number] = True
    bench.kept.clear()
    bench.keep_alive(30)
    assert [sent.method for sent in bench.kept][:1] == [Method.CHANNEL_BIND]


def test_silent_channel_is_not_bound_again() -> None:  # T22
    bench = Bench().allocated()
    bench.channel()
    bench.kept.clear()
    bench.keep_alive(360)
    assert bench.kept == []


def test_refused_channel_is_forgotten() -> None:  # T23
    bench = Bench().allocated()
    bench.answer(bench.bind(), error=400)
    assert bench.allocation.channel_to(PEER, bench.now) is None
    assert bench.changed() == [PEER, PEER]
    bench.send()
    assert len(bench.of(Method.CHANNEL_BIND)) == 2


def test_families_have_channels_of_their_own() -> None:
    bench = Bench().allocated(LENT4, LENT6)
    assert bench.receive(bench.channel(PEER)) == (LENT4, PEER)
    assert bench.receive(bench.channel(PEER6)) == (LENT6, PEER6)


def test_framing() -> None:
    assert encode_channel_data(0x4000, b"abc") == b"\x40\x00\x00\x03abc"
    assert decode_channel_data(b"\x40\x00\x00\x03abc") == (0x4000, b"abc")
    for wrong in (b"", b"\x40\x00\x00", b"\x40\x00\x00\x03abcd", b"\x40\x00\x00\x03ab", b"\x50\x00\x00\x00", b"\x3f\xff\x00\x00"):
        assert decode_channel_data(wrong) is None
