"""The operating system's randomness, as machines want it passed in."""

from __future__ import annotations

import os


class SystemRng:
    """Bytes from the kernel's generator."""

    def bytes(self, count: int) -> bytes:
        return os.urandom(count)
