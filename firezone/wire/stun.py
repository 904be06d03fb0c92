"""STUN messages with the attributes of ICE and TURN: bytes to values and back, byte for byte.

The codec decides what a message *is*; whether a request carries what its method asks for, and which errors to answer, is the
business of the machines (`proto.ice`, the TURN client, the relay). Known attributes become typed values, unknown ones stay
bytes; their order is kept, so encoding a decoded message gives the same bytes again.

Attributes behind MESSAGE-INTEGRITY are not covered by it and are dropped on decoding, except FINGERPRINT (RFC 8489 section
14.5).

Source: RFC 8489 (STUN), RFC 8656 (TURN), RFC 8445 section 16.1 (ICE attributes), RFC 6156 and 8656 (address families).
"""

from __future__ import annotations

import hmac
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from hashlib import md5
from typing import Any, NamedTuple

from firezone.base.errors import WireError
from firezone.base.net import Endpoint

MAGIC_COOKIE = 0x2112A442
MAGIC_COOKIE_BYTES = MAGIC_COOKIE.to_bytes(4, "big")
HEADER_SIZE = 20
TRANSACTION_ID_SIZE = 12
INTEGRITY_SIZE = 20
FINGERPRINT_SIZE = 4
FINGERPRINT_MASK = 0x5354554E
"""Keeps the CRC apart from that of other protocols which end in a CRC-32 ("STUN" in ASCII)."""
MAX_USERNAME_SIZE = 513
MAX_TEXT_SIZE = 763
"""REALM, NONCE, SOFTWARE and the reason phrase: 127 characters of UTF-8 (RFC 8489 sections 14.8 to 14.14)."""

MAX_ATTRIBUTES = 64
"""Read from one message. Nobody sends half as many; a datagram full of empty ones would cost 50 times what an honest one costs."""


class Method(IntEnum):
    """The 12-bit method of a message. Others are kept as plain integers."""

    BINDING = 0x001
    ALLOCATE = 0x003
    REFRESH = 0x004
    SEND = 0x006
    DATA = 0x007
    CREATE_PERMISSION = 0x008
    CHANNEL_BIND = 0x009


class MessageClass(IntEnum):
    """The two class bits of a message."""

    REQUEST = 0
    INDICATION = 1
    SUCCESS = 2
    ERROR = 3


class Attribute(IntEnum):
    """Attribute types we know. Below 0x8000 a receiver must understand them."""

    MAPPED_ADDRESS = 0x0001
    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    CHANNEL_NUMBER = 0x000C
    LIFETIME = 0x000D
    XOR_PEER_ADDRESS = 0x0012
    DATA = 0x0013
    REALM = 0x0014
    NONCE = 0x0015
    XOR_RELAYED_ADDRESS = 0x0016
    REQUESTED_ADDRESS_FAMILY = 0x0017
    EVEN_PORT = 0x0018
    REQUESTED_TRANSPORT = 0x0019
    DONT_FRAGMENT = 0x001A
    XOR_MAPPED_ADDRESS = 0x0020
    RESERVATION_TOKEN = 0x0022
    PRIORITY = 0x0024
    USE_CANDIDATE = 0x0025
    ADDITIONAL_ADDRESS_FAMILY = 0x8000
    ADDRESS_ERROR_CODE = 0x8001
    SOFTWARE = 0x8022
    ALTERNATE_SERVER = 0x8023
    FINGERPRINT = 0x8028
    ICE_CONTROLLED = 0x8029
    ICE_CONTROLLING = 0x802A


class AddressFamily(IntEnum):
    """Address families as STUN and TURN number them."""

    IPV4 = 1
    IPV6 = 2


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """Value of ERROR-CODE: 300..699 and a phrase for people."""

    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AddressErrorCode:
    """Value of ADDRESS-ERROR-CODE: why one of two asked families was not allocated (RFC 8656 section 18.12)."""

    family: int
    code: int
    reason: str = ""


Value = Any
"""str, int, bytes, bool (flags are True), Endpoint, ErrorCode, AddressErrorCode or a tuple of int, by attribute."""


