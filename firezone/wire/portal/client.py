"""What a client and the portal tell each other (topic `client`), protocol version 1, version 2's names understood.

Source: portal protocol sections 5.4, 6; Firezone `rust/connlib/tunnel/src/messages/client.rs`.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec

from firezone.base.ids import GatewayId, ResourceId, SiteId
from firezone.base.secret import SecretBytes
from firezone.wire.portal.shared import (
    AnyNetwork,
    ClientInterface,
    Filter,
    IceCredentials,
    Message,
    NoRelays,
    PublicKey,
    Relay,
    RelaysPresence,
    Site,
    Vocabulary,
    convert,
)

TOPIC = "client"
INTERNET_RESOURCE_NAME = "Internet Resource"

# Reasons of FlowCreationFailed; any other text is legal and means "unknown".
NOT_FOUND = "not_found"
OFFLINE = "offline"
FORBIDDEN = "forbidden"


class CidrResource(Message, frozen=True, tag_field="type", tag="cidr", rename={"sites": "gateway_groups"}):
    """A network, or one address as /32 or /128."""

    id: ResourceId
    name: str
    address: AnyNetwork
    sites: tuple[Site, ...]
    address_description: str | None = None
    filters: tuple[Filter, ...] = ()


class DnsResource(Message, frozen=True, tag_field="type", tag="dns", rename={"sites": "gateway_groups"}):
    """A name or a pattern of names (`*`, `?`, `**`)."""

    id: ResourceId
    name: str
    address: str
    sites: tuple[Site, ...]
    address_description: str | None = None
    ip_stack: str = "dual"
    """dual, ipv4_only or ipv6_only."""
    filters: tuple[Filter, ...] = ()

    def __post_init__(self) -> None:
        Message.__post_init__(self)
        if self.ip_stack not in ("dual", "ipv4_only", "ipv6_only"):
            raise ValueError("the IP stack of a resource is not known")


class InternetResource(Message, frozen=True, tag_field="type", tag="internet", rename={"sites": "gateway_groups"}):
    """Everything that no other resource covers."""

    id: ResourceId
    sites: tuple[Site, ...]
    name: str = INTERNET_RESOURCE_NAME
    can_be_disabled: bool = True


Resource = CidrResource | DnsResource | InternetResource


class Init(Message, frozen=True):
    """The whole truth after a join: resources that are not in the list are gone, relays that are not in it stay."""

    interface: ClientInterface
    resources: tuple[Resource, ...] = ()
    relays: tuple[Relay, ...] = ()


class ConfigChanged(Message, frozen=True):
    """Replaces the interface configuration."""

    interface: ClientInterface


class ResourceCreatedOrUpdated(Message, frozen=True):
    """One resource, new or changed. On the wire the payload is the resource itself."""

    resource: Resource

    def to_payload(self) -> Any:
        return self.resource


class ResourceDeleted(Message, frozen=True):
    """One resource is gone. On the wire the payload is the bare identifier."""

    resource_id: ResourceId

    def to_payload(self) -> Any:
        return self.resource_id


class FlowCreated(Message, frozen=True, rename={"site_id": "gateway_group_id"}):
    """A gateway was found and has authorised us. The client's ICE credentials are the local ones."""

    resource_id: ResourceId
    gateway_id: GatewayId
    site_id: SiteId
    gateway_public_key: PublicKey
    gateway_ipv4: ipaddress.IPv4Address
    gateway_ipv6: ipaddress.IPv6Address
    preshared_key: SecretBytes
    client_ice_credentials: IceCredentials
    gateway_ice_credentials: IceCredentials


class FlowCreationFailed(Message, frozen=True):
    """No flow: `reason` is not_found, offline, forbidden, or anything newer."""

    resource_id: ResourceId
    reason: str
    violated_properties: tuple[str, ...] = ()


class IceCandidates(Message, frozen=True):
    """New candidate lines of a gateway."""

    gateway_id: GatewayId
    candidates: tuple[str, ...]


class InvalidateIceCandidates(Message, frozen=True):
    """Candidate lines of a gateway that no longer hold."""

    gateway_id: GatewayId
    candidates: tuple[str, ...]


class CreateFlow(Message, frozen=True):
    """Asks for access to a resource, naming the gateways this client is connected to."""

    resource_id: ResourceId
    connected_gateway_ids: tuple[GatewayId, ...]


