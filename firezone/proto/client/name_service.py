"""The name server of this machine's programs: what it answers itself, and which server is asked otherwise.

Questions come to sentinels, addresses that each stand for one server. Answers of those servers are kept until servers or resources
change: a name may be a resource's from then on, or not any more.

Source: client 8, 15.3, 15.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from firezone.proto.dns.cache import AnswerCache
from firezone.proto.dns.servers import SentinelMap
from firezone.proto.dns.stub_resolver import Local, Site, StubResolver, Upstream
from firezone.wire.dns import read_question, servfail

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firezone.base.net import Address, Endpoint
    from firezone.base.timing import Instant
    from firezone.wire.portal.shared import ClientInterface

SITE_DNS_PORT = 53535
"""Where gateways answer questions that only their site can."""


class NameService:
    """Resolver, servers and kept answers."""

    def __init__(self) -> None:
        self.resolver = StubResolver()
        self.search_domain: str | None = None
        self._servers = SentinelMap()
        self._cache = AnswerCache()
        self._system: tuple[str, ...] = ()
        self._is_configured = False
        """The portal has said which servers it wants. Before, sentinels would be handed out only to be replaced."""

    @property
    def sentinels(self) -> tuple[str, ...]:
        """The addresses that programs shall ask, in order."""
        return tuple(str(sentinel) for sentinel in self._servers.sentinels)

    @property
    def is_portal_defined(self) -> bool:
        """Whether servers are the portal's. Only those may be asked through the tunnel: the machine's own are often near it."""
        return self._servers.is_portal_defined

    def set_interface(self, interface: ClientInterface) -> None:
        """Takes what the portal says of servers and the search domain."""
        self.search_domain = interface.search_domain
        is_changed = self._servers.set_portal([server.endpoint for server in interface.plain_servers])
        if not self._is_configured:
            self._is_configured = True
            is_changed = self._servers.set_system(self._system) or is_changed
        if is_changed:
            self._cache.clear()

    def set_system_resolvers(self, addresses: Iterable[str]) -> None:
        """Takes the servers that the machine would ask without us."""
        self._system = tuple(addresses)
        if self._is_configured and self._servers.set_system(self._system):
            self._cache.clear()

    def forget_answers(self) -> None:
        """Resources have changed: what was answered before may be wrong."""
        self._cache.clear()

    def handle_query(self, sentinel: Address, message: bytes, now: Instant) -> Local | Site | Endpoint | None:
        """Decides on a question: an answer, the resource whose site knows, or the server to ask; None for what is no question."""
        question = read_question(message)
        if question is None:
            return None
        if (kept := self._cache.get(question, now)) is not None:
            return Local(kept)
        found = self.resolver.resolve(question)
        if not isinstance(found, Upstream):
            return found
        return self._servers.upstream_of(sentinel) or Local(servfail(message))

    def handle_response(self, message: bytes, answer: bytes, now: Instant) -> None:
        """Takes what a server has answered. Not kept is what would be answered here by now."""
        question = read_question(message)
        if question is not None and self.resolver.leaves(question):
            self._cache.put(question, answer, now)
