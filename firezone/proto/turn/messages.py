"""The four requests a client sends to a relay, and the long-term credential that signs three of them.

Attributes stand in the order in which the original writes them. USERNAME, REALM and MESSAGE-INTEGRITY are there before any nonce is
known, so that the relay can sign its 401.

Source: RFC 8489 section 9.2, RFC 8656 sections 7, 8 and 12; Firezone's `allocation.rs`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum

from firezone.base.net import Endpoint
from firezone.base.secret import SecretBytes
from firezone.wire import stun
from firezone.wire.stun import AddressFamily, Attribute, Message, MessageClass, Method, Value

REALM = "firezone"
"""Realm of every relay. One that names another does not know our credentials."""
SOFTWARE = "snownet"
UDP = 17
"""REQUESTED-TRANSPORT of every allocation."""


class Code(IntEnum):
    """Errors of a relay that mean something in particular."""

    BAD_REQUEST = 400
    UNAUTHORIZED = 401
    UNKNOWN_ATTRIBUTE = 420
    ALLOCATION_MISMATCH = 437
    STALE_NONCE = 438


Attributes = tuple[tuple[int, Value], ...]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What authenticates us to one relay."""

    username: str
    key: SecretBytes
    """MD5 of username, realm and password."""
    realm: str = REALM
    nonce: str | None = None
    """The relay's last; None before the first answer."""

    @classmethod
    def from_password(cls, username: str, password: str, realm: str = REALM) -> Credentials:
        """Builds credentials that know no nonce yet."""
        return cls(username, SecretBytes(stun.long_term_key(username, realm, password)), realm)

    def with_nonce(self, nonce: str) -> Credentials:
        return replace(self, nonce=nonce)


@dataclass(frozen=True, slots=True)
class Template:
    """A request without what changes from one transmission to the next: transaction id, nonce, signature."""

    method: Method
    attributes: Attributes = field(default=())

    @property
    def is_authenticated(self) -> bool:
        return self.method is not Method.BINDING

    def encode(self, transaction_id: bytes, credentials: Credentials | None) -> bytes:
        """Returns the datagram; signed when there are credentials."""
        attributes = self.attributes if credentials is None else self.attributes + _authentication(credentials)
        message = Message(MessageClass.REQUEST, self.method, transaction_id, attributes)
        return stun.encode(message, key=None if credentials is None else credentials.key.reveal())


def binding() -> Template:
    """Asks which address we are seen with; also keeps a NAT's mapping alive."""
    return Template(Method.BINDING, ((Attribute.SOFTWARE, SOFTWARE),))


def allocate() -> Template:
    """Asks for an address of each family."""
    attributes = (
        (Attribute.REQUESTED_TRANSPORT, UDP),
        (Attribute.ADDITIONAL_ADDRESS_FAMILY, AddressFamily.IPV6),
        (Attribute.SOFTWARE, SOFTWARE),
    )
    return Template(Method.ALLOCATE, attributes)


def refresh() -> Template:
    """Asks to keep the allocation for another lifetime.

    The original repeats the attributes of ALLOCATE in it, which other relays refuse (420) and its own does not look at.
    """
    return Template(Method.REFRESH, ((Attribute.SOFTWARE, SOFTWARE),))


def release() -> Template:
    """Gives the allocation back."""
    return Template(Method.REFRESH, ((Attribute.SOFTWARE, SOFTWARE), (Attribute.LIFETIME, 0)))


def channel_bind(peer: Endpoint, number: int) -> Template:
    """Asks to carry data to and from `peer` as channel `number`."""
    attributes = (
        (Attribute.XOR_PEER_ADDRESS, peer),
        (Attribute.CHANNEL_NUMBER, number),
        (Attribute.SOFTWARE, SOFTWARE),
    )
    return Template(Method.CHANNEL_BIND, attributes)


def _authentication(credentials: Credentials) -> Attributes:
    nonce = () if credentials.nonce is None else ((Attribute.NONCE, credentials.nonce),)
    return ((Attribute.USERNAME, credentials.username), (Attribute.REALM, credentials.realm), *nonce)
