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
_V4_HEADER, _V6_HEADER, _TCP_HEADER = 20, 40, 20
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION_OPTIONS = 0, 43, 44, 51, 60
_EXTENSIONS = {_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION_OPTIONS}
_V4_FRAGMENT, _V6_FRAGMENT = 0x3FFF, 0xFFF9
"""Offset and more-fragments bit."""
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
    """Reads the headers of a packet, accepting exactly what the compiled parse stage forwards.

    Raises: WireError when it is not an IP packet, contradicts its length, is a fragment, or its headers are cut off.
    """
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        return _decode_v4(packet)
    if version == 6:
        return _decode_v6(packet)
    raise WireError(f"IP version {version}." if packet else "An empty packet.", field="version", offset=0)


def _decode_v4(packet: bytes) -> IpHeader:
    size = (packet[0] & 15) * 4
    if size < _V4_HEADER or len(packet) < size:
        raise WireError(f"An IPv4 header of {size} bytes in a packet of {len(packet)}.", field="ihl", offset=0)
    _check_length(packet, int.from_bytes(packet[2:4], "big"))
    if int.from_bytes(packet[6:8], "big") & _V4_FRAGMENT:
        raise WireError("A fragment.", field="fragment", offset=6)
    protocol, at = packet[9], size
    if protocol == _AUTHENTICATION:
        protocol, at = _skip_extension(packet, protocol, at)
    source, destination = ipaddress.IPv4Address(packet[12:16]), ipaddress.IPv4Address(packet[16:20])
    return _with_ports(packet, 4, source, destination, protocol, at)


def _decode_v6(packet: bytes) -> IpHeader:
    if len(packet) < _V6_HEADER:
        raise WireError(f"An IPv6 header in a packet of {len(packet)} bytes.", field="header", offset=0)
    _check_length(packet, _V6_HEADER + int.from_bytes(packet[4:6], "big"))
    protocol, at = packet[6], _V6_HEADER
    while protocol in _EXTENSIONS:
        if protocol == _HOP_BY_HOP and at != _V6_HEADER:
            raise WireError("Hop-by-hop options stand behind another extension header.", field="extension", offset=at)
        protocol, at = _skip_extension(packet, protocol, at)
    source, destination = ipaddress.IPv6Address(packet[8:24]), ipaddress.IPv6Address(packet[24:40])
    return _with_ports(packet, 6, source, destination, protocol, at)


def _check_length(packet: bytes, claimed: int) -> None:
    if claimed != len(packet):
        raise WireError(f"A packet of {len(packet)} bytes says it has {claimed}.", field="length", offset=2)
    if claimed > MAX_PACKET_SIZE:
        raise WireError(f"A packet of {claimed} bytes; {MAX_PACKET_SIZE} are allowed.", field="length", offset=2)


def _skip_extension(packet: bytes, kind: int, at: int) -> tuple[int, int]:
    """Returns what follows an extension header, and where. An atomic fragment (RFC 6946) is a whole packet."""
    minimum = 12 if kind == _AUTHENTICATION else 8
    if len(packet) < at + minimum:
        raise WireError("An extension header is cut off.", field="extension", offset=at)
    size = {_FRAGMENT: 8, _AUTHENTICATION: (packet[at + 1] + 2) * 4}.get(kind, (packet[at + 1] + 1) * 8)
    if not minimum <= size <= len(packet) - at:
        raise WireError("An extension header does not fit.", field="extension", offset=at)
    if kind == _FRAGMENT and int.from_bytes(packet[at + 2 : at + 4], "big") & _V6_FRAGMENT:
        raise WireError("A fragment.", field="fragment", offset=at)
    return packet[at], at + size


def _with_ports(packet: bytes, version: int, source: Address, destination: Address, protocol: int, at: int) -> IpHeader:
    ports: tuple[int | None, int | None] = (None, None)
    is_error = False
    if protocol in (TCP, UDP):
        _check_transport(packet, protocol, at)
        ports = int.from_bytes(packet[at : at + 2], "big"), int.from_bytes(packet[at + 2 : at + 4], "big")
    elif protocol in (ICMP, ICMPV6):
        if len(packet) < at + 8 or protocol != (ICMP if version == 4 else ICMPV6):
            raise WireError("An ICMP header is cut off, or of the other family.", field="icmp", offset=at)
        if packet[at] in ((0, 8) if version == 4 else (128, 129)):
            identifier = int.from_bytes(packet[at + 4 : at + 6], "big")
            ports = identifier, identifier
        is_error = packet[at] in (_V4_ERRORS if version == 4 else _V6_ERRORS)
    return IpHeader(version, source, destination, protocol, at, *ports, is_error)


def _check_transport(packet: bytes, protocol: int, at: int) -> None:
    size = len(packet) - at
    if protocol == UDP and (size < 8 or int.from_bytes(packet[at + 4 : at + 6], "big") != size):
        raise WireError("A UDP header is cut off or contradicts the length.", field="udp", offset=at)
    if protocol == TCP and (size < _TCP_HEADER or not _TCP_HEADER <= (packet[at + 12] >> 4) * 4 <= size):
        raise WireError("A TCP header is cut off or contradicts the length.", field="tcp", offset=at)


def syn_key(packet: bytes, header: IpHeader) -> bytes | None:
    """Returns what identifies a TCP SYN whatever its options say: addresses, ports, sequence number. None for anything else."""
    at = header.transport
    if header.protocol != TCP or packet[at + 13] & (_SYN | _ACK) != _SYN:
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
