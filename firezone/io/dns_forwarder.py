"""The gateway's DNS server on its tunnel addresses: a plain forwarder for what clients cannot answer themselves (SRV, TXT, ...).

Each question goes to one name server by the way it came, UDP or TCP, and the answer is given back as it is. What cannot be answered
within five seconds is answered with SERVFAIL; what is no question is not answered.

Source: gateway 11, 15.7.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import structlog

from firezone.base.errors import ConfigError
from firezone.io.dns_exchange import ask_tcp, ask_udp, is_without_question
from firezone.wire.dns import fit_datagram, is_question, servfail

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from firezone.base.net import Endpoint

    Ask = Callable[..., Awaitable[bytes]]

log = structlog.get_logger(__name__)

PORT = 53535
"""Clients know it by heart."""
QUESTION_TIMEOUT_S = 5.0
MAX_IN_FLIGHT = 1000
MAX_CONNECTIONS = 256
IDLE_TIMEOUT_S = 120.0
"""A connection that asks nothing for so long is closed."""
MAX_UDP_ANSWER = 1200
BIND_ATTEMPTS, BIND_PAUSE_S = 3, 0.1


class DnsForwarder:
    """Answers on a UDP and a TCP socket per address."""

    def __init__(self, server: Callable[[], Endpoint | None], *, mark: int | None, port: int = PORT) -> None:
        """`server` tells whom to ask at the moment; None: nobody, which is answered with SERVFAIL."""
        self._server = server
        self._mark = mark
        self._port = port
        self._in_flight: set[asyncio.Task[None]] = set()
        self._connections = 0
        self._transports: list[asyncio.DatagramTransport] = []
        self._listeners: list[asyncio.Server] = []

    async def bind(self, addresses: list[str]) -> None:
        """Listens on these addresses and on no others; called again with the same ones, anew.

        Raises: ConfigError when one of them cannot be had, and then none is.
        """
        for attempt in range(1, BIND_ATTEMPTS + 1):
            self.close()
            try:
                for address in addresses:
                    await self._listen(address)
            except OSError as error:
                self.close()
                if attempt == BIND_ATTEMPTS:
                    raise ConfigError(
                        f"The DNS server for clients cannot listen on {', '.join(addresses)}, port {self._port}: {error.strerror}."
                    ) from error
                await asyncio.sleep(BIND_PAUSE_S)
            else:
                return

    def close(self) -> None:
        for transport in self._transports:
            transport.close()
        for listener in self._listeners:
            listener.close()
        self._transports, self._listeners = [], []

    async def _listen(self, address: str) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), local_addr=(address, self._port))
        self._transports.append(transport)
        self._listeners.append(await asyncio.start_server(self._serve, address, self._port))

    def handle_datagram(self, query: bytes, source: Any, transport: asyncio.DatagramTransport) -> None:
        """Takes a datagram; more than a thousand questions at a time are dropped."""
        if len(self._in_flight) < MAX_IN_FLIGHT and is_question(query):
            task = asyncio.get_running_loop().create_task(self._answer_datagram(query, source, transport))
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)

    async def _answer_datagram(self, query: bytes, source: Any, transport: asyncio.DatagramTransport) -> None:
        answer = await self._ask(query, ask_udp)
        if not transport.is_closing():
            transport.sendto(fit_datagram(answer, MAX_UDP_ANSWER), source)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: question by question."""
        self._connections += 1
        try:
            while self._connections <= MAX_CONNECTIONS:
                async with asyncio.timeout(IDLE_TIMEOUT_S):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    query = await reader.readexactly(size)
                if not is_question(query):
                    break
                answer = await self._ask(query, ask_tcp)
                writer.write(len(answer).to_bytes(2, "big") + answer)
                async with asyncio.timeout(IDLE_TIMEOUT_S):
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections -= 1
            with contextlib.suppress(OSError):
                writer.close()

    async def _ask(self, query: bytes, ask: Ask) -> bytes:
        server = self._server()
        if server is None:
            log.warning("no name server is known; clients' questions are answered with SERVFAIL")
            return servfail(query)
        try:
            async with asyncio.timeout(QUESTION_TIMEOUT_S):
                answer = await ask(server, query, mark=self._mark)
        except (OSError, TimeoutError) as error:
            log.debug("a name server does not answer", server=str(server), error=repr(error))
            return servfail(query)
        return servfail(query) if is_without_question(answer) else answer


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, forwarder: DnsForwarder) -> None:
        self._forwarder = forwarder

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._forwarder.handle_datagram(data, addr, self._transport)
