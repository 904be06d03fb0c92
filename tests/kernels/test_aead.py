"""The batched AEAD against RFC 8439, against a slow twin and against `cryptography`, on every instruction set by mask."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from firezone.kernels import aead
from firezone.kernels.aead import TAG_SIZE, CpuFeatures
from tests.harness.twins import aead as twin

GUARD = 0xA5
SUBSETS = sorted({int(aead.cpu_features()) & mask for mask in range(4)})

LADIES = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it."


@pytest.fixture(params=SUBSETS, ids=lambda mask: repr(CpuFeatures(mask)))
def features(request: pytest.FixtureRequest) -> Iterator[CpuFeatures]:
    """The same tests on each set of instructions that this machine can run."""
    yield aead.force_features(request.param)
    aead.force_features(None)


@dataclass(frozen=True)
class Packet:
    """One packet of a batch and where it is put: `gap` bytes after the one before."""

    key: bytes
    counter: int
    text: bytes
    gap: int = 0

    @property
    def sealed(self) -> bytes:
        return ChaCha20Poly1305(self.key).encrypt(twin.nonce_of(self.counter), self.text, None)


class Layout:
    """Packets in a slab of exactly their size, with guard bytes in the gaps."""

    def __init__(self, packets: Sequence[Packet], contents: Sequence[bytes]) -> None:
        offsets, slab = [], bytearray()
        for packet, content in zip(packets, contents, strict=True):
            slab += bytes([GUARD]) * packet.gap
            offsets.append(len(slab))
            slab += content.ljust(len(packet.text) + TAG_SIZE, b"\x5a")
        self.slab = np.frombuffer(slab, np.uint8).copy() if slab else np.zeros(0, np.uint8)
        self.offset = np.array(offsets, np.uint32)
        self.length = np.array([len(packet.text) for packet in packets], np.uint32)
        self.keys = np.frombuffer(b"".join(packet.key for packet in packets), np.uint8).reshape(-1, 32)
        self.counter = np.array([packet.counter for packet in packets], np.uint64)
        self._gaps = [(at - packet.gap, packet.gap) for at, packet in zip(offsets, packets, strict=True)]

    def seal(self) -> list[bytes]:
        aead.seal_many(self.slab, self.offset, self.length, self.keys, self.counter)
        return self.contents(TAG_SIZE)

    def open(self) -> NDArray[np.bool_]:
        return aead.open_many(self.slab, self.offset, self.length, self.keys, self.counter)

    def contents(self, more: int = 0) -> list[bytes]:
        for at, gap in self._gaps:
            assert bytes(self.slab[at : at + gap]) == bytes([GUARD]) * gap
        return [self.slab[at : at + n + more].tobytes() for at, n in zip(self.offset, self.length, strict=True)]


def check(packets: Sequence[Packet]) -> None:
    """Seals and opens a batch and compares each packet with `cryptography`."""
    expected = [packet.sealed for packet in packets]
    assert Layout(packets, [packet.text for packet in packets]).seal() == expected
    back = Layout(packets, expected)
    assert back.open().all()
    assert back.contents() == [packet.text for packet in packets]


def random_packets(rng: random.Random, lengths: Sequence[int], keys: int = 1) -> list[Packet]:
    chosen = [rng.randbytes(32) for _ in range(keys)]
    return [Packet(rng.choice(chosen), rng.getrandbits(64), rng.randbytes(length), rng.randrange(40)) for length in lengths]


# ---- published vectors ----


def test_twin_reproduces_the_published_vectors() -> None:
    key = bytes(range(32))
    assert twin.chacha20_block(key, 1, bytes.fromhex("000000090000004a00000000")).hex().startswith("10f1e7e4d13b5915500fdd1f")
    poly_key = bytes.fromhex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")
    assert twin.poly1305(poly_key, b"Cryptographic Forum Research Group").hex() == "a8061dc1305136c6c22b8baf0c0127a9"
    associated = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    sealed = twin.seal(bytes(range(0x80, 0xA0)), bytes.fromhex("070000004041424344454647"), LADIES, associated)
    assert sealed[-16:].hex() == "1ae10b594f09e26a7e902ecbd0600691"


def test_ciphertext_is_that_of_rfc_8439_section_2_4_2(features: CpuFeatures) -> None:
    counter = int.from_bytes(bytes.fromhex("0000004a00000000"), "little")
    (sealed,) = Layout([packet := Packet(bytes(range(32)), counter, LADIES)], [LADIES]).seal()
    assert sealed[:114].hex() == (
        "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0bf91b65c5524733ab8f593dabcd62b3571639d624e65152ab8f53"
        "0c359f0861d807ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab77937365af90bbf74a35be6b40b8eedf2785e42874d"
    )
    assert sealed == twin.seal(packet.key, twin.nonce_of(counter), LADIES)


# ---- against slower implementations ----


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 63, 64, 65, 300])
def test_plain_python_agrees(features: CpuFeatures, length: int) -> None:
    packets = random_packets(random.Random(length), [length] * 5, keys=2)
    sealed = Layout(packets, [packet.text for packet in packets]).seal()
    assert sealed == [twin.seal(packet.key, twin.nonce_of(packet.counter), packet.text) for packet in packets]


def test_every_short_length_and_number_of_packets(features: CpuFeatures) -> None:
    rng = random.Random(1)
    for length in range(301):
        check(random_packets(rng, [length] * (1 + length % 19)))
    for number in range(1, 71):
        check(random_packets(rng, [rng.choice([0, 40, 64, 576, 1280, 1424]) for _ in range(number)], keys=1 + number % 3))


def test_large_packets(features: CpuFeatures) -> None:
    check(random_packets(random.Random(2), [65_535, 0, 65_519, 1, 32_768], keys=2))


def test_counters_at_the_borders_of_their_words(features: CpuFeatures) -> None:
    key = bytes(range(32))
    check([Packet(key, counter, b"x" * 100) for counter in (0, 1, 0xFFFFFFFF, 1 << 32, (1 << 64) - 1, 1 << 63)])


LENGTH = st.one_of(st.integers(0, 80), st.integers(0, 2048), st.sampled_from([64, 576, 1280, 1424]))


@pytest.mark.parametrize("mask", SUBSETS)
@given(lengths=st.lists(LENGTH, min_size=1, max_size=70), keys=st.integers(1, 4), seed=st.integers(0, 1 << 32))
def test_any_mix_of_packets(mask: int, lengths: list[int], keys: int, seed: int) -> None:
    aead.force_features(mask)
    try:
        check(random_packets(random.Random(seed), lengths, keys))
    finally:
        aead.force_features(None)


# ---- refusing ----


def test_a_damaged_packet_is_refused_in_every_lane_and_left_alone(features: CpuFeatures) -> None:
    rng = random.Random(3)
    packets = random_packets(rng, [rng.choice([0, 16, 100, 1424]) for _ in range(33)], keys=2)
    for damaged in range(len(packets)):
        contents = [packet.sealed for packet in packets]
        spoilt = bytearray(contents[damaged])
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
        contents[damaged] = bytes(spoilt)
        layout = Layout(packets, contents)
        assert layout.open().tolist() == [i != damaged for i in range(len(packets))]
        whole = layout.contents(TAG_SIZE)
        assert whole[damaged] == contents[damaged]
        assert all(whole[i][:-TAG_SIZE] == packet.text for i, packet in enumerate(packets) if i != damaged)


def test_every_bit_of_a_tag_counts(features: CpuFeatures) -> None:
    packet = Packet(bytes(32), 7, b"packet")
    for bit in range(128):
        sealed = bytearray(packet.sealed)
        sealed[-16 + bit // 8] ^= 1 << bit % 8
        assert not Layout([packet], [bytes(sealed)]).open().any()


def test_another_key_or_counter_is_refused(features: CpuFeatures) -> None:
    packet = Packet(bytes(32), 7, b"packet")
    assert not Layout([Packet(bytes(31) + b"\1", 7, b"packet")], [packet.sealed]).open().any()
    assert not Layout([Packet(bytes(32), 8, b"packet")], [packet.sealed]).open().any()


def test_an_empty_batch_is_nothing(features: CpuFeatures) -> None:
    assert Layout([], []).seal() == []
    assert Layout([], []).open().shape == (0,)


def test_packets_outside_the_slab_are_refused() -> None:
    def seal(offset: int, length: int, keys: int = 1) -> None:
        aead.seal_many(
            np.zeros(100, np.uint8),
            np.array([offset], np.uint32),
            np.array([length], np.uint32),
            np.zeros((keys, 32), np.uint8),
            np.zeros(1, np.uint64),
        )

    seal(0, 84)
    for offset, length in ((0, 85), (1, 84), (0xFFFFFFFF, 0), (0, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF)):
        with pytest.raises(ValueError, match="leaves a slab of 100"):
            seal(offset, length)
    with pytest.raises(ValueError, match="equally many"):
        seal(0, 1, keys=2)


# ---- dispatch ----


def test_a_mask_takes_features_away_and_adds_none() -> None:
    everything = aead.cpu_features()
    try:
        assert aead.force_features(0) == aead.cpu_features() == CpuFeatures(0)
        assert aead.force_features(0xFFFF) == everything
    finally:
        assert aead.force_features(None) == everything


@pytest.mark.parametrize(("mask", "left"), [("0", 0), ("0x1", 1), ("2", 2)])
def test_environment_narrows_the_choice(mask: str, left: int) -> None:
    program = "from firezone.kernels.aead import cpu_features; print(int(cpu_features()))"
    environment = {**os.environ, "FZ_CPU_MASK": mask}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == int(aead.cpu_features()) & left
