"""The gateways a client has connections with, and which of them serves each resource."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from firezone.proto.client.preference import GatewayPreference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firezone.base.ids import ConnectionId, GatewayId, ResourceId, SiteId
    from firezone.base.net import Address, Network
    from firezone.wire.portal import client as wire


@dataclass(slots=True)
class GatewayOnClient:
    """What the client knows of a gateway it has a connection with."""

    id: GatewayId
    site: SiteId
    ipv4: ipaddress.IPv4Address
    ipv6: ipaddress.IPv6Address
    resources: dict[ResourceId, None] = field(default_factory=dict)
    """Resources it was authorised for; without any the connection is closed."""

    @property
    def networks(self) -> tuple[Network, Network]:
        """Its tunnel addresses as host networks."""
        return ipaddress.ip_network(self.ipv4), ipaddress.ip_network(self.ipv6)


class Gateways:
    """All of them, by connection, by resource and by tunnel address."""

    def __init__(self) -> None:
        self.preference = GatewayPreference()
        self._gateways: dict[ConnectionId, GatewayOnClient] = {}
        self._serving: dict[ResourceId, ConnectionId] = {}

    def __len__(self) -> int:
        return len(self._gateways)

    def __iter__(self) -> Iterator[ConnectionId]:
        return iter(self._gateways)

    def get(self, cid: ConnectionId) -> GatewayOnClient | None:
        """Returns the gateway of a connection."""
        return self._gateways.get(cid)

    def items(self) -> list[tuple[ConnectionId, GatewayOnClient]]:
        """Returns all as they are now."""
        return list(self._gateways.items())

    def of(self, resource: ResourceId) -> ConnectionId | None:
        """Returns the connection that a resource is authorised on."""
        return self._serving.get(resource)

    def at(self, address: Address) -> ConnectionId | None:
        """Returns the connection of the gateway with this tunnel address; resources play no part in it."""
        return next((cid for cid, gateway in self._gateways.items() if address in (gateway.ipv4, gateway.ipv6)), None)

    def preferred(self, resource: ResourceId) -> tuple[GatewayId, ...]:
        """Returns the gateways to ask for, best first."""
        return self.preference.order(resource, (gateway.id for gateway in self._gateways.values()))

    def assign(self, flow: wire.FlowCreated, cid: ConnectionId) -> None:
        """Notes that a connection serves a resource from now on; the caller has released it elsewhere."""
        gateway = self._gateways.get(cid)
        if gateway is None:
            gateway = GatewayOnClient(flow.gateway_id, flow.site_id, flow.gateway_ipv4, flow.gateway_ipv6)
            self._gateways[cid] = gateway
        gateway.ipv4, gateway.ipv6, gateway.site = flow.gateway_ipv4, flow.gateway_ipv6, flow.site_id
        gateway.resources[flow.resource_id] = None
        self._serving[flow.resource_id] = cid
        self.preference.note(flow.resource_id, flow.gateway_id)

    def release(self, resource: ResourceId) -> ConnectionId | None:
        """Takes a resource from the gateway that serves it. Returns the connection if it is of no use any more."""
        cid = self._serving.pop(resource, None)
        gateway = self._gateways.get(cid) if cid is not None else None
        if gateway is None:
            return None
        gateway.resources.pop(resource, None)
        return None if gateway.resources else cid

    def forget_authorizations(self, cid: ConnectionId) -> None:
        """Forgets what a gateway granted, but not the gateway."""
        self._serving = {resource: at for resource, at in self._serving.items() if at != cid}
        if (gateway := self._gateways.get(cid)) is not None:
            gateway.resources.clear()

    def remove(self, cid: ConnectionId) -> GatewayOnClient | None:
        """Forgets a gateway whose connection is gone."""
        self._serving = {resource: at for resource, at in self._serving.items() if at != cid}
        return self._gateways.pop(cid, None)
