"""A listener for probes and small orders: one short request per connection, one short answer, no body read.

Whoever is rude or slow costs one task for a few seconds, never the program.
"""

from __future__ import annotations

import asyncio
import contextlib
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)

REQUEST_TIMEOUT_S = 5.0
"""For the request line and headers; a slow client holds one task, not more."""
MAX_REQUEST_SIZE = 8192
MAX_CONNECTIONS = 32
"""Concurrent requests; more are closed at once."""

Answer = tuple[int, bytes]
"""Status and body."""


class HttpServer:
    """Answers requests by a function of method and target. A port that is taken costs this service, not the program."""

    def __init__(self, address: tuple[str, int] | None, answer: Callable[[str, str], Answer], *, what: str) -> None:
        """`what` names the service in the log; without an address there is none."""
        self._address = address
        self._answer = answer
        self._what = what
        self._server: asyncio.Server | None = None
        self._connections = 0

    async def start(self) -> None:
        """Begins to listen."""
        if self._address is None:
            return
        try:
            self._server = await asyncio.start_server(self._serve, *self._address, limit=MAX_REQUEST_SIZE)
        except OSError as error:
            log.warning(f"no {self._what}: the address cannot be bound", address=self._address, error=error.strerror)

    async def stop(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= MAX_CONNECTIONS:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    writer.write(self._respond(await reader.readuntil(b"\r\n\r\n")))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._connections -= 1
            with contextlib.suppress(OSError):
                writer.close()

    def _respond(self, head: bytes) -> bytes:
        method, _, rest = head.decode("latin-1").partition(" ")
        status, body = self._answer(method, rest.split(" ", 1)[0])
        kind = "Content-Type: application/json\r\n" if body.startswith(b"{") else ""
        lines = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{kind}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        return lines.encode() + (b"" if method == "HEAD" else body)
