"""What a client and the portal tell each other on `/client/v2/websocket`.

Source: portal protocol sections 11.2, 11.4; Firezone `rust/libs/connlib/tunnel-proto/src/messages/client.rs`.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec

from firezone.base.ids import ClientId, GatewayId, ResourceId
from firezone.base.net import Endpoint
from firezone.base.secret import SecretBytes, SecretText
from firezone.wire.portal import client as v1
from firezone.wire.portal.shared import (
    AnyNetwork,
    Filter,
    IceCredentials,
    Message,
    NoRelays,
    PublicKey,
    RelaysPresence,
    UnixSeconds,
    UpstreamDns,
    Vocabulary,
    convert,
)
from firezone.wire.portal.shared import ClientInterface as OlderInterface
from firezone.wire.portal.v2.shared import NEWER_NAMES, FlowLogs, SnownetCapabilities, read_ingest_token

TOPIC = v1.TOPIC

# Reasons of AuthorizationCreationFailed besides those of version 1.
VERSION_MISMATCH = "version_mismatch"
DISABLED = "disabled"
AMBIGUOUS_ADDRESS = "ambiguous_address"
MISSING_ADDRESS = "missing_address"
INVALID_ADDRESS = "invalid_address"

DNS_PORT = 53


class UpstreamDo53(Message, frozen=True):
    """A plain DNS server, at port 53."""

    ip: str

    def __post_init__(self) -> None:
        Endpoint.from_text(self.ip, DNS_PORT)


class UpstreamDoh(Message, frozen=True):
    """A DNS server over HTTPS."""

    url: str


class ClientInterface(OlderInterface, frozen=True, kw_only=True):
    """The tunnel addresses of a client and its DNS settings, with the newer kinds of servers."""

    upstream_do53: tuple[UpstreamDo53, ...] = ()
    upstream_doh: tuple[UpstreamDoh, ...] = ()

    @property
    def plain_servers(self) -> tuple[UpstreamDns, ...]:
        """The plain DNS servers: `upstream_dns` counts only where the newer list is empty."""
        newer = tuple(UpstreamDns(address=str(Endpoint.from_text(server.ip, DNS_PORT))) for server in self.upstream_do53)
        return newer or self.upstream_dns


class PoolDevice(Message, frozen=True):
    """One device of a pool. The spelling `id` is understood too."""

    client_id: ClientId
    ipv4: AnyNetwork
    ipv6: AnyNetwork


class StaticDevicePool(Message, frozen=True, kw_only=True, tag_field="type", tag="static_device_pool"):
    """Other clients, by list."""

    id: ResourceId
    name: str
    devices: tuple[PoolDevice, ...] = ()
    filters: tuple[Filter, ...] = ()


class DynamicDevicePool(Message, frozen=True, kw_only=True, tag_field="type", tag="dynamic_device_pool"):
    """Other clients, by names under a pattern that the portal resolves."""

    id: ResourceId
    name: str
    address: str
    filters: tuple[Filter, ...] = ()


Resource = v1.CidrResource | v1.DnsResource | v1.InternetResource | StaticDevicePool | DynamicDevicePool


class PeerAuthorization(Message, frozen=True):
    """What another client may reach here."""

    client_id: ClientId
    resource_id: ResourceId
    expires_at: UnixSeconds


class Init(v1.Init, frozen=True, kw_only=True):
    """The whole truth after a join, with where flow logs go and which peers may come in."""

    interface: ClientInterface
    resources: tuple[Resource, ...] = ()  # type: ignore[assignment]
    flow_logs: FlowLogs
    authorizations: tuple[PeerAuthorization, ...] = ()


class ConfigChanged(v1.ConfigChanged, frozen=True):
    """Replaces the interface configuration."""

    interface: ClientInterface


class ResourceCreatedOrUpdated(v1.ResourceCreatedOrUpdated, frozen=True):
    """One resource, new or changed. On the wire the payload is the resource itself."""

    resource: Resource  # type: ignore[assignment]


class AuthorizationCreated(v1.FlowCreated, frozen=True, kw_only=True):
    """A gateway was found and has authorised us."""

    use_iceless: bool = False
    """Only for those who have said that they can."""
    flow_logs_ingest_token: SecretText

    def __post_init__(self) -> None:
        super().__post_init__()
        read_ingest_token(self.flow_logs_ingest_token)


class AuthorizationCreationFailed(v1.FlowCreationFailed, frozen=True):
    """No access; the reason is one of those above or anything newer."""


class PeerIceCandidates(Message, frozen=True):
    """New candidate lines of a peer client."""

    client_id: ClientId
    candidates: tuple[str, ...]


class InvalidatePeerIceCandidates(Message, frozen=True):
    """Candidate lines of a peer client that no longer hold."""

    client_id: ClientId
    candidates: tuple[str, ...]


class PeerIceCandidateError(Message, frozen=True):
    """Lines could not be delivered to a peer client; `offline` ends the connection with it."""

    client_id: ClientId
    reason: str


class InboundResource(Message, frozen=True):
    """What a peer client may reach here, and how."""

    id: ResourceId
    filters: tuple[Filter, ...]


class ClientDeviceAccessAuthorized(Message, frozen=True, kw_only=True):
    """A connection with a peer client: the initiator is told of the target, the target of the initiator."""

    client_id: ClientId
    client_name: str
    client_public_key: PublicKey
    client_ipv4: ipaddress.IPv4Address
    client_ipv6: ipaddress.IPv6Address
    preshared_key: SecretBytes
    local_ice_credentials: IceCredentials
    remote_ice_credentials: IceCredentials
    ice_role: str
    """controlling (the initiator) or controlled."""
    use_iceless: bool = False
    resource: InboundResource | None = None
    """At the target: what it grants."""
    expires_at: UnixSeconds | None = None
    """At the target."""
    flow_logs_ingest_token: SecretText

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ice_role not in ("controlling", "controlled"):
            raise ValueError("the ICE role is neither controlling nor controlled")
        read_ingest_token(self.flow_logs_ingest_token)


class ClientDeviceAccessDenied(Message, frozen=True, kw_only=True):
    """A peer client cannot be reached at this address."""

    reason: str
    ipv4: ipaddress.IPv4Address | None = None
    ipv6: str | None = None


class DevicePoolDomainResolved(Message, frozen=True):
    """The addresses of a name of a dynamic pool."""

    resource_id: ResourceId
    domain: str
    ipv4: ipaddress.IPv4Address
    ipv6: ipaddress.IPv6Address


class DevicePoolDomainResolutionFailed(Message, frozen=True):
    """No device of a dynamic pool has this name."""

    resource_id: ResourceId
    domain: str
    reason: str


class ResourceFiltersUpdated(Message, frozen=True):
    """New filters of a resource by which peer clients reach us."""

    id: ResourceId
    filters: tuple[Filter, ...]


class RejectAccess(Message, frozen=True):
    """Takes a resource here away from a peer client."""

    client_id: ClientId
    resource_id: ResourceId


class AccessAuthorizationExpiryUpdated(Message, frozen=True):
    """Obsolete: read and ignored."""

    client_id: ClientId
    resource_id: ResourceId
    expires_at: UnixSeconds


class RequestAuthorization(v1.CreateFlow, frozen=True, kw_only=True, omit_defaults=True):
    """Asks for access to a resource: gateways in order of preference, or the address of the peer client in a pool."""

    ipv4: ipaddress.IPv4Address | None = None
    ipv6: str | None = None


class NewGatewayIceCandidates(Message, frozen=True):
    """Our new candidate lines for a gateway."""

    gateway_id: GatewayId
    candidates: tuple[str, ...]


class InvalidateGatewayIceCandidates(Message, frozen=True):
    """Our candidate lines for a gateway that no longer hold."""

    gateway_id: GatewayId
    candidates: tuple[str, ...]


class NewClientIceCandidates(Message, frozen=True):
    """Our new candidate lines for a peer client."""

    client_id: ClientId
    candidates: tuple[str, ...]


class InvalidateClientIceCandidates(Message, frozen=True):
    """Our candidate lines for a peer client that no longer hold."""

    client_id: ClientId
    candidates: tuple[str, ...]


class ResolveDevicePoolDomain(Message, frozen=True):
    """Asks for the addresses of a name of a dynamic pool."""

    resource_id: ResourceId
    domain: str


def _decode_resource(item: Any) -> Any:
    """Lets `id` stand for `client_id` in the devices of a pool."""
    if isinstance(item, dict) and isinstance(item.get("devices"), list):
        devices = [
            {**device, "client_id": device.get("client_id", device.get("id"))} if isinstance(device, dict) else device
            for device in item["devices"]
        ]
        return {**item, "devices": devices}
    return item


def _decode_init(value: Any) -> Init:
    """Reads `init` in two stages: a resource with bad members is left out without hurting the others."""
    if isinstance(value, dict) and isinstance(value.get("resources", []), list):
        resources = map(_decode_resource, value.get("resources", []))
        value = {**value, "resources": [item for item in resources if _is_readable(item)]}
    return convert(value, Init)


def _is_readable(item: Any) -> bool:
    """Tells whether a resource decodes; one without a type spoils the whole message."""
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        return True
    try:
        convert(item, Resource)  # type: ignore[arg-type]
    except msgspec.ValidationError:
        return False
    return True


def _decode_pool_addresses(value: Any) -> DevicePoolDomainResolved:
    """Reads bare addresses, and the same with /32 and /128 as the newest portal writes them."""
    if isinstance(value, dict):
        value = dict(value)
        for key, suffix in (("ipv4", "/32"), ("ipv6", "/128")):
            if isinstance(value.get(key), str):
                value[key] = value[key].removesuffix(suffix)
    return convert(value, DevicePoolDomainResolved)


_SHARED_NAMES: dict[type, str] = {
    v1.ResourceDeleted: "resource_deleted",
    RelaysPresence: "relays_presence",
    v1.IceCandidates: "ice_candidates",
    v1.InvalidateIceCandidates: "invalidate_ice_candidates",
    PeerIceCandidates: "client_ice_candidates",
    InvalidatePeerIceCandidates: "invalidate_client_ice_candidates",
    PeerIceCandidateError: "client_ice_candidate_error",
    ClientDeviceAccessAuthorized: "client_device_access_authorized",
    ClientDeviceAccessDenied: "client_device_access_denied",
    DevicePoolDomainResolved: "device_pool_domain_resolved",
    DevicePoolDomainResolutionFailed: "device_pool_domain_resolution_failed",
    ResourceFiltersUpdated: "resource_filters_updated",
    RejectAccess: "reject_access",
    AccessAuthorizationExpiryUpdated: "access_authorization_expiry_updated",
}
_RENEWED: dict[type, str] = {
    Init: "init",
    ConfigChanged: "config_changed",
    ResourceCreatedOrUpdated: "resource_created_or_updated",
    AuthorizationCreated: "authorization_created",
    AuthorizationCreationFailed: "authorization_creation_failed",
}

FROM_PORTAL = Vocabulary(
    names={
        **_SHARED_NAMES,
        **_RENEWED,
        v1.ResourceCreatedOrUpdated: "resource_created_or_updated",
        v1.FlowCreationFailed: "authorization_creation_failed",
    },
    accepted={
        **{name: kind for kind, name in (_SHARED_NAMES | _RENEWED).items()},
        "gateway_ice_candidates": v1.IceCandidates,
        "invalidate_gateway_ice_candidates": v1.InvalidateIceCandidates,
    },
    decoders={
        Init: _decode_init,
        ResourceCreatedOrUpdated: lambda value: convert({"resource": _decode_resource(value)}, ResourceCreatedOrUpdated),
        v1.ResourceDeleted: lambda value: convert({"resource_id": value}, v1.ResourceDeleted),
        DevicePoolDomainResolved: _decode_pool_addresses,
    },
    spelling=NEWER_NAMES,
)

_TO_PORTAL: dict[type, str] = {
    RequestAuthorization: "request_authorization",
    NewGatewayIceCandidates: "new_gateway_ice_candidates",
    InvalidateGatewayIceCandidates: "invalidate_gateway_ice_candidates",
    NewClientIceCandidates: "new_client_ice_candidates",
    InvalidateClientIceCandidates: "invalidate_client_ice_candidates",
    v1.BroadcastIceCandidates: "broadcast_ice_candidates",
    v1.BroadcastInvalidatedIceCandidates: "broadcast_invalidated_ice_candidates",
    ResolveDevicePoolDomain: "resolve_device_pool_domain",
    NoRelays: "no_relays",
    SnownetCapabilities: "set_snownet_capabilities",
}

TO_PORTAL = Vocabulary(
    names={**_TO_PORTAL, v1.CreateFlow: "request_authorization"},
    accepted={name: kind for kind, name in _TO_PORTAL.items()},
)
