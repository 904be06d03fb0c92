"""The names that one client reaches by proxy IPs, and where each of them leads.

A client invents addresses for a name and tells us; the name is resolved here, in the site, and its addresses are dealt out to the
proxy IPs of their family in numeric order. Proxy IPs belong to a name, several resources may share it. A proxy IP that comes back
under another name means that the client has numbered anew: all that is known is forgotten, or packets would reach wrong hosts.

Source: gateway 7.4, 15.5; Firezone `rust/connlib/tunnel/src/peer.rs`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from itertools import cycle, repeat
from typing import TYPE_CHECKING

from firezone.base.net import PROXY_V4, PROXY_V6, TUNNEL_V4, TUNNEL_V6, Network

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from firezone.base.ids import ResourceId
    from firezone.base.net import Address

MAX_PROXIES_PER_NAME = 8
"""What clients send: four of each family."""
MAX_PROXIES = 16_384
"""Proxy IPs of one client, 2048 names: about 2 MiB in the compiled tables. Beyond that the name used longest ago is forgotten; its
client announces it again when it is asked for."""

_NEVER_REAL: tuple[Network, ...] = (TUNNEL_V4, TUNNEL_V6, PROXY_V4, PROXY_V6)


@dataclass(slots=True)
class Name:
    """One domain."""

    domain: str
    resources: dict[ResourceId, None] = field(default_factory=dict)
    """Those under which it was announced, granted or not."""
    proxies: dict[Address, Network] = field(default_factory=dict)
    """Its proxy IPs, also as host networks."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What an announcement came to."""

    translations: tuple[tuple[Address, Address | None], ...]
    is_known: bool
    """Name, resource and proxy IPs were known: no rule changes."""
    forgotten: tuple[Address, ...]
    """Proxy IPs of names that had to make place, and those that were another name's."""


@dataclass(slots=True)
class Names:
    """All names of one client, the one announced last at the end."""

    _names: dict[str, Name] = field(default_factory=dict)
    _domain_of: dict[Address, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Name]:
        return iter(self._names.values())

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, address: Address) -> bool:
        return address in self._domain_of

    def get(self, domain: str) -> Name | None:
        return self._names.get(domain)

    def of(self, proxy: Address) -> Name | None:
        """Returns the name that a proxy IP stands for."""
        domain = self._domain_of.get(proxy)
        return None if domain is None else self._names[domain]

    def assign(
        self, resource: ResourceId, domain: str, proxies: Iterable[Address], resolved: Iterable[Address], *, most: int | None = None
    ) -> Assignment:
        """Lets the proxy IPs stand for what a domain, in lower case, was resolved to. `most`: MAX_PROXIES unless told."""
        wanted = sorted(set(proxies), key=_order)
        # A client that was started anew numbers its names anew. What else it has announced since stays: it would not know that it
        # has gone. (The original forgets all names of the client here.)
        forgotten = [proxy for proxy in wanted if self._domain_of.get(proxy, domain) != domain]
        for proxy in forgotten:
            self._take(proxy)
        name = self._names.pop(domain, None) or Name(domain)
        is_known = resource in name.resources and all(proxy in name.proxies for proxy in wanted)
        self._names[domain] = name
        name.resources[resource] = None
        for proxy in wanted:
            name.proxies[proxy] = ipaddress.ip_network(proxy)
            self._domain_of[proxy] = domain
        while len(self._domain_of) > (MAX_PROXIES if most is None else most) and len(self._names) > 1:
            oldest = next(iter(self._names.values()))
            forgotten += oldest.proxies
            for proxy in list(oldest.proxies):
                self._take(proxy)
        return Assignment(deal_out(wanted, resolved), is_known, tuple(forgotten))

    def _take(self, proxy: Address) -> None:
        """Takes a proxy IP from its name, which is forgotten with its last one."""
        name = self._names[self._domain_of.pop(proxy)]
        del name.proxies[proxy]
        if not name.proxies:
            del self._names[name.domain]


def deal_out(proxies: Iterable[Address], resolved: Iterable[Address]) -> tuple[tuple[Address, Address | None], ...]:
    """Gives each proxy IP an address of its family, in numeric order and over again; None where the family has none."""
    proxies, real = sorted(set(proxies), key=_order), sorted({ip for ip in resolved if may_be_real(ip)}, key=_order)
    dealt: list[tuple[Address, Address | None]] = []
    for version in (4, 6):
        addresses = [ip for ip in real if ip.version == version]
        dealt.extend(
            zip((p for p in proxies if p.version == version), cycle(addresses) if addresses else repeat(None), strict=False)
        )
    return tuple(dealt)


def read_proxies(texts: Iterable[str]) -> tuple[Address, ...] | None:
    """Reads the proxy IPs of an announcement. None: one is no address, lies outside the ranges, or there are too many or none.

    Without this check whoever may use any name could have any address opened.
    """
    try:
        proxies = tuple(ipaddress.ip_address(text) for text in texts)
    except ValueError:
        return None
    if not 1 <= len(proxies) <= MAX_PROXIES_PER_NAME or not all(is_proxy(ip) for ip in proxies):
        return None
    return proxies


def is_proxy(address: Address) -> bool:
    return address in (PROXY_V4 if address.version == 4 else PROXY_V6)


def may_be_real(address: Address) -> bool:
    """Whether a name may stand for this address: other clients, ourselves and groups are not reached by names either."""
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        return False
    return not any(address in network for network in _NEVER_REAL)


def _order(address: Address) -> tuple[int, int]:
    return address.version, int(address)
