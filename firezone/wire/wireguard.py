"""WireGuard's four messages between bytes and values (WireGuard paper 5.4; all integers little endian).

Called by the noise machines and by whoever must find the owner of a datagram. Keys and MACs are not looked at here.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from firezone.base.errors import WireError
from firezone.base.ids import ReceiverIndex

KEY_SIZE = 32
TAG_SIZE = 16
MAC_SIZE = 16
TIMESTAMP_SIZE = 12
COOKIE_SIZE = 16
COOKIE_NONCE_SIZE = 24

INITIATION_SIZE = 148
RESPONSE_SIZE = 92
COOKIE_REPLY_SIZE = 64
DATA_HEADER_SIZE = 16
MIN_DATA_SIZE = DATA_HEADER_SIZE + TAG_SIZE
"""An empty data message: a keepalive."""

UNSIGNED = bytes(2 * MAC_SIZE)
"""Room for mac1 and mac2 of a message that is not signed yet."""

_INITIATION = struct.Struct("<II32s48s28s16s16s")
_RESPONSE = struct.Struct("<III32s16s16s16s")
_COOKIE_REPLY = struct.Struct("<II24s32s")
_DATA_HEADER = struct.Struct("<IIQ")
_U32 = struct.Struct("<I")


class MessageType(enum.IntEnum):
    """The first byte of a datagram; three zero bytes follow."""

    INITIATION = 1
    RESPONSE = 2
    COOKIE_REPLY = 3
    DATA = 4


_EXACT_SIZES = {
    MessageType.INITIATION: INITIATION_SIZE,
    MessageType.RESPONSE: RESPONSE_SIZE,
    MessageType.COOKIE_REPLY: COOKIE_REPLY_SIZE,
}


@dataclass(frozen=True, slots=True)
class Initiation:
    """The first handshake message."""

    sender: ReceiverIndex
    """The initiator's index for this handshake."""
    ephemeral: bytes
    encrypted_static: bytes
    encrypted_timestamp: bytes
    mac1: bytes = bytes(MAC_SIZE)
    mac2: bytes = bytes(MAC_SIZE)

    def encode(self) -> bytes:
        """Returns the 148 bytes of the message."""
        return _INITIATION.pack(
            MessageType.INITIATION,
            self.sender,
            self.ephemeral,
            self.encrypted_static,
            self.encrypted_timestamp,
            self.mac1,
            self.mac2,
        )


@dataclass(frozen=True, slots=True)
class Response:
    """The second handshake message."""

    sender: ReceiverIndex
    """The responder's index for this handshake."""
    receiver: ReceiverIndex
    """The sender index of the initiation it answers."""
    ephemeral: bytes
    encrypted_nothing: bytes
    mac1: bytes = bytes(MAC_SIZE)
    mac2: bytes = bytes(MAC_SIZE)

    def encode(self) -> bytes:
        """Returns the 92 bytes of the message."""
        return _RESPONSE.pack(
            MessageType.RESPONSE,
            self.sender,
            self.receiver,
            self.ephemeral,
            self.encrypted_nothing,
            self.mac1,
            self.mac2,
        )


@dataclass(frozen=True, slots=True)
class CookieReply:
    """What somebody under load says in place of an answer."""

    receiver: ReceiverIndex
    """The sender index of the handshake message it rejects."""
    nonce: bytes
    encrypted_cookie: bytes

    def encode(self) -> bytes:
        """Returns the 64 bytes of the message."""
        return _COOKIE_REPLY.pack(MessageType.COOKIE_REPLY, self.receiver, self.nonce, self.encrypted_cookie)


@dataclass(frozen=True, slots=True)
class Data:
    """A transport message. The ciphertext ends with the tag."""

    receiver: ReceiverIndex
    counter: int
    ciphertext: bytes

    def encode(self) -> bytes:
        """Returns header and ciphertext."""
        return _DATA_HEADER.pack(MessageType.DATA, self.receiver, self.counter) + self.ciphertext


Message = Initiation | Response | CookieReply | Data


def classify(datagram: bytes) -> MessageType | None:
    """Returns which message the datagram is by its first four bytes and its length, or None when it is not WireGuard."""
    if len(datagram) < MIN_DATA_SIZE:
        return None
    (number,) = _U32.unpack_from(datagram)
    if not MessageType.INITIATION <= number <= MessageType.DATA:
        return None
    kind = MessageType(number)
    return kind if _EXACT_SIZES.get(kind, len(datagram)) == len(datagram) else None


def decode(datagram: bytes) -> Message:
    """Returns the message that the datagram holds.

    Raises: WireError when it is not a WireGuard message.
    """
    match classify(datagram):
        case MessageType.INITIATION:
            _, sender, ephemeral, static, timestamp, mac1, mac2 = _INITIATION.unpack(datagram)
            return Initiation(ReceiverIndex(sender), ephemeral, static, timestamp, mac1, mac2)
        case MessageType.RESPONSE:
            _, sender, receiver, ephemeral, nothing, mac1, mac2 = _RESPONSE.unpack(datagram)
            return Response(ReceiverIndex(sender), ReceiverIndex(receiver), ephemeral, nothing, mac1, mac2)
        case MessageType.COOKIE_REPLY:
            _, receiver, nonce, cookie = _COOKIE_REPLY.unpack(datagram)
            return CookieReply(ReceiverIndex(receiver), nonce, cookie)
        case MessageType.DATA:
            _, receiver, counter = _DATA_HEADER.unpack_from(datagram)
            return Data(ReceiverIndex(receiver), counter, datagram[DATA_HEADER_SIZE:])
        case None:
            raise WireError(
                f"A datagram of {len(datagram)} bytes that begins with {datagram[:4].hex() or 'nothing'} is not WireGuard.",
                field="type",
                offset=0,
            )


def receiver_index(datagram: bytes) -> ReceiverIndex | None:
    """Returns the receiver index of a response, cookie reply or data message; None for everything else.

    The upper 24 bits name the connection (see `proto/noise/index.py`).
    """
    match classify(datagram):
        case MessageType.RESPONSE:
            offset = 8
        case MessageType.COOKIE_REPLY | MessageType.DATA:
            offset = 4
        case _:
            return None
    return ReceiverIndex(_U32.unpack_from(datagram, offset)[0])
