"""Tells when the host's links, addresses or routes changed: one call per burst of events."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SETTLE_TIME_S = 0.5
"""Quiet time after the last event before the callback: a link that comes up raises a dozen within a fraction of it."""

LONGEST_WAIT_S = 2.0
"""From the first event to the callback at the latest: a link that flaps without end must not keep us from looking."""

_GROUPS = 0x1 | 0x10 | 0x100 | 0x40 | 0x400
"""RTMGRP_LINK, IPV4_IFADDR, IPV6_IFADDR, IPV4_ROUTE, IPV6_ROUTE."""
_READS = 64
"""Reads per wake-up: a storm of events must not hold the loop."""


class NetworkChanges:
    """Watches netlink multicast on the running loop. The content of the events does not matter: whoever is called looks anew."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
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
        # ENOBUFS means that events were lost; the look that follows finds out what they were.
        with contextlib.suppress(OSError):
            for _ in range(_READS):
                self._socket.recv(65536)
        if self._pending is None:
            self._first_at = self._loop.time()
        else:
            self._pending.cancel()
        at = min(self._loop.time() + SETTLE_TIME_S, self._first_at + LONGEST_WAIT_S)
        self._pending = self._loop.call_at(at, self._settled)

    def _settled(self) -> None:
        self._pending = None
        self._on_change()
