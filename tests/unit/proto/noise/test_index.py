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


def test_register_has_the_full_period_and_then_refuses() -> None:
    allocator = IndexAllocator(SeededRng(4))
    register, steps = allocator._seed, 0
    while True:
        register = (register >> 1) ^ (0xD80000 if register & 1 else 0)
        steps += 1
        if register == allocator._seed:
            break
    assert steps == 2**24 - 1
    allocator._register = allocator._seed << 1 & 0xFFFFFF  # the state one step before the start, when its low bit is clear
    if allocator._seed & 0x800000 == 0:
        allocator.next()
        with pytest.raises(LocalError, match="used up"):
            allocator.next()


def test_sequence_counts_before_use_and_wraps() -> None:
    sequence = IndexSequence(0x123456)
    indices = [sequence.next() for _ in range(256)]
    assert indices[0] == 0x12345601
    assert indices[254] == 0x123456FF
    assert indices[255] == 0x12345600
    assert sequence.next() == 0x12345601
    assert {connection_of(index) for index in indices} == {0x123456}
