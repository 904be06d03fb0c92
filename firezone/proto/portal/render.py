"""The portal's knowledge as messages: one function per thing that is told, in the dialect of whom it is told.

Source: portal protocol sections 5, 6.2, 7.2, 11.4, 11.5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from firezone.base.ids import ClientId, GatewayId, SiteId
from firezone.base.secret import SecretText
from firezone.proto.portal.credentials import PairCredentials
from firezone.proto.portal.dialect import Dialect
from firezone.proto.portal.ingest import FAR_FUTURE
from firezone.proto.portal.model import Account, Device, Grant, PolicyBook, Resource
from firezone.wire.portal import client, gateway
from firezone.wire.portal.shared import ClientInterface, Interface, Site, TurnRelay, UnixSeconds, UpstreamDns, parse_endpoint
from firezone.wire.portal.v2 import client as client2
from firezone.wire.portal.v2 import gateway as gateway2
from firezone.wire.portal.v2.shared import FlowLogs

NO_FLOW_LOGS = FlowLogs(api_url="https://flow-api.invalid/", upload_interval_secs=0, upload_batch_size=0)
"""The newest devices insist on an address; an interval of 0 lets them deliver nothing."""


def client_resource(book: PolicyBook, resource: Resource, dialect: Dialect) -> client.Resource | None:
    """Returns a resource as a client is told of it; None when its version has no words for it."""
    sites = tuple(Site(id=site_id, name=book.sites[site_id].name) for site_id in resource.site_ids)
    if not dialect.can_hear_of(resource.kind):
        return None
    if resource.address is None:
        return client.InternetResource(id=resource.id, name=resource.name, sites=sites)
    if isinstance(resource.address, str):
        pattern = dialect.pattern(resource.address)
        if pattern is None:
            return None
        return client.DnsResource(
            id=resource.id, name=resource.name, address=pattern, address_description=resource.description,
            ip_stack=resource.ip_stack, filters=resource.filters, sites=sites,
        )  # fmt: skip
    return client.CidrResource(
        id=resource.id, name=resource.name, address=resource.address, address_description=resource.description,
        filters=resource.filters, sites=sites,
    )  # fmt: skip


def gateway_resource(resource: Resource, dialect: Dialect) -> gateway.Resource | None:
    """Returns a resource as a gateway is told of it; None when its version has no words for it."""
    if not dialect.can_hear_of(resource.kind):
        return None
    if resource.address is None:
        return gateway.InternetResource(id=resource.id)
    if isinstance(resource.address, str):
        pattern = dialect.pattern(resource.address)
        if pattern is None:
            return None
        return gateway.DnsResource(id=resource.id, name=resource.name, address=pattern, filters=resource.filters)
    return gateway.CidrResource(id=resource.id, name=resource.name, address=resource.address, filters=resource.filters)


def client_interface(device: Device, account: Account, dialect: Dialect) -> ClientInterface:
    """Returns a client's tunnel addresses and DNS settings. Version 1 has no word for servers over HTTPS."""
    servers = tuple(UpstreamDns(address=address) for address in account.upstream_dns)
    if dialect.protocol == 1:
        return ClientInterface(ipv4=device.ipv4, ipv6=device.ipv6, upstream_dns=servers, search_domain=account.search_domain)
    endpoints = [parse_endpoint(address) for address in account.upstream_dns]
    # The newer list has no ports and takes precedence: it must say all or nothing.
    is_plain = all(endpoint.port == client2.DNS_PORT for endpoint in endpoints)
    return client2.ClientInterface(
        ipv4=device.ipv4, ipv6=device.ipv6, upstream_dns=servers, search_domain=account.search_domain,
        upstream_do53=tuple(client2.UpstreamDo53(ip=endpoint.host) for endpoint in endpoints if is_plain),
        upstream_doh=tuple(client2.UpstreamDoh(url=url) for url in account.upstream_doh),
    )  # fmt: skip


def client_init(
    device: Device, account: Account, resources: Iterable[client.Resource], relays: tuple[TurnRelay, ...], dialect: Dialect
) -> client.Init:
    """Returns the `init` of a client."""
    interface = client_interface(device, account, dialect)
    if isinstance(interface, client2.ClientInterface):
        return client2.Init(interface=interface, resources=tuple(resources), relays=relays, flow_logs=NO_FLOW_LOGS)
    return client.Init(interface=interface, resources=tuple(resources), relays=relays)


