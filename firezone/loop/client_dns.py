"""Names at the client: the servers on the sentinels, the state that decides, and the questions that are passed on."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import resource
from typing import TYPE_CHECKING, Protocol, assert_never

import structlog

from firezone.base.errors import ConfigError
from firezone.io.dns_query import Upstreams
from firezone.io.dns_server import DnsServer
from firezone.proto.client.dns_outcomes import DnsAnswer, DnsForward, DnsInSite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from firezone.base.net import Address
    from firezone.base.timing import Instant
    from firezone.io.dns_server import Reply
    from firezone.proto.client.dns_outcomes import DnsOutcome, SiteReachable

    class Names(Protocol):
        """The part of the client's state that knows of names."""

        def handle_dns_query(self, sentinel: Address, message: bytes, now: Instant) -> DnsOutcome | None: ...
        def handle_dns_response(self, question: bytes, answer: bytes, now: Instant) -> None: ...


log = structlog.get_logger(__name__)

WANTED_DESCRIPTORS = 4096
"""For a socket per question under way and per connection of the sentinels; many hosts grant 1024 unasked."""


class ClientDns:
    """Answers the questions of this host's programs."""

    def __init__(self, state: Names, *, mark: int | None, clock: Callable[[], Instant], touch: Callable[[], None]) -> None:
        """`touch` is called, once per pass of the loop, after questions have changed the state."""
        self._state = state
        self._clock = clock
        self._touch = touch
        self._is_touch_queued = False
        self._upstreams = Upstreams(mark=mark, on_answer=self._on_answer)
        self._server = DnsServer(self.handle)

    async def start(self) -> None:
        """Removes what a killed client left, and makes room for sockets."""
        await asyncio.to_thread(self._server.recover)
        _raise_descriptor_limit()

    async def listen(self, sentinels: Iterable[str]) -> tuple[str, ...]:
        """Serves exactly these and returns those that can be: none, and the machine's DNS is best left alone, when port 53 cannot
        be had.

        Resources are then reached by address only, which is better than not at all.
        """
        try:
            return await self._server.listen(sentinels)
        except ConfigError as error:
            log.warning("names of resources do not resolve", error=str(error))
            await self._server.close()
            return ()

    def drop_connections(self) -> None:
        """Comes with every configuration of the tunnel, whose routes may lead elsewhere than what is under way."""
        self._upstreams.drop_streams()

    async def close(self) -> None:
        await self._server.close()
        await self._upstreams.close()

    def on_site(self, event: SiteReachable) -> None:
        """Lets questions go that waited for a resource's gateway."""
        self._upstreams.on_site(event.resource, str(event.ipv4), str(event.ipv6))

    def handle(self, sentinel: str, question: bytes, is_tcp: bool, reply: Reply) -> bool:
        """Answers a question or passes it on. Returns False for what is no question."""
        outcome = self._state.handle_dns_query(ipaddress.ip_address(sentinel), question, self._clock())
        self._touch_soon()
        match outcome:
            case None:
                return False
            case DnsAnswer(message):
                reply(message)
            case DnsForward(server, True):
                self._upstreams.ask_through_tunnel(server, question, reply, is_tcp=is_tcp)
            case DnsForward(server):
                self._upstreams.ask_host(server, question, reply, is_tcp=is_tcp)
            case DnsInSite(site, server):
                if server is None:
                    self._upstreams.ask_site(site, question, reply, is_ipv4=":" not in sentinel, is_tcp=is_tcp)
                else:
                    self._upstreams.ask_through_tunnel(server, question, reply, is_tcp=is_tcp)
            case _:
                assert_never(outcome)
        return True

    def _on_answer(self, question: bytes, answer: bytes) -> None:
        self._state.handle_dns_response(question, answer, self._clock())

    def _touch_soon(self) -> None:
        if not self._is_touch_queued:
            self._is_touch_queued = True
            asyncio.get_running_loop().call_soon(self._touch_now)

    def _touch_now(self) -> None:
        self._is_touch_queued = False
        self._touch()


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(WANTED_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
