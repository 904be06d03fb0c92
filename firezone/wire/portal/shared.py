"""What the messages of all roles share: identifiers, keys, relays, interfaces, and the machinery that turns JSON into them.

Rules of every decoder: unknown members are ignored, identifiers are UUIDs in any textual form and come out in lower case with
hyphens, a member that breaks its rule makes the message a `WireError`. Both generations' spellings of a renamed member are
understood.

Source: portal protocol section 5; Firezone `rust/connlib/tunnel/src/messages.rs`.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import uuid
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NewType, TypeVar

import msgspec

from firezone.base.errors import WireError
from firezone.base.ids import RelayId, SiteId
from firezone.base.net import Endpoint, Network
from firezone.base.secret import SecretBytes, SecretText

UnixSeconds = NewType("UnixSeconds", int)
"""Seconds since 1970-01-01 UTC, as every timestamp on this wire."""

KEY_SIZE = 32
TURN_REALM = "firezone"
"""Realm of the TURN credentials; never on this wire, fixed on all sides."""

ALIASES = {"sites": "gateway_groups", "site_id": "gateway_group_id"}
"""New name of a member to the name of version 1. At any depth; the name of version 1 wins when both are there."""

if TYPE_CHECKING:
    AnyNetwork = Network
else:

    class AnyNetwork(ABC):  # noqa: B024 - a name for isinstance, nothing to implement
        """Stands for `Network` where msgspec allows one custom type only."""

    AnyNetwork.register(ipaddress.IPv4Network)
    AnyNetwork.register(ipaddress.IPv6Network)

_ANY_NETWORK: Any = AnyNetwork


class PublicKey(bytes):
    """A WireGuard public key: 32 bytes, base64 on the wire."""

    def __new__(cls, value: bytes) -> PublicKey:
        if len(value) != KEY_SIZE:
            raise ValueError(f"a public key has {KEY_SIZE} bytes, not {len(value)}")
        return super().__new__(cls, value)

    def to_text(self) -> str:
        """Returns the padded base64 form, 44 characters."""
        return base64.b64encode(self).decode()

    @classmethod
    def from_text(cls, text: str) -> PublicKey:
        """Builds a key from its base64 form. Raises ValueError."""
        return cls(_decode_key(text))


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A base for everything on this wire: members named `id`, `*_id` and `*_ids` are UUIDs and are normalised."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if (name == "id" or name.endswith("_id")) and isinstance(value, str):
                msgspec.structs.force_setattr(self, name, normal_uuid(value))
            elif name.endswith("_ids"):
                msgspec.structs.force_setattr(self, name, tuple(normal_uuid(item) for item in value))


class IceCredentials(Message, frozen=True):
    """ICE short-term credentials of one side."""

    username: str
    password: SecretText


class TurnRelay(Message, frozen=True, tag_field="type", tag="turn"):
    """One address of a relay with the TURN credentials for it. A dual-stack relay is two neighbours with one id."""

    id: RelayId
    addr: str
    username: str
    password: SecretText
    expires_at: UnixSeconds
    """Informative; nobody enforces it."""

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        parse_endpoint(self.addr)

    @property
    def endpoint(self) -> Endpoint:
        return parse_endpoint(self.addr)


class StunRelay(Message, frozen=True, tag_field="type", tag="stun"):
    """A relay that only answers STUN: parsed, then ignored by client and gateway."""

    id: RelayId
    addr: str

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        parse_endpoint(self.addr)


Relay = TurnRelay | StunRelay


class Site(Message, frozen=True):
    """A group of gateways. Equal and hashed by its id only."""

    id: SiteId
    name: str

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, Site) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)


class UpstreamDns(Message, frozen=True, tag_field="protocol", tag="ip_port"):
    """One DNS server the client shall ask instead of the system's."""

    address: str

    def __post_init__(self) -> None:
        parse_endpoint(self.address)

    @property
    def endpoint(self) -> Endpoint:
        return parse_endpoint(self.address)


class Interface(Message, frozen=True):
    """The tunnel addresses of this device; a gateway gets these two members only."""

    ipv4: ipaddress.IPv4Address
    ipv6: ipaddress.IPv6Address


class ClientInterface(Interface, frozen=True):
    """The tunnel addresses of a client and its DNS settings."""

    upstream_dns: tuple[UpstreamDns, ...] = ()
    search_domain: str | None = None

    def __post_init__(self) -> None:
        if self.search_domain is not None and not is_domain(self.search_domain):
            raise ValueError("the search domain is no DNS name")

    @property
    def plain_servers(self) -> tuple[UpstreamDns, ...]:
        """The plain DNS servers."""
        return self.upstream_dns


class Filter(Message, frozen=True, omit_defaults=True):
    """What of a resource may be reached. Ports are inclusive, all if none are named; `icmp` has none.

    An empty list of filters allows everything.
    """

    protocol: str
    port_range_start: int = 0
    port_range_end: int = 65535

    def __post_init__(self) -> None:
        if self.protocol not in ("tcp", "udp", "icmp"):
            raise ValueError("the protocol of a filter is neither tcp, udp nor icmp")
        if not 0 <= self.port_range_start <= 65535 or not 0 <= self.port_range_end <= 65535:
            raise ValueError("the ports of a filter are not within 0 to 65535")


