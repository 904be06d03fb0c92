"""A name server with a small zone, on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from firezone.base.net import Endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class NameServer(asyncio.DatagramProtocol):
    """A name server with a small zone, on one port for UDP and TCP."""

    def __init__(self) -> None:
        self.zone: dict[tuple[str, str], list[str]] = {}
        self.ttl = 60
        self.asked: list[tuple[str, str, str]] = []
        self.is_silent = False
        self.rcode = dns.rcode.NOERROR
        self.delay = 0.0
        self.cuts_udp = False
        self.strays: list[bytes] = []
        """Datagrams sent before the answer."""

    async def start(self) -> None:
        self.tcp = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.endpoint = Endpoint.from_text("127.0.0.1", self.tcp.sockets[0].getsockname()[1])
        loop = asyncio.get_running_loop()
        self.udp, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", self.endpoint.port))

    def stop(self) -> None:
        self.tcp.close()
        self.udp.close()

    def answer(self, wire: bytes, way: str) -> bytes:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, kind = str(question.name).rstrip("."), question.rdtype.name
        self.asked.append((way, name, kind))
        response = dns.message.make_response(query)
        response.set_rcode(self.rcode)
        if way == "udp" and self.cuts_udp:
            response.flags |= dns.flags.TC
        elif (name, "CNAME") in self.zone and kind in ("A", "AAAA"):
            (target,) = self.zone[name, "CNAME"]
            response.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", "CNAME", target))
            if (target.rstrip("."), kind) in self.zone:
                response.answer.append(dns.rrset.from_text(target, self.ttl, "IN", kind, *self.zone[target.rstrip("."), kind]))
        elif (name, kind) in self.zone:
            response.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", kind, *self.zone[name, kind]))
        elif not any(known == name for known, _ in self.zone) and self.rcode == dns.rcode.NOERROR:
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response.to_wire(max_size=65535)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        for stray in self.strays:
            self.transport.sendto(stray, addr)
        if not self.is_silent:
            answer = self.answer(data, "udp")
            asyncio.get_running_loop().call_later(self.delay, self.transport.sendto, answer, addr)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                data = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                if not self.is_silent:
                    answer = self.answer(data, "tcp")
                    await asyncio.sleep(self.delay)
                    writer.write(len(answer).to_bytes(2, "big") + answer)
        writer.close()


@contextlib.asynccontextmanager
async def servers(count: int = 1) -> AsyncIterator[list[NameServer]]:
    made = [NameServer() for _ in range(count)]
    for server in made:
        await server.start()
    try:
        yield made
    finally:
        for server in made:
            server.stop()
