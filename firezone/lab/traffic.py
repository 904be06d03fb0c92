"""Generated packets for the memory mode: IPv4 and IPv6, ICMP echo, UDP and TCP, with valid checksums and contents that differ."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from firezone.kernels.checksum import inet_checksum, transport_checksum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firezone.base.net import Address
    from firezone.base.rng import Rng

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
MAX_PAYLOAD = 1200
_V4_HEADER = 20


def packets(source: tuple[Address, Address], destination: tuple[Address, Address], count: int, rng: Rng) -> Iterator[bytes]:
    """Yields `count` packets from one pair of addresses (IPv4, IPv6) to another, kinds and sizes mixed."""
    for number in range(count):
        size = int.from_bytes(rng.bytes(2), "big") % MAX_PAYLOAD
        payload = rng.bytes(size)
        family = number % 2
        kind = (ICMP, UDP, TCP)[number // 2 % 3]
        yield build(source[family], destination[family], kind, number, payload)


def build(source: Address, destination: Address, kind: int, number: int, payload: bytes) -> bytes:
    """Returns one packet. `number` becomes the echo sequence, the source port or the TCP sequence, so that no two are alike."""
    is_v6 = isinstance(source, ipaddress.IPv6Address)
    word = (number & 0xFFFF).to_bytes(2, "big")
    port = (1024 + number % 60000).to_bytes(2, "big")
    if kind == ICMP:
        protocol = ICMPV6 if is_v6 else ICMP
        segment = bytes((128 if is_v6 else 8, 0, 0, 0)) + b"\x12\x34" + word + payload
        at = 2
    elif kind == UDP:
        protocol = UDP
        segment = port + b"\x00\x07" + (8 + len(payload)).to_bytes(2, "big") + b"\0\0" + payload
        at = 6
    else:
        protocol = TCP
        segment = port + b"\x00\x07" + number.to_bytes(4, "big") + b"\0\0\0\1\x50\x10\xff\xff\0\0\0\0" + payload
        at = 16
    if protocol == ICMP:
        checksum = inet_checksum(segment)
    else:
        checksum = transport_checksum(source.packed, destination.packed, protocol, segment)
    segment = segment[:at] + (checksum or 0xFFFF).to_bytes(2, "big") + segment[at + 2 :]
    if is_v6:
        return (
            b"\x60\0\0\0" + len(segment).to_bytes(2, "big") + bytes((protocol, 64)) + source.packed + destination.packed + segment
        )
    total = (_V4_HEADER + len(segment)).to_bytes(2, "big")
    header = b"\x45\0" + total + word + b"\x40\0\x40" + bytes((protocol, 0, 0)) + source.packed + destination.packed
    return header[:10] + inet_checksum(header).to_bytes(2, "big") + header[12:] + segment
