"""The tunnel's outer sockets: one per family, both on one ring; the tick's source of datagrams and its sink."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import structlog

from firezone.base.limits import RING_SLOTS
from firezone.base.net import TUNNEL_PORT
from firezone.io.udp_socket import MAX_ERRORS, UdpSocket, bind_udp
from firezone.kernels.ring import PacketRing

if TYPE_CHECKING:
    from firezone.base.net import Transmit
    from firezone.base.timing import Instant
    from firezone.io.udp_batch import UdpBatchPort
    from firezone.kernels.batch import PacketBatch, RunList

log = structlog.get_logger(__name__)


class UdpSockets:
    """Both families: the tick's source of datagrams and its sink. A family that cannot be bound is done without."""

    def __init__(
        self, *, port: int = TUNNEL_PORT, mark: int | None = None, hosts: dict[int, str] | None = None, slots: int = RING_SLOTS
    ) -> None:
        """`hosts` binds the given families to addresses and no others; by default both to the wildcard."""
        self.ring = PacketRing(slots)
        self._port, self._mark = port, mark
        self._hosts = hosts if hosts is not None else {4: "", 6: ""}
        self._sockets: dict[int, UdpSocket] = {}
        self._errors: list[Exception] = []
        self._no_socket = 0
        self._former: dict[str, int] = {}
        self._turn = 0
        self._bind()

    # source

    def descriptors(self) -> tuple[int, ...]:
        return tuple(udp.batch.fd for udp in self._sockets.values())

    def fill(self, max_reads: int, descriptor: int | None = None) -> None:
        """Reads from every socket, or the one; an error of one family does not touch what the other delivered."""
        sockets = [udp for udp in self._sockets.values() if descriptor is None or udp.batch.fd == descriptor]
        # In turn: with a ring that is nearly full, whoever reads first gets all there is.
        self._turn += 1
        for n in range(len(sockets)):
            try:
                sockets[(self._turn + n) % len(sockets)].batch.fill(self.ring, max_reads)
            except OSError as error:
                self._note(error)

    def release(self, entries: int) -> None:
        self.ring.release(entries)

    def sleeps(self) -> bool:
        return self.ring.ready() == 0

    # sink

    def send_runs(self, batch: PacketBatch, runs: RunList, now: Instant) -> None:
        """Sends every run; what a socket refuses for now is copied into its queue."""
        index = 0
        while index < runs.n:
            family = runs.family(batch, index)
            udp = self._sockets.get(family)
            if udp is None:
                self._no_socket += int(runs.runs[index]["count"])
                index += 1
            elif udp.waiting:
                udp.wait(batch, runs, index, -1, now)
                index += 1
            else:
                index, row, error = udp.batch.send_all(batch, runs, index, family)
                if error:
                    udp.send_rest(batch, runs, index, row, error, now)
                    index += 1

    def send(self, transmit: Transmit, now: Instant) -> None:
        """Sends one datagram of a machine."""
        udp = self._sockets.get(4 if transmit.destination.is_ipv4 else 6)
        if udp is None:
            self._no_socket += 1
        else:
            udp.send(transmit, now)

    def waiting(self, now: Instant) -> bool:
        """Retries what waits, drops what waited too long, and tells whether something still waits."""
        still = False
        for udp in self._sockets.values():
            still = udp.flush(now) or still
        return still

    def blocked_descriptors(self) -> tuple[int, ...]:
        return tuple(udp.batch.fd for udp in self._sockets.values() if udp.waiting)

    def take_errors(self) -> list[Exception]:
        errors = self._errors[:]
        self._errors.clear()
        return errors

    # life

    def rebind(self) -> None:
        """Replaces both sockets, on the same port if it can be had. What waits is gone."""
        self._close_sockets()
        self._bind()

    def batch_ports(self) -> list[UdpBatchPort]:
        """Returns the compiled ports of the sockets there are, for a reader."""
        return [udp.batch for udp in self._sockets.values()]

    def ports(self) -> dict[int, int]:
        """Returns the bound port of each family there is."""
        return {family: udp.port for family, udp in self._sockets.items()}

    def counters(self) -> dict[str, Any]:
        """Returns counters of all sockets together, and how many datagrams one send carried on average."""
        total = {"no_socket": self._no_socket, **self._sum()}
        calls = total.get("send_calls", 0)
        return {**total, "datagrams_per_send": round(total.get("sent", 0) / calls, 2) if calls else 0.0}

    def close(self) -> None:
        self._close_sockets()

    def _bind(self) -> None:
        for family, host in self._hosts.items():
            try:
                self._sockets[family] = self._bind_family(family, host)
            except OSError as error:
                log.info("no socket for this family", family=family, error=error.strerror)
                self._note(error)

    def _bind_family(self, family: int, host: str) -> UdpSocket:
        """Binds on the wanted port, or on any port when that is taken."""
        try:
            return bind_udp(family, port=self._port, mark=self._mark, host=host, errors=self._errors)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or self._port == 0:
                raise
            return bind_udp(family, port=0, mark=self._mark, host=host, errors=self._errors)

    def _sum(self) -> dict[str, int]:
        total = dict(self._former)
        for udp in self._sockets.values():
            refused = {"refused": udp.counters.refused, "dropped_waiting": udp.counters.dropped_waiting}
            for name, value in {**udp.batch.stats(), **refused}.items():
                total[name] = total.get(name, 0) + value
        return total

    def _note(self, error: OSError) -> None:
        if len(self._errors) < MAX_ERRORS:
            self._errors.append(error)

    def _close_sockets(self) -> None:
        self._former = self._sum()
        for udp in self._sockets.values():
            udp.close()
        self._sockets.clear()
