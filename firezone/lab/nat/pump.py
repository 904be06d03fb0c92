"""Drives a packet machine over a TUN device: what the kernel routes into the device comes back out of it, rewritten or later."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import time
from typing import TYPE_CHECKING

from firezone.base.errors import ConfigError
from firezone.base.timing import SECOND

if TYPE_CHECKING:
    from firezone.lab.nat.packets import PacketMachine

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_MAX_PACKET = 65_535
_BATCH = 64
"""Packets read before what they led to is written. More would make the first of them wait."""


def attach(name: str) -> int:
    """Opens the existing TUN device `name` for plain packets: without the virtio header the kernel splits and sums for us.

    Raises: ConfigError with the kernel's reason.
    """
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        raise ConfigError(f"The TUN device {name} cannot be used: {error.strerror}.") from error
    return fd


def pump(fd: int, machine: PacketMachine) -> None:
    """Runs until the process is killed. What the device refuses is lost, as on a wire."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        deadline = machine.poll_timeout()
        # Up to the next millisecond, or a wait that ends too early would spin until its time has come.
        wait = None if deadline is None else max(0, -(-(deadline - _now()) // 1_000_000))
        poll.poll(wait)
        now = _now()
        machine.handle_timeout(now)
        for _ in range(_BATCH):
            try:
                machine.handle_packet(os.read(fd, _MAX_PACKET), now)
            except BlockingIOError:
                break
        while (packet := machine.poll_packet()) is not None:
            try:
                os.write(fd, packet)
            except OSError:
                continue


def _now() -> int:
    return int(time.monotonic() * SECOND)
