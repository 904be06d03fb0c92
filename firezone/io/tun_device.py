"""The TUN device: packets and super-packets in and out, with the virtio-net header in front of each.

Offloads are probed once at opening: TSO with USO, TSO alone, or none; in every case the header stays, so there is one read and
one write path. A kernel that later refuses a super-packet gets single packets for the rest of the run.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from firezone.base.errors import ConfigError, TunClosed
from firezone.base.limits import RING_SLOTS
from firezone.base.timing import MILLISECOND
from firezone.io.tun_batch import TunBatchPort
from firezone.kernels.ring import PacketRing

if TYPE_CHECKING:
    from firezone.base.timing import Instant
    from firezone.kernels.batch import PacketBatch, RunList

log = structlog.get_logger(__name__)

DEVICE_NODE = Path("/dev/net/tun")
DEFAULT_NAME = "tun-firezone"
MAX_WAITING_BYTES = 1 << 20
"""Bytes of packets that may wait for the device. It refuses only for moments; more would only age."""
MAX_WAITING_TIME = 20 * MILLISECOND

_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_CSUM, _TSO4, _TSO6, _USO4, _USO6 = 0x01, 0x02, 0x04, 0x20, 0x40
_OFFLOADS = ((_CSUM | _TSO4 | _TSO6 | _USO4 | _USO6, "tso+uso"), (_CSUM | _TSO4 | _TSO6, "tso"))
_VNET_SIZE = 10
_NAME_SIZE = 16
_GONE = (errno.ENODEV, errno.EBADF, errno.EBADFD)
"""A deleted interface leaves its descriptor answering EBADFD; one that is merely down answers EAGAIN or EIO."""
_MAX_ERRORS = 16
_BUSY_PATIENCE_S, _BUSY_PAUSE_S = 1.0, 0.05
"""How long a predecessor that is just ending may hold on to the interface."""


class TunDevice:
    """One opened TUN device: the tick's source of packets and its sink. Closing it deletes the interface."""

    def __init__(self, fd: int, name: str, offload: str, slots: int = RING_SLOTS) -> None:
        self.fd = fd
        self.name = name
        self.offload = offload
        """"tso+uso", "tso" or "none"."""
        # Without USO the kernel may refuse joined UDP, and a join of TCP alone does not exist.
        self.coalesce = offload == "tso+uso"
        self.ring = PacketRing(slots)
        self.port = TunBatchPort(fd)
        self._errors: list[Exception] = []
        self._waiting: deque[tuple[bytes, Instant]] = deque()
        self._waiting_bytes = 0
        self._refused = 0
        self._dropped_waiting = 0

    @classmethod
    def open(cls, name: str = DEFAULT_NAME, *, offload: bool = True) -> TunDevice:
        """Creates the device.

        Raises: ConfigError, saying what to do, when the host does not let us.
        """
        if not 0 < len(name.encode()) < _NAME_SIZE:
            raise ConfigError(f"{name!r} is no name for an interface: it takes 1 to {_NAME_SIZE - 1} bytes.")
        fd = _open_node()
        try:
            request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR)
            _set_interface(fd, request, name)
            return cls(fd, name, _probe_offload(fd) if offload else "none")
        except BaseException:
            os.close(fd)
            raise

    # source

    def descriptors(self) -> tuple[int, ...]:
        return (self.fd,)

    def fill(self, max_reads: int, descriptor: int | None = None) -> None:
        try:
            self.port.fill(self.ring, max_reads)
        except OSError as error:
            self._note(self._explain(error.errno or 0, "reading from"))

    def release(self, entries: int) -> None:
        self.ring.release(entries)

    def sleeps(self) -> bool:
        return self.ring.ready() == 0

    # sink

    def write_runs(self, batch: PacketBatch, runs: RunList, now: Instant) -> None:
        """Writes every run. A refused super-packet goes out again packet by packet, as do all from then on."""
        index = 0
        while index < runs.n:
            if self._waiting:
                self._wait(_run_bytes(batch, runs, index), now)
                index += 1
                continue
            index, error = self.port.write_runs(batch, runs, index)
            if not error:
                continue
            if error in (errno.EAGAIN, errno.ENOBUFS):
                self._wait(_run_bytes(batch, runs, index), now)
            elif error == errno.EINVAL and int(runs.runs[index]["count"]) > 1:
                self._write_singly(batch, int(runs.runs[index]["first"]), now)
            else:
                self._refuse(error)
            index += 1

    def write(self, packet: bytes, now: Instant) -> None:
        """Writes one packet of a machine."""
        frame = bytes(_VNET_SIZE) + packet
        if self._waiting or not self._write_frame(frame):
            self._wait(frame, now)

    def waiting(self, now: Instant) -> bool:
        while self._waiting and self._write_frame(self._waiting[0][0]):
            self._pop()
        while self._waiting and now - self._waiting[0][1] > MAX_WAITING_TIME:
            self._drop_oldest()
        return bool(self._waiting)

    def take_errors(self) -> list[Exception]:
        errors, self._errors = self._errors, []
        return errors

    def counters(self) -> dict[str, Any]:
        return {
            **self.port.stats(),
            "offload": self.offload,
            "coalesce": self.coalesce,
            "refused": self._refused,
            "dropped_waiting": self._dropped_waiting,
        }

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _write_singly(self, batch: PacketBatch, row: int, now: Instant) -> None:
        """Writes the rows of a refused super-packet as they came: joining only laid new headers before them."""
        if self.coalesce:
            self.coalesce = False
            log.info("the TUN device refuses super-packets, writing single packets from now on", device=self.name)
        while row >= 0:
            start = int(batch.offset[row])
            self.write(batch.slab[start : start + int(batch.length[row])].tobytes(), now)
            row = int(batch.next[row])

    def _refuse(self, error: int) -> None:
        self._refused += 1
        self._note(self._explain(error, "writing to"))

    def _explain(self, error: int, what: str) -> Exception:
        """Returns what an errno means here. A device that is down answers EIO until it is up again."""
        if error in _GONE:
            return TunClosed(f"The TUN device {self.name} is gone; somebody has deleted it.")
        return OSError(error, f"{what} {self.name} failed: {os.strerror(error)}")

    def _note(self, error: Exception) -> None:
        if len(self._errors) < _MAX_ERRORS or isinstance(error, TunClosed):
            self._errors.append(error)

    def _write_frame(self, frame: bytes) -> bool:
        try:
            os.write(self.fd, frame)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return False
            self._refuse(error.errno or 0)
        return True

    def _wait(self, frame: bytes, now: Instant) -> None:
        self._waiting.append((frame, now))
        self._waiting_bytes += len(frame)
        while self._waiting_bytes > MAX_WAITING_BYTES:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._dropped_waiting += 1
        self._pop()

    def _pop(self) -> None:
        self._waiting_bytes -= len(self._waiting.popleft()[0])


