"""The AEAD on every instruction set, from C: Wycheproof's vectors, other buffers and alignments, and what is left on the stack."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from firezone.kernels import aead
from firezone.kernels.aead import TAG_SIZE, CpuFeatures
from tests.harness.twins import aead as twin
from tests.kernels.aead_library import Library, Packet

VECTORS = Path(__file__).parents[1] / "vectors" / "wycheproof-chacha20-poly1305.json"
SUBSETS = sorted({int(aead.cpu_features()) & mask for mask in range(4)})


@dataclass(frozen=True)
class Vector:
    """One case of Project Wycheproof with a nonce of twelve bytes."""

    number: int
    key: bytes
    nonce: bytes
    associated: bytes
    text: bytes
    sealed: bytes
    tag: bytes
    is_valid: bool


def _vectors() -> list[Vector]:
    found = []
    for group in json.loads(VECTORS.read_text())["testGroups"]:
        for case in group["tests"] if group["ivSize"] == 96 else ():
            key, nonce, associated, text, sealed, tag = (
                bytes.fromhex(case[name]) for name in ("key", "iv", "aad", "msg", "ct", "tag")
            )
            found.append(Vector(case["tcId"], key, nonce, associated, text, sealed, tag, case["result"] == "valid"))
    return found


VECTORS_OF_12 = _vectors()
WITHOUT_ASSOCIATED = [vector for vector in VECTORS_OF_12 if not vector.associated]


@pytest.fixture(params=SUBSETS, ids=lambda mask: repr(CpuFeatures(mask)))
def library(request: pytest.FixtureRequest, aead_library: Library) -> Iterator[Library]:
    aead_library.force(request.param)
    yield aead_library
    aead_library.force(0xFFFFFFFF)
    aead_library.set_nonce_head(0)


def packet_of(vector: Vector, text: bytes, tag: bytes = bytes(TAG_SIZE)) -> Packet:
    return Packet(vector.key, int.from_bytes(vector.nonce[4:], "little"), text, tag)


def head_of(vector: Vector) -> int:
    return int.from_bytes(vector.nonce[:4], "little")


def wrong_tags(tag: bytes) -> list[bytes]:
    """The ways in which Wycheproof spoils tags, all of its invalid vectors having associated data."""
    number = int.from_bytes(tag, "little")
    one_bit = [number ^ 1 << bit for bit in (0, 1, 7, 8, 31, 32, 33, 63, 64, 71, 77, 80, 96, 97, 103, 120, 121, 126, 127)]
    several = [number ^ (1 << 128) - 1, number ^ int.from_bytes(b"\x80" * 16, "little"), number ^ (1 | 1 << 64), 0, (1 << 128) - 1]
    return [wrong.to_bytes(16, "little") for wrong in one_bit + several if wrong != number]


# ---- Wycheproof ----


def test_there_are_vectors_of_every_kind() -> None:
    assert len(VECTORS_OF_12) == 316
    assert sum(not vector.is_valid for vector in VECTORS_OF_12) == 60
    assert len(WITHOUT_ASSOCIATED) == 45
    assert all(vector.is_valid for vector in WITHOUT_ASSOCIATED)


def test_twin_agrees_with_wycheproof_about_every_tag() -> None:
    for vector in VECTORS_OF_12:
        sealed = twin.seal(vector.key, vector.nonce, vector.text, vector.associated)
        assert (sealed == vector.sealed + vector.tag) == vector.is_valid, vector.number


def test_ciphertexts_are_those_of_wycheproof(library: Library) -> None:
    """Those of all vectors: associated data, which WireGuard's data messages do not have, changes nothing but the tag."""
    for vector in VECTORS_OF_12:
        library.set_nonce_head(head_of(vector))
        library.seal([packet := packet_of(vector, vector.text)])
        twin_sealed = twin.chacha20(vector.key, 1, vector.nonce, vector.text)
        assert packet.out == twin_sealed, vector.number
        if vector.is_valid:
            assert packet.out == vector.sealed, vector.number


