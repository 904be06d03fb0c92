"""systemd-resolved over D-Bus: DNS of one link set and reverted, servers of the others read, changes told.

What is set belongs to the link, so it goes with the TUN device however the client ends; nothing needs recovery. The calls are the
ones `resolvectl` makes for `dns`, `domain`, `llmnr`, `revert` and `flush-caches`, and give the same state.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
from typing import TYPE_CHECKING, Any

import structlog
from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusError

from firezone.base.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = structlog.get_logger(__name__)

SERVICE, OBJECT, MANAGER = "org.freedesktop.resolve1", "/org/freedesktop/resolve1", "org.freedesktop.resolve1.Manager"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_BUS = "org.freedesktop.DBus"
CALL_TIMEOUT_S = 10.0
"""Of one call. resolved answers within milliseconds; starting it on demand takes seconds."""
_NO_SUCH_LINK = "org.freedesktop.resolve1.NoSuchLink"
_WHAT_TO_DO = "Start it (systemctl enable --now systemd-resolved), or use --dns-control etc-resolv-conf or disabled."
_RULE = f"type='signal',sender='{SERVICE}',path='{OBJECT}',interface='{_PROPERTIES}',member='PropertiesChanged'"


class ResolvedError(ConfigError):
    """systemd-resolved is not there or refuses; the message says what to do."""


class Resolved:
    """A connection to the system bus, opened at first use and again when it broke."""

    def __init__(self, address: str | None = None) -> None:
        """`address` of the bus; None: $DBUS_SYSTEM_BUS_ADDRESS or the system's."""
        self._address = address
        self._bus: MessageBus | None = None
        self._on_change: Callable[[], None] | None = None

    async def set_link(self, index: int, servers: Sequence[str], search_domain: str | None) -> None:
        """Sends every name to these servers on this link, single-label names included. Raises ResolvedError."""
        packed = [_pack(server) for server in servers]
        # `~.` beside the search domain: without it resolved would ask all links with a default route in parallel.
        domains = ([[search_domain, False]] if search_domain else []) + [[".", True]]
        await self._call("SetLinkDNS", "ia(iay)", [index, packed])
        await self._call("SetLinkDomains", "ia(sb)", [index, domains])
        await self._call("SetLinkLLMNR", "is", [index, "yes"])

    async def revert_link(self, index: int) -> None:
        """Takes back whatever was set on the link; one that resolved does not know is none. Raises ResolvedError."""
        try:
            await self._call("RevertLink", "i", [index])
        except ResolvedError as error:
            if not (isinstance(error.__cause__, DBusError) and error.__cause__.type == _NO_SUCH_LINK):
                raise

    async def flush(self) -> None:
        """Drops cached answers. Raises ResolvedError."""
        await self._call("FlushCaches")

    async def servers(self, *, without_link: int = 0) -> list[str]:
        """Returns the servers of all links but this one, global ones first. Raises ResolvedError.

        Link-local addresses are dropped: they mean nothing without their link.
        """
        [value] = await self._call("Get", "ss", [MANAGER, "DNS"], interface=_PROPERTIES)
        found = [(index, ipaddress.ip_address(bytes(packed))) for index, _, packed in value.value]
        return [str(ip) for index, ip in found if not (without_link and index == without_link) and not ip.is_link_local]

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Calls back at every PropertiesChanged of the manager. Raises ResolvedError."""
        self._on_change = on_change
        await self._subscribe(await self._connected())

    def close(self) -> None:
        if self._bus is not None:
            self._bus.disconnect()
            self._bus = None

    async def _connected(self) -> MessageBus:
        if self._bus is not None and self._bus.connected:
            return self._bus
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                bus = await MessageBus(self._address, bus_type=BusType.SYSTEM).connect()
        except (OSError, DBusError, TimeoutError, EOFError, ValueError) as error:
            raise ResolvedError(
                f"the D-Bus system bus cannot be reached, so neither can systemd-resolved. {_WHAT_TO_DO}"
            ) from error
        self._bus = bus
        bus.add_message_handler(self._on_message)
        if self._on_change is not None:
            await self._subscribe(bus)
        return bus

    async def _subscribe(self, bus: MessageBus) -> None:
        await self._send(bus, Message(_BUS, "/org/freedesktop/DBus", _BUS, "AddMatch", signature="s", body=[_RULE]))

    def _on_message(self, message: Message) -> None:
        is_signal = message.message_type is MessageType.SIGNAL and message.member == "PropertiesChanged"
        if is_signal and message.path == OBJECT and self._on_change is not None:
            self._on_change()

    async def _call(
        self, member: str, signature: str = "", body: list[Any] | None = None, *, interface: str = MANAGER
    ) -> list[Any]:
        message = Message(SERVICE, OBJECT, interface, member, signature=signature, body=body or [])
        return await self._send(await self._connected(), message)

    async def _send(self, bus: MessageBus, message: Message) -> list[Any]:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                reply = await bus.call(message)
        except (OSError, EOFError, TimeoutError) as error:
            self.close()  # Whatever comes late belongs to nobody; the next call begins anew.
            raise ResolvedError(f"systemd-resolved does not answer {message.member}. {_WHAT_TO_DO}") from error
        if reply is None:
            raise ResolvedError(f"systemd-resolved does not answer {message.member}. {_WHAT_TO_DO}")
        if reply.message_type is MessageType.ERROR:
            raise self._refusal(message, reply)
        body: list[Any] = reply.body
        return body

    def _refusal(self, message: Message, reply: Message) -> ResolvedError:
        name = reply.error_name or ""
        text = str(reply.body[0]) if reply.body else name
        if name.rpartition(".")[2] in ("ServiceUnknown", "NameHasNoOwner") or "Spawn" in name:
            error = ResolvedError(f"systemd-resolved is not running. {_WHAT_TO_DO}")
        elif name.endswith(("AccessDenied", "InteractiveAuthorizationRequired")):
            error = ResolvedError(f"systemd-resolved refuses {message.member}: {text}. Start the client as root.")
        else:
            error = ResolvedError(f"systemd-resolved refuses {message.member}: {text}.")
        error.__cause__ = DBusError(name, text)
        return error


def link_index(interface: str) -> int:
    """Returns the interface's index, 0 when there is none of this name."""
    with contextlib.suppress(OSError):
        return socket.if_nametoindex(interface)
    return 0


def bus_is_configured() -> bool:
    """Tells whether a system bus is likely to be there, without connecting."""
    return "DBUS_SYSTEM_BUS_ADDRESS" in os.environ or os.path.exists("/run/dbus/system_bus_socket")


def _pack(server: str) -> list[Any]:
    ip = ipaddress.ip_address(server)
    return [socket.AF_INET if ip.version == 4 else socket.AF_INET6, ip.packed]
