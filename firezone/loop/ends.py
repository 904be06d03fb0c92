"""The four ends of an engine, made for the place it runs in: real devices, or rings in memory with real sockets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from firezone.io.netlink import FIREZONE_MARK
from firezone.io.tun_device import DEFAULT_NAME, TunDevice
from firezone.io.udp_socket import UdpSockets
from firezone.loop.memory import MemoryTun

if TYPE_CHECKING:
    from firezone.loop.inputs import DatagramSink, PacketSink, Source


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
    closers: list[Callable[[], None]] = field(default_factory=list)

    def rebind(self) -> None:
        self.sockets.rebind()

    def ports(self) -> dict[int, int]:
        return self.sockets.ports()

    def counters(self) -> dict[str, Any]:
        tun = self.tun_sink
        return {"udp": self.sockets.counters(), "tun": tun.counters() if isinstance(tun, TunDevice) else {}}

    def close(self) -> None:
        for close in self.closers:
            close()


def kernel_ends(device: str = DEFAULT_NAME) -> Ends:
    """Opens the TUN device and the marked outer sockets.

    Raises: ConfigError, saying what to do, when the host does not let us.
    """
    sockets = UdpSockets(mark=FIREZONE_MARK)
    try:
        tun = TunDevice.open(device)
    except BaseException:
        sockets.close()
        raise
    return Ends(tun, tun, [sockets], sockets, sockets, device, closers=[tun.close, sockets.close])


def memory_ends(hosts: dict[int, str]) -> tuple[Ends, MemoryTun]:
    """Makes a TUN device in memory and real sockets bound to these addresses on any port; needs no privileges."""
    sockets = UdpSockets(port=0, hosts=hosts)
    tun = MemoryTun()
    return Ends(tun.source, tun, [sockets], sockets, sockets, None, mark=None, closers=[sockets.close]), tun