@dataclass(frozen=True, slots=True)
class Message:
    """One STUN message without its MESSAGE-INTEGRITY and FINGERPRINT, which are made by `encode` and checked by `Received`."""

    message_class: MessageClass
    method: int
    transaction_id: bytes
    """12 bytes."""
    attributes: tuple[tuple[int, Value], ...] = ()
    """(type, value) in wire order; a type may stand several times."""

    def get(self, attribute: int) -> Value | None:
        """Returns the first value of this type, or None. Later ones do not count (RFC 8489 section 14)."""
        for kind, value in self.attributes:
            if kind == attribute:
                return value
        return None

    def get_all(self, attribute: int) -> list[Value]:
        """Returns every value of this type in wire order."""
        return [value for kind, value in self.attributes if kind == attribute]

    def unknown_required(self) -> list[int]:
        """Returns the types a receiver would have to understand and we do not (RFC 8489 section 6.3.1)."""
        return [kind for kind, _ in self.attributes if kind < 0x8000 and kind not in _CODECS]


@dataclass(frozen=True, slots=True)
class Received:
    """A decoded message with what is needed to verify it."""

    message: Message
    datagram: bytes
    integrity: bytes | None
    """The received HMAC; None when the message carries none."""
    integrity_offset: int
    """Where the MESSAGE-INTEGRITY attribute starts; length of the datagram when there is none."""
    fingerprint: int | None
    """The received CRC; None when the message carries none."""

    def verify_integrity(self, key: bytes) -> bool:
        """Tells, in constant time, whether MESSAGE-INTEGRITY is present and made with `key`."""
        if self.integrity is None:
            return False
        return hmac.compare_digest(self.integrity, _integrity(self.datagram[: self.integrity_offset], key))

    def verify_fingerprint(self) -> bool:
        """Tells whether FINGERPRINT is present and right. ICE does not ask for it (Firezone never checks)."""
        return self.fingerprint is not None and self.fingerprint == _fingerprint(self.datagram[:-8])


def is_stun(datagram: bytes) -> bool:
    """Tells whether a datagram claims to be STUN: first two bits zero, magic cookie, consistent length."""
    size = len(datagram)
    return (
        size >= HEADER_SIZE
        and datagram[0] < 0x40
        and datagram[4:8] == MAGIC_COOKIE_BYTES
        and size % 4 == 0
        and int.from_bytes(datagram[2:4], "big") == size - HEADER_SIZE
    )


def decode(datagram: bytes) -> Received:
    """Decodes one datagram.

    Returns: the message and what verifies it.
    Raises:  WireError if the header is inconsistent, an attribute runs over the end, a known attribute is malformed, or there are
             more than MAX_ATTRIBUTES.
    Source:  RFC 8489 sections 5, 14.
    """
    if not is_stun(datagram):
        raise WireError(f"The {len(datagram)} bytes are not a STUN message.", field="header", offset=0)
    kind = int.from_bytes(datagram[0:2], "big")
    transaction_id = datagram[8:20]
    attributes: list[tuple[int, Value]] = []
    integrity: bytes | None = None
    integrity_offset = len(datagram)
    fingerprint: int | None = None
    offset, left = HEADER_SIZE, MAX_ATTRIBUTES
    while offset < len(datagram):
        if not left:
            raise WireError(f"There are more than {MAX_ATTRIBUTES} attributes.", field="attributes", offset=offset)
        left -= 1
        attribute = int.from_bytes(datagram[offset : offset + 2], "big")
        size = int.from_bytes(datagram[offset + 2 : offset + 4], "big")
        value = datagram[offset + 4 : offset + 4 + size]
        if len(value) != size:
            raise WireError(f"Attribute 0x{attribute:04x} runs over the end of the message.", field="length", offset=offset)
        if attribute == Attribute.FINGERPRINT:
            fingerprint = _decode_fingerprint(datagram, offset, value)
        elif integrity is not None:
            pass  # not covered by the integrity: ignored
        elif attribute == Attribute.MESSAGE_INTEGRITY:
            _expect(size == INTEGRITY_SIZE, "MESSAGE-INTEGRITY", offset)
            integrity, integrity_offset = value, offset
        else:
            attributes.append((attribute, _decode_value(attribute, value, transaction_id, offset)))
        offset += 4 + _padded(size)
    message = Message(_class_of(kind), _method_of(kind), transaction_id, tuple(attributes))
    return Received(message, datagram, integrity, integrity_offset, fingerprint)