@pytest.mark.parametrize("copies", [1, 3, 9])
def test_wycheproof_without_associated_data(library: Library, copies: int) -> None:
    for vector in WITHOUT_ASSOCIATED:
        library.set_nonce_head(head_of(vector))
        sealed = [packet_of(vector, vector.text) for _ in range(copies)]
        library.seal(sealed)
        assert all((packet.out, packet.tag) == (vector.sealed, vector.tag) for packet in sealed), vector.number
        opened = [packet_of(vector, vector.sealed, vector.tag) for _ in range(copies)]
        assert library.open(opened) == [True] * copies, vector.number
        assert all(packet.out == vector.text for packet in opened), vector.number
        for wrong in wrong_tags(vector.tag):
            refused = [packet_of(vector, vector.sealed, wrong) for _ in range(copies)]
            assert library.open(refused) == [False] * copies, vector.number
            assert all(packet.out == vector.sealed for packet in refused), vector.number


# ---- Poly1305 at its edges ----

R_MAX = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
RS = [0, 1, 2, 4, R_MAX, R_MAX - 1, R_MAX & ~0xFFFFFFFF, 0x0FFFFFFC << 96, 0xFFFFFFF, 0x0FFFFFFC0FFFFFFC << 64, (1 << 44) - 1]
PADS = [0, 1, (1 << 128) - 1, (1 << 64) - 1, 1 << 127]


