"""Name servers behind the sentinels: which are asked, and which sentinel stands for which.

Servers that the portal names come before the machine's own; of either, those that are sentinels themselves are left out. A set of
servers that differs gets other sentinels than the set before: caches and sockets of programs cannot take one for the other.

Source: client 8.1, 15.4.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import structlog

from firezone.base.net import SENTINEL_V4, SENTINEL_V6, Address, Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

log = structlog.get_logger(__name__)

DNS_PORT = 53
MAX_SERVERS = 64
"""Of them, in order, each gets a sentinel: two generations fit the ranges, and a machine asks three."""


class SentinelMap:
    """Sentinels and the servers they stand for, both in order."""

    def __init__(self) -> None:
        self._servers: dict[Address, Endpoint] = {}
        self._system: tuple[Endpoint, ...] = ()
        self._portal: tuple[Endpoint, ...] = ()
        self._former: dict[Address, Endpoint] = {}
        """The latest sentinels, also while there are none."""

    @property
    def sentinels(self) -> tuple[Address, ...]:
        """The addresses that programs ask."""
        return tuple(self._servers)

    @property
    def is_portal_defined(self) -> bool:
        """Whether the portal names servers. Only those may be asked through the tunnel: the machine's own are often near it."""
        return bool(self._portal)

    def upstream_of(self, sentinel: Address) -> Endpoint | None:
        """Returns the server that a sentinel stands for; None for an address that stands for none."""
        return self._servers.get(sentinel)

    def set_system(self, addresses: Iterable[str]) -> bool:
        """Takes the machine's own servers; our sentinels and link-local ones are left out. True: sentinels changed."""
        self._system = tuple(_endpoints(addresses))
        return self._assign()

    def set_portal(self, servers: Iterable[Endpoint]) -> bool:
        """Takes the portal's servers. True: sentinels changed."""
        self._portal = tuple(servers)
        return self._assign()

    def _assign(self) -> bool:
        wanted = _usable(self._portal) or _usable(self._system)
        if set(wanted) == set(self._servers.values()):
            return False
        free = {4: _free(SENTINEL_V4.hosts(), self._former), 6: _free(iter(SENTINEL_V6), self._former)}
        self._servers = {next(free[4 if server.is_ipv4 else 6]): server for server in wanted}
        self._former = self._servers or self._former
        if not self._servers:
            log.warning("no name server is known: names cannot be resolved, nor resources that have names be reached")
        return True


def _usable(servers: tuple[Endpoint, ...]) -> list[Endpoint]:
    return [server for server in dict.fromkeys(servers) if not _is_sentinel(ipaddress.ip_address(server.ip))][:MAX_SERVERS]


def _free(range_: Iterator[Address], taken: dict[Address, Endpoint]) -> Iterator[Address]:
    return (address for address in range_ if address not in taken)


def _endpoints(addresses: Iterable[str]) -> Iterator[Endpoint]:
    for text in addresses:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            log.warning("not the address of a name server", address=text)
            continue
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
            log.debug("a name server that depends on a link is left out", address=text)
            continue
        yield Endpoint(address.packed, DNS_PORT)


def _is_sentinel(address: Address) -> bool:
    return address in (SENTINEL_V4 if address.version == 4 else SENTINEL_V6)