class BroadcastIceCandidates(Message, frozen=True):
    """Our new candidate lines for gateways."""

    gateway_ids: tuple[GatewayId, ...]
    candidates: tuple[str, ...]


class BroadcastInvalidatedIceCandidates(Message, frozen=True):
    """Our candidate lines that no longer hold."""

    gateway_ids: tuple[GatewayId, ...]
    candidates: tuple[str, ...]


FromPortal = (
    Init
    | ConfigChanged
    | ResourceCreatedOrUpdated
    | ResourceDeleted
    | RelaysPresence
    | FlowCreated
    | FlowCreationFailed
    | IceCandidates
    | InvalidateIceCandidates
)
ToPortal = CreateFlow | BroadcastIceCandidates | BroadcastInvalidatedIceCandidates | NoRelays


def _decode_init(value: Any) -> Init:
    """Reads `init` in two stages: a resource with bad members is left out without hurting the others."""
    if isinstance(value, dict) and isinstance(value.get("resources", []), list):
        value = {**value, "resources": [item for item in value.get("resources", []) if _is_readable(item)]}
    return convert(_with_newer_servers(value), Init)


def _with_newer_servers(value: Any) -> Any:
    """Lets the plain DNS servers of newer portals stand for `upstream_dns`, which they send for older clients only."""
    interface: Any = value.get("interface") if isinstance(value, dict) else None
    newer = interface.get("upstream_do53") if isinstance(interface, dict) else None
    if not newer or not isinstance(newer, list):
        return value
    servers = [{"protocol": "ip_port", "address": _at_port_53(item)} for item in newer]
    return {**value, "interface": {**interface, "upstream_dns": servers}}


def _at_port_53(item: Any) -> Any:
    ip = item.get("ip") if isinstance(item, dict) else None
    return f"[{ip}]:53" if isinstance(ip, str) and ":" in ip else f"{ip}:53"


def _is_readable(item: Any) -> bool:
    """Tells whether a resource decodes. One without a type is kept: it spoils the whole message, as the original has it."""
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        return True
    try:
        convert(item, Resource)  # type: ignore[arg-type]
    except msgspec.ValidationError:
        return False
    return True


FROM_PORTAL = Vocabulary(
    names={
        Init: "init",
        ConfigChanged: "config_changed",
        ResourceCreatedOrUpdated: "resource_created_or_updated",
        ResourceDeleted: "resource_deleted",
        RelaysPresence: "relays_presence",
        FlowCreated: "flow_created",
        FlowCreationFailed: "flow_creation_failed",
        IceCandidates: "ice_candidates",
        InvalidateIceCandidates: "invalidate_ice_candidates",
    },
    accepted={
        "init": Init,
        "config_changed": ConfigChanged,
        "resource_created_or_updated": ResourceCreatedOrUpdated,
        "resource_deleted": ResourceDeleted,
        "relays_presence": RelaysPresence,
        "flow_created": FlowCreated,
        "authorization_created": FlowCreated,
        "flow_creation_failed": FlowCreationFailed,
        "authorization_creation_failed": FlowCreationFailed,
        "ice_candidates": IceCandidates,
        "gateway_ice_candidates": IceCandidates,
        "invalidate_ice_candidates": InvalidateIceCandidates,
        "invalidate_gateway_ice_candidates": InvalidateIceCandidates,
    },
    decoders={
        Init: _decode_init,
        ConfigChanged: lambda value: convert(_with_newer_servers(value), ConfigChanged),
        ResourceCreatedOrUpdated: lambda value: convert({"resource": value}, ResourceCreatedOrUpdated),
        ResourceDeleted: lambda value: convert({"resource_id": value}, ResourceDeleted),
    },
)

TO_PORTAL = Vocabulary(
    names={
        CreateFlow: "create_flow",
        BroadcastIceCandidates: "broadcast_ice_candidates",
        BroadcastInvalidatedIceCandidates: "broadcast_invalidated_ice_candidates",
        NoRelays: "no_relays",
    },
    accepted={
        "create_flow": CreateFlow,
        "broadcast_ice_candidates": BroadcastIceCandidates,
        "broadcast_invalidated_ice_candidates": BroadcastInvalidatedIceCandidates,
        "no_relays": NoRelays,
    },
)
