"""Questions that the client passes on: to servers of the host's network past the tunnel, through the tunnel, and into a resource's
site.

A question stays what it was, bytes and transport. Past the tunnel sockets carry the mark, as all of ours do; through the tunnel
they carry none, so their packets enter it by routing like those of any program. Every question has a socket of its own, also over
TCP: where the original shares a connection and rewrites ids, here nothing can collide.

Source: client 8.8-8.11, 15.4.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from firezone.base.net import Endpoint
from firezone.io.dns_exchange import ask_tcp, ask_udp, is_without_question
from firezone.wire.dns import servfail

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable
    from typing import Any

    from firezone.io.dns_server import Reply

    OnAnswer = Callable[[bytes, bytes], None]
    """Gets a question and the answer a server gave."""

log = structlog.get_logger(__name__)

HOST_TIMEOUT_S = 5.0
TUNNEL_TIMEOUT_S = 10.0
"""Longer: a connection to a gateway may have to be made first."""
MAX_IN_FLIGHT = 1000
"""Sockets open at a time. A question beyond is not answered over UDP, so that its asker tries again, and fails over TCP."""
SITE_PORT = 53535
"""Where gateways answer for names in their site."""


class Upstreams:
    """All questions under way."""

    def __init__(self, *, mark: int | None, on_answer: OnAnswer) -> None:
        self._mark = mark
        self._on_answer = on_answer
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: dict[asyncio.Task[None], Callable[[], None]] = {}
        """Those over a connection through the tunnel, with what tells their askers of a failure."""
        self._sites: dict[Hashable, list[asyncio.Future[Endpoint]]] = {}
        """Who waits for a gateway, by resource and family."""

    def __len__(self) -> int:
        return len(self._tasks)

    def ask_host(self, server: Endpoint, question: bytes, reply: Reply, *, is_tcp: bool) -> None:
        """Asks past the tunnel. A server that says nothing for five seconds leaves a question over UDP without an answer."""
        self._start(self._ask_host(server, question, reply, is_tcp), question, reply, is_tcp=is_tcp)

    def ask_through_tunnel(self, server: Endpoint, question: bytes, reply: Reply, *, is_tcp: bool) -> None:
        """Asks a server behind a gateway; SERVFAIL after ten seconds."""
        task = self._start(self._ask_through_tunnel(server, question, reply, is_tcp), question, reply, is_tcp=is_tcp)
        if task is not None and is_tcp:
            self._streams[task] = lambda: reply(servfail(question))
            task.add_done_callback(lambda task: self._streams.pop(task, None) and None)

    def ask_site(self, resource: Hashable, question: bytes, reply: Reply, *, is_ipv4: bool, is_tcp: bool) -> None:
        """Asks the resource's gateway once it is reached, which `on_site` tells."""
        self._start(self._ask_site((resource, is_ipv4), question, reply, is_tcp), question, reply, is_tcp=is_tcp)

    def on_site(self, resource: Hashable, ipv4: str, ipv6: str) -> None:
        """Lets those ask who wait for the resource's gateway, which has these addresses."""
        for is_ipv4, host in ((True, ipv4), (False, ipv6)):
            for waiter in self._sites.pop((resource, is_ipv4), ()):
                if not waiter.done():
                    waiter.set_result(Endpoint.from_text(host, SITE_PORT))

    def drop_streams(self) -> None:
        """Fails what is under way over connections through the tunnel: by other routes another gateway may carry them, and the
        server would not know them.
        """
        for task, fail in list(self._streams.items()):
            task.cancel()
            fail()

    async def close(self) -> None:
        """Ends all; nobody is answered."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None], question: bytes, reply: Reply, *, is_tcp: bool) -> asyncio.Task[None] | None:
        if len(self._tasks) >= MAX_IN_FLIGHT:
            work.close()
            log.debug("too many questions under way", limit=MAX_IN_FLIGHT)
            if is_tcp:
                reply(servfail(question))
            return None
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _ask_host(self, server: Endpoint, question: bytes, reply: Reply, is_tcp: bool) -> None:
        try:
            async with asyncio.timeout(HOST_TIMEOUT_S):
                answer = await (ask_tcp if is_tcp else ask_udp)(server, question, mark=self._mark)
        except TimeoutError:
            log.debug("a name server does not answer", server=str(server))
            if is_tcp:
                reply(servfail(question))
        except OSError as error:
            self._fail(server, question, reply, error)
        else:
            self._finish(question, answer, reply)

    async def _ask_through_tunnel(self, server: Endpoint, question: bytes, reply: Reply, is_tcp: bool) -> None:
        try:
            async with asyncio.timeout(TUNNEL_TIMEOUT_S):
                answer = await (ask_tcp if is_tcp else ask_udp)(server, question, mark=None)
        except (OSError, TimeoutError) as error:
            self._fail(server, question, reply, error)
        else:
            self._finish(question, answer, reply)

    async def _ask_site(self, key: Hashable, question: bytes, reply: Reply, is_tcp: bool) -> None:
        waiter: asyncio.Future[Endpoint] = asyncio.get_running_loop().create_future()
        self._sites.setdefault(key, []).append(waiter)
        try:
            async with asyncio.timeout(TUNNEL_TIMEOUT_S):
                server = await waiter
                answer = await (ask_tcp if is_tcp else ask_udp)(server, question, mark=None)
        except (OSError, TimeoutError) as error:
            self._fail(None, question, reply, error)
        else:
            self._finish(question, answer, reply)
        finally:
            if waiter in (waiters := self._sites.get(key, [])):
                waiters.remove(waiter)
                if not waiters:
                    del self._sites[key]

    def _finish(self, question: bytes, answer: bytes, reply: Reply) -> None:
        if is_without_question(answer):  # Programs would not read it.
            reply(servfail(question))
            return
        self._on_answer(question, answer)
        reply(answer)

    @staticmethod
    def _fail(server: Endpoint | None, question: bytes, reply: Reply, error: BaseException) -> None:
        log.debug("a question has failed", server=None if server is None else str(server), error=repr(error))
        reply(servfail(question))
