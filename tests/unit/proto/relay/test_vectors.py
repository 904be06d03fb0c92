"""The relay's messages byte for byte: known requests in, known answers out; and RFC 5769's request with long-term credentials."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from firezone.base.net import Endpoint
from firezone.base.rng import SeededRng
from firezone.base.timing import Instant
from firezone.proto.relay import server
from firezone.proto.relay.auth import NonceCheck, Nonces, Username
from firezone.proto.relay.replies import REASONS, Replies, software
from firezone.proto.relay.requests import Request, read_request
from firezone.wire import stun
from firezone.wire.stun import Attribute
from tests.harness.relay import SECRET, USERNAME, RelayBench

VECTORS = json.loads((Path(__file__).parents[3] / "vectors" / "relay.json").read_text())
MESSAGES = {name: bytes.fromhex(text) for name, text in VECTORS["messages"].items()}
CLIENT = Endpoint.from_text("198.51.100.7", 52625)
PEER = Endpoint.from_text("192.0.2.33", 34567)
NONCE = "0f8fad5b-d9cb-469f-a165-70867728950e"
KEY = bytes.fromhex("48e56617477ff8fd3831e30e9a573257")
PORT = 50000


class RecordedNonces(Nonces):
    """The nonce of the recording, whoever asks."""

    def current(self, client: Endpoint, now: Instant) -> str:
        return NONCE

    def use(self, client: Endpoint, text: str, now: Instant) -> NonceCheck:
        return NonceCheck.GOOD if text == NONCE else NonceCheck.STALE


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> RelayBench:
    monkeypatch.setattr(server, "Nonces", RecordedNonces)
    return RelayBench(lowest=PORT, highest=PORT, rng=SeededRng(0))


def answer(bench: RelayBench, request: str) -> bytes:
    sent = bench.send(CLIENT, MESSAGES[request])
    assert [transmit.remote for transmit in sent] == [CLIENT]
    return sent[0].payload


def test_the_recorded_session_is_answered_byte_for_byte(bench: RelayBench) -> None:
    assert answer(bench, "binding_request") == MESSAGES["binding_success"]
    assert answer(bench, "first_allocate") == MESSAGES["unauthorized"]
    assert answer(bench, "second_allocate") == MESSAGES["allocate_success"]
    assert answer(bench, "channel_bind") == MESSAGES["channel_bind_success"]
    assert bench.take_log()[2:4] == [("open", PORT, (4, 6)), ("send", CLIENT)]
    assert bench.channels.by_number == {(CLIENT, 0x4000): (PEER, PORT)}


def test_the_refresh_answer_is_the_recorded_one() -> None:
    assert Replies(software()).refresh(MESSAGES["channel_bind"][8:20], 0, KEY) == MESSAGES["refresh_success"]


def test_key_and_password_are_the_recorded_ones() -> None:
    username = Username.from_text(USERNAME)
    assert username is not None
    assert username.password(SECRET) == "3H/hdRohJvSVVNI06RRci0knfscJO2LiJ6humGrIFAs"
    assert username.key(SECRET) == KEY


@pytest.mark.parametrize("code", sorted(REASONS))
def test_every_error_code_has_the_recorded_bytes(code: int) -> None:
    datagram = Replies(software()).error(1, bytes(12), code)
    assert datagram.endswith(bytes.fromhex(VECTORS["error_codes"][str(code)]))


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_19_1_row_1_vectors_decode_and_encode_to_the_same_bytes(name: str) -> None:
    received = stun.decode(MESSAGES[name])
    signed = received.integrity is not None
    assert stun.encode(received.message, key=KEY if signed else None) == MESSAGES[name]
    assert received.verify_integrity(KEY) == signed


@pytest.mark.parametrize("name", ["first_allocate", "second_allocate", "channel_bind"])
def test_19_1_row_1_one_flipped_bit_breaks_the_integrity(name: str) -> None:
    good = MESSAGES[name]
    for position in range(len(good) - 24):
        flipped = bytearray(good)
        flipped[position] ^= 1 << position % 8
        request = read_request(bytes(flipped))
        assert not (isinstance(request, Request) and request.verify_integrity(KEY)), position
    request = read_request(good)
    assert isinstance(request, Request)
    assert request.verify_integrity(KEY)


RFC5769_LONG_TERM = bytes.fromhex(
    "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe382b900000015001c662f2f3439396b39353464"
    "364f4c33346f4c394653547679363473410014000b6578616d706c652e6f72670000080014f67024656dd64a3e02b8e0712e85c9a28ca89666"
)
"""Section 2.4: user マトリックス, realm example.org, password TheMatrIX."""


def test_rfc_5769_request_with_long_term_credentials_verifies() -> None:
    request = read_request(RFC5769_LONG_TERM)
    assert isinstance(request, Request)
    assert request.get(Attribute.NONCE) == "f//499k954d6OL34oL9FSTvy64sA"
    key = stun.long_term_key(request.get(Attribute.USERNAME), "example.org", "TheMatrIX")
    assert request.verify_integrity(key)
    assert not request.verify_integrity(stun.long_term_key("x", "example.org", "TheMatrIX"))
