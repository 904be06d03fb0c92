"""What a datagram is taken for, and what a broken one gets (rows 2 to 12 of the relay's test list)."""

from __future__ import annotations

import timeit
from hmac import digest

import pytest

from firezone.base.net import Endpoint
from firezone.proto.relay.requests import MAX_PEERS, Request, read_request
from firezone.wire import stun
from firezone.wire.stun import Attribute, Message, MessageClass, Method
from tests.harness.relay import RelayBench, TurnClient, code_of

SOFTWARE = 0x8022


def attribute(kind: int, value: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes = b"", *, length: int | None = None, cookie: int = stun.MAGIC_COOKIE) -> bytes:
    size = len(body) if length is None else length
    return kind.to_bytes(2, "big") + size.to_bytes(2, "big") + cookie.to_bytes(4, "big") + bytes(range(12)) + body


@pytest.fixture
def client() -> TurnClient:
    return TurnClient(RelayBench())


def assert_refused(client: TurnClient, datagram: bytes, code: int) -> None:
    received = client.raw(datagram)
    assert received is not None
    assert code_of(received) == code
    assert received.integrity is None
    assert [kind for kind, _ in received.message.attributes] == [Attribute.SOFTWARE, Attribute.ERROR_CODE]
    assert received.message.transaction_id == datagram[8:20]
    assert received.message.method == stun.decode(message(int.from_bytes(datagram[:2], "big"))).message.method


def assert_silence(client: TurnClient, datagram: bytes) -> None:
    assert client.raw(datagram) is None
    assert client.bench.take_log() == []
    assert client.bench.next_wake() is None
    assert client.bench.server.counters.responses == {}


@pytest.mark.parametrize("size", range(20))
def test_row_2_less_than_a_header_is_dropped(client: TurnClient, size: int) -> None:
    assert_silence(client, message(1)[:size])


@pytest.mark.parametrize("first", [0x04, 0x3F, 0x40, 0x50, 0xFF])
def test_row_2_other_first_bytes_are_dropped(client: TurnClient, first: int) -> None:
    assert_silence(client, bytes([first]) + message(1)[1:])
    assert_silence(client, bytes([first]))


def test_row_3_inconsistent_headers_are_dropped(client: TurnClient) -> None:
    assert_silence(client, message(1, cookie=0x2112A443))
    assert_silence(client, message(1) + b"\x00")
    assert_silence(client, message(1, length=4))
    assert_silence(client, message(1, attribute(SOFTWARE, b"abcd"), length=20))


@pytest.mark.parametrize("software", [b"s" * 128, b"\xff\xfe", b"s" * 127 + b"\xff"])
@pytest.mark.parametrize("kind", [0x0001, 0x0003, 0x0004])
def test_row_4_text_that_cannot_be_read_is_a_bad_request(client: TurnClient, software: bytes, kind: int) -> None:
    assert_refused(client, message(kind, attribute(SOFTWARE, software)), 400)


def test_text_at_its_limit_is_read(client: TurnClient) -> None:
    longest = attribute(SOFTWARE, ("é" * 127).encode()) + attribute(Attribute.USERNAME, b"u" * 512)
    assert code_of(client.raw(message(1, longest))) == 0
    assert_refused(client, message(1, attribute(Attribute.USERNAME, b"u" * 513)), 400)


@pytest.mark.parametrize("number", [0x0000, 0x3FFF, 0x5000, 0x7FFF, 0x8000, 0xFFFF])
@pytest.mark.parametrize("kind", [0x0009, 0x0003])
def test_row_5_channel_numbers_out_of_range_are_bad_requests(client: TurnClient, number: int, kind: int) -> None:
    body = attribute(Attribute.CHANNEL_NUMBER, number.to_bytes(2, "big") + bytes(2))
    assert_refused(client, message(kind, body), 400)


@pytest.mark.parametrize("family", [0, 3, 255])
@pytest.mark.parametrize("kind", [Attribute.REQUESTED_ADDRESS_FAMILY, Attribute.ADDITIONAL_ADDRESS_FAMILY])
def test_unknown_address_families_are_bad_requests(client: TurnClient, family: int, kind: Attribute) -> None:
    assert_refused(client, message(3, attribute(kind, bytes([family, 0, 0, 0]))), 400)
    assert_refused(client, message(9, attribute(Attribute.XOR_PEER_ADDRESS, bytes([0, family]) + bytes(6))), 400)


@pytest.mark.parametrize(
    "body",
    [
        attribute(Attribute.LIFETIME, b"123"),
        attribute(Attribute.LIFETIME, b""),
        attribute(Attribute.REQUESTED_TRANSPORT, b"1" * 8),
        attribute(Attribute.XOR_PEER_ADDRESS, b"\0"),
        attribute(Attribute.XOR_PEER_ADDRESS, bytes([0, 1]) + bytes(18)),
        attribute(Attribute.MESSAGE_INTEGRITY, bytes(19)),
        attribute(0x7FFF, b"12345678")[:-4],
        attribute(0x7FFF, b"12345")[:-3],
        attribute(0x7FFF, b"1234") + b"\x80",
    ],
)
def test_attributes_of_a_wrong_size_are_server_errors(client: TurnClient, body: bytes) -> None:
    assert_refused(client, message(3, body), 500)


