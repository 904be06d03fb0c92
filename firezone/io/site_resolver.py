"""Names as this host sees them, without blocking the loop: hosts file, then the name servers, answers kept for their time to live.

The gateway resolves the names of resources with it. It is a stub: servers are expected to do the recursion.

Source: gateway 7.2, 15.5.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import structlog

from firezone.io.dns_exchange import ask_tcp, ask_udp
from firezone.io.resolv_conf import read_hosts, read_resolv_conf

if TYPE_CHECKING:
    from collections.abc import Callable

    from firezone.base.net import Address, Endpoint
    from firezone.io.resolv_conf import ResolvConf

log = structlog.get_logger(__name__)

LOOKUP_TIMEOUT_S = 10.0
"""For one name over all servers; the machine that asked has given up by then."""
SERVER_TIMEOUT_S = 2.0
CACHED_NAMES = 512
MAX_TTL_S = 3600.0
CONCURRENT_QUESTIONS = 200
"""Sockets open at a time; the usual limit of descriptors is 1024."""
_KINDS = (dns.rdatatype.A, dns.rdatatype.AAAA)

Found = tuple[list["Address"], float]
"""Addresses and for how many seconds they hold."""


class SiteResolver:
    """Resolves names for the gateway. Reads the host's configuration anew for each name that is not known: both files are small."""

    def __init__(
        self,
        *,
        mark: int | None,
        prefer: Callable[[], Endpoint | None] = lambda: None,
        conf: Callable[[], ResolvConf] = read_resolv_conf,
        hosts: Callable[[], dict[str, tuple[Address, ...]]] = read_hosts,
    ) -> None:
        """`prefer` tells the name server to ask first, None for the first of the configuration."""
        self._mark = mark
        self._prefer = prefer
        self._conf = conf
        self._hosts = hosts
        self._known: OrderedDict[str, tuple[float, tuple[Address, ...]]] = OrderedDict()
        self._questions = asyncio.Semaphore(CONCURRENT_QUESTIONS)

    async def resolve(self, domain: str) -> tuple[Address, ...]:
        """Returns the addresses of both families; none when there are none, or nobody answers in time."""
        name = domain.lower().removesuffix(".")
        until, addresses = self._known.get(name, (0.0, ()))
        if time.monotonic() < until:
            return addresses
        if listed := self._hosts().get(name):
            return listed
        conf = self._conf()
        candidates = [name] if "." in name else [*(f"{name}.{domain}" for domain in conf.search), name]
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                for candidate in candidates:
                    found, ttl = await self._look_up(candidate, self._order(conf))
                    if found:
                        self._keep(name, tuple(found), ttl)
                        return tuple(found)
        except TimeoutError:
            log.debug("no name server has answered in time", name=name)
        return ()

    def _order(self, conf: ResolvConf) -> list[Endpoint]:
        preferred = self._prefer()
        return [server for server in dict.fromkeys((preferred, *conf.nameservers)) if server is not None]

    def _keep(self, name: str, addresses: tuple[Address, ...], ttl: float) -> None:
        self._known[name] = time.monotonic() + min(ttl, MAX_TTL_S), addresses
        self._known.move_to_end(name)
        while len(self._known) > CACHED_NAMES:
            self._known.popitem(last=False)

    async def _look_up(self, name: str, servers: list[Endpoint]) -> Found:
        """Asks for both families at once. One may fail: the other's addresses are worth having."""
        answers = await asyncio.gather(*(self._ask_all(name, kind, servers) for kind in _KINDS))
        found = [address for addresses, _ in answers for address in addresses]
        return found, min((ttl for addresses, ttl in answers if addresses), default=0.0)

    async def _ask_all(self, name: str, kind: dns.rdatatype.RdataType, servers: list[Endpoint]) -> Found:
        """Asks one server after the other, and all of them once more, until one gives an answer that counts."""
        try:
            query = dns.message.make_query(name, kind, use_edns=0, payload=1232)
        except dns.exception.DNSException:
            return [], 0.0
        for server in servers * 2:
            try:
                async with self._questions, asyncio.timeout(SERVER_TIMEOUT_S):
                    answer = await self._ask(server, query)
            except (OSError, TimeoutError, dns.exception.DNSException) as error:
                log.debug("a name server does not answer", server=str(server), name=name, error=repr(error))
                continue
            if answer.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                return _addresses(answer, kind)
        return [], 0.0

    async def _ask(self, server: Endpoint, query: dns.message.Message) -> dns.message.Message:
        wire = query.to_wire()
        answer = dns.message.from_wire(await ask_udp(server, wire, mark=self._mark), ignore_trailing=True)
        if answer.flags & dns.flags.TC:
            answer = dns.message.from_wire(await ask_tcp(server, wire, mark=self._mark))
        if not query.is_response(answer):
            raise OSError("An answer to another question.")
        return answer


def _addresses(answer: dns.message.Message, kind: dns.rdatatype.RdataType) -> Found:
    """Returns the addresses of an answer, aliases followed by the server, and the shortest time to live on the way."""
    found = [ipaddress.ip_address(record.address) for rrset in answer.answer if rrset.rdtype == kind for record in rrset]
    return found, float(min((rrset.ttl for rrset in answer.answer), default=0))
