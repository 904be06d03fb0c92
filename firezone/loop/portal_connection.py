"""A device's standing connection to the portal: obeys a `PhoenixChannel` with WebSockets, tasks and the clock.

What is decided is decided in `firezone.proto.phoenix`; sockets are opened in `firezone.io.websocket`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from typing import Any

import structlog
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, WebSocketException

from firezone.base.errors import WireError
from firezone.base.rng import Rng
from firezone.base.timing import SECOND, Instant
from firezone.io.websocket import CLOSE_TIMEOUT_S, Resolve, UpgradeRejectedError, WebSocketError, open_websocket
from firezone.proto.phoenix.channel import (
    Connect,
    Drop,
    Fatal,
    Hiccup,
    Ignored,
    Joined,
    PhoenixChannel,
    Received,
    Refused,
    State,
)
from firezone.proto.phoenix.login import LoginUrl
from firezone.proto.phoenix.retry import UpgradeRejected
from firezone.wire.portal.shared import PublicKey, Vocabulary

_log = structlog.stdlib.get_logger(__name__)


class PortalConnection:
    """One device's standing connection to the portal, through every outage until `close` or a final error."""

    def __init__(
        self,
        login: LoginUrl,
        topic: str,
        *,
        user_agent: str,
        from_portal: Vocabulary,
        to_portal: Vocabulary,
        on_message: Callable[[Any], None],
        rng: Rng,
        public_key: PublicKey | bytes | None = None,
        on_state: Callable[[bool], None] = lambda is_joined: None,
        mark: int | None = None,
        max_partition_ns: int | None = None,
        join_payload: bytes = b"null",
        tls: ssl.SSLContext | None = None,
        resolve: Resolve | None = None,
        clock: Callable[[], Instant] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    ) -> None:
        """Prepares; `run` connects.

        `on_message` gets every typed message, in order, in the event loop; `on_state` True after a join and False when the
        connection is lost. `mark` None sets no firewall mark. `tls` None trusts the system's certificates.
        `resolve` finds the portal's addresses; None leaves that to the system.
        """
        self._login = login
        self._user_agent = user_agent
        self._from_portal = from_portal
        self._to_portal = to_portal
        self._on_message = on_message
        self._on_state = on_state
        self._public_key = None if public_key is None else PublicKey(public_key)
        self._mark = mark
        self._tls = tls
        self._resolve = resolve
        self._clock = clock
        self._channel = PhoenixChannel(topic, rng=rng, join_payload=join_payload, max_partition_ns=max_partition_ns)
        self._wake = asyncio.Event()
        self._writable = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._websocket: ClientConnection | None = None
        self._is_closing = False
        self._crash: BaseException | None = None
        self.address: str | None = None
        """The portal's address, as last reached."""

    @property
    def is_joined(self) -> bool:
        return self._channel.state is State.JOINED

    @property
    def local_address(self) -> str | None:
        """The address of ours that the WebSocket stands on; None while there is none."""
        address = None if self._websocket is None else self._websocket.local_address
        return None if address is None else str(address[0])

    async def run(self) -> None:
        """Keeps the connection until `close` is called.

        Raises: PortalError when trying again cannot help or the budget is spent.
        """
        self._channel.connect(self._clock())
        try:
            while not self._is_closing:
                self._wake.clear()
                if self._crash is not None:
                    raise self._crash
                self._channel.handle_timeout(self._clock())
                self._obey()
                self._writable.set()
                await self._sleep()
        finally:
            self._channel.close()
            await self._end_session()

    def send(self, message: Any) -> None:
        """Queues a typed message; it goes out once joined."""
        self._channel.send(*self._to_portal.encode(message))
        self._wake.set()

    def reconnect(self, public_key: PublicKey | bytes | None = None) -> None:
        """Drops the connection and logs in again at once, with a new key if one is given. What was queued is stale and goes."""
        if public_key is not None:
            self._public_key = PublicKey(public_key)
        self._channel.connect(self._clock())
        self._wake.set()

    def hurry(self, *, is_wanted: bool = False) -> None:
        """Tries at once if the portal is not reached: the network is better now or, `is_wanted`, somebody waits."""
        self._channel.hurry(self._clock(), is_wanted=is_wanted)
        self._wake.set()

    def close(self) -> None:
        """Ends `run` with a Close handshake."""
        self._is_closing = True
        self._wake.set()

    def _obey(self) -> None:
        while (event := self._channel.poll_event()) is not None:
            match event:
                case Connect(attempt):
                    self._task = asyncio.create_task(self._session(attempt), name=f"portal-{attempt}")
                    self._task.add_done_callback(self._on_session_done)
                case Drop():
                    self._on_state(False)
                    self._abandon_session()
                case Joined():
                    _log.info("joined the portal", url=self._login.origin)
                    self._on_state(True)
                case Received(name, payload):
                    self._deliver(name, payload)
                case Refused(reason):
                    _log.warning("the portal refused a message", reason=reason)
                case Ignored(why):
                    _log.warning("ignored a frame of the portal", why=why)
                case Hiccup(why, delay_ns):
                    _log.info("portal connection failed", why=why, retry_in_s=round(delay_ns / SECOND, 3))
                case Fatal(error):
                    raise error

    def _deliver(self, event: str, payload: Any) -> None:
        try:
            message = self._from_portal.decode(event, payload)
        except WireError as error:
            _log.warning("ignored a message of the portal", why=str(error))
            return
        self._on_message(message)

    async def _sleep(self) -> None:
        deadline = self._channel.poll_timeout()
        timeout = None if deadline is None else max(0.0, (deadline[0] - self._clock()) / SECOND)
        # Not wait_for: in Python 3.11 it loses a cancellation that comes together with what it waits for.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._wake.wait()

    async def _session(self, attempt: int) -> None:
        """Opens one WebSocket and moves its frames until it ends."""
        why = "the portal closed the connection"
        login = self._login
        try:
            websocket = await open_websocket(
                login.to_url(self._public_key, with_port=False), login.host, login.port,
                user_agent=self._user_agent, mark=self._mark, tls=self._tls, resolve=self._resolve,
            )  # fmt: skip
        except UpgradeRejectedError as error:
            answer = UpgradeRejected(error.status, error.content_type, error.body, error.retry_after)
            self._channel.handle_rejected(attempt, answer, self._clock(), time.time_ns())
            self._wake.set()
            return
        except WebSocketError as error:
            self._channel.handle_disconnected(attempt, str(error), self._clock())
            self._wake.set()
            return
        self._websocket = websocket
        if isinstance(remote := websocket.remote_address, tuple):
            self.address = str(remote[0])
        writer = asyncio.create_task(self._write(websocket))
        try:
            self._channel.handle_connected(attempt, self._clock())
            self._wake.set()
            async for frame in websocket:
                self._channel.handle_text(attempt, frame, self._clock())
                # Handled here and now, so that order holds and a fatal message is not overtaken by the end of the stream.
                self._wake.set()
        except ConnectionClosed as error:
            why = f"the connection to the portal broke: {error.rcvd.code if error.rcvd else 'no Close frame'}"
        finally:
            writer.cancel()
            websocket.transport.abort()
        self._channel.handle_disconnected(attempt, why, self._clock())
        self._wake.set()

    async def _write(self, websocket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                self._writable.clear()
                while (text := self._channel.poll_transmit()) is not None:
                    await websocket.send(text)
                    self._channel.handle_sent(self._clock())
                    self._wake.set()
                await self._writable.wait()

    def _on_session_done(self, task: asyncio.Task[None]) -> None:
        """Keeps what a session did not foresee; `run` raises it instead of waiting for a timeout that tells nothing."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crash = error
            self._wake.set()

    def _abandon_session(self) -> None:
        """Forgets the present WebSocket; what it still says carries an old attempt number."""
        if self._task is not None:
            self._task.cancel()
        self._task = None
        self._websocket = None

    async def _end_session(self) -> None:
        if self._websocket is not None and self._task is not None and not self._task.done():
            with contextlib.suppress(TimeoutError, WebSocketException, OSError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._websocket.close()
        task = self._task
        self._abandon_session()
        if task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await task