def encode(message: Message, *, key: bytes | None = None, fingerprint: bool = False) -> bytes:
    """Encodes a message, with MESSAGE-INTEGRITY under `key` if given, then with FINGERPRINT if asked for.

    Raises: ValueError if a value does not fit its attribute.
    """
    if len(message.transaction_id) != TRANSACTION_ID_SIZE:
        raise ValueError(f"A transaction id has {TRANSACTION_ID_SIZE} bytes, not {len(message.transaction_id)}.")
    body = bytearray()
    for attribute, value in message.attributes:
        raw = _encode_value(attribute, value, message.transaction_id)
        body += attribute.to_bytes(2, "big") + len(raw).to_bytes(2, "big") + raw + bytes(-len(raw) % 4)
    head = _type_of(message.message_class, message.method).to_bytes(2, "big")
    tail = MAGIC_COOKIE_BYTES + message.transaction_id
    datagram = head + len(body).to_bytes(2, "big") + tail + body
    if key is not None:
        datagram += _INTEGRITY_HEAD + _integrity(datagram, key)
        datagram = _with_length(datagram, len(datagram) - HEADER_SIZE)
    if fingerprint:
        datagram = _with_length(datagram, len(datagram) - HEADER_SIZE + 8)
        datagram += _FINGERPRINT_HEAD + _fingerprint(datagram).to_bytes(4, "big")
    return datagram


def long_term_key(username: str, realm: str, password: str) -> bytes:
    """Returns the key of the long-term credential: MD5 of the three joined by colons (RFC 8489 section 9.2.2)."""
    return md5(f"{username}:{realm}:{password}".encode(), usedforsecurity=False).digest()


_INTEGRITY_HEAD = Attribute.MESSAGE_INTEGRITY.to_bytes(2, "big") + INTEGRITY_SIZE.to_bytes(2, "big")
_FINGERPRINT_HEAD = Attribute.FINGERPRINT.to_bytes(2, "big") + FINGERPRINT_SIZE.to_bytes(2, "big")


def _integrity(head: bytes, key: bytes) -> bytes:
    """HMAC-SHA1 over all before the attribute, with the length as if the message ended behind it (RFC 8489 section 14.5)."""
    return hmac.digest(key, _with_length(head, len(head) - HEADER_SIZE + 4 + INTEGRITY_SIZE), "sha1")


def _fingerprint(head: bytes) -> int:
    """CRC-32 over all before the attribute; the length already counts it (RFC 8489 section 14.7)."""
    return zlib.crc32(head) ^ FINGERPRINT_MASK


def _with_length(datagram: bytes, length: int) -> bytes:
    return datagram[0:2] + length.to_bytes(2, "big") + datagram[4:]


def _padded(size: int) -> int:
    return (size + 3) & ~3


def _class_of(kind: int) -> MessageClass:
    return MessageClass((kind >> 7 & 2) | (kind >> 4 & 1))


def _method_of(kind: int) -> int:
    method = (kind & 0xF) | (kind >> 1 & 0x70) | (kind >> 2 & 0xF80)
    return _METHODS.get(method, method)


def _type_of(message_class: MessageClass, method: int) -> int:
    if not 0 <= method <= 0xFFF:
        raise ValueError(f"{method} is not a 12-bit method.")
    spread = (method & 0xF) | (method & 0x70) << 1 | (method & 0xF80) << 2
    return spread | (message_class & 2) << 7 | (message_class & 1) << 4


_METHODS = {int(method): method for method in Method}


def _expect(condition: bool, name: str, offset: int) -> None:
    if not condition:
        raise WireError(f"The value of {name} is malformed.", field=name, offset=offset)


def _decode_fingerprint(datagram: bytes, offset: int, value: bytes) -> int:
    """FINGERPRINT is the last attribute, or it is malformed."""
    _expect(len(value) == FINGERPRINT_SIZE and offset + 8 == len(datagram), "FINGERPRINT", offset)
    return int.from_bytes(value, "big")


class _Codec(NamedTuple):
    """How one attribute is written: value and transaction id to bytes, and back (ValueError if malformed)."""

    encode: Callable[[Any, bytes], bytes]
    decode: Callable[[bytes, bytes], Value]