def config_changed(device: Device, account: Account, dialect: Dialect) -> client.ConfigChanged:
    """Returns a client's new interface configuration."""
    interface = client_interface(device, account, dialect)
    if isinstance(interface, client2.ClientInterface):
        return client2.ConfigChanged(interface=interface)
    return client.ConfigChanged(interface=interface)


def gateway_init(
    device: Device, account: Account, grants: Iterable[Grant], relays: tuple[TurnRelay, ...], dialect: Dialect
) -> gateway.Init:
    """Returns the `init` of a gateway with every grant it shall keep."""
    members: dict[str, Any] = {
        "relays": relays,
        "account_slug": account.slug,
        "interface": Interface(ipv4=device.ipv4, ipv6=device.ipv6),
        "config": gateway.Config(ipv4_masquerade_enabled=True, ipv6_masquerade_enabled=True),
        "authorizations": tuple(
            gateway.Authorization(
                client_id=ClientId(grant.client_id),
                resource_id=grant.resource_id,
                expires_at=FAR_FUTURE if grant.expires_at is None else grant.expires_at,
            )
            for grant in grants
        ),
    }
    return gateway.Init(**members) if dialect.protocol == 1 else gateway2.Init(**members, flow_logs=NO_FLOW_LOGS)


@dataclass(frozen=True, slots=True)
class Flow:
    """One authorisation, for both who are told of it."""

    asker: Device
    served_by: Device
    resource: Resource
    credentials: PairCredentials
    expires_at: UnixSeconds | None
    initiator_token: SecretText
    responder_token: SecretText


def authorize_flow(ref: str, flow: Flow, resource: gateway.Resource, dialect: Dialect) -> gateway.AuthorizeFlow:
    """Returns the order to a gateway to let the asker reach `resource`."""
    asker, credentials = flow.asker, flow.credentials
    members: dict[str, Any] = {
        "ref": ref,
        "resource": resource,
        "client": gateway.Client(
            id=ClientId(asker.id), public_key=asker.public_key, preshared_key=credentials.preshared_key, ipv4=asker.ipv4,
            ipv6=asker.ipv6,
        ),
        "client_ice_credentials": credentials.client_ice,
        "gateway_ice_credentials": credentials.gateway_ice,
        "expires_at": flow.expires_at,
    }  # fmt: skip
    if dialect.protocol == 1:
        return gateway.AuthorizeFlow(**members)
    return gateway2.CreateAuthorization(**members, flow_logs_ingest_token=flow.responder_token)


def flow_created(flow: Flow, dialect: Dialect) -> client.FlowCreated:
    """Returns the news to a client that a gateway lets it reach a resource."""
    served_by, credentials = flow.served_by, flow.credentials
    members: dict[str, Any] = {
        "resource_id": flow.resource.id,
        "gateway_id": GatewayId(served_by.id),
        "site_id": SiteId(served_by.owner_id),
        "gateway_public_key": served_by.public_key,
        "gateway_ipv4": served_by.ipv4,
        "gateway_ipv6": served_by.ipv6,
        "preshared_key": credentials.preshared_key,
        "client_ice_credentials": credentials.client_ice,
        "gateway_ice_credentials": credentials.gateway_ice,
    }
    if dialect.protocol == 1:
        return client.FlowCreated(**members)
    return client2.AuthorizationCreated(**members, flow_logs_ingest_token=flow.initiator_token)


Candidates = (
    client.BroadcastIceCandidates
    | client.BroadcastInvalidatedIceCandidates
    | client2.NewGatewayIceCandidates
    | client2.InvalidateGatewayIceCandidates
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
        case client2.NewGatewayIceCandidates():
            return (message.gateway_id,), gateway.IceCandidates(client_id=ClientId(sender.id), candidates=lines)
        case client2.InvalidateGatewayIceCandidates():
            return (message.gateway_id,), gateway.InvalidateIceCandidates(client_id=ClientId(sender.id), candidates=lines)
        case gateway.BroadcastIceCandidates():
            return message.client_ids, client.IceCandidates(gateway_id=GatewayId(sender.id), candidates=lines)
        case gateway.BroadcastInvalidatedIceCandidates():
            return message.client_ids, client.InvalidateIceCandidates(gateway_id=GatewayId(sender.id), candidates=lines)
