"""Which gateways a client would like best: those it has used, for each resource the one that served it last.

TCP connections of applications survive a change of the network only if the same gateway is chosen again, as gateways keep what
they know of a client for minutes. So what was used is remembered apart from what is connected; a reset does not touch it.

Source: Firezone's client 15.2; its own list lives in the table of connections and dies with them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firezone.base.ids import GatewayId, ResourceId

MAX_GATEWAYS = 100
"""Gateways that are remembered and named. Portals take as many; a request of 100 has 4 KB."""
MAX_RESOURCES = 4096
"""Resources whose last gateway is remembered, resources of long ago among them: 1 MiB at most."""


class GatewayPreference:
    """Gateways by when they were used last."""

    def __init__(self) -> None:
        self._seen: OrderedDict[GatewayId, None] = OrderedDict()
        self._last: OrderedDict[ResourceId, GatewayId] = OrderedDict()

    def note(self, resource: ResourceId, gateway: GatewayId) -> None:
        """Remembers that a gateway serves a resource now."""
        self._seen[gateway] = None
        self._seen.move_to_end(gateway)
        self._last[resource] = gateway
        self._last.move_to_end(resource)
        while len(self._seen) > MAX_GATEWAYS:
            self._seen.popitem(last=False)
        while len(self._last) > MAX_RESOURCES:
            self._last.popitem(last=False)

    def order(self, resource: ResourceId, connected: Iterable[GatewayId]) -> tuple[GatewayId, ...]:
        """Returns all gateways, best first: the last one of the resource, those connected, the rest; equals by id."""
        last, connected = self._last.get(resource), set(connected)
        ordered = sorted(self._seen, key=lambda gateway: (gateway != last, gateway not in connected, gateway))
        return tuple(ordered)