def _decode_value(attribute: int, value: bytes, transaction_id: bytes, offset: int) -> Value:
    codec = _CODECS.get(attribute)
    if codec is None:
        return value
    try:
        return codec.decode(value, transaction_id)
    except ValueError as error:  # UnicodeDecodeError is one as well
        name = Attribute(attribute).name
        raise WireError(f"The value of {name} is malformed: {error}", field=name, offset=offset) from error


def _encode_value(attribute: int, value: Value, transaction_id: bytes) -> bytes:
    codec = _CODECS.get(attribute)
    if codec is not None:
        return codec.encode(value, transaction_id)
    if not isinstance(value, bytes):
        raise ValueError(f"Attribute 0x{attribute:04x} is unknown and takes bytes only.")  # noqa: TRY004
    return value


def _number(size: int, *, spare: int = 0) -> _Codec:
    """An unsigned number of `size` bytes followed by `spare` reserved zero bytes, which are ignored on receipt."""

    def decode_number(value: bytes, _: bytes) -> int:
        if len(value) != size + spare:
            raise ValueError(f"{len(value)} bytes instead of {size + spare}")
        return int.from_bytes(value[:size], "big")

    def encode_number(value: int, _: bytes) -> bytes:
        if not 0 <= value < 1 << 8 * size:
            raise ValueError(f"{value} does not fit {size} bytes.")
        return value.to_bytes(size, "big") + bytes(spare)

    return _Codec(encode_number, decode_number)


def _text(limit: int) -> _Codec:
    def decode_text(value: bytes, _: bytes) -> str:
        if len(value) > limit:
            raise ValueError(f"{len(value)} bytes, more than {limit}")
        return value.decode()

    def encode_text(value: str, _: bytes) -> bytes:
        raw = value.encode()
        if len(raw) > limit:
            raise ValueError(f"{len(raw)} bytes, more than {limit}.")
        return raw

    return _Codec(encode_text, decode_text)


def _sized(size: int | None) -> _Codec:
    """Opaque bytes, of a fixed size if given."""

    def same(value: bytes, _: bytes) -> bytes:
        if size is not None and len(value) != size:
            raise ValueError(f"{len(value)} bytes instead of {size}")
        return value

    return _Codec(same, same)


def _decode_flag(value: bytes, _: bytes) -> bool:
    if value:
        raise ValueError(f"{len(value)} bytes instead of none")
    return True


def _encode_flag(value: bool, _: bytes) -> bytes:
    if value is not True:
        raise ValueError("A flag is True or left out.")
    return b""


def _decode_address(value: bytes, _: bytes) -> Endpoint:
    sizes = {AddressFamily.IPV4: 8, AddressFamily.IPV6: 20}
    if len(value) < 4 or value[1] not in sizes:
        raise ValueError("neither an IPv4 nor an IPv6 address")
    if len(value) != sizes[AddressFamily(value[1])]:
        raise ValueError(f"{len(value)} bytes instead of {sizes[AddressFamily(value[1])]}")
    return Endpoint(value[4:], int.from_bytes(value[2:4], "big"))


def _encode_address(value: Endpoint, _: bytes) -> bytes:
    if len(value.ip) not in (4, 16):
        raise ValueError(f"An address has 4 or 16 bytes, not {len(value.ip)}.")
    if not 0 <= value.port <= 0xFFFF:
        raise ValueError(f"{value.port} is not a port.")
    family = AddressFamily.IPV4 if value.is_ipv4 else AddressFamily.IPV6
    return bytes((0, family)) + value.port.to_bytes(2, "big") + value.ip


def _decode_xor_address(value: bytes, transaction_id: bytes) -> Endpoint:
    return _masked(_decode_address(value, b""), transaction_id)


def _encode_xor_address(value: Endpoint, transaction_id: bytes) -> bytes:
    return _encode_address(_masked(value, transaction_id), b"")


def _masked(endpoint: Endpoint, transaction_id: bytes) -> Endpoint:
    """XORs with cookie and transaction id, so that no NAT finds an address to rewrite; its own inverse."""
    mask = (MAGIC_COOKIE_BYTES + transaction_id)[: len(endpoint.ip)]
    ip = int.from_bytes(endpoint.ip, "big") ^ int.from_bytes(mask, "big")
    return Endpoint(ip.to_bytes(len(endpoint.ip), "big"), endpoint.port ^ MAGIC_COOKIE >> 16)


