"""The door of a running portal for its administrator: a socket beside the state file, one request and one answer as JSON lines.

A running portal holds its state alone, so what changes the state goes through here; only who may read the state file may
connect. While no portal runs, `offline` does the same on the file itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import structlog

from firezone.base.errors import ConfigError
from firezone.base.rng import Rng
from firezone.base.timing import Instant, UnixTime
from firezone.loop.portal_policy import PolicyFile
from firezone.loop.portal_store import SqliteStore
from firezone.proto.portal.service import DeviceView, PortalService

MAX_REQUEST_SIZE = 1 << 16
MAX_ANSWER_SIZE = 1 << 26
REQUEST_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0

_log = structlog.stdlib.get_logger(__name__)

Answer = dict[str, Any]


class ControlSocket:
    """Answers requests about devices and the policy while a portal runs."""

    def __init__(self, state: Path, answer: Callable[[dict[str, Any]], Awaitable[Answer]]) -> None:
        """`state` is the portal's file, which it holds already: no other portal has the socket beside it."""
        self._path = socket_path(state)
        self._answer = answer
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begins to listen. Without a socket the portal runs all the same."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._path.unlink(missing_ok=True)
            # Nobody else may connect, not even between bind and chmod.
            before = os.umask(0o177)
            try:
                with _short(self._path) as address:
                    sock.bind(address)
            finally:
                os.umask(before)
            self._server = await asyncio.start_unix_server(self._serve, sock=sock, limit=MAX_REQUEST_SIZE)
        except OSError as error:
            sock.close()
            _log.warning("devices cannot be administered while this portal runs", socket=str(self._path), error=error.strerror)

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                request = json.loads(await reader.readline())
                answer = await self._answer(request if isinstance(request, dict) else {})
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, TimeoutError, ValueError):
            pass  # Rude, slow or gone: their loss.
        finally:
            with contextlib.suppress(OSError):
                writer.close()


def administer(service: PortalService, request: dict[str, Any], now: Instant, utc: UnixTime) -> Answer:
    """Carries out a request about devices. The outputs of the service are the caller's."""
    command, device = request.get("command"), str(request.get("device", ""))
    try:
        match command:
            case "devices":
                return {"devices": [_describe(view) for view in service.devices()]}
            case "remove":
                service.handle_device_removed(device, now, utc)
            case "disable" | "enable":
                service.handle_device_disabled(device, command == "disable", now, utc)
            case _:
                return {"error": f"The running portal does not know the command {command!r}; is it of another version?"}
    except KeyError:
        return {"error": f"There is no device {device}."}
    return {}


def ask(state: Path, request: dict[str, Any]) -> Answer | None:
    """Asks the portal that runs on a state file. None: there is none. Raises ConfigError with its error."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(ANSWER_TIMEOUT_S)
        try:
            with _short(socket_path(state)) as address:
                sock.connect(address)
            sock.sendall(json.dumps(request).encode() + b"\n")
            text = b""
            while not text.endswith(b"\n") and len(text) < MAX_ANSWER_SIZE and (part := sock.recv(1 << 16)):
                text += part
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            reason = error.strerror or "it does not answer"
            raise ConfigError(f"The portal at {socket_path(state)} cannot be asked: {reason}.") from error
    try:
        answer: Answer = json.loads(text)
    except ValueError as error:
        raise ConfigError("The running portal gave no answer; its log says why.") from error
    if "error" in answer:
        raise ConfigError(answer["error"])
    return answer


def offline(config: Path, state: Path, request: dict[str, Any], rng: Rng) -> Answer:
    """Does what a running portal would do, on its file. Raises ConfigError."""
    if not state.exists():
        if request.get("command") == "devices":
            return {"devices": []}
        raise ConfigError(f"There is no state file {state}: no device has ever logged in.")
    book = PolicyFile(config).load()
    store = SqliteStore(state)
    try:
        now, utc = time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns()
        answer = administer(PortalService(book, store=store, rng=rng, now=now, utc=utc), request, now, utc)
    finally:
        store.close()
    if "error" in answer:
        raise ConfigError(answer["error"])
    return answer


def socket_path(state: Path) -> Path:
    """Returns where the portal of a state file listens."""
    return state.with_name(state.name + ".sock")


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Gives an address for a path of any length: the system takes 107 bytes."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _describe(view: DeviceView) -> dict[str, Any]:
    device = view.device
    return {
        "id": device.id, "role": device.role.value, "name": device.name, "owner": view.owner, "ipv4": str(device.ipv4),
        "ipv6": str(device.ipv6), "version": device.version, "remote_ip": device.remote_ip, "last_seen": device.last_seen,
        "is_online": view.is_online, "is_disabled": device.is_disabled,
    }  # fmt: skip
