"""The portal's host name, found past the tunnel: while the machine asks us, a login must not need what only a login brings.

/etc/hosts first, then all servers of the host's network at once over UDP, and over TCP when none of them had an address for us and
not all of them say that there is no such name. Addresses in the sentinels' ranges are ours and are not asked.

Source: client 15.1.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
import structlog

from firezone.base.net import SENTINEL_V4, SENTINEL_V6, Endpoint
from firezone.io.dns_exchange import ask_tcp, ask_udp
from firezone.io.resolv_conf import DNS_PORT, read_hosts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from firezone.base.net import Address

    Ask = Callable[..., Awaitable[bytes]]
    Hosts = Callable[[], dict[str, tuple[Address, ...]]]

log = structlog.get_logger(__name__)

SERVER_TIMEOUT_S = 2.0
MAX_SERVERS = 10
"""Asked at once, each for both families."""
_KINDS = (dns.rdatatype.A, dns.rdatatype.AAAA)


class PortalNames:
    """Resolves the portal's name."""

    def __init__(
        self, resolvers: Callable[[], Sequence[str]], *, mark: int | None, port: int = DNS_PORT, hosts: Hosts = read_hosts
    ) -> None:
        """`resolvers` tells the servers of the host's network as known at the moment."""
        self._resolvers = resolvers
        self._mark = mark
        self._port = port
        self._hosts = hosts

    async def resolve(self, host: str) -> list[str]:
        """Returns the addresses of a name, and an address as it is. Raises OSError (socket.gaierror) when there are none."""
        name = host.strip("[]").removesuffix(".").lower()
        try:
            return [str(ipaddress.ip_address(name))]
        except ValueError:
            pass
        if listed := self._hosts().get(name):
            return [str(address) for address in listed]
        servers = [Endpoint.from_text(address, self._port) for address in sanitized(self._resolvers())[:MAX_SERVERS]]
        if not servers:
            raise socket.gaierror(socket.EAI_AGAIN, "no name server of the network is known")
        found, is_unknown = await self._ask_all(name, servers, ask_udp)
        if not found and not is_unknown:
            found, is_unknown = await self._ask_all(name, servers, ask_tcp)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME if is_unknown else socket.EAI_AGAIN, "the network's name servers do not tell")
        return found

    async def _ask_all(self, name: str, servers: list[Endpoint], ask: Ask) -> tuple[list[str], bool]:
        """Returns the addresses of all answers, and whether every server says that there is no such name."""
        questions = [(server, kind) for server in servers for kind in _KINDS]
        answers = await asyncio.gather(*(self._ask(name, kind, server, ask) for server, kind in questions))
        found = dict.fromkeys(address for answer in answers if answer is not None for address in addresses(answer))
        return list(found), all(answer is not None and answer.rcode() == dns.rcode.NXDOMAIN for answer in answers)

    async def _ask(self, name: str, kind: dns.rdatatype.RdataType, server: Endpoint, ask: Ask) -> dns.message.Message | None:
        try:
            query = dns.message.make_query(name, kind)
            async with asyncio.timeout(SERVER_TIMEOUT_S):
                return dns.message.from_wire(await ask(server, query.to_wire(), mark=self._mark), ignore_trailing=True)
        except (OSError, TimeoutError, dns.exception.DNSException) as error:
            log.debug("a name server does not answer", server=str(server), error=repr(error))
            return None


def sanitized(resolvers: Iterable[str]) -> list[str]:
    """Returns the servers that are addresses and not our own, in order, each once."""
    found: dict[str, None] = {}
    for text in resolvers:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        if not any(address.version == own.version and address in own for own in (SENTINEL_V4, SENTINEL_V6)):
            found[str(address)] = None
    return list(found)


def addresses(answer: dns.message.Message) -> list[str]:
    """Returns the addresses that an answer holds, aliases followed by the server."""
    return [record.address for rrset in answer.answer if rrset.rdtype in _KINDS for record in rrset]
