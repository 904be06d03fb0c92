"""IP packets on the slow path: who they are from and for, and the ICMP errors that answer refused ones.

The fast path parses in `firezone.kernels.ip`; this is for the few packets that a machine looks at.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firezone.base.errors import WireError
from firezone.base.limits import MAX_PACKET_SIZE
from firezone.kernels.checksum import inet_checksum

if TYPE_CHECKING:
    from firezone.base.net import Address

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
CONTROL_PROTOCOL = 0xFF

_ERROR_HOP_LIMIT = 20
"""TTL of generated errors, as the original's; high enough for any site, low enough to die soon."""
_V4_HEADER, _V6_HEADER = 20, 40
_SKIPPED_EXTENSIONS = {0, 43, 60}
_SYN, _ACK = 0x02, 0x10
_V4_ERRORS = {3, 11}
_V6_ERRORS = {1, 2, 3}


@dataclass(frozen=True, slots=True)
class IpHeader:
    """What decides where a packet may go."""

    version: int
    source: Address
    destination: Address
    protocol: int
    """Of the transport header, behind any extension headers."""
    transport: int
    """Offset of the transport header."""
    source_port: int | None
    """Port, or echo identifier; None when the protocol has none."""
    destination_port: int | None
    is_icmp_error: bool = False


def decode_ip(packet: bytes) -> IpHeader:
    """Reads the headers of a packet.

    Raises: WireError when it is not an IP packet or its headers are cut off.
    """
    if not packet:
        raise WireError("An empty packet.", field="version", offset=0)
    version = packet[0] >> 4
    if version == 4:
        return _decode_v4(packet)
    if version == 6:
        return _decode_v6(packet)
    raise WireError(f"IP version {version}.", field="version", offset=0)


def _decode_v4(packet: bytes) -> IpHeader:
    size = (packet[0] & 15) * 4
    if size < _V4_HEADER or len(packet) < size:
        raise WireError(f"An IPv4 header of {size} bytes in a packet of {len(packet)}.", field="ihl", offset=0)
    source, destination = ipaddress.IPv4Address(packet[12:16]), ipaddress.IPv4Address(packet[16:20])
    return _with_ports(packet, 4, source, destination, packet[9], size)


def _decode_v6(packet: bytes) -> IpHeader:
    if len(packet) < _V6_HEADER:
        raise WireError(f"An IPv6 header in a packet of {len(packet)} bytes.", field="header", offset=0)
    protocol, at = packet[6], _V6_HEADER
    while protocol in _SKIPPED_EXTENSIONS:
        if len(packet) < at + 8:
            raise WireError("An IPv6 extension header is cut off.", field="extension", offset=at)
        protocol, at = packet[at], at + 8 + packet[at + 1] * 8
    source, destination = ipaddress.IPv6Address(packet[8:24]), ipaddress.IPv6Address(packet[24:40])
    return _with_ports(packet, 6, source, destination, protocol, at)


def _with_ports(packet: bytes, version: int, source: Address, destination: Address, protocol: int, at: int) -> IpHeader:
    ports: tuple[int | None, int | None] = (None, None)
    is_error = False
    if protocol in (TCP, UDP):
        if len(packet) < at + 8:
            raise WireError("The ports are cut off.", field="ports", offset=at)
        ports = int.from_bytes(packet[at : at + 2], "big"), int.from_bytes(packet[at + 2 : at + 4], "big")
    elif protocol == (ICMP if version == 4 else ICMPV6):
        if len(packet) < at + 8:
            raise WireError("The ICMP header is cut off.", field="icmp", offset=at)
        if packet[at] in ((0, 8) if version == 4 else (128, 129)):
            identifier = int.from_bytes(packet[at + 4 : at + 6], "big")
            ports = identifier, identifier
        is_error = packet[at] in (_V4_ERRORS if version == 4 else _V6_ERRORS)
    return IpHeader(version, source, destination, protocol, at, *ports, is_error)


def syn_key(packet: bytes, header: IpHeader) -> bytes | None:
    """Returns what identifies a TCP SYN whatever its options say: addresses, ports, sequence number. None for anything else."""
    at = header.transport
    if header.protocol != TCP or len(packet) < at + 14 or packet[at + 13] & (_SYN | _ACK) != _SYN:
        return None
    return header.source.packed + header.destination.packed + packet[at : at + 8]


def prohibited(packet: bytes) -> bytes:
    """Returns the ICMP error "administratively prohibited" about a packet (RFC 792 code 13, RFC 4443 code 1)."""
    return _unreachable(packet, code_v4=13, code_v6=1)


def unreachable(packet: bytes) -> bytes:
    """Returns the ICMP error "network/address unreachable" about a packet (RFC 792 code 0, RFC 4443 code 3)."""
    return _unreachable(packet, code_v4=0, code_v6=3)


def _unreachable(packet: bytes, *, code_v4: int, code_v6: int) -> bytes:
    """Builds a destination unreachable that seems to come from where the packet was going.

    The quotation: the IPv4 header and 8 bytes (RFC 792), or as much of an IPv6 packet as fits (RFC 4443 section 3.1).
    Raises: WireError when the packet is no IP packet.
    """
    header = decode_ip(packet)
    if header.version == 4:
        body = packet[: (packet[0] & 15) * 4 + 8]
        message = _with_checksum(bytes((3, code_v4, 0, 0)) + bytes(4) + body, 2)
        total = _V4_HEADER + len(message)
        head = b"\x45\x00" + total.to_bytes(2, "big") + b"\0\0\x40\0" + bytes((_ERROR_HOP_LIMIT, ICMP, 0, 0))
        return _with_checksum(head + packet[16:20] + packet[12:16], 10) + message
    body = packet[: MAX_PACKET_SIZE - _V6_HEADER - 8]
    message = bytes((1, code_v6, 0, 0)) + bytes(4) + body
    addresses = packet[24:40] + packet[8:24]
    pseudo = addresses + len(message).to_bytes(4, "big") + bytes((0, 0, 0, ICMPV6))
    checksum = inet_checksum(pseudo + message)
    message = message[:2] + checksum.to_bytes(2, "big") + message[4:]
    return b"\x60\0\0\0" + len(message).to_bytes(2, "big") + bytes((ICMPV6, _ERROR_HOP_LIMIT)) + addresses + message


def _with_checksum(data: bytes, at: int) -> bytes:
    return data[:at] + inet_checksum(data).to_bytes(2, "big") + data[at + 2 :]
