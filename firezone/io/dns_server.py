"""The client's name servers: UDP and TCP on port 53 of the sentinel addresses, which the tunnel's device has.

What a question means is not known here: each goes to a handler with a way to reply, once, now or later. The kernel's own sockets
serve, so a question never is a packet of the tunnel. Answers over UDP are cut to what fits a packet of the tunnel with room to
spare.

Where another program holds port 53 of all addresses, any port of the sentinel is taken and the firewall leads questions there.

Source: client 8.2, 8.3; RFC 7766 for connections. The original serves ten connections per sentinel with no limit in time and takes
a half-closed connection for closed; here ones that idle make room, and an application that half-closes gets its answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Any

import structlog

from firezone.base.errors import ConfigError
from firezone.io.dns_redirect import DNS_PORT, clear_redirects, set_redirects
from firezone.wire.dns import fit_datagram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from firezone.io.dns_redirect import Redirect

    Reply = Callable[[bytes], None]
    Handler = Callable[[str, bytes, bool, Reply], bool]
    """Takes the sentinel, the question, whether it came over TCP, and whom to give the answer. Returns whether it was one."""

log = structlog.get_logger(__name__)

MAX_MESSAGE = 65_535
UDP_BATCH = 16
"""Questions taken per wake-up: at a tenth of a millisecond each, packets of the tunnel wait less than two."""
MAX_CONNECTIONS = 64
"""Per sentinel. A browser opens a handful, systemd-resolved one."""
MAX_PIPELINED = 16
"""Questions of one connection at work; more wait in the kernel. Answers may come in another order (RFC 7766 6.2.1.1)."""
IDLE_TIMEOUT_S = 15.0
"""A connection without a whole question for so long, or whose reader takes nothing, is ended (RFC 7766 6.2.3: some seconds)."""
UNSENT_BYTES = 65_537
"""Answers that wait for a slow reader before no more of its questions are read: one of the longest.

Worst case per sentinel: 64 connections × (16 + 1 answers of 64 KiB + what the event loop reads ahead, 256 KiB) = 84 MiB, which
takes a program on this very host that asks for the longest answers there are and reads none of them.
"""
_BACKLOG = 64
_GONE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


class DnsServer:
    """The sockets of all sentinels."""

    def __init__(self, handle: Handler, *, port: int = DNS_PORT) -> None:
        self._handle = handle
        self._port = port
        self._sentinels: dict[str, _Sentinel] = {}
        self._redirects: list[Redirect] = []

    def recover(self) -> None:
        """Removes what a killed client left in the firewall. Blocks."""
        clear_redirects()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens."""
        return tuple(self._sentinels)

    async def listen(self, addresses: Iterable[str]) -> tuple[str, ...]:
        """Listens on exactly these; those that stay are not touched. Returns where it does: a host without IPv6 has fewer.

        Raises: ConfigError when port 53 is another program's and cannot be led around it.
        """
        wanted = list(addresses)
        for address in [address for address in self._sentinels if address not in wanted]:
            self._sentinels.pop(address).close()
        for address in wanted:
            if address not in self._sentinels:
                await self._open(address)
        await self._redirect()
        return tuple(address for address in wanted if address in self._sentinels)

    async def close(self) -> None:
        """Ends everything. What was being answered is not."""
        for sentinel in self._sentinels.values():
            sentinel.close()
        self._sentinels = {}
        with contextlib.suppress(ConfigError):
            await self._redirect()

    async def _open(self, address: str) -> None:
        sentinel = _Sentinel(address, self._handle)
        try:
            await sentinel.open(self._port)
        except OSError as error:
            sentinel.close()
            if error.errno not in _GONE:
                raise ConfigError(f"The name server for programs cannot listen on {address}: {error.strerror}.") from error
            log.warning("a name server's address cannot be had", address=address, error=error.strerror)
        else:
            self._sentinels[address] = sentinel

    async def _redirect(self) -> None:
        redirects = [redirect for sentinel in self._sentinels.values() for redirect in sentinel.redirects(self._port)]
        if redirects == self._redirects:
            return
        await asyncio.to_thread(set_redirects, redirects)
        if redirects and not self._redirects:
            log.info("another program listens on port 53 of all addresses; the firewall leads questions around it")
        self._redirects = redirects


