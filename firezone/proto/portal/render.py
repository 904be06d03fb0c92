"""The portal's knowledge as messages: one function per thing that is told, for the client and for the gateway.

Source: portal protocol sections 5, 6.2, 7.2.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from firezone.base.ids import ClientId, GatewayId, SiteId
from firezone.proto.portal.credentials import PairCredentials
from firezone.proto.portal.model import Account, Device, Grant, PolicyBook, Resource
from firezone.wire.portal import client, gateway
from firezone.wire.portal.shared import ClientInterface, Interface, Site, TurnRelay, UnixSeconds, UpstreamDns

FAR_FUTURE = UnixSeconds(4_102_444_800)
"""2100-01-01: stands for "never" where the wire wants a number."""


def client_resource(book: PolicyBook, resource: Resource) -> client.CidrResource:
    """Returns a resource as a client is told of it."""
    return client.CidrResource(
        id=resource.id,
        name=resource.name,
        address=resource.address,
        address_description=resource.description,
        filters=resource.filters,
        sites=tuple(Site(id=site_id, name=book.sites[site_id].name) for site_id in resource.site_ids),
    )


def gateway_resource(resource: Resource) -> gateway.CidrResource:
    """Returns a resource as a gateway is told of it."""
    return gateway.CidrResource(id=resource.id, name=resource.name, address=resource.address, filters=resource.filters)


def client_interface(device: Device, account: Account) -> ClientInterface:
    """Returns a client's tunnel addresses and DNS settings."""
    return ClientInterface(
        ipv4=device.ipv4,
        ipv6=device.ipv6,
        upstream_dns=tuple(UpstreamDns(address=address) for address in account.upstream_dns),
        search_domain=account.search_domain,
    )


def gateway_init(device: Device, account: Account, grants: Iterable[Grant], relays: tuple[TurnRelay, ...]) -> gateway.Init:
    """Returns the `init` of a gateway with every grant it shall keep."""
    return gateway.Init(
        relays=relays,
        account_slug=account.slug,
        interface=Interface(ipv4=device.ipv4, ipv6=device.ipv6),
        config=gateway.Config(ipv4_masquerade_enabled=True, ipv6_masquerade_enabled=True),
        authorizations=tuple(
            gateway.Authorization(
                client_id=ClientId(grant.client_id),
                resource_id=grant.resource_id,
                expires_at=FAR_FUTURE if grant.expires_at is None else grant.expires_at,
            )
            for grant in grants
        ),
    )


def authorize_flow(
    ref: str, resource: Resource, device: Device, credentials: PairCredentials, expires_at: UnixSeconds | None
) -> gateway.AuthorizeFlow:
    """Returns the order to a gateway to let `device` reach `resource`."""
    return gateway.AuthorizeFlow(
        ref=ref,
        resource=gateway_resource(resource),
        client=gateway.Client(
            id=ClientId(device.id),
            public_key=device.public_key,
            preshared_key=credentials.preshared_key,
            ipv4=device.ipv4,
            ipv6=device.ipv6,
        ),
        client_ice_credentials=credentials.client_ice,
        gateway_ice_credentials=credentials.gateway_ice,
        expires_at=expires_at,
    )


def flow_created(resource: Resource, served_by: Device, credentials: PairCredentials) -> client.FlowCreated:
    """Returns the news to a client that `served_by` lets it reach `resource`."""
    return client.FlowCreated(
        resource_id=resource.id,
        gateway_id=GatewayId(served_by.id),
        site_id=SiteId(served_by.owner_id),
        gateway_public_key=served_by.public_key,
        gateway_ipv4=served_by.ipv4,
        gateway_ipv6=served_by.ipv6,
        preshared_key=credentials.preshared_key,
        client_ice_credentials=credentials.client_ice,
        gateway_ice_credentials=credentials.gateway_ice,
    )


Candidates = (
    client.BroadcastIceCandidates
    | client.BroadcastInvalidatedIceCandidates
    | gateway.BroadcastIceCandidates
    | gateway.BroadcastInvalidatedIceCandidates
)


def candidates(message: Candidates, sender: Device) -> tuple[tuple[str, ...], Any]:
    """Returns to whom candidate lines go, and the same lines as the receiver is told of them."""
    lines = message.candidates
    match message:
        case client.BroadcastIceCandidates():
            return message.gateway_ids, gateway.IceCandidates(client_id=ClientId(sender.id), candidates=lines)
        case client.BroadcastInvalidatedIceCandidates():
            return message.gateway_ids, gateway.InvalidateIceCandidates(client_id=ClientId(sender.id), candidates=lines)
        case gateway.BroadcastIceCandidates():
            return message.client_ids, client.IceCandidates(gateway_id=GatewayId(sender.id), candidates=lines)
        case gateway.BroadcastInvalidatedIceCandidates():
            return message.client_ids, client.InvalidateIceCandidates(gateway_id=GatewayId(sender.id), candidates=lines)
