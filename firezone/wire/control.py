"""In-tunnel control packets: real IPv6 packets from :: to :: with next header 0xFF, an 8-byte header and a body.

Byte 0 of the header is the event, the other seven are zero on sending and ignored on receipt.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from firezone.base.errors import WireError
from firezone.wire.ip import CONTROL_PROTOCOL

_IP_HEADER, _CONTROL_HEADER = 40, 8


class ControlEvent(enum.IntEnum):
    """What a control packet says."""

    ASSIGNED_IPS = 0
    DOMAIN_STATUS = 1
    GOODBYE = 2


@dataclass(frozen=True, slots=True)
class ControlPacket:
    """One control packet; `event` may be a number nobody knows yet."""

    event: int
    body: bytes


def decode_control(packet: bytes) -> ControlPacket:
    """Reads a control packet.

    Raises: WireError when the packet is none, or too short for its header.
    """
    if len(packet) < _IP_HEADER + _CONTROL_HEADER or packet[0] >> 4 != 6 or packet[6] != CONTROL_PROTOCOL:
        raise WireError("Not a control packet.", field="header", offset=0)
    if any(packet[8:40]):
        raise WireError("A control packet goes from :: to ::.", field="address", offset=8)
    return ControlPacket(packet[_IP_HEADER], packet[_IP_HEADER + _CONTROL_HEADER :])


def encode_control(event: ControlEvent, body: bytes = b"") -> bytes:
    """Builds the whole IPv6 packet: hop limit 0, flow label 0."""
    length = _CONTROL_HEADER + len(body)
    return b"\x60\0\0\0" + length.to_bytes(2, "big") + bytes((CONTROL_PROTOCOL, 0)) + bytes(32) + bytes((event,)) + bytes(7) + body
