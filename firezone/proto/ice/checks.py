"""The STUN messages of a connectivity check, in the attribute order peers know.

Source: RFC 8445 section 7; Firezone's order, USERNAME first and FINGERPRINT last.
"""

from __future__ import annotations

from dataclasses import dataclass

from firezone.base.net import Endpoint
from firezone.wire.stun import Attribute, ErrorCode, Message, MessageClass, Method, Received, encode

ROLE_CONFLICT = 487
MAX_USERNAME_SIZE = 128
"""Longer names are not ICE: two fragments of at most 256 characters are allowed, but nobody sends them."""


@dataclass(frozen=True, slots=True)
class IceCredentials:
    """Username fragment and password of one side, made by the portal."""

    ufrag: str
    password: str

    def __repr__(self) -> str:
        return f"IceCredentials(ufrag={self.ufrag!r})"


@dataclass(frozen=True, slots=True)
class BindingRequest:
    """A check as received."""

    username: str
    priority: int
    use_candidate: bool
    controlling: int | None
    """Tie-breaker of a peer that claims to control."""
    controlled: int | None
    """Tie-breaker of a peer that claims to be controlled."""


def read_request(received: Received) -> BindingRequest | None:
    """Returns the check in a message, or None if it is none or lacks what every check has."""
    message = received.message
    if message.method != Method.BINDING or message.message_class is not MessageClass.REQUEST:
        return None
    username, priority = message.get(Attribute.USERNAME), message.get(Attribute.PRIORITY)
    if username is None or priority is None or received.integrity is None:
        return None
    if len(username) > MAX_USERNAME_SIZE or not username.partition(":")[2]:
        return None
    return BindingRequest(
        username=username,
        priority=priority,
        use_candidate=message.get(Attribute.USE_CANDIDATE) is not None,
        controlling=message.get(Attribute.ICE_CONTROLLING),
        controlled=message.get(Attribute.ICE_CONTROLLED),
    )


def encode_request(
    transaction_id: bytes,
    *,
    local: IceCredentials,
    remote: IceCredentials,
    is_controlling: bool,
    tie_breaker: int,
    priority: int,
    use_candidate: bool,
) -> bytes:
    """Returns a check. Signed with the password of the one who shall answer."""
    role = Attribute.ICE_CONTROLLING if is_controlling else Attribute.ICE_CONTROLLED
    attributes: list[tuple[int, object]] = [
        (Attribute.USERNAME, f"{remote.ufrag}:{local.ufrag}"),
        (role, tie_breaker),
        (Attribute.PRIORITY, priority),
    ]
    if use_candidate:
        attributes.append((Attribute.USE_CANDIDATE, True))
    message = Message(MessageClass.REQUEST, Method.BINDING, transaction_id, tuple(attributes))
    return encode(message, key=remote.password.encode(), fingerprint=True)


def encode_success(transaction_id: bytes, mapped: Endpoint, local: IceCredentials) -> bytes:
    """Returns the answer to a check that came from `mapped`."""
    message = Message(MessageClass.SUCCESS, Method.BINDING, transaction_id, ((Attribute.XOR_MAPPED_ADDRESS, mapped),))
    return encode(message, key=local.password.encode(), fingerprint=True)


def encode_role_conflict(transaction_id: bytes, local: IceCredentials) -> bytes:
    """Returns the refusal of a check whose sender claims our role and has the smaller tie-breaker (RFC 8445 7.3.1.1)."""
    error = (Attribute.ERROR_CODE, ErrorCode(ROLE_CONFLICT, "Role Conflict"))
    message = Message(MessageClass.ERROR, Method.BINDING, transaction_id, (error,))
    return encode(message, key=local.password.encode(), fingerprint=True)
