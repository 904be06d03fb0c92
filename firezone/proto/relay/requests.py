"""What a client asked: STUN messages read as a TURN server must, tolerant of all it does not know.

Apart from `wire.stun` because a relay answers what it cannot read: the codec of the peers raises, this one says which error
belongs into the answer. Unknown attributes of any range are skipped, and reading stops at MESSAGE-INTEGRITY, so nothing behind
it can be slipped in (RFC 8489 section 14.5; the original honours such attributes).

Source: RFC 8489 sections 5, 6 and 14, RFC 8656 section 18; relay specification, section 4.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from firezone.base.net import Endpoint
from firezone.wire import stun
from firezone.wire.stun import Attribute, Message, MessageClass, Method, Received

FIRST_CHANNEL, LAST_CHANNEL = 0x4000, 0x4FFF
"""Channel numbers of RFC 8656 section 12."""
LAST_OLD_CHANNEL = 0x7FFF
"""Where those of RFC 5766 end: many ordinary clients still use them, and a relay that stands alone lets them."""
MAX_USERNAME_SIZE = 512
MAX_TEXT_LENGTH = 127
"""Characters of REALM, NONCE and SOFTWARE."""
MAX_PEERS = 16
"""XOR-PEER-ADDRESS attributes read from one CreatePermission: as many IPv6 ones as fit beside the credentials into 1 KiB."""

BAD_REQUEST, SERVER_ERROR = 400, 500

_ADDRESS_SIZES: dict[int, int] = {stun.AddressFamily.IPV4: 8, stun.AddressFamily.IPV6: 20}
_HEADER = struct.Struct("!HHI")
_TYPE_AND_LENGTH = struct.Struct("!HH")


@dataclass(slots=True)
class Request:
    """One message from a client: a request, or in stand-alone mode a Send indication."""

    message_class: MessageClass
    method: int
    transaction_id: bytes
    datagram: bytes
    values: dict[int, Any] = field(default_factory=dict)
    """First value of each attribute we know, those in front of MESSAGE-INTEGRITY only."""
    peers: list[Endpoint] = field(default_factory=list)
    """Every XOR-PEER-ADDRESS, at most MAX_PEERS."""
    integrity: bytes | None = None
    integrity_offset: int = 0

    def get(self, attribute: Attribute) -> Any:
        """Returns the value of an attribute, None when it is missing."""
        return self.values.get(attribute)

    def verify_integrity(self, key: bytes) -> bool:
        """Tells, in constant time, whether MESSAGE-INTEGRITY is present and made with `key` over the received bytes."""
        message = Message(self.message_class, self.method, self.transaction_id)
        return Received(message, self.datagram, self.integrity, self.integrity_offset, None).verify_integrity(key)


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that cannot be read; answered without looking at credentials."""

    method: int
    transaction_id: bytes
    code: int
    """400 for a value that means nothing, 500 for attributes cut off or of a wrong size."""


