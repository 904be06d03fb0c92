"""What a gateway and the portal tell each other on `/gateway/v2/websocket`.

Source: portal protocol sections 11.2, 11.5; Firezone `rust/libs/connlib/tunnel-proto/src/messages/gateway.rs`.
"""

from __future__ import annotations

from firezone.base.secret import SecretText
from firezone.wire.portal import gateway as v1
from firezone.wire.portal.shared import NoRelays, RelaysPresence, Vocabulary, convert
from firezone.wire.portal.v2.shared import FlowLogs, SnownetCapabilities, read_ingest_token

TOPIC = v1.TOPIC


class Init(v1.Init, frozen=True, kw_only=True):
    """The whole truth after a join, with where flow logs go."""

    flow_logs: FlowLogs


class CreateAuthorization(v1.AuthorizeFlow, frozen=True, kw_only=True):
    """Grants a resource to a client, or replaces the grant with its expiry, and starts (or keeps) the connection."""

    use_iceless: bool = False
    flow_logs_ingest_token: SecretText

    def __post_init__(self) -> None:
        super().__post_init__()
        read_ingest_token(self.flow_logs_ingest_token)

    def __repr__(self) -> str:
        return f"CreateAuthorization(client={self.client.id}, resource={self.resource.id}, expires_at={self.expires_at})"


class AuthorizationCreated(v1.FlowAuthorized, frozen=True):
    """The authorisation `ref` is granted; goes out before the first candidates of its connection."""

    def __repr__(self) -> str:
        return "AuthorizationCreated()"


_FROM_PORTAL: dict[type, str] = {
    Init: "init",
    CreateAuthorization: "create_authorization",
    v1.RejectAccess: "reject_access",
    v1.AccessAuthorizationExpiryUpdated: "access_authorization_expiry_updated",
    v1.ResourceUpdated: "resource_updated",
    v1.IceCandidates: "ice_candidates",
    v1.InvalidateIceCandidates: "invalidate_ice_candidates",
    RelaysPresence: "relays_presence",
}

FROM_PORTAL = Vocabulary(
    names=_FROM_PORTAL,
    accepted={name: kind for kind, name in _FROM_PORTAL.items()},
    decoders={v1.ResourceUpdated: lambda value: convert({"resource": value}, v1.ResourceUpdated)},
)

_TO_PORTAL: dict[type, str] = {
    AuthorizationCreated: "authorization_created",
    v1.BroadcastIceCandidates: "broadcast_ice_candidates",
    v1.BroadcastInvalidatedIceCandidates: "broadcast_invalidated_ice_candidates",
    NoRelays: "no_relays",
    SnownetCapabilities: "set_snownet_capabilities",
}

TO_PORTAL = Vocabulary(
    names={**_TO_PORTAL, v1.FlowAuthorized: "authorization_created"},
    accepted={name: kind for kind, name in _TO_PORTAL.items()},
)