class RelaysPresence(Message, frozen=True):
    """Relays that are gone (dropped first) and the full present selection."""

    disconnected_ids: tuple[RelayId, ...]
    connected: tuple[Relay, ...]


class NoRelays(Message, frozen=True):
    """A client or gateway lost its last relay: the portal answers with the present selection (`relays_presence`)."""


_M = TypeVar("_M")
Decoder = Callable[[Any], Any]


@dataclass(frozen=True)
class Vocabulary:
    """The events of one role in one direction and one protocol version."""

    names: Mapping[type, str]
    """What each message is called when we say it."""
    accepted: Mapping[str, type]
    """What each event means when we hear it, aliases included."""
    decoders: Mapping[type, Decoder] = field(default_factory=dict)
    """Messages whose payload is not simply the object of their members."""
    spelling: Mapping[str, str] = field(default_factory=dict)
    """Members that are written by another name than their class has for them."""

    def encode(self, message: Any) -> tuple[str, bytes]:
        """Returns the event and the JSON payload of a message."""
        event = self.names[type(message)]
        plain = message.to_payload() if hasattr(message, "to_payload") else message
        if self.spelling:
            plain = rename_members(msgspec.to_builtins(plain, enc_hook=_to_json), self.spelling)
        return event, msgspec.json.encode(plain, enc_hook=_to_json)

    def decode(self, event: str, payload: bytes | msgspec.Raw) -> Any:
        """Returns the message that `event` with `payload` stands for.

        Raises: WireError for an unknown event and for a payload that breaks a rule.
        """
        kind = self.accepted.get(event)
        if kind is None:
            raise WireError(f"the event {event[:64]!r} is not known", field="event")
        try:
            value = rename_members(msgspec.json.decode(payload), ALIASES)
            decoder = self.decoders.get(kind)
            return decoder(value) if decoder is not None else convert(value, kind)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise WireError(f"the payload of {event} does not decode: {error}", field="payload") from error


def convert(value: Any, kind: type[_M]) -> _M:
    """Turns parsed JSON into a message. Raises msgspec.ValidationError."""
    try:
        return msgspec.convert(value, kind, dec_hook=_from_json)
    except ValueError as error:
        if isinstance(error, msgspec.ValidationError):
            raise
        raise msgspec.ValidationError(str(error)) from error


def rename_members(value: Any, names: Mapping[str, str]) -> Any:
    """Renames members of objects at every depth; a name that is already taken stays as it is."""
    if isinstance(value, dict):
        renamed = {key: rename_members(item, names) for key, item in value.items()}
        for old, new in names.items():
            if old in renamed and new not in renamed:
                renamed[new] = renamed.pop(old)
        return renamed
    if isinstance(value, (list, tuple)):
        return [rename_members(item, names) for item in value]
    return value


def normal_uuid(text: str) -> str:
    """Returns a UUID in lower case with hyphens. Raises ValueError when the text is none."""
    if not isinstance(text, str):
        raise ValueError("an identifier is not text")  # noqa: TRY004 - msgspec wraps ValueError only
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise ValueError("an identifier is no UUID") from error


_V4_ENDPOINT = re.compile(r"([0-9.]+):([0-9]{1,5})")
_V6_ENDPOINT = re.compile(r"\[([0-9a-fA-F:.]+)\]:([0-9]{1,5})")


def parse_endpoint(text: str) -> Endpoint:
    """Reads `1.2.3.4:3478` or `[2001:db8::1]:3478`. Raises ValueError."""
    match = _V4_ENDPOINT.fullmatch(text) or _V6_ENDPOINT.fullmatch(text)
    if match is None or int(match[2]) > 65535:
        raise ValueError("a socket address is not <ip>:<port>")
    return Endpoint.from_text(match[1], int(match[2]))


def is_domain(text: str) -> bool:
    """Tells whether the text is a DNS name of letters, digits, hyphens and underscores."""
    name = text.removesuffix(".")
    label = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
    return len(name) <= 253 and re.fullmatch(rf"{label}(\.{label})*", name) is not None


def _decode_key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("a key is not base64") from error
    if len(key) != KEY_SIZE:
        raise ValueError(f"a key has {len(key)} bytes, not {KEY_SIZE}")
    return key


def _from_json(kind: type, value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("a text is expected")  # noqa: TRY004 - msgspec wraps ValueError only
    if kind is PublicKey:
        return PublicKey(_decode_key(value))
    if kind is SecretBytes:
        return SecretBytes(_decode_key(value))
    if kind is SecretText:
        return SecretText(value)
    if kind in (ipaddress.IPv4Address, ipaddress.IPv6Address):
        if "%" in value:
            raise ValueError("an address has a zone")
        return kind(value)
    if kind is _ANY_NETWORK:
        if "/" not in value:
            raise ValueError("a network has no prefix length")
        return ipaddress.ip_network(value)
    raise NotImplementedError(f"no decoder for {kind}")


def _to_json(value: Any) -> Any:
    match value:
        case PublicKey():
            return value.to_text()
        case SecretBytes():
            return base64.b64encode(value.reveal()).decode()
        case SecretText():
            return value.reveal()
        case _ if isinstance(value, (ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network)):
            return str(value)
    raise NotImplementedError(f"no encoder for {type(value)}")
