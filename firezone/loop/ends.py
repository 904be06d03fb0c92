"""The four ends of an engine, made for the place it runs in: real devices, or rings in memory with real sockets."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from firezone.io.netlink import FIREZONE_MARK
from firezone.io.reader_thread import ReaderThread
from firezone.io.tun_device import DEFAULT_NAME, TunDevice
from firezone.io.udp_sockets import UdpSockets
from firezone.loop.memory import MemoryTun

if TYPE_CHECKING:
    from firezone.loop.inputs import DatagramSink, PacketSink, Source

CORES_FOR_READERS = 4
"""From here on a core is likely to be idle beside tick, applications and the kernel's own work."""


@dataclass
class Ends:
    """Sources and sinks of one engine with what owns them."""

    tun_source: Source
    tun_sink: PacketSink
    udp_sources: Sequence[Source]
    udp_sink: DatagramSink
    sockets: UdpSockets
    device: str | None
    """Name of the TUN interface; None when there is none."""
    mark: int | None = FIREZONE_MARK
    """Firewall mark of everything that must stay out of the tunnel."""
    readers: list[ReaderThread] = field(default_factory=list)
    closers: list[Callable[[], None]] = field(default_factory=list)

    def rebind(self) -> None:
        """Replaces the outer sockets under their live reader."""
        readers = [reader for reader in self.readers if reader in self.udp_sources]
        for reader in readers:
            reader.replace([])
        self.sockets.rebind()
        for reader in readers:
            reader.replace(self.sockets.batch_ports())

    def ports(self) -> dict[int, int]:
        return self.sockets.ports()

    def counters(self) -> dict[str, Any]:
        tun = self.tun_sink
        return {
            "reader_threads": len(self.readers),
            "udp": self.sockets.counters(),
            "tun": tun.counters() if isinstance(tun, TunDevice) else {},
        }

    def close(self) -> None:
        """Readers first: nobody may read a descriptor that is closed."""
        for reader in self.readers:
            reader.stop()
        for close in self.closers:
            close()


def wants_reader_threads(choice: str) -> bool:
    """Decides `auto`: threads want idle cores; on two, reading from the tick gave a fifth shorter round trips and less CPU."""
    return choice == "on" or (choice == "auto" and (os.cpu_count() or 1) >= CORES_FOR_READERS)


def kernel_ends(device: str = DEFAULT_NAME, *, reader_threads: str = "auto") -> Ends:
    """Opens the TUN device and the marked outer sockets. `reader_threads`: auto, on or off.

    Raises: ConfigError, saying what to do, when the host does not let us.
    """
    sockets = UdpSockets(mark=FIREZONE_MARK)
    try:
        tun = TunDevice.open(device)
    except BaseException:
        sockets.close()
        raise
    ends = Ends(tun, tun, [sockets], sockets, sockets, device, closers=[tun.close, sockets.close])
    if wants_reader_threads(reader_threads):
        udp_reader = ReaderThread("udp reader", sockets.ring, sockets.batch_ports())
        tun_reader = ReaderThread("tun reader", tun.ring, [tun.port])
        ends.readers = [udp_reader, tun_reader]
        ends.tun_source, ends.udp_sources = tun_reader, [udp_reader]
    return ends


def memory_ends(hosts: dict[int, str]) -> tuple[Ends, MemoryTun]:
    """Makes a TUN device in memory and real sockets bound to these addresses on any port; needs no privileges."""
    sockets = UdpSockets(port=0, hosts=hosts)
    tun = MemoryTun()
    return Ends(tun.source, tun, [sockets], sockets, sockets, None, mark=None, closers=[sockets.close]), tun
