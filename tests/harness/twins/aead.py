"""ChaCha20-Poly1305 in plain Python, as RFC 8439 writes it down."""

from __future__ import annotations

import struct

PRIME = (1 << 130) - 5
WORD = 0xFFFFFFFF


def _quarter_round(x: list[int], a: int, b: int, c: int, d: int) -> None:
    for into, by, onto, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        x[into] = x[into] + x[by] & WORD
        mixed = x[onto] ^ x[into]
        x[onto] = (mixed << bits | mixed >> (32 - bits)) & WORD


def chacha20_block(key: bytes, block: int, nonce: bytes) -> bytes:
    """RFC 8439 section 2.3."""
    start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), block, *struct.unpack("<3I", nonce)]
    x = list(start)
    for _ in range(10):
        for column in range(4):
            _quarter_round(x, column, 4 + column, 8 + column, 12 + column)
        for diagonal in range(4):
            _quarter_round(x, diagonal, 4 + (diagonal + 1) % 4, 8 + (diagonal + 2) % 4, 12 + (diagonal + 3) % 4)
    return struct.pack("<16I", *((a + b) & WORD for a, b in zip(x, start, strict=True)))


def chacha20(key: bytes, block: int, nonce: bytes, text: bytes) -> bytes:
    """RFC 8439 section 2.4."""
    stream = b"".join(chacha20_block(key, block + i, nonce) for i in range((len(text) + 63) // 64))
    return bytes(a ^ b for a, b in zip(text, stream, strict=False))


def poly1305(key: bytes, text: bytes) -> bytes:
    """RFC 8439 section 2.5."""
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    h = 0
    for at in range(0, len(text), 16):
        h = (h + int.from_bytes(text[at : at + 16] + b"\x01", "little")) * r % PRIME
    return (h + int.from_bytes(key[16:], "little") & (1 << 128) - 1).to_bytes(16, "little")


def seal(key: bytes, nonce: bytes, text: bytes, associated: bytes = b"") -> bytes:
    """RFC 8439 section 2.8: ciphertext and tag."""
    sealed = chacha20(key, 1, nonce, text)
    padded = b"".join(part + bytes(-len(part) % 16) for part in (associated, sealed))
    return sealed + poly1305(chacha20_block(key, 0, nonce)[:32], padded + struct.pack("<QQ", len(associated), len(sealed)))


def nonce_of(counter: int) -> bytes:
    """WireGuard paper 5.4.6."""
    return bytes(4) + counter.to_bytes(8, "little")
