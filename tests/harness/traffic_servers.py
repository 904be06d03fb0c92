"""What answers in the lab: `python -m tests.harness.traffic_servers PORT ADDRESS...`, datagrams and connections on every address.

A datagram comes back as it is; `who` comes back as the address and port it came from. A connection answers every line with
`OWN_ADDRESS PEER_ADDRESS LINE`; after the line `upload N` it takes that many bytes and then answers with their SHA-256, and
`download N` is answered by that many bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import sys
from typing import Any


class _Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._transport.sendto(f"{addr[0]} {addr[1]}".encode() if data == b"who" else data, addr)


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    own, peer = (writer.get_extra_info(name)[0] for name in ("sockname", "peername"))
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while line := (await reader.readline()).decode().strip():
            what, _, size = line.partition(" ")
            if what == "download":
                writer.write(pattern(int(size)))
                await writer.drain()
                continue
            if what == "upload":
                line = hashlib.sha256(await reader.readexactly(int(size))).hexdigest()
            writer.write(f"{own} {peer} {line}\n".encode())
            await writer.drain()
    writer.close()


def pattern(size: int) -> bytes:
    """Returns bytes that are the same on both sides and do not repeat within a packet."""
    return random.Random(size).randbytes(size)


async def serve(port: int, addresses: list[str]) -> None:
    """Answers until it is ended. Raises OSError."""
    loop = asyncio.get_running_loop()
    for address in addresses:
        await loop.create_datagram_endpoint(_Echo, local_addr=(address, port))
        await asyncio.start_server(_talk, address, port)
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2:]))
