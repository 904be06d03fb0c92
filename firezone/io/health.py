"""The health check: `GET /healthz` is 200 as long as the process runs, `GET /readyz` while the portal is connected."""

from __future__ import annotations

import asyncio
import contextlib
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


class HealthServer:
    """A listener for probes. A port that is taken costs the health check, not the program."""

    def __init__(self, address: tuple[str, int] | None, is_ready: Callable[[], bool]) -> None:
        self._address = address
        self._is_ready = is_ready
        self._server: asyncio.Server | None = None
        self._connections = 0

    async def start(self) -> None:
        if self._address is None:
            return
        try:
            self._server = await asyncio.start_server(self._serve, *self._address, limit=MAX_REQUEST_SIZE)
        except OSError as error:
            log.warning("no health check: the address cannot be bound", address=self._address, error=error.strerror)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= MAX_CONNECTIONS:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(head))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._connections -= 1
            with contextlib.suppress(OSError):
                writer.close()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.split(b" ", 1)[0].split(b"?", 1)[0]
        if path not in (b"/healthz", b"/readyz"):
            status = "404 Not Found"
        elif method not in (b"GET", b"HEAD"):
            status = "405 Method Not Allowed"
        elif path == b"/readyz" and not self._is_ready():
            status = "503 Service Unavailable"
        else:
            status = "200 OK"
        return f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
