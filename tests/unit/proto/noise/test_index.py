"""The order of receiver indices and that none is given twice."""

from __future__ import annotations

import pytest

from firezone.base.errors import LocalError
from firezone.base.rng import SeededRng
from firezone.proto.noise.index import IndexAllocator, IndexSequence, connection_of


class ScriptedRng:
    """Gives the listed bytes, one entry per call."""

    def __init__(self, *entries: str) -> None:
        self._entries = list(entries)

    def bytes(self, count: int) -> bytes:
        entry = bytes.fromhex(self._entries.pop(0))
        assert len(entry) == count
        return entry


def test_numbers_follow_the_published_example() -> None:
    allocator = IndexAllocator(ScriptedRng("000001", "000002"))
    assert [f"{allocator.next().connection:06x}" for _ in range(5)] == ["000002", "d7fffd", "6bfffd", "35fffd", "1afffd"]


def test_zero_is_drawn_again_for_seed_and_mask() -> None:
    allocator = IndexAllocator(ScriptedRng("000000", "000001", "000000", "000002"))
    assert allocator.next().connection == 2


def test_numbers_do_not_repeat() -> None:
    allocator = IndexAllocator(SeededRng(3))
    numbers = {allocator.next().connection for _ in range(100_000)}
    assert len(numbers) == 100_000
    assert all(0 <= number < 2**24 for number in numbers)


def test_a_node_refuses_when_its_numbers_are_used_up() -> None:
    allocator = IndexAllocator(ScriptedRng("000002", "000001"))
    allocator._register = 0x000004  # one step before the seed
    allocator.next()
    with pytest.raises(LocalError, match="used up"):
        allocator.next()


def test_register_has_the_full_period() -> None:
    # The period divides 2^24 - 1 = 3^2 * 5 * 7 * 13 * 17 * 241 when so many steps change nothing, and is no smaller when for
    # none of its prime factors p do (2^24 - 1) / p steps.
    period = 2**24 - 1
    assert power_of_step(period) == IDENTITY
    for prime in (3, 5, 7, 13, 17, 241):
        assert power_of_step(period // prime) != IDENTITY


def test_sequence_counts_before_use_and_wraps() -> None:
    sequence = IndexSequence(0x123456)
    indices = [sequence.next() for _ in range(256)]
    assert indices[0] == 0x12345601
    assert indices[254] == 0x123456FF
    assert indices[255] == 0x12345600
    assert sequence.next() == 0x12345601
    assert {connection_of(index) for index in indices} == {0x123456}


IDENTITY = [1 << bit for bit in range(24)]
"""A linear map on 24 bits by its images of the single bits."""


def power_of_step(exponent: int) -> list[int]:
    """Returns the map of so many steps of the register."""
    square = [(1 << bit >> 1) ^ (0xD80000 if bit == 0 else 0) for bit in range(24)]
    result = IDENTITY
    while exponent:
        if exponent & 1:
            result = compose(square, result)
        square = compose(square, square)
        exponent >>= 1
    return result


def compose(outer: list[int], inner: list[int]) -> list[int]:
    """Returns the map that applies `inner` and then `outer`."""
    images = []
    for image in inner:
        total = 0
        for bit in range(24):
            total ^= outer[bit] if image >> bit & 1 else 0
        images.append(total)
    return images
