"""A reader thread as a source of the tick: it fills the ring while the tick works, and wakes it only when it sleeps."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from firezone.base.errors import ReaderStopped
from firezone.io.reader import ReaderCore
from firezone.io.threads import name_thread

if TYPE_CHECKING:
    from firezone.io.tun_batch import TunBatchPort
    from firezone.io.udp_batch import UdpBatchPort
    from firezone.kernels.ring import PacketRing

_BELL = (1).to_bytes(8, "little")
JOIN_TIMEOUT_S = 10.0
"""A reader leaves within one read; longer than this means it hangs in the kernel."""


class ReaderThread:
    """One thread that stays in compiled code, its ring and its two bells."""

    def __init__(self, name: str, ring: PacketRing, ports: list[TunBatchPort] | list[UdpBatchPort]) -> None:
        self.name = name
        self.ring = ring
        self._core = ReaderCore(ring)
        self._core.read_from(ports)
        self._death: int | None = None
        self._told = False
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def replace(self, ports: list[TunBatchPort] | list[UdpBatchPort]) -> None:
        """Reads from other ports from now on; the former ones may be closed when this returns."""
        self._core.read_from(ports)

    def stop(self) -> None:
        """Stops and joins the thread."""
        self._is_stopping = True
        self._core.stop()
        self._thread.join(JOIN_TIMEOUT_S)

    # source

    def descriptors(self) -> tuple[int, ...]:
        return (self._core.ready_fd,)

    def fill(self, max_reads: int, descriptor: int | None = None) -> None:
        """Takes note of the reader's bell; reading is its own job."""
        with suppress(BlockingIOError):
            os.read(self._core.ready_fd, 8)

    def release(self, entries: int) -> None:
        if self.ring.release(entries):
            os.write(self._core.space_fd, _BELL)

    def sleeps(self) -> bool:
        return self.ring.consumer_sleeps()

    def take_errors(self) -> list[Exception]:
        errors: list[Exception] = []
        if error := self._core.take_error():
            errors.append(OSError(error, f"{self.name} could not read: {os.strerror(error)}"))
        if self._death is not None and not self._told:
            self._told = True
            why = os.strerror(self._death) if self._death else "nobody asked it to"
            errors.append(ReaderStopped(f"What the {self.name} read from is gone: {why}."))
        return errors

    def _run(self) -> None:
        name_thread(self.name)
        error = self._core.run()
        if not self._is_stopping:
            self._death = error
            os.write(self._core.ready_fd, _BELL)
