"""Ways to spoil a datagram: a few bytes changed, cut off, added or doubled, or a length field that lies."""

from __future__ import annotations

import random

LENGTHS = (0, 1, 4, 8, 20, 0x7FFF, 0xFFFC, 0xFFFF)


def spoiled(datagram: bytes, draw: random.Random) -> bytes:
    """Returns a datagram with one to five changes."""
    made = bytearray(datagram)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(made) + 1)
        match draw.randrange(6):
            case 0 if made:
                made[at % len(made)] = draw.randrange(256)
            case 1:
                del made[at:]
            case 2:
                made[at:at] = draw.randbytes(draw.randrange(1, 9))
            case 3:
                made += made[at : at + draw.randrange(64)]
            case 4:
                made[at : at + 2] = draw.choice((*LENGTHS, len(made))).to_bytes(2, "big")
            case _:
                del made[at : at + draw.randrange(1, 5)]
    return bytes(made)
