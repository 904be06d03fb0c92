"""The relay's answers, attribute by attribute in the order the original writes them: byte for byte what its clients expect.

Source: RFC 8489 section 6.3, RFC 8656; relay specification, sections 4.4 and 13.
"""

from __future__ import annotations

from firezone.base.net import Endpoint
from firezone.proto.relay.auth import REALM
from firezone.wire import stun
from firezone.wire.stun import Attribute, ErrorCode, Message, MessageClass, Method, Value

UNKNOWN_REVISION = "xxxx"

REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    437: "Allocation Mismatch",
    438: "Stale Nonce",
    440: "Address Family not Supported",
    443: "Peer Address Family Mismatch",
    500: "Server Error",
    508: "Insufficient Capacity",
}
"""Every error we answer. 420 is never one: Firezone's client would take us for incompatible and leave."""


def software(revision: str = UNKNOWN_REVISION) -> str:
    """Returns SOFTWARE for a release: 8 characters of its commit id, or `xxxx`."""
    return f"firezone-relay; rev={revision[:8]}"


class Replies:
    """Encodes answers that carry one SOFTWARE."""

    def __init__(self, software_text: str) -> None:
        self._software: tuple[int, Value] = (Attribute.SOFTWARE, software_text)

    def binding(self, transaction_id: bytes, client: Endpoint) -> bytes:
        """Tells a client which address it comes from."""
        return self._success(Method.BINDING, transaction_id, (Attribute.XOR_MAPPED_ADDRESS, client))

    def allocate(self, transaction_id: bytes, relayed: list[Endpoint], client: Endpoint, lifetime_s: int, key: bytes) -> bytes:
        """Lends one address per family."""
        addresses = [(Attribute.XOR_RELAYED_ADDRESS, endpoint) for endpoint in relayed]
        mapped = (Attribute.XOR_MAPPED_ADDRESS, client)
        return self._success(Method.ALLOCATE, transaction_id, *addresses, mapped, (Attribute.LIFETIME, lifetime_s), key=key)

    def refresh(self, transaction_id: bytes, lifetime_s: int, key: bytes) -> bytes:
        """Confirms a new lifetime, 0 for a deleted allocation."""
        return self._success(Method.REFRESH, transaction_id, (Attribute.LIFETIME, lifetime_s), key=key)

    def done(self, method: int, transaction_id: bytes, key: bytes) -> bytes:
        """Confirms a ChannelBind or a CreatePermission."""
        return self._success(method, transaction_id, key=key)

    def error(self, method: int, transaction_id: bytes, code: int, *, nonce: str | None = None, key: bytes | None = None) -> bytes:
        """Refuses; with a nonce the client can try again, with a key it can tell that we refused."""
        attributes = [self._software, (Attribute.ERROR_CODE, ErrorCode(code, REASONS[code]))]
        if nonce is not None:
            attributes += [(Attribute.REALM, REALM), (Attribute.NONCE, nonce)]
        return stun.encode(Message(MessageClass.ERROR, method, transaction_id, tuple(attributes)), key=key)

    def _success(self, method: int, transaction_id: bytes, *attributes: tuple[int, Value], key: bytes | None = None) -> bytes:
        return stun.encode(Message(MessageClass.SUCCESS, method, transaction_id, (self._software, *attributes)), key=key)


def data_indication(transaction_id: bytes, peer: Endpoint, payload: bytes) -> bytes:
    """Hands a peer's datagram to a client that bound no channel for it (RFC 8656 section 11.4)."""
    attributes = ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, payload))
    return stun.encode(Message(MessageClass.INDICATION, Method.DATA, transaction_id, attributes))


def channel_data(number: int, payload: bytes) -> bytes:
    """Frames a datagram for a bound channel, without padding."""
    return number.to_bytes(2, "big") + len(payload).to_bytes(2, "big") + payload
