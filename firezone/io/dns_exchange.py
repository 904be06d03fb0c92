"""One question to one name server over a socket of its own, with or without the mark that keeps it out of the tunnel.

A socket per question means a port per question, which whoever forges answers has to guess besides the id (RFC 5452). Whoever calls
sets the time limit (`asyncio.timeout`); what goes wrong is an OSError.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING

from firezone.wire.dns import HEADER, is_answer_to, read_question

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firezone.base.net import Endpoint

MAX_UDP_ANSWER = 4096
"""More than any server may send to a question without EDNS or with our 1232."""


async def ask_udp(server: Endpoint, query: bytes, *, mark: int | None) -> bytes:
    """Sends a question and returns the server's answer to it; datagrams that are none are passed over. Raises: OSError."""
    loop = asyncio.get_running_loop()
    with _socket(server, socket.SOCK_DGRAM, mark) as sock:
        await loop.sock_connect(sock, (server.host, server.port))
        await loop.sock_sendall(sock, query)
        while not _is_answer(answer := await loop.sock_recv(sock, MAX_UDP_ANSWER), query):
            pass
        return answer


async def ask_tcp(server: Endpoint, query: bytes, *, mark: int | None) -> bytes:
    """The same over a connection, where what is no answer to the question is an error. Raises: OSError."""
    loop = asyncio.get_running_loop()
    with _socket(server, socket.SOCK_STREAM, mark) as sock:
        await loop.sock_connect(sock, (server.host, server.port))
        await loop.sock_sendall(sock, len(query).to_bytes(2, "big") + query)
        size = int.from_bytes(await _receive(loop, sock, 2), "big")
        answer = await _receive(loop, sock, size)
    if not _is_answer(answer, query):
        raise OSError("The name server answered another question.")
    return answer


def is_without_question(answer: bytes) -> bool:
    """Tells whether a server answers by an error without the question, which it could not read; its id has to do."""
    return answer[4:6] == b"\0\0"


def _is_answer(message: bytes, query: bytes) -> bool:
    if len(message) < HEADER or not message[2] & 0x80 or message[:2] != query[:2]:
        return False
    if is_without_question(message):
        return bool(message[3] & 0x0F)
    question = read_question(query)
    return question is not None and is_answer_to(message, question)


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