class _BadValueError(Exception):
    """An attribute cannot be read; `code` is what the answer says."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


def read_request(datagram: bytes) -> Request | Refused | None:
    """Reads one datagram whose first byte is 0x00 .. 0x03.

    Returns: None for what deserves silence: no STUN, answers, indications that cannot be read.
    """
    if len(datagram) < stun.HEADER_SIZE or datagram[0] > 0x03:
        return None
    kind, length, cookie = _HEADER.unpack_from(datagram)
    present = len(datagram) - stun.HEADER_SIZE
    if cookie != stun.MAGIC_COOKIE or present > length or 2 * present < length:
        return None
    message_class = MessageClass((kind >> 7 & 2) | (kind >> 4 & 1))
    if message_class > MessageClass.INDICATION:
        return None  # answers to nothing we asked; never answered, or two relays would entertain each other
    method = (kind & 0xF) | (kind >> 1 & 0x70) | (kind >> 2 & 0xF80)
    request = Request(message_class, method, datagram[8:20], datagram)
    try:
        _read_attributes(request, length)
    except _BadValueError as error:
        refused = Refused(method, request.transaction_id, error.code)
        return refused if message_class is MessageClass.REQUEST else None
    return request


def _read_attributes(request: Request, length: int) -> None:
    datagram, values = request.datagram, request.values
    offset, end, left = stun.HEADER_SIZE, len(datagram), stun.MAX_ATTRIBUTES
    while offset < end:
        if not left:
            raise _BadValueError(BAD_REQUEST)
        left -= 1
        if offset + 4 > end:
            raise _BadValueError(SERVER_ERROR)
        attribute, size = _TYPE_AND_LENGTH.unpack_from(datagram, offset)
        behind = offset + 4 + ((size + 3) & ~3)
        if behind > end:
            raise _BadValueError(SERVER_ERROR)
        if attribute == Attribute.MESSAGE_INTEGRITY:
            if size != stun.INTEGRITY_SIZE:
                raise _BadValueError(SERVER_ERROR)
            request.integrity, request.integrity_offset = datagram[offset + 4 : behind], offset
            break
        reader = _READERS.get(attribute)
        if reader is not None:
            value = reader(datagram[offset + 4 : offset + 4 + size], request.transaction_id)
            values.setdefault(attribute, value)
            if attribute == Attribute.XOR_PEER_ADDRESS and len(request.peers) < MAX_PEERS:
                request.peers.append(value)
        offset = behind
    if end - stun.HEADER_SIZE < length:
        raise _BadValueError(SERVER_ERROR)


def _read_text(value: bytes, _: bytes) -> str:
    return _decoded(value, MAX_TEXT_LENGTH)


def _read_username(value: bytes, _: bytes) -> str:
    if len(value) > MAX_USERNAME_SIZE:
        raise _BadValueError(BAD_REQUEST)
    return _decoded(value, MAX_USERNAME_SIZE)


def _decoded(value: bytes, limit: int) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise _BadValueError(BAD_REQUEST) from None
    if len(text) > limit:
        raise _BadValueError(BAD_REQUEST)
    return text


def _read_channel_number(value: bytes, _: bytes) -> int:
    number = _sized(value, 4) >> 16
    if not FIRST_CHANNEL <= number <= LAST_OLD_CHANNEL:
        raise _BadValueError(BAD_REQUEST)
    return number


def _read_lifetime(value: bytes, _: bytes) -> int:
    return _sized(value, 4)


def _read_transport(value: bytes, _: bytes) -> int:
    return _sized(value, 4) >> 24


def _read_family(value: bytes, _: bytes) -> int:
    family = _sized(value, 4) >> 24
    if family not in (stun.AddressFamily.IPV4, stun.AddressFamily.IPV6):
        raise _BadValueError(BAD_REQUEST)
    return family


def _read_address(value: bytes, transaction_id: bytes) -> Endpoint:
    if len(value) < 2:
        raise _BadValueError(SERVER_ERROR)
    if value[1] not in _ADDRESS_SIZES:
        raise _BadValueError(BAD_REQUEST)
    if len(value) != _ADDRESS_SIZES[value[1]]:
        raise _BadValueError(SERVER_ERROR)
    mask = stun.MAGIC_COOKIE_BYTES + transaction_id
    port = int.from_bytes(value[2:4], "big") ^ stun.MAGIC_COOKIE >> 16
    return Endpoint(bytes(byte ^ key for byte, key in zip(value[4:], mask, strict=False)), port)


def _read_data(value: bytes, _: bytes) -> bytes:
    return value


def _sized(value: bytes, size: int) -> int:
    if len(value) != size:
        raise _BadValueError(SERVER_ERROR)
    return int.from_bytes(value, "big")


_READERS: dict[int, Callable[[bytes, bytes], Any]] = {
    Attribute.USERNAME: _read_username,
    Attribute.CHANNEL_NUMBER: _read_channel_number,
    Attribute.LIFETIME: _read_lifetime,
    Attribute.XOR_PEER_ADDRESS: _read_address,
    Attribute.DATA: _read_data,
    Attribute.REALM: _read_text,
    Attribute.NONCE: _read_text,
    Attribute.REQUESTED_ADDRESS_FAMILY: _read_family,
    Attribute.REQUESTED_TRANSPORT: _read_transport,
    Attribute.ADDITIONAL_ADDRESS_FAMILY: _read_family,
    Attribute.SOFTWARE: _read_text,
}

METHODS = frozenset((Method.BINDING, Method.ALLOCATE, Method.REFRESH, Method.CHANNEL_BIND, Method.CREATE_PERMISSION))
"""What may be requested. Send and Data are indications."""
