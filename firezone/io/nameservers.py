"""The host's name servers and which of them to ask: each is tried once a minute, the fastest of the latest round is chosen.

Source: gateway 11; other than the original's, an old measurement counts for nothing, and a server that answers the probe's question
by an error is better than none: in a site without the Internet nobody knows the original's name.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import dns.exception
import dns.message
import dns.rcode
import structlog

from firezone.io.dns_exchange import ask_tcp, ask_udp
from firezone.io.resolv_conf import read_resolv_conf

if TYPE_CHECKING:
    from collections.abc import Callable

    from firezone.base.net import Endpoint
    from firezone.io.resolv_conf import ResolvConf

log = structlog.get_logger(__name__)

ROUND_INTERVAL_S = 60.0
PROBE_TIMEOUT_S = 2.0
MAX_PROBED = 10
"""Servers of a round, each asked over UDP and over TCP."""
PROBE_NAME = "firezone.dev"


class Nameservers:
    """Keeps `fastest` up to date while it runs."""

    def __init__(self, *, mark: int | None, conf: Callable[[], ResolvConf] = read_resolv_conf) -> None:
        self._mark = mark
        self._conf = conf
        self._task: asyncio.Task[None] | None = None
        self.fastest: Endpoint | None = None
        """The server to ask; None: none has answered in the latest round."""

    def start(self) -> None:
        """Begins a round now, and one every minute from then on; also after a change of the network."""
        self.stop()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def evaluate(self) -> None:
        """Runs one round."""
        servers = self._conf().nameservers[:MAX_PROBED]
        times = await asyncio.gather(*(self._probe(server) for server in servers))
        answered = sorted((time, place) for place, time in enumerate(times) if time is not None)
        fastest = servers[answered[0][1]] if answered else None
        if fastest != self.fastest:
            log.info("name server", chosen=None if fastest is None else str(fastest), of=len(servers))
        self.fastest = fastest

    async def _run(self) -> None:
        while True:
            await self.evaluate()
            await asyncio.sleep(ROUND_INTERVAL_S)

    async def _probe(self, server: Endpoint) -> tuple[bool, float] | None:
        """Returns whether the answer was an error, and the shorter time of both ways; None without an answer."""
        times = [time for time in await asyncio.gather(self._ask(server, ask_udp), self._ask(server, ask_tcp)) if time is not None]
        return min(times, default=None)

    async def _ask(self, server: Endpoint, ask: Callable[..., object]) -> tuple[bool, float] | None:
        loop = asyncio.get_running_loop()
        query = dns.message.make_query(PROBE_NAME, "A")
        before = loop.time()
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                wire: bytes = await ask(server, query.to_wire(), mark=self._mark)  # type: ignore[misc]
            answer = dns.message.from_wire(wire, ignore_trailing=True)
        except (OSError, TimeoutError, dns.exception.DNSException) as error:
            log.debug("a name server does not answer", server=str(server), error=repr(error))
            return None
        return (answer.rcode() != dns.rcode.NOERROR, loop.time() - before) if query.is_response(answer) else None