class _Sentinel:
    """The two sockets of one address, and its connections."""

    def __init__(self, address: str, handle: Handler) -> None:
        self.address = address
        self.handle = handle
        self.connections: dict[_Connection, None] = {}
        """In the order of their latest use."""
        self._udp: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._ports: dict[str, int] = {}
        self._buffer = memoryview(bytearray(MAX_MESSAGE))

    async def open(self, port: int) -> None:
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        self._udp = self._bind(socket.SOCK_DGRAM, port)
        loop.add_reader(self._udp.fileno(), self._on_datagrams)
        listener = self._bind(socket.SOCK_STREAM, port)
        self._server = await loop.create_server(lambda: _Connection(self), sock=listener, backlog=_BACKLOG)

    def close(self) -> None:
        if self._udp is not None:
            asyncio.get_running_loop().remove_reader(self._udp.fileno())
            self._udp.close()
            self._udp = None
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.connections):
            connection.abort()

    def redirects(self, port: int) -> list[Redirect]:
        return [(self.address, kind, taken) for kind, taken in self._ports.items() if taken != port]

    def _bind(self, kind: socket.SocketKind, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        sock = socket.socket(family, kind)
        try:
            sock.setblocking(False)
            if kind == socket.SOCK_STREAM:
                # Connections that have just ended must not keep the next client from listening.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((self.address, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                sock.bind((self.address, 0))
        except BaseException:
            sock.close()
            raise
        self._ports["tcp" if kind == socket.SOCK_STREAM else "udp"] = sock.getsockname()[1]
        return sock

    def _on_datagrams(self) -> None:
        udp = self._udp
        for _ in range(UDP_BATCH):
            if udp is None:
                return
            try:
                size, source = udp.recvfrom_into(self._buffer)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                log.debug("a question could not be read", error=error.strerror)
                continue
            self.handle(self.address, bytes(self._buffer[:size]), False, _Datagram(udp, source))
            udp = self._udp


class _Datagram:
    """The way back of one question over UDP."""

    __slots__ = ("_source", "_udp")

    def __init__(self, udp: socket.socket, source: object) -> None:
        self._udp = udp
        self._source = source

    def __call__(self, answer: bytes) -> None:
        # A full buffer, or the socket of a sentinel that is no more: UDP may lose what it carries.
        with contextlib.suppress(OSError):
            self._udp.sendto(fit_datagram(answer), self._source)  # type: ignore[call-overload]


class _Connection(asyncio.Protocol):
    """One connection: messages with their length in front, several at a time, answered in the order they are ready."""

    def __init__(self, sentinel: _Sentinel) -> None:
        self._sentinel = sentinel
        self._received = bytearray()
        self._at_work = 0
        self._is_ended = False
        """The application sends no more."""
        self._is_slow = False
        """The application does not read."""
        self._is_paused = False
        self._is_taking = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport  # Not an instance of it with uvloop.
        transport.set_write_buffer_limits(high=UNSENT_BYTES)
        connections = self._sentinel.connections
        if len(connections) >= MAX_CONNECTIONS:
            idle = next((one for one in connections if one.is_idle), None)
            if idle is None:
                transport.abort()
                return
            idle.abort()
        connections[self] = None
        self._watch()

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._sentinel.connections:
            if self._timer is not None:
                self._timer.cancel()
            del self._sentinel.connections[self]

    @property
    def is_idle(self) -> bool:
        return not self._at_work

    def abort(self) -> None:
        self._transport.abort()
        self.connection_lost(None)

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._take()

    def eof_received(self) -> bool:
        """Keeps the way back open while answers are owed."""
        self._is_ended = True
        self._take()
        return not self._transport.is_closing()

    def pause_writing(self) -> None:
        self._is_slow = True
        self._pace()

    def resume_writing(self) -> None:
        self._is_slow = False
        self._take()

    def _take(self) -> None:
        """Hands over the questions that are complete, as far as they may be worked on."""
        if self._is_taking:  # Called by an answer given at once.
            return
        self._is_taking = True
        received = self._received
        while len(received) >= 2 and self._at_work < MAX_PIPELINED and not self._is_slow:
            end = 2 + int.from_bytes(received[:2], "big")
            if len(received) < end:
                break
            question = bytes(received[2:end])
            del received[:end]
            self._at_work += 1
            self._watch()
            if not self._sentinel.handle(self._sentinel.address, question, True, _OneAnswer(self)):
                self.abort()
                received.clear()
        self._is_taking = False
        self._pace()
        if self._is_ended and not self._at_work and not self._is_slow and not self._transport.is_closing():
            self._transport.close()  # What is left is half a question.

    def answer(self, message: bytes) -> None:
        self._at_work -= 1
        if self._transport.is_closing():
            return
        self._watch()
        self._transport.write(len(message).to_bytes(2, "big") + message)
        self._take()

    def _pace(self) -> None:
        """Reads only while what is read can be worked on."""
        wants_pause = not self._is_ended and not self._transport.is_closing() and (self._is_slow or self._at_work >= MAX_PIPELINED)
        if wants_pause and not self._is_paused:
            self._transport.pause_reading()
        elif self._is_paused and not wants_pause and not self._transport.is_closing():
            self._transport.resume_reading()
        self._is_paused = wants_pause

    def _watch(self) -> None:
        """Gives it time until the next whole question, and a place behind all others in the order of use."""
        connections = self._sentinel.connections
        if self not in connections:
            return
        if self._timer is not None:
            self._timer.cancel()
        connections[self] = connections.pop(self)
        self._timer = asyncio.get_running_loop().call_later(IDLE_TIMEOUT_S, self._on_idle)

    def _on_idle(self) -> None:
        if self._at_work and not self._is_slow:  # Whoever answers has limits of its own.
            self._watch()
        else:
            self.abort()


class _OneAnswer:
    """The way back of one question over TCP; what comes after the first answer, or after the end, is dropped."""

    __slots__ = ("_connection",)

    def __init__(self, connection: _Connection) -> None:
        self._connection: _Connection | None = connection

    def __call__(self, message: bytes) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.answer(message)
