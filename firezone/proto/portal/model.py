"""What the portal knows: the policy as the administrator wrote it, and the devices and grants it keeps itself.

Source: portal protocol sections 9.2, 9.3, 9.8, 10.1.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, field
from datetime import time, tzinfo
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, Protocol

from firezone.base.ids import RelayId, ResourceId, SiteId
from firezone.base.net import Endpoint, Network
from firezone.base.secret import SecretBytes, SecretText
from firezone.wire.portal.shared import Filter, PublicKey, UnixSeconds


class Role(Enum):
    CLIENT = "client"
    GATEWAY = "gateway"
    RELAY = "relay"


Location = tuple[float, float]
"""Latitude and longitude in degrees."""


Kind = Literal["cidr", "dns", "internet"]


@dataclass(frozen=True, slots=True)
class Account:
    """The one account of this portal."""

    name: str
    slug: str
    search_domain: str | None
    upstream_dns: tuple[str, ...]
    """Socket addresses, port included."""
    upstream_doh: tuple[str, ...] = ()
    """URLs of servers over HTTPS, for devices of the newest protocol."""

    @property
    def id(self) -> str:
        return stable_id("account", self.slug)


@dataclass(frozen=True, slots=True)
class Site:
    id: SiteId
    name: str
    location: Location | None = None


@dataclass(frozen=True, slots=True)
class User:
    """A person, or a machine with a token of its own."""

    id: str
    name: str
    is_enabled: bool


@dataclass(frozen=True, slots=True)
class Token:
    """A login. Only the hash of its text is ever kept."""

    id: str
    name: str
    role: Role
    owner_id: str
    """User of a client token, site of a gateway token, empty for a relay's."""
    sha256: str = field(repr=False)
    expires_at: UnixSeconds | None
    location: Location | None = None
    """Of the relay that logs in with it."""

    def is_valid(self, utc_s: int) -> bool:
        return self.expires_at is None or utc_s < self.expires_at


@dataclass(frozen=True, slots=True)
class Resource:
    """What the gateways of some sites lead to: a network or address, a name or pattern of names, or the Internet."""

    id: ResourceId
    name: str
    address: Network | str | None
    """A network, a pattern of names, None for the Internet."""
    description: str | None
    filters: tuple[Filter, ...]
    site_ids: tuple[SiteId, ...]
    ip_stack: str = "dual"
    """Of names: dual, ipv4_only or ipv6_only."""

    @property
    def kind(self) -> Kind:
        if self.address is None:
            return "internet"
        return "dns" if isinstance(self.address, str) else "cidr"

    @property
    def target(self) -> str:
        """What it leads to as text: two resources with different ones are different, whatever their ids."""
        return {"cidr": str(self.address), "dns": f"dns {self.address} {self.ip_stack}", "internet": "internet"}[self.kind]


@dataclass(frozen=True, slots=True)
class Hours:
    """A span of one weekday, both ends included."""

    weekday: int
    """Monday is 0."""
    start: time
    end: time
    zone: tzinfo


@dataclass(frozen=True, slots=True)
class Policy:
    """Lets the members of a group reach a resource while all its conditions hold."""

    id: str
    group: str
    user_ids: frozenset[str]
    """Members of the group, resolved."""
    resource_id: ResourceId
    is_enabled: bool
    expires_at: UnixSeconds | None
    remote_ip: tuple[Network, ...] | None
    remote_ip_not: tuple[Network, ...]
    hours: tuple[Hours, ...] | None

    @property
    def terms(self) -> tuple[object, ...]:
        """Whom it lets reach what, when: all but who the members happen to be."""
        return self.group, self.resource_id, self.expires_at, self.remote_ip, self.remote_ip_not, self.hours


@dataclass(frozen=True, slots=True)
class StaticRelay:
    """A relay that runs by itself (`--secret`) and is named by the policy."""

    name: str
    endpoints: tuple[Endpoint, ...]
    """IPv4 before IPv6."""
    secret: SecretText
    location: Location | None


@dataclass(frozen=True, slots=True)
class OnlineRelay:
    """A relay that devices may be told of."""

    id: RelayId
    name: str
    endpoints: tuple[Endpoint, ...]
    secret: SecretText
    """From which the credentials of everybody are derived."""
    location: Location | None


@dataclass(frozen=True, slots=True)
class PolicyBook:
    """A whole policy file, checked and resolved."""

    account: Account
    sites: dict[SiteId, Site]
    users: dict[str, User]
    tokens: dict[str, Token]
    """By the hash of their text."""
    resources: dict[ResourceId, Resource]
    policies: tuple[Policy, ...]
    relays: tuple[StaticRelay, ...] = ()
    _tokens_by_id: dict[str, Token] = field(init=False, repr=False, compare=False)
    _policies_of: dict[ResourceId, list[Policy]] = field(init=False, repr=False, compare=False)
    """The enabled ones."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tokens_by_id", {token.id: token for token in self.tokens.values()})
        policies: dict[ResourceId, list[Policy]] = {}
        for policy in self.policies:
            if policy.is_enabled:
                policies.setdefault(policy.resource_id, []).append(policy)
        object.__setattr__(self, "_policies_of", policies)

    def token_by_id(self, token_id: str) -> Token | None:
        return self._tokens_by_id.get(token_id)

    def policies_of(self, resource_id: ResourceId) -> list[Policy]:
        """Returns the enabled policies for a resource."""
        return self._policies_of.get(resource_id, [])


@dataclass(frozen=True, slots=True)
class Device:
    """A client or gateway that has logged in once. The id, addresses and psk_base stay for its life."""

    id: str
    role: Role
    owner_id: str
    external_id: str
    name: str
    public_key: PublicKey
    psk_base: SecretBytes
    ipv4: IPv4Address
    ipv6: IPv6Address
    version: str
    remote_ip: str
    last_seen: UnixSeconds
    is_disabled: bool = False
    """Known, and kept out."""


@dataclass(frozen=True, slots=True)
class Grant:
    """One resource for one client at one gateway (the protocol's flow)."""

    client_id: str
    resource_id: ResourceId
    gateway_id: str
    token_id: str
    """The client's token it was given under; with it goes the grant."""
    address: str
    """The resource's target when it was granted; another one is another resource."""
    expires_at: UnixSeconds | None

    @property
    def key(self) -> tuple[str, ResourceId, str]:
        return self.client_id, self.resource_id, self.gateway_id


class Store(Protocol):
    """What must outlive the process. Everything put before `commit` is there after any crash that follows it."""

    def load(self) -> tuple[list[Device], list[Grant]]:
        """Returns everything that was committed."""
        ...

    def put_device(self, device: Device) -> None: ...

    def remove_device(self, device_id: str) -> None: ...

    def put_grant(self, grant: Grant) -> None: ...

    def remove_grant(self, grant: Grant) -> None: ...

    def commit(self) -> None: ...


def token_hash(text: str) -> str:
    """Returns how a token is kept: SHA-256 in hex. A token is 32 random bytes, so no salt is needed against guessing."""
    return hashlib.sha256(text.encode()).hexdigest()


def stable_id(kind: str, *names: str) -> str:
    """Returns the UUID of a named thing, the same on every start."""
    digest = hashlib.sha256("\0".join(("firezone-portal", kind, *names)).encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))
