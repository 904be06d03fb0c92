"""The vectors of both handshake messages and of the keys they end in, and what a damaged message gets."""

from __future__ import annotations

import pytest

from firezone.base.errors import RemoteError
from firezone.base.ids import ReceiverIndex
from firezone.base.rng import SeededRng
from firezone.proto.noise import kdf
from firezone.proto.noise.handshake import (
    RemoteKeys,
    SessionKeys,
    StaticKeys,
    identify_initiator,
    initiate,
    open_initiation,
    sign,
    tai64n,
    verify_mac1,
    verify_mac2,
)
from firezone.wire.wireguard import Initiation, Response, decode
from tests.harness.sessions import SlowSessionStore

INITIATION = bytes.fromhex(
    "0100000001efcdab7b0d47d93427f8311160781c7c733fd89f88970aef490d8aa0ee19a4cb8a1b1481e498317da959fba46669572516a5e6c021bf"
    "a620bb6c56ca0082e1feae14988c2c64d024c617734a263f76a008df04d0f94bad8ee75ee7e699a44064a59e0bf50d367be022ac058c01ffe3ffd5"
    "4387c1e7387cc96ae427e253801e00000000000000000000000000000000"
)
RESPONSE = bytes.fromhex(
    "020000000156341201efcdabff2ee45601ec1b67310c7790404585ae697331eee1c1f8cf2419731c1fff3e6b63ca7f161515d94de136489b1a9d58"
    "226c3f5102132e89e232554e52ae749c7d00000000000000000000000000000000"
)
K1 = bytes.fromhex("a007faf842d83f5bd3be20a14e0ffcec34c84867b78b051980602713205922de")
K2 = bytes.fromhex("d982d5cd10d34a7802b6c19fa441cd9164d70e4f4d62007ab416879ee8bd1b99")
KEEPALIVE = bytes.fromhex("04000000015634120000000000000000f1bce9fd9651b3f6b50c00179cbd1e01")
GOODBYE = bytes.fromhex(
    "04000000015634120100000000000000a81cd7aab3b9b756178d13ab4ed0ffa0e2eae65918ca49388cb3bce881b37811b726a6c7e5e701543715c7"
    "3703e5f4a1b5ba6aaa5c2135b575881696a8949473"
)
GOODBYE_PACKET = bytes.fromhex("60000000 0008ff00") + bytes(32) + b"\x02" + bytes(7)
STAMP = 1_700_000_000_123_456_789
PRESHARED = b"\x55" * 32
INITIATOR = StaticKeys.from_private(b"\x11" * 32)
RESPONDER = StaticKeys.from_private(b"\x22" * 32)


class FixedRng:
    """Gives the same byte for ever: the ephemeral keys of the vectors."""

    def __init__(self, byte: int) -> None:
        self._byte = byte

    def bytes(self, count: int) -> bytes:
        return bytes([self._byte]) * count


def test_constants_are_those_of_the_paper() -> None:
    assert kdf.CHAIN_START.hex() == "60e26daef327efc02ec335e2a025d2d016eb4206f87277f52d38d1988b78cd36"
    assert kdf.HASH_START.hex() == "2211b361081ac566691243db458ad5322d9c6c662293e8b70ee19c65ba079ef3"


def test_hchacha20_gives_the_subkey_of_the_draft() -> None:
    key = bytes(range(32))
    nonce = bytes.fromhex("000000090000004a0000000031415927")
    assert kdf.hchacha20(key, nonce).hex() == "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"


def test_static_keys_have_the_public_halves_of_the_vectors() -> None:
    assert INITIATOR.public.hex() == "7b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f13"
    assert RESPONDER.public.hex() == "0faa684ed28867b97f4a6a2dee5df8ce974e76b7018e3f22a1c4cf2678570f20"


def test_initiation_is_the_recorded_one_byte_for_byte() -> None:
    remote = RemoteKeys(INITIATOR, RESPONDER.public, PRESHARED)
    message, _ = initiate(INITIATOR, remote, ReceiverIndex(0xABCDEF01), tai64n(STAMP), FixedRng(0x33))
    assert sign(message, remote.mac1_key, None) == INITIATION


def test_responder_opens_the_initiation_and_answers_as_recorded() -> None:
    response, keys = answer_vector()
    assert sign(response, RemoteKeys(RESPONDER, INITIATOR.public, PRESHARED).mac1_key, None) == RESPONSE
    assert keys == SessionKeys(send=K2, receive=K1)


def test_initiator_derives_the_recorded_keys_from_the_response() -> None:
    remote = RemoteKeys(INITIATOR, RESPONDER.public, PRESHARED)
    _, pending = initiate(INITIATOR, remote, ReceiverIndex(0xABCDEF01), tai64n(STAMP), FixedRng(0x33))
    response = decode(RESPONSE)
    assert isinstance(response, Response)
    assert pending.accept(response, INITIATOR, remote) == SessionKeys(send=K1, receive=K2)


