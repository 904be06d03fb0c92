"""What the parse stage decides, for one packet."""

from __future__ import annotations

from dataclasses import dataclass

from firezone.kernels.types import Reason, Verdict
from tests.harness.twins.checksum import checksum

HAS_KEY, ICMP_ERROR, ICMP = 1, 2, 4
ICMPV4, TCP, UDP, AUTHENTICATION, ICMPV6, CONTROL = 1, 6, 17, 51, 58, 255
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS = 0, 43, 44, 60


@dataclass
class Parsed:
    """The row after the stage."""

    verdict: Verdict
    reason: Reason = Reason.NONE
    packet: bytes = b""
    version: int = 0
    protocol: int = 0
    transport: int = 0
    flags: int = 0
    source_port: int = 0
    destination_port: int = 0
    ecn: int = 0


class Refused(Exception):
    """The packet is dropped for a reason."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason


def parse(packet: bytes, from_tunnel: bool, outer_ecn: int = 0) -> Parsed:
    claimed = claimed_length(packet)
    if from_tunnel and claimed is not None and 0 < claimed < len(packet):
        packet = packet[:claimed]
    try:
        _need(len(packet) <= 1280, Reason.OVERSIZED)
        _need(claimed == len(packet))
        version, protocol, transport = walk(packet)
        flags, source, destination = _flow(version, protocol, packet[transport:])
    except Refused as refused:
        return Parsed(Verdict.DROP, refused.reason, packet)
    if from_tunnel and version == 6 and packet[6] == CONTROL and packet[8:40] == bytes(32) and len(packet) >= 48:
        return Parsed(Verdict.PUNT, Reason.CONTROL_PACKET, packet)
    if from_tunnel:
        packet = merge_ecn(packet, outer_ecn)
    ecn = outer_ecn if from_tunnel else inner_ecn(packet)
    return Parsed(Verdict.FORWARD, Reason.NONE, packet, version, protocol, transport, flags, source, destination, ecn)


def claimed_length(packet: bytes) -> int | None:
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        return int.from_bytes(packet[2:4], "big")
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        return 40 + int.from_bytes(packet[4:6], "big")
    return None


def walk(packet: bytes) -> tuple[int, int, int]:
    """Version, transport protocol and offset; raises for fragments and headers that do not hold."""
    if packet[0] >> 4 == 4:
        at, protocol = (packet[0] & 15) * 4, packet[9]
        _need(20 <= at <= len(packet))
        if int.from_bytes(packet[6:8], "big") & 0x3FFF:
            raise Refused(Reason.FRAGMENT)
        if protocol == AUTHENTICATION:
            protocol, at = _authentication(packet, at)
        return 4, protocol, at
    at, protocol, first = 40, packet[6], True
    while protocol in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS, AUTHENTICATION):
        _need(protocol != HOP_BY_HOP or first)
        first = False
        if protocol == AUTHENTICATION:
            protocol, at = _authentication(packet, at)
            continue
        _need(at + 8 <= len(packet))
        size = 8 if protocol == FRAGMENT else (packet[at + 1] + 1) * 8
        _need(at + size <= len(packet))
        if protocol == FRAGMENT and int.from_bytes(packet[at + 2 : at + 4], "big") & 0xFFF9:
            raise Refused(Reason.FRAGMENT)
        protocol, at = packet[at], at + size
    return 6, protocol, at


def inner_ecn(packet: bytes) -> int:
    return packet[1] & 3 if packet[0] >> 4 == 4 else packet[1] >> 4 & 3


def merge_ecn(packet: bytes, outer: int) -> bytes:
    if outer != 3 or inner_ecn(packet) not in (1, 2):
        return packet
    changed = bytearray(packet)
    if packet[0] >> 4 == 6:
        changed[1] |= 0x30
        return bytes(changed)
    # A checksum that was right is right afterwards, one that was wrong stays as wrong as it was.
    changed[1] |= 3
    size = (packet[0] & 15) * 4
    error = (checksum(packet[:size]) or 0xFFFF) % 0xFFFF
    changed[10:12] = bytes(2)
    wanted = checksum(bytes(changed[:size]), error)
    changed[10:12] = wanted.to_bytes(2, "big")
    return bytes(changed)


def _authentication(packet: bytes, at: int) -> tuple[int, int]:
    _need(at + 12 <= len(packet))
    size = (packet[at + 1] + 2) * 4
    _need(12 <= size <= len(packet) - at)
    return packet[at], at + size


def _flow(version: int, protocol: int, segment: bytes) -> tuple[int, int, int]:
    if protocol == TCP:
        _need(len(segment) >= 20 and 20 <= (segment[12] >> 4) * 4 <= len(segment))
        return HAS_KEY, int.from_bytes(segment[:2], "big"), int.from_bytes(segment[2:4], "big")
    if protocol == UDP:
        _need(len(segment) >= 8 and int.from_bytes(segment[4:6], "big") == len(segment))
        return HAS_KEY, int.from_bytes(segment[:2], "big"), int.from_bytes(segment[2:4], "big")
    if protocol not in (ICMPV4, ICMPV6):
        return 0, 0, 0
    _need(protocol == (ICMPV4 if version == 4 else ICMPV6) and len(segment) >= 8)
    if segment[0] in ((0, 8) if version == 4 else (128, 129)):
        identifier = int.from_bytes(segment[4:6], "big")
        return ICMP | HAS_KEY, identifier, identifier
    return ICMP | (ICMP_ERROR if segment[0] in ((3, 11) if version == 4 else (1, 2, 3)) else 0), 0, 0


def _need(condition: bool, reason: Reason = Reason.MALFORMED_PACKET) -> None:
    if not condition:
        raise Refused(reason)
