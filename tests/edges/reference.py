"""The reference model: what an administrator configured, who is there, and so what must happen to a packet.

It knows nothing of sessions, candidates, channels or tables. A packet is allowed or not, expected or not; how it gets there is
the business of the code under test. Where two answers are right (two resources with one network, a peer the portal has not heard
of yet) the model says "may", and the world checks what is certain.
"""

from __future__ import annotations

import copy
import ipaddress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from firezone.proto.portal.model import token_hash
from tests.harness.roles import uid

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
TUNNELS = [ipaddress.ip_network(text) for text in ("100.64.0.0/10", "fd00:2021:1111::/48")]
"""Addresses of the tunnel itself, of made-up and of DNS server addresses: nobody's resource."""
FIXED = (
    "100.64.0.0/11", "100.96.0.0/11", "100.100.111.0/24",
    "fd00:2021:1111::/107", "fd00:2021:1111:8000::/107", "fd00:2021:1111:8000:100:100:111:0/120",
)  # fmt: skip
"""What every client routes to its tunnel."""
INTERNET_REFUSES = [
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/4",
        "240.0.0.0/4", "::1/128", "::ffff:0:0/96", "fc00::/7", "fe80::/10", "ff00::/8",
    )
]  # fmt: skip


@dataclass(frozen=True)
class Resource:
    """What the administrator wrote."""

    number: int
    address: str | None
    """A network; None for the Internet."""
    filters: tuple[str, ...] = ()
    sites: tuple[int, ...] = (0,)

    @property
    def network(self) -> Any:
        assert self.address is not None
        return ipaddress.ip_network(self.address)

    def covers(self, address: Address) -> bool:
        if any(address.version == network.version and address in network for network in TUNNELS):
            return False
        if self.address is None:
            return not any(address.version == network.version and address in network for network in INTERNET_REFUSES)
        network = self.network
        return bool(network.version == address.version and address in network)

    def permits(self, kind: str, port: int) -> bool:
        """Whether the filters let a packet through; none at all let everything."""
        if not self.filters:
            return True
        for text in self.filters:
            name, _, ports = text.partition("/")
            low, _, high = ports.partition("-")
            if name == kind and (kind == "icmp" or not ports or int(low) <= port <= int(high or low)):
                return True
        return False


@dataclass
class Choice:
    """What a client does with a packet: whom it may ask for it, if anybody, or whether it refuses it itself."""

    resources: tuple[Resource, ...] = ()
    is_prohibited: bool = False


@dataclass
class Model:
    """Policy, people and their wishes."""

    clients: int
    gateways: tuple[int, ...]
    """Site of each gateway."""
    resources: dict[int, Resource] = field(default_factory=dict)
    granted: set[tuple[int, int]] = field(default_factory=set)
    """(client, resource)."""
    expiring: dict[tuple[int, int], int] = field(default_factory=dict)
    """When a grant ends, in Unix seconds."""
    disabled: dict[int, set[int]] = field(default_factory=dict)
    wants_internet: set[int] = field(default_factory=set)

    def copy(self) -> Model:
        return copy.deepcopy(self)

    # the policy as the portal reads it

    def document(self) -> dict[str, Any]:
        sites = sorted(set(self.gateways))
        names = {number: f"resource {number}" for number in self.resources}
        return {
            "account": {"slug": "world"},
            "site": [{"name": f"site {site}"} for site in sites],
            "gateway_token": [
                {"name": f"gateway {site}", "site": f"site {site}", "sha256": token_hash(f"gateway {site}")} for site in sites
            ],
            "user": [{"name": f"user {client}"} for client in range(self.clients)],
            "client_token": [
                {"name": f"client {client}", "user": f"user {client}", "sha256": token_hash(f"client {client}")}
                for client in range(self.clients)
            ],
            "relay_token": [{"name": "relays", "sha256": token_hash("relay")}],
            "group": [{"name": f"only {client}", "members": [f"user {client}"]} for client in range(self.clients)],
            "resource": [self._row(resource, names[number]) for number, resource in sorted(self.resources.items())],
            "policy": [
                {"group": f"only {client}", "resource": names[number]} | self._expiry(client, number)
                for client, number in sorted(self.granted)
                if number in names
            ],
        }

    def _row(self, resource: Resource, name: str) -> dict[str, Any]:
        kind = {"internet": True} if resource.address is None else {"address": resource.address, "filters": [*resource.filters]}
        return {"name": name, "id": uid(resource.number), "sites": [f"site {site}" for site in resource.sites]} | kind

    def _expiry(self, client: int, number: int) -> dict[str, Any]:
        at = self.expiring.get((client, number))
        return {} if at is None else {"expires": datetime.fromtimestamp(at, UTC)}

    # what follows from it

    def visible(self, client: int) -> list[Resource]:
        return [resource for number, resource in sorted(self.resources.items()) if (client, number) in self.granted]

    def is_on(self, client: int, resource: Resource) -> bool:
        if resource.address is None and client not in self.wants_internet:
            return False
        return resource.number not in self.disabled.get(client, set())

    def enabled(self, client: int) -> list[Resource]:
        return [resource for resource in self.visible(client) if self.is_on(client, resource)]

    def choose(self, client: int, destination: Address, kind: str, port: int) -> Choice:
        """Networks before the Internet; of networks those that permit the packet, then the longest prefix."""
        covering = [r for r in self.enabled(client) if r.address is not None and r.covers(destination)]
        if not covering:
            internet = [r for r in self.enabled(client) if r.address is None and not _is_tunnel(destination)]
            return Choice(tuple(internet))
        permitting = [resource for resource in covering if resource.permits(kind, port)]
        if not permitting:
            return Choice(is_prohibited=True)
        longest = max(resource.network.prefixlen for resource in permitting)
        return Choice(tuple(resource for resource in permitting if resource.network.prefixlen == longest))

    def allows(self, client: int, gateway: int, destination: Address, kind: str, port: int) -> bool:
        """Whether a packet may come out of a gateway.

        A client does not send what is for none of its resources. What their filters forbid it may leave to the gateway, which
        knows policies, and not what a user has switched off since.
        """
        site, choice = self.gateways[gateway], self.choose(client, destination, kind, port)
        return bool(choice.resources or choice.is_prohibited) and any(
            site in resource.sites and resource.covers(destination) and (resource.address is None or resource.permits(kind, port))
            for resource in self.visible(client)
        )

    def routes(self, client: int) -> set[str]:
        """What the client's TUN device attracts."""
        found = {"0.0.0.0/0", "::/0"} if any(r.address is None for r in self.enabled(client)) else set()
        return found | set(FIXED) | {str(r.network) for r in self.enabled(client) if r.address is not None}

    def gateways_of(self, resource: Resource) -> list[int]:
        return [gateway for gateway, site in enumerate(self.gateways) if site in resource.sites]

    def forget_wish(self, client: int, before: Model) -> None:
        """With an Internet resource that is taken away goes the wish to use it."""
        had = any(resource.address is None for resource in before.enabled(client))
        if had and not any(resource.address is None for resource in self.visible(client)):
            self.wants_internet.discard(client)


def _is_tunnel(address: Address) -> bool:
    return any(address.version == network.version and address in network for network in TUNNELS)
