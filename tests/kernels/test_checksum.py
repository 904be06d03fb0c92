"""The internet checksum against its twin, the examples of RFC 1071 and 1624, and random sequences of mutations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.kernels import checksum
from tests.harness import packets
from tests.harness.twins import checksum as twin

WORD = st.integers(0, 0xFFFF)


def test_example_of_rfc_1071() -> None:
    assert checksum.inet_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2
    assert checksum.inet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF ^ 0xDDF2


def test_example_of_rfc_1624() -> None:
    assert checksum.update16(0xDD2F, 0x5555, 0x3285) == 0x0000


@pytest.mark.parametrize("length", [*range(301), 1280, 65535, 65536, 300_000])
def test_sum_equals_its_twin_at_every_length_and_alignment(length: int) -> None:
    pattern = bytes((i * 37 + 255 * (i % 3)) & 0xFF for i in range(400))
    data = (pattern * (length // 400 + 2))[: length + 8]
    for shift in range(8 if length <= 300 else 1):
        assert checksum.inet_sum(memoryview(data)[shift : shift + length]) == twin.inet_sum(data[shift : shift + length])


@pytest.mark.parametrize("length", [262_140, 262_144, 262_148, 1_000_001])
def test_sum_of_all_ones_does_not_overflow(length: int) -> None:
    assert checksum.inet_sum(b"\xff" * length) == twin.inet_sum(b"\xff" * length)


@given(st.binary(max_size=200), st.integers(0, 0xFFFFFFFF))
def test_checksum_on_top_of_an_initial_sum(data: bytes, initial: int) -> None:
    assert checksum.inet_checksum(data, initial) == twin.checksum(data, initial)


@given(st.binary(max_size=200), st.integers(0, 9))
def test_copy_and_sum_copies_exactly_and_sums(data: bytes, room: int) -> None:
    out = bytearray(b"\xaa" * (len(data) + room))
    assert checksum.copy_and_sum(out, data) == twin.inet_sum(data)
    assert bytes(out) == data + b"\xaa" * room


def test_copy_and_sum_refuses_a_short_output() -> None:
    with pytest.raises(ValueError, match="3 bytes do not fit into 2"):
        checksum.copy_and_sum(bytearray(2), b"abc")


@given(st.binary(min_size=20, max_size=60).filter(any), st.data())
def test_incremental_update_equals_full_recomputation_after_any_mutations(body: bytes, data: st.DataObject) -> None:
    covered = bytearray(body + bytes(len(body) % 2))
    value = twin.checksum(bytes(covered))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(covered) // 2 - 1)) * 2
        before, after = int.from_bytes(covered[at : at + 2], "big"), data.draw(WORD)
        covered[at : at + 2] = after.to_bytes(2, "big")
        value = checksum.update16(value, before, after)
    if any(covered):
        assert value == twin.checksum(bytes(covered))


@given(packets.well_formed(), st.binary(min_size=8, max_size=8))
def test_update_of_several_bytes_keeps_the_ipv4_header_valid(packet: bytes, addresses: bytes) -> None:
    if packet[0] >> 4 == 4:
        value = checksum.update(int.from_bytes(packet[10:12], "big"), packet[12:20], addresses)
        assert twin.checksum(packet[:10] + value.to_bytes(2, "big") + addresses) == 0


def test_update_refuses_uneven_pieces() -> None:
    with pytest.raises(ValueError, match="Cannot replace 3 bytes by 3"):
        checksum.update(0, b"abc", b"abd")
    with pytest.raises(ValueError, match="Cannot replace 2 bytes by 4"):
        checksum.update(0, b"ab", b"abcd")


@given(WORD, WORD, WORD)
def test_udp_without_checksum_stays_without_and_a_computed_zero_is_ffff(value: int, before: int, after: int) -> None:
    assert checksum.update16_udp(0, before, after) == 0
    if value:
        assert checksum.update16_udp(value, before, after) == (checksum.update16(value, before, after) or 0xFFFF)


@given(st.sampled_from([4, 16]), st.data(), st.integers(0, 255), st.binary(max_size=100))
def test_transport_checksum_equals_its_twin(size: int, data: st.DataObject, protocol: int, segment: bytes) -> None:
    source, destination = (data.draw(st.binary(min_size=size, max_size=size)) for _ in range(2))
    wanted = twin.transport_checksum(source, destination, protocol, segment)
    assert checksum.transport_checksum(source, destination, protocol, segment) == wanted
    length = len(segment)
    wanted = twin.pseudo_sum(source, destination, protocol, length)
    assert checksum.pseudo_header_sum(source, destination, protocol, length) == wanted


def test_udp_checksum_that_computes_to_zero_is_sent_as_ffff() -> None:
    addresses, base = (b"\x0a\0\0\1", b"\x0a\0\0\2"), bytes.fromhex("0001000200000000")
    filler = 0xFFFF ^ twin.fold(twin.inet_sum(base) + twin.pseudo_sum(*addresses, 17, 10))
    assert checksum.transport_checksum(*addresses, 17, base + filler.to_bytes(2, "big")) == 0xFFFF
    filler = 0xFFFF ^ twin.fold(twin.inet_sum(base) + twin.pseudo_sum(*addresses, 6, 10))
    assert checksum.transport_checksum(*addresses, 6, base + filler.to_bytes(2, "big")) == 0


@pytest.mark.parametrize(("source", "destination"), [(4, 16), (5, 5), (0, 0)])
def test_pseudo_header_refuses_addresses_of_other_sizes(source: int, destination: int) -> None:
    with pytest.raises(ValueError, match="No pseudo-header"):
        checksum.pseudo_header_sum(bytes(source), bytes(destination), 6, 0)
