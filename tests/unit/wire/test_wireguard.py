"""WireGuard's messages: recorded ones survive decode and encode, everything else is a WireError."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.base.errors import WireError
from firezone.base.ids import ReceiverIndex
from firezone.proto.noise import kdf
from firezone.proto.noise.handshake import verify_mac1
from firezone.proto.noise.index import connection_of
from firezone.wire.wireguard import (
    INITIATION_SIZE,
    RESPONSE_SIZE,
    CookieReply,
    Data,
    Initiation,
    Message,
    MessageType,
    Response,
    classify,
    decode,
    receiver_index,
)

VECTORS = Path(__file__).parents[2] / "vectors"
SESSIONS = sorted(path.name for path in VECTORS.glob("*-*.jsonl"))

indices = st.integers(0, 2**32 - 1).map(ReceiverIndex)


def blob(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Initiation, indices, blob(32), blob(48), blob(28), blob(16), blob(16)),
    st.builds(Response, indices, indices, blob(32), blob(16), blob(16), blob(16)),
    st.builds(CookieReply, indices, blob(24), blob(32)),
    st.builds(Data, indices, st.integers(0, 2**64 - 1), st.binary(min_size=16, max_size=1296)),
)


@given(messages)
def test_decoding_undoes_encoding(message: Message) -> None:
    assert decode(message.encode()) == message


@given(st.one_of(st.binary(max_size=200), messages.map(lambda message: message.encode()[:-1])))
def test_any_bytes_are_a_message_or_a_wire_error(datagram: bytes) -> None:
    try:
        message = decode(datagram)
    except WireError:
        assert classify(datagram) is None
    else:
        assert message.encode() == datagram


@pytest.mark.parametrize(
    ("number", "size"),
    [(1, 147), (1, 149), (2, 91), (2, 93), (3, 63), (3, 65), (4, 31), (0, 148), (5, 148), (257, 148), (4, 0)],
)
def test_wrong_type_or_length_is_not_wireguard(number: int, size: int) -> None:
    datagram = (number.to_bytes(4, "little") + bytes(200))[:size]
    assert classify(datagram) is None
    with pytest.raises(WireError, match="is not WireGuard"):
        decode(datagram)


@pytest.mark.parametrize(("number", "size"), [(1, 148), (2, 92), (3, 64), (4, 32), (4, 1312)])
def test_right_type_and_length_is_wireguard(number: int, size: int) -> None:
    assert classify(number.to_bytes(4, "little") + bytes(size - 4)) == MessageType(number)


def test_receiver_index_is_that_of_the_decoded_message() -> None:
    response = Response(ReceiverIndex(1), ReceiverIndex(0xAABBCC07), bytes(32), bytes(16))
    assert receiver_index(response.encode()) == 0xAABBCC07
    assert connection_of(ReceiverIndex(0xAABBCC07)) == 0xAABBCC
    assert receiver_index(CookieReply(ReceiverIndex(9), bytes(24), bytes(32)).encode()) == 9
    assert receiver_index(Data(ReceiverIndex(2**32 - 1), 0, bytes(16)).encode()) == 2**32 - 1
    assert receiver_index(Initiation(ReceiverIndex(1), bytes(32), bytes(48), bytes(28)).encode()) is None
    assert receiver_index(b"\x04\x00\x00\x00") is None


@pytest.mark.parametrize("name", SESSIONS)
def test_recorded_messages_encode_to_the_same_bytes(name: str) -> None:
    datagrams = [datagram for _, datagram in recorded(name)]
    assert len(datagrams) > 10
    for datagram in datagrams:
        assert decode(datagram).encode() == datagram


@pytest.mark.parametrize("name", SESSIONS)
def test_recorded_mac1_verifies_with_the_receivers_key_and_no_other(name: str) -> None:
    keys = public_keys(name)
    checked = set()
    for kind, datagram in recorded(name):
        receiver, sender = {"wg-initiation": ("gateway", "client"), "wg-response": ("client", "gateway")}.get(kind, ("", ""))
        if not receiver:
            continue
        assert verify_mac1(datagram, kdf.hash_of(kdf.LABEL_MAC1, keys[receiver]))
        assert not verify_mac1(datagram, kdf.hash_of(kdf.LABEL_MAC1, keys[sender]))
        checked.add(kind)
    assert checked == {"wg-initiation", "wg-response"}


@pytest.mark.parametrize("name", SESSIONS)
def test_recorded_responses_answer_recorded_initiations(name: str) -> None:
    messages = [decode(datagram) for kind, datagram in recorded(name) if kind != "wg-data"]
    initiated = {message.sender for message in messages if isinstance(message, Initiation)}
    answered = {message.receiver for message in messages if isinstance(message, Response)}
    assert answered
    assert answered <= initiated


def recorded(name: str) -> Iterator[tuple[str, bytes]]:
    """Yields kind and bytes of each WireGuard message of a session, those in channel data without their header.

    Some records are GSO trains: a handshake message, and behind it a shorter STUN message that left in the same system call.
    """
    sizes = {"wg-initiation": INITIATION_SIZE, "wg-response": RESPONSE_SIZE}
    for line in (VECTORS / name).read_text().splitlines():
        record = json.loads(line)
        is_relayed = record["kind"].startswith("channel:")
        kind = record["kind"].removeprefix("channel:")
        if kind.startswith("wg-"):
            datagram = bytes.fromhex(record["hex"])[4 if is_relayed else 0 :]
            yield kind, datagram[: sizes.get(kind)]


def public_keys(name: str) -> dict[str, bytes]:
    """Returns the static keys with which the programs of a session logged in."""
    keys = {}
    for line in (VECTORS / name).read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "portal" and record["dir"] == "http":
            for key in parse_qs(urlsplit(record["path"]).query).get("public_key", []):
                keys[record["role"]] = _from_base64(key)
    return keys


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
