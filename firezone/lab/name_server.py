"""A small name server for the lab: `python -m firezone.lab.name_server ADDRESS[,ADDRESS...] ZONE_FILE`.

The file has a record per line, `NAME TYPE VALUE`, and is read again whenever it has changed; `*.NAME` stands for every name below
that has no record of its own. Other names do not exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

if TYPE_CHECKING:
    import dns.name

PORT = 53
TTL_S = 5
MAX_UDP_ANSWER = 1232


class Zone:
    """The records of a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at = -1
        self._records: dict[tuple[str, str], list[str]] = {}

    def answer(self, wire: bytes, max_size: int) -> bytes | None:
        """Answers a question; None for what is none."""
        try:
            query = dns.message.from_wire(wire)
            question = query.question[0]
        except (dns.exception.DNSException, IndexError):
            return None
        response = dns.message.make_response(query)
        name = self._existing(str(question.name).rstrip(".").lower())
        if name is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif values := self._records.get((name, dns.rdatatype.to_text(question.rdtype))):
            response.answer.append(dns.rrset.from_text(question.name, TTL_S, "IN", question.rdtype, *values))
        try:
            return response.to_wire(max_size=max_size)
        except dns.exception.TooBig:
            return _cut(query)

    def _existing(self, name: str) -> str | None:
        self._refresh()
        names = {known for known, _ in self._records}
        labels = name.split(".")
        candidates = [name, *(".".join(["*", *labels[depth:]]) for depth in range(1, len(labels)))]
        return next((candidate for candidate in candidates if candidate in names), None)

    def _refresh(self) -> None:
        changed = self._path.stat().st_mtime_ns
        if changed == self._read_at:
            return
        self._read_at = changed
        self._records = {}
        for line in self._path.read_text().splitlines():
            if line.strip():
                name, kind, value = line.split(None, 2)
                self._records.setdefault((name.lower(), kind), []).append(value)


def _cut(query: dns.message.Message) -> bytes:
    response = dns.message.make_response(query)
    response.flags |= dns.flags.TC
    return response.to_wire()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self._zone = zone

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if (answer := self._zone.answer(data, MAX_UDP_ANSWER)) is not None:
            self._transport.sendto(answer, addr)


async def serve(addresses: list[str], path: Path) -> None:
    """Answers over UDP and TCP until it is cancelled. Raises OSError."""
    zone = Zone(path)

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while (answer := zone.answer(await _read(reader), 65_535)) is not None:
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        writer.close()

    loop = asyncio.get_running_loop()
    for address in addresses:
        await loop.create_datagram_endpoint(lambda: _Datagrams(zone), local_addr=(address, PORT))
        await asyncio.start_server(connection, address, PORT)
    print(f"listening on {', '.join(addresses)}, port {PORT}", flush=True)
    await asyncio.Event().wait()


async def _read(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1].split(","), Path(sys.argv[2])))
