"""How long the tunnel may keep the loop to itself."""

from __future__ import annotations

TICKS_PER_WAKE = 8
"""Ticks before the tunnel yields to asyncio. A full tick of four rounds is about two milliseconds, so a portal message waits at
most some 15 ms behind a bulk transfer; half of it costs a poll of the loop every 8 ms, double doubles that wait."""


class Budget:
    """Hands out ticks: the first always runs, a tick that did work may ask for another, the last one yields."""

    def __init__(self, ticks: int = TICKS_PER_WAKE) -> None:
        self._ticks = ticks
        self._left = ticks
        self.exhausted = 0
        """How often a wake-up used all its ticks."""

    def start(self) -> None:
        """Begins a wake-up."""
        self._left = self._ticks

    def take(self) -> bool:
        """Takes one tick. False when none is left: yield and come back."""
        if self._left == 0:
            self.exhausted += 1
            return False
        self._left -= 1
        return True
