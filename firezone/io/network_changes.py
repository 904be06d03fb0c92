"""Tells when the host's links, addresses or routes changed: one call per burst of events.

What our own TUN device causes (its link, its addresses, its routes and the rest of our tables) is passed over; of other events the
content does not matter, since whoever is called looks anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING

from firezone.io.netlink import DEFAULT_TABLE, LINK_TABLE, ROUTES_TABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SETTLE_TIME_S = 0.5
"""Quiet time after the last event before the callback: a link that comes up raises a dozen within a fraction of it."""

LONGEST_WAIT_S = 2.0
"""From the first event to the callback at the latest: a link that flaps without end must not keep us from looking."""

_GROUPS = 0x1 | 0x10 | 0x100 | 0x40 | 0x400
"""RTMGRP_LINK, IPV4_IFADDR, IPV6_IFADDR, IPV4_ROUTE, IPV6_ROUTE."""
_READS = 64
"""Reads per wake-up: a storm of events must not hold the loop."""

_NEW_LINK, _DEL_LINK, _NEW_ADDRESS, _DEL_ADDRESS, _NEW_ROUTE, _DEL_ROUTE = 16, 17, 20, 21, 24, 25
_MESSAGE = struct.Struct("=IHHII")
"""nlmsghdr: length, type, flags, sequence, port."""
_ATTRIBUTE = struct.Struct("=HH")
_ROUTE_SIZE = 12
"""Of struct rtmsg."""
_RTA_OIF, _RTA_TABLE = 4, 15
_OWN_TABLES = {ROUTES_TABLE, LINK_TABLE, DEFAULT_TABLE}


class NetworkChanges:
    """Watches netlink multicast on the running loop."""

    def __init__(self, on_change: Callable[[], None], own_device: str | None = None) -> None:
        """`own_device` names the interface whose events are not news."""
        self._on_change = on_change
        self._own_device = own_device
        self._own_index = 0
        self._loop = asyncio.get_running_loop()
        self._pending: asyncio.TimerHandle | None = None
        self._first_at = 0.0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self._socket.bind((0, _GROUPS))
        self._loop.add_reader(self._socket.fileno(), self._on_events)

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        if self._pending is not None:
            self._pending.cancel()
        self._socket.close()

    def _on_events(self) -> None:
        is_news = False
        try:
            for _ in range(_READS):
                is_news = self._is_news(self._socket.recv(65536)) or is_news
        except BlockingIOError:
            pass
        except OSError:
            is_news = True  # ENOBUFS: events were lost; the look that follows finds out what they were.
        if not is_news:
            return
        if self._pending is None:
            self._first_at = self._loop.time()
        else:
            self._pending.cancel()
        at = min(self._loop.time() + SETTLE_TIME_S, self._first_at + LONGEST_WAIT_S)
        self._pending = self._loop.call_at(at, self._settled)

    def _is_news(self, data: bytes) -> bool:
        if self._own_device is None:
            return True
        with contextlib.suppress(OSError):  # Gone: its last index still tells its last events.
            self._own_index = socket.if_nametoindex(self._own_device)
        return not all(is_own_event(kind, body, self._own_index) for kind, body in split_messages(data))

    def _settled(self) -> None:
        self._pending = None
        self._on_change()


def split_messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields type and body of every netlink message of one read; ends at what is not one."""
    at = 0
    while at + _MESSAGE.size <= len(data):
        length, kind, *_ = _MESSAGE.unpack_from(data, at)
        if not _MESSAGE.size <= length <= len(data) - at:
            return
        yield kind, data[at + _MESSAGE.size : at + length]
        at += (length + 3) & ~3


def is_own_event(kind: int, body: bytes, index: int) -> bool:
    """Tells whether a message is about the interface `index`, or about a route of our tables."""
    if kind in (_NEW_LINK, _DEL_LINK, _NEW_ADDRESS, _DEL_ADDRESS):
        # struct ifinfomsg and struct ifaddrmsg both have the index here.
        return len(body) >= 8 and int(struct.unpack_from("=I", body, 4)[0]) == index
    if kind not in (_NEW_ROUTE, _DEL_ROUTE):
        return False
    at = _ROUTE_SIZE
    while at + _ATTRIBUTE.size <= len(body):
        length, attribute = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size or at + length > len(body):
            return False
        if length == 8 and attribute in (_RTA_OIF, _RTA_TABLE):
            value = int(struct.unpack_from("=I", body, at + 4)[0])
            if value == index if attribute == _RTA_OIF else value in _OWN_TABLES:
                return True
        at += (length + 3) & ~3
    return False