def texts_at_the_prime(length: int) -> list[bytes]:
    """Texts that under r = 1 sum to about 2^130 - 5: with four blocks each 2^128 and something, the sum of the rest decides."""
    blocks = length // 16
    lengths_block = 1 << 128 | length << 64
    found = []
    for over in range(-8, 9):
        for multiple in range(1, 2 + blocks):
            rest = (multiple << 130) - 5 * multiple + over - lengths_block - (blocks << 128)
            if 0 <= rest < blocks << 128:
                each, last = min(rest // max(blocks, 1), (1 << 128) - 1), rest
                numbers = [each] * (blocks - 1)
                last -= each * (blocks - 1)
                if last < 1 << 128:
                    found.append(b"".join(number.to_bytes(16, "little") for number in [*numbers, last]))
    return found


def mac_cases() -> list[tuple[bytes, bytes]]:
    """One-time keys and texts: extreme in every limb, next to the prime, and of many lengths."""
    rng = random.Random(4)
    texts = [byte * length for byte in (b"\xff", b"\x00", b"\xfb") for length in (0, 1, 15, 16, 17, 48, 64, 112, 128, 250, 700)]
    texts += [rng.randbytes(length) for length in range(0, 400, 7)]
    cases = [(r, text) for r in RS for text in texts]
    cases += [(1, text) for blocks in (3, 4, 7, 8, 16, 33) for text in texts_at_the_prime(16 * blocks)]
    rng.shuffle(cases)
    return [(r.to_bytes(16, "little") + rng.choice(PADS).to_bytes(16, "little"), text) for r, text in cases]


def test_texts_at_the_prime_are_there() -> None:
    def sum_of(text: bytes) -> int:
        blocks = [*(text[at : at + 16] for at in range(0, len(text), 16)), struct.pack("<QQ", 0, len(text))]
        return sum(int.from_bytes(block + b"\x01", "little") for block in blocks) % twin.PRIME

    sums = {sum_of(text) for blocks in (3, 4, 7, 8, 16, 33) for text in texts_at_the_prime(16 * blocks)}
    assert {*range(9), *range(twin.PRIME - 8, twin.PRIME)} <= sums


@pytest.mark.parametrize("together", [1, 2, 5, 8, 16])
@pytest.mark.parametrize("level", ["portable", "avx2", "avx512"])
def test_poly1305_agrees_with_plain_python_at_its_edges(aead_library: Library, level: str, together: int) -> None:
    if level != "portable" and not aead.cpu_features() & CpuFeatures[level.upper()]:
        pytest.skip("machine lacks these instructions")
    cases = mac_cases()
    for at in range(0, len(cases), together):
        keys, texts = zip(*cases[at : at + together], strict=True)
        padded = [text + bytes(-len(text) % 16) + struct.pack("<QQ", 0, len(text)) for text in texts]
        expected = [twin.poly1305(key, text) for key, text in zip(keys, padded, strict=True)]
        assert aead_library.mac(level, keys, texts) == expected


# ---- other buffers ----


def random_packet(rng: random.Random, keys: list[bytes], longest: int) -> tuple[bytes, int, bytes, int, bool]:
    return rng.choice(keys), rng.getrandbits(64), rng.randbytes(rng.randrange(longest)), rng.randrange(64), rng.random() < 0.5


@pytest.mark.parametrize("longest", [100, 2_000, 65_536])
def test_any_length_and_alignment_in_place_or_not(library: Library, longest: int) -> None:
    rng = random.Random(longest)
    for _ in range(12):
        keys = [rng.randbytes(32) for _ in range(rng.randrange(1, 4))]
        rows = [random_packet(rng, keys, longest) for _ in range(rng.choice([1, 2, 3, 7, 8, 9, 17, 40]))]
        sealing = [Packet(key, counter, text, bytes(16), shift, apart) for key, counter, text, shift, apart in rows]
        library.seal(sealing)
        for packet, (key, counter, text, _, apart) in zip(sealing, rows, strict=True):
            assert packet.out + packet.tag == ChaCha20Poly1305(key).encrypt(twin.nonce_of(counter), text, None)
            assert not apart or packet.source == text
        opening = [
            Packet(key, counter, sealed.out, sealed.tag, shift, apart)
            for sealed, (key, counter, _, shift, apart) in zip(sealing, rows, strict=True)
        ]
        assert library.open(opening) == [True] * len(rows)
        assert [packet.out for packet in opening] == [text for _, _, text, _, _ in rows]


@pytest.mark.parametrize("apart", [False, True])
def test_a_forged_packet_leaves_no_plaintext(library: Library, apart: bool) -> None:
    rng = random.Random(9)
    for length in (1, 15, 64, 100, 1424, 9000):
        key, text = rng.randbytes(32), rng.randbytes(length)
        sealed = ChaCha20Poly1305(key).encrypt(twin.nonce_of(5), text, None)
        wrong = bytes([sealed[-16] ^ 1]) + sealed[-15:]
        packet = Packet(key, 5, sealed[:-16], wrong, 3, apart)
        assert library.open([packet]) == [False]
        assert packet.out == (bytes(length) if apart else sealed[:-16])


# ---- what is left ----


def secrets_of(key: bytes, counter: int, blocks: int) -> bytes:
    """Everything a packet's encryption should forget, in pieces of eight bytes, in the forms in which code holds it."""
    nonce = twin.nonce_of(counter)
    one_time = twin.chacha20_block(key, 0, nonce)[:32]
    r = int.from_bytes(one_time[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    words = b"".join(key[i : i + 4] * 2 for i in range(0, 32, 4))
    limbs44 = [r & (1 << 44) - 1, r >> 44 & (1 << 44) - 1, r >> 88]
    limbs26 = [r >> 26 * i & (1 << 26) - 1 for i in range(5)]
    numbers = [r & (1 << 64) - 1, r >> 64, *limbs44, *(20 * limb for limb in limbs44[1:]), *limbs26]
    stream = b"".join(twin.chacha20_block(key, 1 + i, nonce) for i in range(blocks))
    return key + words + one_time + struct.pack(f"<{len(numbers)}Q", *numbers) + stream


def test_the_search_finds_what_was_not_wiped(library: Library) -> None:
    key = random.Random(1).randbytes(32)
    assert library.leftovers([Packet(key, 7, b"")], True, secrets_of(key, 7, 0), leaves_them=True)[:4] == [0, 1, 2, 3]


@pytest.mark.parametrize("is_seal", [True, False])
@pytest.mark.parametrize("count", [1, 2, 5, 12])
@pytest.mark.parametrize("length", [40, 200, 1424, 3000])
def test_no_key_and_no_key_stream_stays_on_the_stack(library: Library, length: int, count: int, is_seal: bool) -> None:
    rng = random.Random(length)
    keys, texts = [rng.randbytes(32) for _ in range(count)], [rng.randbytes(length) for _ in range(count)]
    sealed = [ChaCha20Poly1305(key).encrypt(twin.nonce_of(7), text, None) for key, text in zip(keys, texts, strict=True)]
    contents = texts if is_seal else [whole[:-16] for whole in sealed]
    packets = [Packet(key, 7, content, whole[-16:]) for key, content, whole in zip(keys, contents, sealed, strict=True)]
    secrets = b"".join(secrets_of(key, 7, 1) for key in keys[:-1]) + secrets_of(keys[-1], 7, (length + 63) // 64)
    assert library.leftovers(packets, is_seal, secrets) == []
    assert [packet.out for packet in packets] == ([whole[:-16] for whole in sealed] if is_seal else texts)