def _run_bytes(batch: PacketBatch, runs: RunList, index: int) -> bytes:
    run = runs.runs[index]
    parts = [run["vnet"].tobytes()]
    row = int(run["first"])
    while row >= 0:
        parts.append(batch.row_bytes(row))
        row = int(batch.next[row])
    return b"".join(parts)


def _open_node() -> int:
    try:
        if not DEVICE_NODE.exists():
            DEVICE_NODE.parent.mkdir(mode=0o751, parents=True, exist_ok=True)
            os.mknod(DEVICE_NODE, stat.S_IFCHR | 0o666, os.makedev(10, 200))
        return os.open(DEVICE_NODE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"{DEVICE_NODE} cannot be opened ({error.strerror}). Load the kernel module 'tun', or in a container pass the "
            "device with --device /dev/net/tun."
        ) from error


def _set_interface(fd: int, request: bytes, name: str) -> None:
    try:
        _attach(fd, request)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EINVAL):
            raise ConfigError(
                f"The interface {name} is in use: another client or gateway is already running on this machine. Stop it first."
            ) from error
        if error.errno in (errno.EPERM, errno.EACCES):
            raise ConfigError(
                f"The interface {name} cannot be created: that takes root or the capability CAP_NET_ADMIN."
            ) from error
        raise ConfigError(f"The interface {name} cannot be created: {error.strerror}.") from error


def _attach(fd: int, request: bytes) -> None:
    deadline = time.monotonic() + _BUSY_PATIENCE_S
    while True:
        try:
            fcntl.ioctl(fd, _TUNSETIFF, request)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(_BUSY_PAUSE_S)
        else:
            return


def _probe_offload(fd: int) -> str:
    for flags, word in _OFFLOADS:
        try:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, flags)
        except OSError as error:
            log.info("the kernel refuses this TUN offload", offload=word, error=error.strerror)
        else:
            return word
    return "none"
