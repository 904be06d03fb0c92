"""Receiver indices: 24 bits name the connection, 8 bits count its handshakes.

The 24-bit numbers come from a maximal-length shift register, so they are unguessable without the seed and never repeat within
one node (boringtun's scheme, which Firezone keeps). To everybody else an index is opaque.
"""

from __future__ import annotations

from firezone.base.errors import LocalError
from firezone.base.ids import ReceiverIndex
from firezone.base.rng import Rng

SEQUENCE_BITS = 8
_ID_MASK = 0xFFFFFF
_TAPS = 0xD80000
"""Feedback of the register x^24 + x^23 + x^21 + x^20 + 1: its period is 2^24 - 1."""


class IndexAllocator:
    """Gives each connection of one node its own range of receiver indices."""

    def __init__(self, rng: Rng) -> None:
        self._seed = self._register = _non_zero(rng)
        self._mask = _non_zero(rng)
        self._is_exhausted = False

    def next(self) -> IndexSequence:
        """Returns the indices of a new connection.

        Raises: LocalError after 2^24 - 1 connections.
        """
        if self._is_exhausted:
            raise LocalError("All 16777215 connection indices of this node are used up; reset it.")
        number = (self._register - 1) ^ self._mask
        self._register = (self._register >> 1) ^ (_TAPS if self._register & 1 else 0)
        self._is_exhausted = self._register == self._seed
        return IndexSequence(number)


class IndexSequence:
    """The 256 receiver indices of one connection, handed out in turn."""

    def __init__(self, connection: int) -> None:
        self.connection = connection
        """The 24-bit number that all indices of the connection begin with."""
        self._counter = 0

    def next(self) -> ReceiverIndex:
        """Returns the next index: the first one ends in 01, and 255 is followed by 0."""
        self._counter = (self._counter + 1) & 0xFF
        return ReceiverIndex(self.connection << SEQUENCE_BITS | self._counter)


def connection_of(index: ReceiverIndex) -> int:
    """Returns the 24-bit connection number of a receiver index."""
    return index >> SEQUENCE_BITS


def _non_zero(rng: Rng) -> int:
    while True:
        if number := int.from_bytes(rng.bytes(3), "big") & _ID_MASK:
            return number