def test_keepalive_and_goodbye_are_sealed_as_recorded() -> None:
    store = SlowSessionStore()
    slot = store.install(store.add_peer(), 0xABCDEF01, 0x12345601, K1, K2, 10**12)
    assert store.seal(slot, b"") == KEEPALIVE
    assert store.seal(slot, GOODBYE_PACKET) == GOODBYE


def test_initiator_is_identified_by_its_static_key() -> None:
    assert identify_initiator(RESPONDER, INITIATION) == INITIATOR.public


@pytest.mark.parametrize("datagram", [RESPONSE, INITIATION[:-1], b""])
def test_identifying_anything_but_an_initiation_is_refused(datagram: bytes) -> None:
    with pytest.raises(RemoteError, match="not a handshake initiation"):
        identify_initiator(RESPONDER, datagram)


@pytest.mark.parametrize("offset", range(8, 116, 9))
def test_initiation_with_one_flipped_bit_does_not_open(offset: int) -> None:
    damaged = bytearray(INITIATION)
    damaged[offset] ^= 1
    message = decode(bytes(damaged))
    assert isinstance(message, Initiation)
    with pytest.raises(RemoteError):
        open_initiation(RESPONDER, message).open_timestamp(RemoteKeys(RESPONDER, INITIATOR.public, PRESHARED))


@pytest.mark.parametrize("offset", range(12, 60, 5))
def test_response_with_one_flipped_bit_is_refused(offset: int) -> None:
    remote = RemoteKeys(INITIATOR, RESPONDER.public, PRESHARED)
    _, pending = initiate(INITIATOR, remote, ReceiverIndex(0xABCDEF01), tai64n(STAMP), FixedRng(0x33))
    damaged = bytearray(RESPONSE)
    damaged[offset] ^= 1
    response = decode(bytes(damaged))
    assert isinstance(response, Response)
    with pytest.raises(RemoteError):
        pending.accept(response, INITIATOR, remote)


def test_response_under_another_preshared_key_is_refused() -> None:
    remote = RemoteKeys(INITIATOR, RESPONDER.public, b"\x56" * 32)
    _, pending = initiate(INITIATOR, remote, ReceiverIndex(0xABCDEF01), tai64n(STAMP), FixedRng(0x33))
    response = decode(RESPONSE)
    assert isinstance(response, Response)
    with pytest.raises(RemoteError, match="handshake response does not authenticate"):
        pending.accept(response, INITIATOR, remote)


def test_ephemeral_key_of_small_order_is_refused() -> None:
    remote = RemoteKeys(RESPONDER, INITIATOR.public, None)
    message = Initiation(ReceiverIndex(1), bytes(32), bytes(48), bytes(28))
    with pytest.raises(RemoteError, match="small order"):
        open_initiation(RESPONDER, message)
    with pytest.raises(RemoteError, match="small order"):
        RemoteKeys(RESPONDER, bytes(32), None)
    assert remote.preshared_key == bytes(32)


def test_macs_verify_only_with_their_key() -> None:
    assert verify_mac1(INITIATION, RESPONDER.mac1_key)
    assert not verify_mac1(INITIATION, INITIATOR.mac1_key)
    message = decode(INITIATION)
    assert isinstance(message, Initiation)
    signed = sign(message, RESPONDER.mac1_key, b"c" * 16)
    assert verify_mac2(signed, b"c" * 16)
    assert not verify_mac2(signed, b"d" * 16)
    assert not verify_mac2(INITIATION, b"c" * 16)


def test_stamp_is_big_endian_seconds_then_nanoseconds() -> None:
    assert tai64n(STAMP).hex() == (2**62 + 37 + 1_700_000_000).to_bytes(8, "big").hex() + (123_456_789).to_bytes(4, "big").hex()


def test_no_repr_shows_a_secret() -> None:
    remote = RemoteKeys(INITIATOR, RESPONDER.public, PRESHARED)
    _, pending = initiate(INITIATOR, remote, ReceiverIndex(7), tai64n(STAMP), SeededRng(1))
    _, keys = answer_vector()
    message = decode(INITIATION)
    assert isinstance(message, Initiation)
    received = open_initiation(RESPONDER, message)
    shown = repr([INITIATOR, remote, pending, keys, received])
    for secret in (b"\x11" * 32, PRESHARED, remote.static_secret, keys.send, keys.receive, received.chain):
        assert secret.hex()[:16] not in shown
        assert repr(secret)[2:12] not in shown


def answer_vector() -> tuple[Response, SessionKeys]:
    remote = RemoteKeys(RESPONDER, INITIATOR.public, PRESHARED)
    message = decode(INITIATION)
    assert isinstance(message, Initiation)
    stamp, authentic = open_initiation(RESPONDER, message).open_timestamp(remote)
    assert stamp == tai64n(STAMP)
    return authentic.answer(remote, ReceiverIndex(0x12345601), FixedRng(0x44))
