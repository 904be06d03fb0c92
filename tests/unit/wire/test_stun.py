"""STUN codec: RFC 5769 and Firezone vectors, every attribute valid and malformed, any bytes in."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.base.errors import WireError
from firezone.base.net import Endpoint
from firezone.wire import stun
from firezone.wire.stun import AddressErrorCode, Attribute, ErrorCode, Message, MessageClass, Method

VECTORS = Path(__file__).parents[2] / "vectors"
TRANSACTION = bytes(range(1, 13))

REQUEST = bytes.fromhex(
    "000100482112a4420102030405060708090a0b0c000600096b7765363a77377570000000802a00080102030405060708002400046efffeff"
    "00250000000800142a1f84977dfdd0a12c77605804847cbf422d96968028000447730897"
)
SUCCESS = bytes.fromhex(
    "0101002c2112a4420102030405060708090a0b0c002000080001ec83ea12d54500080014daab70ef5ab00730e096277fe437b99cf1ed663c"
    "80280004abe25553"
)
ALLOCATE = bytes.fromhex(
    "000300a42112a4420102030405060708090a0b0c0019000411000000800000040200000080220051736e6f776e65743b2073657373696f6e3d"
    "42443230454535373143464139453244423631394339423731393742314646353434374342453742424233414432393030333443344446373543"
    "32303035393600000000060011313730303030303030303a63324673644100000000140008666972657a6f6e65000800147c14b00205c339ba"
    "749abb87d18ce1c0fa64a03d"
)
PASSWORD = b"mzkrj52x5h5ebrfdsh5iyq"


def test_binding_request_vector_encodes_and_verifies() -> None:
    message = Message(
        MessageClass.REQUEST,
        Method.BINDING,
        TRANSACTION,
        (
            (Attribute.USERNAME, "kwe6:w7up"),
            (Attribute.ICE_CONTROLLING, 0x0102030405060708),
            (Attribute.PRIORITY, 1862270719),
            (Attribute.USE_CANDIDATE, True),
        ),
    )
    assert stun.encode(message, key=PASSWORD, fingerprint=True) == REQUEST
    received = stun.decode(REQUEST)
    assert received.message == message
    assert received.verify_integrity(PASSWORD)
    assert received.verify_fingerprint()


def test_binding_success_vector_encodes() -> None:
    mapped = Endpoint.from_text("203.0.113.7", 52625)
    message = Message(MessageClass.SUCCESS, Method.BINDING, TRANSACTION, ((Attribute.XOR_MAPPED_ADDRESS, mapped),))
    assert stun.encode(message, key=PASSWORD, fingerprint=True) == SUCCESS


def test_first_allocate_vector_encodes_with_long_term_key() -> None:
    key = stun.long_term_key("1700000000:c2FsdA", "firezone", "eMgsKnxm7+dj+WkLSOZv9Fv95PN9Ef4N7sFtQghys38")
    assert key.hex() == "c543199a57474b94ca0aa2e233fcd0a7"
    session = "BD20EE571CFA9E2DB619C9B7197B1FF5447CBE7BBB3AD290034C4DF75C200596"
    message = Message(
        MessageClass.REQUEST,
        Method.ALLOCATE,
        TRANSACTION,
        (
            (Attribute.REQUESTED_TRANSPORT, 17),
            (Attribute.ADDITIONAL_ADDRESS_FAMILY, 2),
            (Attribute.SOFTWARE, f"snownet; session={session}"),
            (Attribute.USERNAME, "1700000000:c2FsdA"),
            (Attribute.REALM, "firezone"),
        ),
    )
    assert stun.encode(message, key=key) == ALLOCATE
    assert stun.decode(ALLOCATE).verify_integrity(key)


def test_rfc5769_sample_ipv6_response() -> None:
    datagram = bytes.fromhex(
        "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
        "00080014a382954e4be67bf11784c97c8292c275bfe3ed418028000" + "4c8fb0b4c"
    )
    received = stun.decode(datagram)
    assert received.message.get(Attribute.XOR_MAPPED_ADDRESS) == Endpoint.from_text("2001:db8:1234:5678:11:2233:4455:6677", 32853)
    assert received.message.get(Attribute.SOFTWARE) == "test vector"
    assert received.verify_integrity(b"VOkJxbRl1RmTxUk/WvJxBt")
    assert received.verify_fingerprint()


def test_rfc5769_padding_that_is_not_zero_is_accepted() -> None:
    datagram = bytes.fromhex(
        "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b151263b36"
        "000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
    )
    received = stun.decode(datagram)
    assert received.message.get(Attribute.USERNAME) == "evtj:h6vY"
    assert received.verify_integrity(b"VOkJxbRl1RmTxUk/WvJxBt")
    assert received.verify_fingerprint()


VALUES = [
    (Attribute.MAPPED_ADDRESS, Endpoint.from_text("192.0.2.1", 1)),
    (Attribute.USERNAME, "a:b"),
    (Attribute.ERROR_CODE, ErrorCode(487, "Role Conflict")),
    (Attribute.ERROR_CODE, ErrorCode(300)),
    (Attribute.UNKNOWN_ATTRIBUTES, (1, 0x7FFF, 3)),
    (Attribute.CHANNEL_NUMBER, 0x4FFF),
    (Attribute.LIFETIME, 3600),
    (Attribute.XOR_PEER_ADDRESS, Endpoint.from_text("2001:db8::1", 65535)),
    (Attribute.DATA, b"12345"),
    (Attribute.REALM, "firezone"),
    (Attribute.NONCE, "n" * 763),
    (Attribute.XOR_RELAYED_ADDRESS, Endpoint.from_text("192.0.2.1", 0)),
    (Attribute.REQUESTED_ADDRESS_FAMILY, 2),
    (Attribute.EVEN_PORT, 0x80),
    (Attribute.REQUESTED_TRANSPORT, 17),
    (Attribute.DONT_FRAGMENT, True),
    (Attribute.XOR_MAPPED_ADDRESS, Endpoint.from_text("::", 9)),
    (Attribute.RESERVATION_TOKEN, b"12345678"),
    (Attribute.PRIORITY, 0xFFFFFFFF),
    (Attribute.USE_CANDIDATE, True),
    (Attribute.ADDITIONAL_ADDRESS_FAMILY, 2),
    (Attribute.ADDRESS_ERROR_CODE, AddressErrorCode(2, 440, "Address Family not Supported")),
    (Attribute.SOFTWARE, "schön"),
    (Attribute.ALTERNATE_SERVER, Endpoint.from_text("192.0.2.1", 3478)),
    (Attribute.ICE_CONTROLLED, (1 << 64) - 1),
    (Attribute.ICE_CONTROLLING, 0),
    (0x7ABC, b"unknown"),
]


@pytest.mark.parametrize(("attribute", "value"), VALUES)
def test_every_attribute_round_trips(attribute: int, value: object) -> None:
    message = Message(MessageClass.INDICATION, Method.SEND, TRANSACTION, ((attribute, value),))
    assert stun.decode(stun.encode(message)).message == message


@pytest.mark.parametrize("attribute", sorted({attribute for attribute, _ in VALUES if attribute in set(Attribute)}))
@pytest.mark.parametrize("size", [0, 1, 3, 5, 7, 9, 19, 21, 764])
def test_a_wrong_size_is_a_value_or_a_wire_error(attribute: int, size: int) -> None:
    datagram = with_raw_attribute(attribute, b"\xff" * size)
    caught: WireError | None = None
    try:
        stun.decode(datagram)
    except WireError as error:
        caught = error
    assert caught is None or caught.offset == 20


@pytest.mark.parametrize(
    ("attribute", "raw"),
    [
        (Attribute.XOR_MAPPED_ADDRESS, "0001"),
        (Attribute.XOR_MAPPED_ADDRESS, "00021234c0000201"),
        (Attribute.XOR_MAPPED_ADDRESS, "00031234c0000201"),
        (Attribute.XOR_PEER_ADDRESS, "00011234c00002"),
        (Attribute.PRIORITY, "0000"),
        (Attribute.USE_CANDIDATE, "00"),
        (Attribute.USERNAME, "ff"),
        (Attribute.USERNAME, "61" * 514),
        (Attribute.ERROR_CODE, "00000200"),
        (Attribute.ERROR_CODE, "00000464"),
        (Attribute.UNKNOWN_ATTRIBUTES, "000001"),
        (Attribute.CHANNEL_NUMBER, "4000"),
        (Attribute.MESSAGE_INTEGRITY, "00" * 19),
        (Attribute.FINGERPRINT, "000000"),
    ],
)
def test_malformed_values_are_wire_errors(attribute: Attribute, raw: str) -> None:
    with pytest.raises(WireError) as caught:
        stun.decode(with_raw_attribute(attribute, bytes.fromhex(raw)))
    assert caught.value.field.replace("-", "_") == attribute.name


@pytest.mark.parametrize("size", range(len(REQUEST)))
def test_a_truncated_message_is_refused(size: int) -> None:
    assert not stun.is_stun(REQUEST[:size])
    with pytest.raises(WireError):
        stun.decode(REQUEST[:size])


def test_a_message_with_bytes_behind_it_is_refused() -> None:
    with pytest.raises(WireError):
        stun.decode(REQUEST + bytes(4))


def test_an_attribute_over_the_end_is_refused() -> None:
    datagram = bytes.fromhex("00010004") + REQUEST[4:20] + bytes.fromhex("00060001")
    with pytest.raises(WireError, match="runs over the end"):
        stun.decode(datagram)


def test_attributes_without_end_are_refused() -> None:
    def message(count: int) -> bytes:
        return b"\x00\x01" + (4 * count).to_bytes(2, "big") + stun.MAGIC_COOKIE_BYTES + bytes(12) + b"\x7f\xff\x00\x00" * count

    assert len(stun.decode(message(64)).message.attributes) == 64
    with pytest.raises(WireError, match="more than 64 attributes"):
        stun.decode(message(65))


def test_wireguard_is_not_stun() -> None:
    for kind in range(1, 5):
        assert not stun.is_stun(bytes((kind, 0, 0, 0)) + bytes(28))


def test_attributes_behind_the_integrity_are_ignored() -> None:
    tail = bytes.fromhex("0025000080220004") + b"evil"
    datagram = bytearray(stun.encode(Message(MessageClass.REQUEST, Method.BINDING, TRANSACTION), key=PASSWORD) + tail)
    datagram[2:4] = (len(datagram) - 20).to_bytes(2, "big")
    received = stun.decode(bytes(datagram))
    assert received.message.attributes == ()
    assert received.verify_integrity(PASSWORD)


def test_any_flipped_bit_before_the_integrity_breaks_it() -> None:
    for position in range(20, len(REQUEST) - 8):
        damaged = bytearray(REQUEST)
        damaged[position] ^= 1
        try:
            received = stun.decode(bytes(damaged))
        except WireError:
            continue
        assert not received.verify_integrity(PASSWORD)


def test_missing_integrity_and_fingerprint_do_not_verify() -> None:
    received = stun.decode(stun.encode(Message(MessageClass.REQUEST, Method.BINDING, TRANSACTION)))
    assert not received.verify_integrity(b"")
    assert not received.verify_fingerprint()


def test_values_that_do_not_fit_are_refused_on_encoding() -> None:
    for attribute, value in [
        (Attribute.PRIORITY, 1 << 32),
        (Attribute.USERNAME, "x" * 514),
        (Attribute.ERROR_CODE, ErrorCode(299)),
        (Attribute.USE_CANDIDATE, False),
        (Attribute.XOR_PEER_ADDRESS, Endpoint(b"123", 1)),
        (Attribute.XOR_PEER_ADDRESS, Endpoint(b"1234", 65536)),
        (0x7ABC, 1),
    ]:
        with pytest.raises(ValueError, match=r".+"):
            stun.encode(Message(MessageClass.REQUEST, Method.BINDING, TRANSACTION, ((attribute, value),)))


def test_unknown_required_attributes_are_listed() -> None:
    message = Message(MessageClass.REQUEST, Method.BINDING, TRANSACTION, ((0x7ABC, b""), (0xFFFF, b""), (Attribute.PRIORITY, 1)))
    assert stun.decode(stun.encode(message)).message.unknown_required() == [0x7ABC]


@given(st.binary(max_size=1400))
def test_any_bytes_give_a_value_or_a_wire_error(datagram: bytes) -> None:
    with contextlib.suppress(WireError):
        stun.decode(datagram)


@given(st.binary(max_size=200), st.integers(0, 0x3FFF))
def test_any_body_behind_a_right_header_gives_a_value_or_a_wire_error(body: bytes, kind: int) -> None:
    body += bytes(-len(body) % 4)
    datagram = kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + stun.MAGIC_COOKIE_BYTES + TRANSACTION + body
    try:
        received = stun.decode(datagram)
    except WireError:
        return
    again = stun.decode(stun.encode(received.message))
    assert again.message == received.message


MESSAGES = st.builds(
    Message,
    st.sampled_from(MessageClass),
    st.integers(0, 0xFFF),
    st.binary(min_size=12, max_size=12),
    st.lists(st.sampled_from(VALUES)).map(tuple),
)


@given(MESSAGES, st.binary(max_size=80), st.booleans())
def test_any_message_round_trips(message: Message, key: bytes, fingerprint: bool) -> None:
    received = stun.decode(stun.encode(message, key=key, fingerprint=fingerprint))
    assert received.message == message
    assert received.verify_integrity(key)
    assert received.verify_fingerprint() == fingerprint


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_recorded_datagrams_decode_verify_and_encode_again(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    keys = ice_keys(lines) | turn_keys(lines)
    seen = 0
    for datagram in recorded_stun(lines):
        received = stun.decode(datagram)
        key = None
        if received.integrity is not None:
            key = next((key for key in keys if received.verify_integrity(key)), None)
            assert key is not None, datagram.hex()
        if received.fingerprint is not None:
            assert received.verify_fingerprint()
        assert stun.encode(received.message, key=key, fingerprint=received.fingerprint is not None) == datagram
        seen += 1
    assert seen >= 16


def with_raw_attribute(attribute: int, raw: bytes) -> bytes:
    body = attribute.to_bytes(2, "big") + len(raw).to_bytes(2, "big") + raw + bytes(-len(raw) % 4)
    return bytes.fromhex("0001") + len(body).to_bytes(2, "big") + stun.MAGIC_COOKIE_BYTES + TRANSACTION + body


def recorded_stun(lines: list[dict[str, str]]) -> Iterator[bytes]:
    """Every STUN message of a recording, also those inside channel data (several of which may stand in one GRO train)."""
    for line in lines:
        if line["kind"] == "stun":
            yield from messages_of(bytes.fromhex(line["hex"]))
        elif line["kind"] == "channel:stun":
            rest = bytes.fromhex(line["hex"])
            while rest:
                size = 4 + int.from_bytes(rest[2:4], "big")
                if stun.is_stun(rest[4:size]):
                    yield rest[4:size]
                rest = rest[size:]


def messages_of(train: bytes) -> Iterator[bytes]:
    """The recording holds GRO trains: equal datagrams in a row, perhaps a shorter one of another kind behind them."""
    while stun.is_stun(train[: (size := 20 + int.from_bytes(train[2:4], "big"))]):
        yield train[:size]
        train = train[size:]


def ice_keys(lines: list[dict[str, str]]) -> set[bytes]:
    """The ICE passwords the portal handed out."""
    keys = set()
    for payload in portal_payloads(lines):
        for name in ("client_ice_credentials", "gateway_ice_credentials"):
            if name in payload:
                keys.add(payload[name]["password"].encode())
    return keys


def turn_keys(lines: list[dict[str, str]]) -> set[bytes]:
    """The long-term keys of every relay credential the portal handed out."""
    keys = set()
    for payload in portal_payloads(lines):
        for relay in payload.get("relays", []) + payload.get("connected", []):
            keys.add(stun.long_term_key(relay["username"], "firezone", relay["password"]))
    return keys


def portal_payloads(lines: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line["kind"] == "portal" and "text" in line:
            frame = json.loads(line["text"])
            if isinstance(frame, dict) and isinstance(frame.get("payload"), dict):
                yield frame["payload"]
