"""Tells a service manager that we are ready (systemd's notify protocol)."""

from __future__ import annotations

import os
import socket

import structlog

log = structlog.get_logger(__name__)


def notify_ready() -> None:
    """Sends READY=1 to $NOTIFY_SOCKET, once; without the variable nothing happens."""
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if not address:
        return
    name = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(b"READY=1", name)
    except OSError as error:
        log.warning("the service manager could not be told", error=error.strerror)