def test_a_message_cut_in_its_second_half_is_a_server_error(client: TurnClient) -> None:
    good = attribute(SOFTWARE, b"12345678")
    assert_refused(client, message(1, good, length=24), 500)
    assert_silence(TurnClient(RelayBench()), message(1, good, length=28))
    assert_refused(client, message(1, attribute(SOFTWARE, b"\xff" * 8), length=24), 400)


def test_broken_indications_and_answers_are_never_answered(client: TurnClient) -> None:
    for kind in (0x0011, 0x0101, 0x0111, 0x0016):
        assert_silence(client, message(kind, attribute(SOFTWARE, b"\xff")))


def test_row_6_unknown_attributes_are_skipped(client: TurnClient) -> None:
    body = attribute(Attribute.DONT_FRAGMENT, b"") + attribute(0x7FFF, b"any") + attribute(0x8028, b"0000")
    assert code_of(client.raw(message(1, body))) == 0
    assert code_of(client.raw(message(1, attribute(0x8028, b"wrong size")))) == 0


def test_attributes_without_end_are_a_bad_request_and_cost_no_more(client: TurnClient) -> None:
    """64 KiB of empty attributes would cost 1000 times what an honest request costs, and they need no credentials."""
    empty = attribute(0x7FFF, b"")
    assert code_of(client.raw(message(1, empty * 64))) == 0
    for count in (65, 16_000):
        assert_refused(client, message(1, empty * count), 400)
    bounded, endless = (
        min(timeit.repeat(lambda count=count: read_request(message(3, empty * count)), number=20, repeat=5))  # type: ignore[misc]
        for count in (64, 16_000)
    )
    assert endless < 10 * bounded


@pytest.mark.parametrize("kind", [0x0011, 0x0016, 0x0017, 0x0101, 0x0113, 0x0118, 0x0013])
def test_row_7_indications_and_answers_get_silence(client: TurnClient, kind: int) -> None:
    assert_silence(client, message(kind))


@pytest.mark.parametrize("kind", [0x000A, 0x0006, 0x0007, 0x0000, 0x02EF])
def test_row_8_unknown_methods_are_bad_requests(client: TurnClient, kind: int) -> None:
    assert_refused(client, message(kind), 400)
    assert client.bench.server.counters.responses == {}, "nobody may invent labels"


def test_row_9_a_good_datagram_after_a_bad_one_is_answered(client: TurnClient) -> None:
    assert_refused(client, message(1, attribute(SOFTWARE, b"\xff")), 400)
    assert code_of(client.raw(message(1))) == 0


def test_row_10_attributes_behind_the_integrity_are_not_read(client: TurnClient) -> None:
    client.allocate()
    refresh = client.build(Method.REFRESH)
    with_more = refresh + attribute(Attribute.LIFETIME, bytes(4))
    received = client.raw(with_more[:2] + (len(with_more) - 20).to_bytes(2, "big") + with_more[4:])
    assert received is not None
    assert received.message.get(Attribute.LIFETIME) == 600


def test_the_first_of_repeated_attributes_counts(client: TurnClient) -> None:
    assert client.allocate((Attribute.LIFETIME, 60), (Attribute.LIFETIME, 0)).get(Attribute.LIFETIME) == 60


def test_reserved_bytes_are_part_of_the_integrity_and_nothing_else() -> None:
    client = TurnClient(RelayBench())
    client.allocate()
    client.refresh(0)
    raw = stun.encode(
        Message(
            MessageClass.REQUEST,
            Method.ALLOCATE,
            bytes(12),
            (
                (Attribute.REQUESTED_TRANSPORT, 17),
                (Attribute.USERNAME, client.username),
                (Attribute.REALM, "firezone"),
                (Attribute.NONCE, client.nonce),
            ),
        )
    ).replace(bytes.fromhex("0019000411000000"), bytes.fromhex("0019000411abcdef"))
    signed = raw[:2] + (len(raw) + 4).to_bytes(2, "big") + raw[4:]
    signed += attribute(Attribute.MESSAGE_INTEGRITY, digest(client.key, signed, "sha1"))
    assert code_of(client.raw(signed)) == 0


def test_peers_of_one_request_are_bounded() -> None:
    peers = [Endpoint(bytes([192, 0, 2, number]), number) for number in range(1, MAX_PEERS + 9)]
    raw = stun.encode(Message(MessageClass.REQUEST, 8, bytes(12), tuple((Attribute.XOR_PEER_ADDRESS, peer) for peer in peers)))
    request = read_request(raw)
    assert isinstance(request, Request)
    assert request.peers == peers[:MAX_PEERS]


@pytest.mark.parametrize("address", ["198.51.100.7", "2001:db8::7"])
def test_row_11_binding_tells_the_sender(address: str) -> None:
    client = TurnClient(RelayBench(), address)
    received = client.raw(client.build(Method.BINDING, sign=False))
    assert received is not None
    assert received.integrity is None
    assert received.message.attributes == (
        (Attribute.SOFTWARE, "firezone-relay; rev=xxxx"),
        (Attribute.XOR_MAPPED_ADDRESS, client.endpoint),
    )


def test_row_12_source_port_0_is_dropped() -> None:
    client = TurnClient(RelayBench(), port=0)
    assert_silence(client, client.build(Method.BINDING, sign=False))
    assert_silence(client, client.build(Method.ALLOCATE, (Attribute.REQUESTED_TRANSPORT, 17)))
