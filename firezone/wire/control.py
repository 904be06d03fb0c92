"""In-tunnel control packets: real IPv6 packets from :: to :: with next header 0xFF, an 8-byte header and a body.

Byte 0 of the header is the event, the other seven are zero on sending and ignored on receipt.
"""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from firezone.base.errors import WireError
from firezone.base.ids import ResourceId
from firezone.wire.ip import CONTROL_PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firezone.base.net import Address

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


class AssignedIps(msgspec.Struct, frozen=True):
    """A client tells which addresses of the tunnel it lets stand for a name."""

    resource: ResourceId
    domain: str
    """Without a trailing dot."""
    proxy_ips: tuple[str, ...]


class DomainStatus(msgspec.Struct, frozen=True):
    """A gateway tells whether such addresses lead somewhere now."""

    resource: ResourceId
    domain: str
    status: str
    """`Active`; anything else means `Inactive`."""

    @property
    def is_active(self) -> bool:
        return self.status == ACTIVE


ACTIVE, INACTIVE = "Active", "Inactive"
_Body = TypeVar("_Body", AssignedIps, DomainStatus)


def encode_assigned_ips(resource: ResourceId, domain: str, proxy_ips: Iterable[Address]) -> bytes:
    """Builds the whole packet of AssignedIps."""
    body = AssignedIps(resource, domain.removesuffix("."), tuple(str(ip) for ip in proxy_ips))
    return encode_control(ControlEvent.ASSIGNED_IPS, msgspec.json.encode(body))


def decode_assigned_ips(body: bytes) -> AssignedIps:
    """Reads the body of AssignedIps; the addresses are not looked at. Raises: WireError when it is not what it should be."""
    return _decode(body, AssignedIps)


def encode_domain_status(resource: ResourceId, domain: str, *, is_active: bool) -> bytes:
    """Builds the whole packet of DomainStatus."""
    body = DomainStatus(resource, domain.removesuffix("."), ACTIVE if is_active else INACTIVE)
    return encode_control(ControlEvent.DOMAIN_STATUS, msgspec.json.encode(body))


def decode_domain_status(body: bytes) -> DomainStatus:
    """Reads the body of DomainStatus. Raises: WireError when it is not what it should be."""
    return _decode(body, DomainStatus)


def _decode(body: bytes, kind: type[_Body]) -> _Body:
    try:
        value = msgspec.json.decode(body, type=kind)
        resource = ResourceId(str(uuid.UUID(value.resource)))
    except (ValueError, RecursionError) as error:
        raise WireError(f"The body of a control packet is no {kind.__name__}: {error}", field="body") from error
    return msgspec.structs.replace(value, resource=resource)
