"""What the account allows, in a form small enough to be obviously right, and the same as a policy file for the portal."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from firezone.proto.portal.model import token_hash
from tests.harness.roles import uid

USERS = ("alice", "bob")
SITES = ("Office", "Annex", "Exit")
FIRST_RESOURCE = 0x100
FILTERS: dict[str, tuple[str, ...]] = {
    "any": (), "web": ("tcp/443", "udp/443"), "ping": ("icmp",), "low": ("udp/1-1000",), "both": ("tcp/443", "icmp"),
}  # fmt: skip
ZONE: dict[str, tuple[str, ...]] = {
    "app.corp.test": ("10.50.0.1", "fd50::1"),
    "db.corp.test": ("10.50.0.2",),
    "wiki.corp.test": ("fd50::3", "fd50::4"),
    "corp.test": ("10.50.0.4", "10.50.0.5"),
    "a.b.corp.test": ("10.50.0.1",),
    "www.other.test": ("10.50.0.6", "fd50::6"),
}
"""What the sites resolve names to; two names share an address."""


@dataclass(frozen=True)
class Resource:
    """One resource; `address` is a network, a pattern, or "internet"."""

    number: int
    address: str
    sites: tuple[str, ...]
    filters: str = "any"
    stack: str = "dual"

    @property
    def id(self) -> str:
        return uid(FIRST_RESOURCE + self.number)

    @property
    def kind(self) -> str:
        if self.address == "internet":
            return "internet"
        return "cidr" if "/" in self.address else "dns"

    def permits(self, protocol: str, port: int) -> bool:
        """Whether its filters let a packet through: udp or tcp to a port, or icmp."""
        wanted = FILTERS[self.filters]
        for text in wanted:
            kind, _, ports = text.partition("/")
            first, _, last = ports.partition("-")
            if kind == protocol and (kind == "icmp" or int(first) <= port <= int(last or first)):
                return True
        return not wanted

    def covers(self, address: str) -> bool:
        return self.kind == "cidr" and ipaddress.ip_address(address) in ipaddress.ip_network(self.address)

    def names(self, name: str) -> bool:
        """Whether a pattern of the kinds used here matches: a name, `*.` or `**.` before one."""
        if self.kind != "dns":
            return False
        stars, _, rest = self.address.rpartition("*.")
        if not rest or not self.address.startswith("*"):
            return name == self.address
        head = name.removesuffix(rest).removesuffix(".")
        return name.endswith(rest) and (name == rest or (name.endswith("." + rest) and (stars == "*" or "." not in head)))

    @property
    def specificity(self) -> tuple[int, int, str]:
        """The larger the more specific, among patterns of the kinds used here."""
        return (0 if self.address.startswith("**") else 1 if self.address.startswith("*") else 2, self.address.count("."), self.id)

    def allows(self, version: int) -> bool:
        return self.stack in ("dual", f"ipv{version}_only")


POOL = (
    Resource(0, "10.1.0.0/16", ("Office",)),
    Resource(1, "10.1.2.0/24", ("Office",), "web"),
    Resource(2, "10.1.2.0/24", ("Annex",), "ping"),
    Resource(3, "10.1.2.7/32", ("Office", "Annex"), "low"),
    Resource(4, "fd01::/64", ("Annex",)),
    Resource(5, "app.corp.test", ("Office",)),
    Resource(6, "*.corp.test", ("Annex",), "web"),
    Resource(7, "**.corp.test", ("Office",), stack="ipv4_only"),
    Resource(8, "www.other.test", ("Office",), stack="ipv6_only"),
    Resource(9, "internet", ("Exit",)),
)
HOSTS = (
    "10.1.0.9",
    "10.1.2.7",
    "10.1.2.8",
    "10.2.0.1",
    "fd01::9",
    "fd02::1",
    "8.8.8.8",
    "2001:db8::8",
    "100.64.7.7",
    "192.168.3.3",
)
"""Literal addresses that packets are sent to."""


UPSTREAMS: tuple[tuple[str, ...], ...] = ((), ("10.1.2.7",), ("10.1.0.9", "9.9.9.9"))
"""Name servers of the portal: none, inside a resource, and outside as well."""
RESOLVERS: tuple[tuple[str, ...], ...] = (
    ("192.168.1.1",),
    ("192.168.1.1", "10.1.2.7"),
    ("2001:db8::53", "1.1.1.1"),
    (),
    ("100.100.111.1",),
)
"""Name servers of a client's network."""


@dataclass
class Account:
    """Resources, and who may use them."""

    resources: dict[int, Resource] = field(default_factory=dict)
    granted: set[tuple[str, int]] = field(default_factory=set)
    upstream: tuple[str, ...] = ()

    def of(self, user: str) -> list[Resource]:
        return [resource for number, resource in sorted(self.resources.items()) if (user, number) in self.granted]

    def text(self) -> str:
        """Returns the policy file."""
        lines = [f'[account]\nslug = "lab"\nupstream_dns = {list(self.upstream)}']
        lines += [f'[[site]]\nname = "{site}"' for site in SITES]
        lines += [
            f'[[gateway_token]]\nname = "{site}"\nsite = "{site}"\nsha256 = "{token_hash(site + "-token")}"' for site in SITES
        ]
        lines += [f'[[user]]\nname = "{user}"' for user in USERS]
        lines += [f'[[client_token]]\nname = "{user}"\nuser = "{user}"\nsha256 = "{token_hash(user + "-token")}"' for user in USERS]
        lines += [f'[[group]]\nname = "{user}s"\nmembers = ["{user}"]' for user in USERS]
        lines.append(f'[[relay_token]]\nname = "relay"\nsha256 = "{token_hash("relay-token")}"')
        for number, resource in sorted(self.resources.items()):
            address = "internet = true" if resource.kind == "internet" else f'address = "{resource.address}"'
            more = f'ip_stack = "{resource.stack}"' if resource.kind == "dns" else ""
            filters = f"filters = {list(FILTERS[resource.filters])}" if FILTERS[resource.filters] else ""
            sites = f"sites = {list(resource.sites)}"
            lines.append(f'[[resource]]\nname = "r{number}"\nid = "{resource.id}"\n{address}\n{sites}\n{filters}\n{more}')
        lines += [
            f'[[policy]]\ngroup = "{user}s"\nresource = "r{number}"'
            for user, number in sorted(self.granted)
            if number in self.resources
        ]
        return "\n".join(lines)
