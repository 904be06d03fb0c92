"""One question to one name server over sockets of its own, marked so that it stays out of the tunnel.

Whoever calls sets the time limit (`asyncio.timeout`); what goes wrong is an OSError.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firezone.base.net import Endpoint

MAX_UDP_ANSWER = 4096
"""More than any server may send to a question without EDNS or with our 1232."""


async def ask_udp(server: Endpoint, query: bytes, *, mark: int | None) -> bytes:
    """Sends a question and returns the first datagram that the server answers with. Raises: OSError."""
    loop = asyncio.get_running_loop()
    with _socket(server, socket.SOCK_DGRAM, mark) as sock:
        await loop.sock_connect(sock, (server.host, server.port))
        await loop.sock_sendall(sock, query)
        return await loop.sock_recv(sock, MAX_UDP_ANSWER)


async def ask_tcp(server: Endpoint, query: bytes, *, mark: int | None) -> bytes:
    """The same over a connection. Raises: OSError."""
    loop = asyncio.get_running_loop()
    with _socket(server, socket.SOCK_STREAM, mark) as sock:
        await loop.sock_connect(sock, (server.host, server.port))
        await loop.sock_sendall(sock, len(query).to_bytes(2, "big") + query)
        size = int.from_bytes(await _receive(loop, sock, 2), "big")
        return await _receive(loop, sock, size)


@contextlib.contextmanager
def _socket(server: Endpoint, kind: socket.SocketKind, mark: int | None) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET if server.is_ipv4 else socket.AF_INET6, kind) as sock:
        sock.setblocking(False)
        if mark is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("I", mark))
        yield sock


async def _receive(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await loop.sock_recv(sock, size - len(data))
        if not piece:
            raise ConnectionResetError("The name server closed the connection.")
        data += piece
    return data