def _decode_code(value: bytes) -> tuple[int, str]:
    """The three bytes class, number and phrase that ERROR-CODE and ADDRESS-ERROR-CODE share."""
    if not 3 <= value[0] & 7 <= 6 or value[1] > 99:
        raise ValueError(f"no error code: {value[:2].hex()}")
    if len(value) - 2 > MAX_TEXT_SIZE:
        raise ValueError("a phrase that is too long")
    return (value[0] & 7) * 100 + value[1], value[2:].decode()


def _encode_code(code: int, reason: str) -> bytes:
    if not 300 <= code <= 699:
        raise ValueError(f"{code} is no STUN error code.")
    return bytes((code // 100, code % 100)) + reason.encode()


def _decode_error(value: bytes, _: bytes) -> ErrorCode:
    if len(value) < 4:
        raise ValueError(f"{len(value)} bytes instead of at least 4")
    return ErrorCode(*_decode_code(value[2:]))


def _encode_error(value: ErrorCode, _: bytes) -> bytes:
    return bytes(2) + _encode_code(value.code, value.reason)


def _decode_address_error(value: bytes, _: bytes) -> AddressErrorCode:
    if len(value) < 4:
        raise ValueError(f"{len(value)} bytes instead of at least 4")
    return AddressErrorCode(value[0], *_decode_code(value[2:]))


def _encode_address_error(value: AddressErrorCode, _: bytes) -> bytes:
    return bytes((value.family, 0)) + _encode_code(value.code, value.reason)


def _decode_types(value: bytes, _: bytes) -> tuple[int, ...]:
    if len(value) % 2:
        raise ValueError("an odd number of bytes")
    return tuple(int.from_bytes(value[i : i + 2], "big") for i in range(0, len(value), 2))


def _encode_types(value: tuple[int, ...], _: bytes) -> bytes:
    return b"".join(kind.to_bytes(2, "big") for kind in value)


_PLAIN_ADDRESS = _Codec(_encode_address, _decode_address)
_XOR_ADDRESS = _Codec(_encode_xor_address, _decode_xor_address)
_FLAG = _Codec(_encode_flag, _decode_flag)

_CODECS: dict[int, _Codec] = {
    Attribute.MAPPED_ADDRESS: _PLAIN_ADDRESS,
    Attribute.USERNAME: _text(MAX_USERNAME_SIZE),
    Attribute.ERROR_CODE: _Codec(_encode_error, _decode_error),
    Attribute.UNKNOWN_ATTRIBUTES: _Codec(_encode_types, _decode_types),
    Attribute.CHANNEL_NUMBER: _number(2, spare=2),
    Attribute.LIFETIME: _number(4),
    Attribute.XOR_PEER_ADDRESS: _XOR_ADDRESS,
    Attribute.DATA: _sized(None),
    Attribute.REALM: _text(MAX_TEXT_SIZE),
    Attribute.NONCE: _text(MAX_TEXT_SIZE),
    Attribute.XOR_RELAYED_ADDRESS: _XOR_ADDRESS,
    Attribute.REQUESTED_ADDRESS_FAMILY: _number(1, spare=3),
    Attribute.EVEN_PORT: _number(1),
    Attribute.REQUESTED_TRANSPORT: _number(1, spare=3),
    Attribute.DONT_FRAGMENT: _FLAG,
    Attribute.XOR_MAPPED_ADDRESS: _XOR_ADDRESS,
    Attribute.RESERVATION_TOKEN: _sized(8),
    Attribute.PRIORITY: _number(4),
    Attribute.USE_CANDIDATE: _FLAG,
    Attribute.ADDITIONAL_ADDRESS_FAMILY: _number(1, spare=3),
    Attribute.ADDRESS_ERROR_CODE: _Codec(_encode_address_error, _decode_address_error),
    Attribute.SOFTWARE: _text(MAX_TEXT_SIZE),
    Attribute.ALTERNATE_SERVER: _PLAIN_ADDRESS,
    Attribute.ICE_CONTROLLED: _number(8),
    Attribute.ICE_CONTROLLING: _number(8),
}
