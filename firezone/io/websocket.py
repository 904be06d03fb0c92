"""A WebSocket to the portal, opened from outside the tunnel, over `websockets` and asyncio.

Every call resolves the host anew, dials all addresses at once (with a firewall mark so that the tunnel does not swallow them),
does TLS and the upgrade. What the frames mean and when to try again is for the caller.

The library's own logger is silenced: at DEBUG it would print request lines, which hold the token.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException

FIREZONE_MARK = 0xFD002021
"""Firewall mark of traffic that must bypass the tunnel."""
TCP_TIMEOUT_S = 5.0
"""For all addresses together."""
DEAD_AFTER_S = 10.0
"""What the portal's host has not acknowledged for so long ends the connection. Linux would try for a quarter of an hour, and our
heartbeats need 40 s to notice; half would end connections of trains in tunnels."""
CLOSE_TIMEOUT_S = 1.0
"""A clean end waits this long for the portal's Close."""
MAX_MESSAGE_SIZE = 64 << 20
MAX_ERROR_BODY = 4096

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Finds the addresses of a host name. Raises OSError."""

SILENT_LOGGER = logging.Logger("firezone.websocket", logging.CRITICAL + 1)


class UpgradeRejectedError(Exception):
    """An HTTP answer other than 101, with what the caller judges it by."""

    def __init__(self, error: InvalidStatus) -> None:
        answer = error.response
        super().__init__(f"HTTP status {answer.status_code}")
        self.status = answer.status_code
        self.content_type = answer.headers.get("Content-Type", "")
        self.retry_after = answer.headers.get("Retry-After", "")
        self.body = bytes(answer.body or b"")[:MAX_ERROR_BODY].decode("utf-8", "replace")


class WebSocketError(Exception):
    """No WebSocket came to be; the text is for a person and holds no secret."""


async def open_websocket(
    url: str,
    host: str,
    port: int,
    *,
    user_agent: str,
    mark: int | None = None,
    tls: ssl.SSLContext | None = None,
    resolve: Resolve | None = None,
) -> ClientConnection:
    """Opens a WebSocket to `host`:`port`. `url` holds secrets and no port: the Host header goes without one, as the original's.

    `resolve` finds the host's addresses; None leaves that to the system.

    Raises: UpgradeRejectedError, WebSocketError.
    """
    try:
        sock = await _dial(host, port, mark, resolve)
        options: dict[str, Any] = {}
        if url.startswith("wss:"):
            options = {"ssl": tls or ssl.create_default_context(), "server_hostname": host}
        try:
            return await _Connect(
                url, sock=sock, compression=None, user_agent_header=user_agent, open_timeout=None, ping_interval=None,
                close_timeout=CLOSE_TIMEOUT_S, max_size=MAX_MESSAGE_SIZE, logger=SILENT_LOGGER, proxy=None, **options,
            )  # fmt: skip
        except BaseException:
            sock.close()
            raise
    except InvalidStatus as error:
        raise UpgradeRejectedError(error) from None
    except (OSError, WebSocketException, EOFError, ValueError) as error:
        # The cause is cut off: exceptions of the library may quote the URL.
        raise WebSocketError(describe(error)) from None


def describe(error: BaseException) -> str:
    """Returns what a user may read of an error: no URL, since URLs hold the token."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"the portal's certificate is not valid: {error.verify_message}"
        case socket.gaierror():
            return f"the portal's name does not resolve: {error.strerror}"
        case TimeoutError():
            return "the portal did not answer"
        case OSError(strerror=str() as text):
            return f"{text} (errno {error.errno})"
        case OSError():
            return str(error)
        case InvalidHandshake():
            return f"the portal's answer is no WebSocket upgrade ({type(error).__name__})"
    return type(error).__name__


class _Connect(connect):
    """The library's connect without following redirects: another status than 101 is for the caller to judge."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def _dial(host: str, port: int, mark: int | None, resolve: Resolve | None) -> socket.socket:
    """Resolves the host and connects to all its addresses at once; the first success wins."""
    loop = asyncio.get_running_loop()
    hosts = [host] if resolve is None else await resolve(host)
    found = [entry for one in hosts for entry in await loop.getaddrinfo(one, port, type=socket.SOCK_STREAM)]
    addresses = dict.fromkeys((family, address) for family, _, _, _, address in found)
    tasks = [asyncio.create_task(_dial_one(family, address, mark)) for family, address in addresses]
    errors: list[OSError] = []
    winner: socket.socket | None = None
    try:
        async with asyncio.timeout(TCP_TIMEOUT_S):
            for task in asyncio.as_completed(tasks):
                try:
                    winner = await task
                except OSError as error:
                    errors.append(error)
                else:
                    return winner
    finally:
        for straggler in tasks:
            straggler.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, socket.socket) and outcome is not winner:
                outcome.close()
    raise OSError("; ".join(dict.fromkeys(describe(error) for error in errors)) or "the portal's name has no address")


async def _dial_one(family: int, address: tuple[Any, ...], mark: int | None) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(DEAD_AFTER_S * 1000))
        if mark is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("I", mark))
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock
