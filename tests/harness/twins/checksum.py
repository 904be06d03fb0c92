"""The internet checksum as RFC 1071 tells it, one word at a time."""

from __future__ import annotations


def fold(value: int) -> int:
    while value > 0xFFFF:
        value = (value & 0xFFFF) + (value >> 16)
    return value


def inet_sum(data: bytes) -> int:
    padded = data + bytes(len(data) % 2)
    return fold(sum(int.from_bytes(padded[i : i + 2], "big") for i in range(0, len(padded), 2)))


def checksum(data: bytes, initial: int = 0) -> int:
    return 0xFFFF ^ fold(initial + inet_sum(data))


def pseudo_sum(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    return inet_sum(source + destination + length.to_bytes(4, "big") + bytes([0, 0, 0, protocol]))


def transport_checksum(source: bytes, destination: bytes, protocol: int, segment: bytes) -> int:
    value = checksum(segment, pseudo_sum(source, destination, protocol, len(segment)))
    return 0xFFFF if protocol == 17 and value == 0 else value


def ones_equal(a: int, b: int) -> bool:
    """Whether two sums are the same number in one's complement, where 0 and 0xFFFF are both zero."""
    return a % 0xFFFF == b % 0xFFFF
