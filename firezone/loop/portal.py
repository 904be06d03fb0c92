"""The portal as a server: WebSockets on one side, the pure `PortalService` on the other, a policy file that is watched.

The service is called from one asyncio loop only and its outputs are carried out in order: what it says is what devices hear.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl
from weakref import WeakKeyDictionary

import structlog
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from firezone.base.errors import ConfigError
from firezone.base.rng import Rng
from firezone.base.timing import SECOND, Instant, UnixTime
from firezone.io.websocket import SILENT_LOGGER
from firezone.loop.portal_control import Answer, ControlSocket, administer
from firezone.loop.portal_policy import PolicyFile
from firezone.loop.portal_store import SqliteStore
from firezone.proto.portal.login import Login, LoginRejected, RelayLogin, Upgrade
from firezone.proto.portal.outputs import Close, Notice, Send
from firezone.proto.portal.service import PortalService

MAX_MESSAGE_SIZE = 2 << 20
"""Devices send candidates and little else; the original allows more than this, no device needs 1 MiB."""
MAX_QUEUED_FRAMES = 1024
"""Frames waiting for one device that does not read; then it is cut off and comes back for a fresh `init`."""
WATCH_INTERVAL_S = 1.0
UPGRADE_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0
"""A device that is told to go and does not read is cut off after this."""
CLOSE_INTERNAL_ERROR = 1011

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PortalOptions:
    """How to run one portal."""

    config: Path
    state: Path
    host: str
    port: int
    """0 lets the system choose."""
    tls: ssl.SSLContext | None = None


@dataclass(slots=True, eq=False)
class _Peer:
    """One WebSocket and what waits to be written to it; None asks for the end."""

    websocket: ServerConnection
    queue: asyncio.Queue[str | int] = field(default_factory=lambda: asyncio.Queue(MAX_QUEUED_FRAMES))


class PortalServer:
    """One portal: `start`, then `run` until cancelled, then `stop`."""

    def __init__(
        self,
        options: PortalOptions,
        *,
        rng: Rng,
        clock: Callable[[], Instant] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        wall_clock: Callable[[], UnixTime] = time.time_ns,
    ) -> None:
        """Reads the policy and opens the state. Raises ConfigError that says what is wrong and where."""
        self._options = options
        self._clock = clock
        self._wall_clock = wall_clock
        self._policy = PolicyFile(options.config)
        book = self._policy.load()
        self._store = SqliteStore(options.state)
        self._service = PortalService(book, store=self._store, rng=rng, now=clock(), utc=wall_clock())
        self._peers: dict[int, _Peer] = {}
        self._logins: WeakKeyDictionary[ServerConnection, Login | RelayLogin] = WeakKeyDictionary()
        self._next_number = 0
        self._control = ControlSocket(options.state, self._administer)
        self._wake = asyncio.Event()
        self._reading = asyncio.Lock()
        """Held while the policy is read: the newest is what is in force in the end."""
        self._reloads: set[asyncio.Task[bool]] = set()
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """Where devices reach us, once started."""
        assert self._server is not None
        host, port = next(iter(self._server.sockets)).getsockname()[:2]
        return f"{'wss' if self._options.tls else 'ws'}://{f'[{host}]' if ':' in host else host}:{port}"

    async def start(self) -> None:
        """Listens. Raises ConfigError when the address cannot be had."""
        options = self._options
        try:
            self._server = await serve(
                self._serve, options.host, options.port, ssl=options.tls, compression=None, ping_interval=None,
                process_request=self._judge, max_size=MAX_MESSAGE_SIZE, open_timeout=UPGRADE_TIMEOUT_S,
                close_timeout=1.0, server_header=None, logger=SILENT_LOGGER,
            )  # fmt: skip
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno == errno.EADDRINUSE:
                reason = "another program listens there; choose another address with --bind"
            raise ConfigError(f"Cannot listen on {options.host} port {options.port}: {reason}.") from error
        await self._control.start()
        _log.info("portal is listening", url=self.url, policy=str(options.config), state=str(options.state))

    async def run(self) -> None:
        """Serves until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_time())
            group.create_task(self._watch())

    async def stop(self) -> None:
        """Closes every connection and the state."""
        self._control.stop()
        for task in self._reloads:
            task.cancel()
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), 2.0)
        self._store.close()

    async def reload(self) -> bool:
        """Reads the policy again, aside: a large one takes seconds. A wrong one is named in the log, and the old one stays."""
        async with self._reading:
            try:
                book = await asyncio.to_thread(self._policy.load)
            except ConfigError as error:
                _log.error("the new policy is wrong; the old one stays in force", error=str(error))
                return False
        self._service.handle_policy(book, self._clock(), self._wall_clock())
        self._carry_out()
        _log.info("policy reloaded", resources=len(book.resources), policies=len(book.policies))
        return True

    def reload_soon(self) -> None:
        """The same because of a signal."""
        task = asyncio.get_running_loop().create_task(self.reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _administer(self, request: dict[str, Any]) -> Answer:
        """Does what an administrator asks for at the control socket."""
        if request.get("command") == "reload":
            return {"is_taken": await self.reload()}
        answer = administer(self._service, request, self._clock(), self._wall_clock())
        self._carry_out()
        return answer

    async def _keep_time(self) -> None:
        while True:
            self._service.handle_timeout(self._clock(), self._wall_clock())
            self._carry_out()
            self._wake.clear()
            deadline = self._service.poll_timeout()
            timeout = None if deadline is None else max(0.0, (deadline[0] - self._clock()) / SECOND)
            # Not wait_for: in Python 3.11 it loses a cancellation that comes together with what it waits for.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            if self._policy.has_changed():
                await self.reload()

    async def _judge(self, websocket: ServerConnection, request: Request) -> Response | None:
        """Answers the upgrade: None lets it happen."""
        path, _, query = request.path.partition("?")
        if path == "/healthz":
            return websocket.respond(HTTPStatus.OK, "ok\n")
        upgrade = Upgrade(
            path, dict(parse_qsl(query)), request.headers.get("User-Agent", ""), websocket.remote_address[0],
            request.headers.get("X-Authorization", ""),
        )  # fmt: skip
        try:
            self._logins[websocket] = self._service.check_login(upgrade, self._wall_clock())
        except LoginRejected as error:
            _log.info("login refused", path=upgrade.path, remote_ip=upgrade.remote_ip, status=error.status, why=error.message)
            response = websocket.respond(HTTPStatus(error.status), "")
            response.body = error.body
            for name, value in (("Content-Type", error.content_type), ("Content-Length", str(len(error.body)))):
                del response.headers[name]
                response.headers[name] = value
            if error.retry_after_s is not None:
                response.headers["Retry-After"] = str(error.retry_after_s)
            return response
        return None

    async def _serve(self, websocket: ServerConnection) -> None:
        number, self._next_number = self._next_number, self._next_number + 1
        peer = self._peers[number] = _Peer(websocket)
        writer = asyncio.create_task(_write(peer))
        try:
            self._service.handle_connected(number, self._logins.pop(websocket), self._clock(), self._wall_clock())
            self._carry_out()
            async for text in websocket:
                self._service.handle_text(number, text, self._clock(), self._wall_clock())
                self._carry_out()
        except ConnectionClosed:
            pass
        except Exception:
            # A bug of ours; the device comes back and starts over, the others do not notice.
            _log.exception("a connection failed", connection=number)
            await websocket.close(CLOSE_INTERNAL_ERROR)
        finally:
            self._peers.pop(number, None)
            self._service.handle_disconnected(number, self._clock())
            self._carry_out()
            writer.cancel()

    def _carry_out(self) -> None:
        while (output := self._service.poll_output()) is not None:
            match output:
                case Send(number, text):
                    self._queue(number, text)
                case Close(number, code):
                    self._queue(number, code)
                    if (peer := self._peers.get(number)) is not None:
                        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, peer.websocket.transport.abort)
                case Notice(level, text, fields):
                    _log.log({"debug": 10, "info": 20}.get(level, 30), text, **fields)
        self._wake.set()

    def _queue(self, number: int, item: str | int) -> None:
        peer = self._peers.get(number)
        if peer is None:
            return
        try:
            peer.queue.put_nowait(item)
        except asyncio.QueueFull:
            _log.warning("a device does not read and is cut off", connection=number)
            peer.websocket.transport.abort()


async def _write(peer: _Peer) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            item = await peer.queue.get()
            if isinstance(item, int):
                await peer.websocket.close(item)
                return
            await peer.websocket.send(item)
