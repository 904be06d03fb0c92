"""What a gateway and the portal tell each other (topic `gateway`), protocol version 1, version 2's names understood.

Source: portal protocol sections 5.5, 7; Firezone `rust/connlib/tunnel/src/messages/gateway.rs`.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from firezone.base.ids import ClientId, ResourceId
from firezone.base.secret import SecretBytes
from firezone.wire.portal.shared import (
    AnyNetwork,
    Filter,
    IceCredentials,
    Interface,
    Message,
    NoRelays,
    PublicKey,
    Relay,
    RelaysPresence,
    UnixSeconds,
    Vocabulary,
    convert,
)

TOPIC = "gateway"


class CidrResource(Message, frozen=True, tag_field="type", tag="cidr"):
    """A network behind this gateway, or one address."""

    id: ResourceId
    name: str
    address: AnyNetwork
    filters: tuple[Filter, ...]


class DnsResource(Message, frozen=True, tag_field="type", tag="dns"):
    """A name or a pattern of names behind this gateway."""

    id: ResourceId
    name: str
    address: str
    filters: tuple[Filter, ...]


class InternetResource(Message, frozen=True, tag_field="type", tag="internet"):
    """Everything beyond this gateway."""

    id: ResourceId


Resource = CidrResource | DnsResource | InternetResource


class Config(Message, frozen=True):
    """Required on the wire, without effect in any gateway."""

    ipv4_masquerade_enabled: bool
    ipv6_masquerade_enabled: bool


class Authorization(Message, frozen=True):
    """One live grant."""

    client_id: ClientId
    resource_id: ResourceId
    expires_at: UnixSeconds


class Init(Message, frozen=True):
    """The whole truth after a join: clients and resources that `authorizations` does not list lose access."""

    interface: Interface
    config: Config
    relays: tuple[Relay, ...] = ()
    account_slug: str | None = None
    authorizations: tuple[Authorization, ...] = ()


class Client(Message, frozen=True):
    """The client of a flow."""

    id: ClientId
    public_key: PublicKey
    preshared_key: SecretBytes
    ipv4: ipaddress.IPv4Address
    ipv6: ipaddress.IPv6Address


class AuthorizeFlow(Message, frozen=True):
    """Grants a resource to a client and starts (or keeps) the connection. The gateway's ICE credentials are the local ones."""

    ref: str
    """The portal's own word for this request, given back in FlowAuthorized."""
    resource: Resource
    client: Client
    client_ice_credentials: IceCredentials
    gateway_ice_credentials: IceCredentials
    expires_at: UnixSeconds | None
    """None never expires; the member itself is required."""

    def __repr__(self) -> str:
        return f"AuthorizeFlow(client={self.client.id}, resource={self.resource.id}, expires_at={self.expires_at})"


class RejectAccess(Message, frozen=True):
    """Takes a resource away from a client."""

    client_id: ClientId
    resource_id: ResourceId


class AccessAuthorizationExpiryUpdated(Message, frozen=True):
    """Sets the expiry of a grant that exists."""

    client_id: ClientId
    resource_id: ResourceId
    expires_at: UnixSeconds


class ResourceUpdated(Message, frozen=True):
    """New filters of a resource. On the wire the payload is the resource itself."""

    resource: Resource

    def to_payload(self) -> Any:
        return self.resource


class IceCandidates(Message, frozen=True):
    """New candidate lines of a client."""

    client_id: ClientId
    candidates: tuple[str, ...]


class InvalidateIceCandidates(Message, frozen=True):
    """Candidate lines of a client that no longer hold."""

    client_id: ClientId
    candidates: tuple[str, ...]


class FlowAuthorized(Message, frozen=True):
    """The flow `ref` is granted; goes out before the first candidates of its connection."""

    ref: str

    def __repr__(self) -> str:
        return "FlowAuthorized()"


class BroadcastIceCandidates(Message, frozen=True):
    """Our new candidate lines for clients."""

    client_ids: tuple[ClientId, ...]
    candidates: tuple[str, ...]


class BroadcastInvalidatedIceCandidates(Message, frozen=True):
    """Our candidate lines that no longer hold."""

    client_ids: tuple[ClientId, ...]
    candidates: tuple[str, ...]


FromPortal = (
    Init
    | AuthorizeFlow
    | RejectAccess
    | AccessAuthorizationExpiryUpdated
    | ResourceUpdated
    | IceCandidates
    | InvalidateIceCandidates
    | RelaysPresence
)
ToPortal = FlowAuthorized | BroadcastIceCandidates | BroadcastInvalidatedIceCandidates | NoRelays

FROM_PORTAL = Vocabulary(
    names={
        Init: "init",
        AuthorizeFlow: "authorize_flow",
        RejectAccess: "reject_access",
        AccessAuthorizationExpiryUpdated: "access_authorization_expiry_updated",
        ResourceUpdated: "resource_updated",
        IceCandidates: "ice_candidates",
        InvalidateIceCandidates: "invalidate_ice_candidates",
        RelaysPresence: "relays_presence",
    },
    accepted={
        "init": Init,
        "authorize_flow": AuthorizeFlow,
        "create_authorization": AuthorizeFlow,
        "reject_access": RejectAccess,
        "access_authorization_expiry_updated": AccessAuthorizationExpiryUpdated,
        "resource_updated": ResourceUpdated,
        "ice_candidates": IceCandidates,
        "invalidate_ice_candidates": InvalidateIceCandidates,
        "relays_presence": RelaysPresence,
    },
    decoders={ResourceUpdated: lambda value: convert({"resource": value}, ResourceUpdated)},
)

TO_PORTAL = Vocabulary(
    names={
        FlowAuthorized: "flow_authorized",
        BroadcastIceCandidates: "broadcast_ice_candidates",
        BroadcastInvalidatedIceCandidates: "broadcast_invalidated_ice_candidates",
        NoRelays: "no_relays",
    },
    accepted={
        "flow_authorized": FlowAuthorized,
        "broadcast_ice_candidates": BroadcastIceCandidates,
        "broadcast_invalidated_ice_candidates": BroadcastInvalidatedIceCandidates,
        "no_relays": NoRelays,
    },
)
