"""Randomness as a value that is passed in: the operating system's in programs, seeded in tests."""

from __future__ import annotations

import hashlib
from typing import Protocol


class Rng(Protocol):
    """A source of cryptographically strong bytes."""

    def bytes(self, count: int) -> bytes:
        """Returns `count` unpredictable bytes."""
        ...


class SeededRng:
    """Repeats the same bytes for the same seed: SHA-256 in counter mode. For tests and for machines given a secret seed."""

    def __init__(self, seed: bytes | int) -> None:
        self._key = hashlib.sha256(seed if isinstance(seed, bytes) else seed.to_bytes(32, "big")).digest()
        self._counter = 0
        self._left = b""

    def bytes(self, count: int) -> bytes:
        while len(self._left) < count:
            self._left += hashlib.sha256(self._key + self._counter.to_bytes(8, "big")).digest()
            self._counter += 1
        taken, self._left = self._left[:count], self._left[count:]
        return taken


def below(rng: Rng, bound: int) -> int:
    """Returns a uniform number in 0 .. bound-1 (bias below 2^-64)."""
    return int.from_bytes(rng.bytes(16), "big") % bound
