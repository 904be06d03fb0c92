"""A portal scripted by a test, listening inside a namespace while the test's event loop runs outside of it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from firezone.wire.phoenix import encode_frame, encode_reply

if TYPE_CHECKING:
    from websockets.http11 import Request, Response

    from tests.harness.namespaces import Namespace

CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


class ScriptedPortal:
    """Accepts every login, answers joins and heartbeats, pushes `init`, and remembers what it was told."""

    def __init__(self, init: dict[str, Any], status: int = 101) -> None:
        self.init = init
        self.status = status
        """Anything but 101 refuses logins with it."""
        self.logins: list[dict[str, str]] = []
        """Parameters of every login, refused ones too."""
        self.frames: list[dict[str, Any]] = []
        self.port = 0
        self._sockets: list[ServerConnection] = []
        self._server: Server

    async def start(self, namespace: Namespace) -> None:
        sock = socket_in(namespace)
        self.port = sock.getsockname()[1]
        self._server = await serve(
            self._serve, sock=sock, compression=None, ping_interval=None, process_request=self._judge, close_timeout=1
        )

    async def stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def push(self, event: str, payload: dict[str, Any]) -> None:
        """Sends a message to everyone who is connected."""
        for websocket in self._sockets:
            with contextlib.suppress(ConnectionClosed):
                topic = "gateway" if "gateway/websocket" in (websocket.request.path if websocket.request else "") else "client"
                await websocket.send(encode_frame(topic, event, json.dumps(payload).encode(), None))

    def _judge(self, websocket: ServerConnection, request: Request) -> Response | None:
        query = parse_qs(urlsplit(request.path).query)
        self.logins.append({key: values[0] for key, values in query.items()})
        return None if self.status == 101 else websocket.respond(HTTPStatus(self.status), "no\n")

    async def _serve(self, websocket: ServerConnection) -> None:
        self._sockets.append(websocket)
        with contextlib.suppress(ConnectionClosed):
            async for text in websocket:
                frame = json.loads(text)
                self.frames.append(frame)
                if frame["event"] in ("phx_join", "heartbeat"):
                    await websocket.send(encode_reply(frame["topic"], frame["ref"]))
                if frame["event"] == "phx_join":
                    await websocket.send(encode_frame(frame["topic"], "init", json.dumps(self.init).encode(), None))


def socket_in(namespace: Namespace) -> socket.socket:
    """Makes a listening TCP socket on a namespace's loopback: a socket stays where it was made, whoever reads it."""

    def make() -> socket.socket:
        descriptor = os.open(f"/proc/{namespace.pid}/ns/net", os.O_RDONLY)
        try:
            if _LIBC.setns(descriptor, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)
        return socket.create_server(("127.0.0.1", 0))

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()


async def until(condition: Any, timeout_s: float = 10.0) -> None:
    """Waits for a condition."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition has no event of its own
            await asyncio.sleep(0.01)
