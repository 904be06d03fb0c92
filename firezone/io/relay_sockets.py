"""The relay's sockets: the listen port in both families, and the ports of allocations, opened and closed on demand.

Reading is batched over whatever is ready (`relay_batch`). A socket whose buffer is full gets a bounded queue of its own and holds
up nobody else. Two sources, one sink: the shape the tick expects.
"""

from __future__ import annotations

import contextlib
import errno
import resource
from typing import TYPE_CHECKING, Any

import structlog

from firezone.base.errors import ConfigError
from firezone.base.limits import MAX_RELAY_WAITING_BYTES
from firezone.base.net import Endpoint
from firezone.io.relay_batch import BLOCKED, RelayPump, SendTable, SocketSet
from firezone.io.udp_socket import UdpSocket, bind_udp
from firezone.kernels.ring import PacketRing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from firezone.base.net import Transmit
    from firezone.base.timing import Instant
    from firezone.kernels.batch import PacketBatch, RunList
    from firezone.kernels.relay import RelayTable

log = structlog.get_logger(__name__)

RELAY_RING_SLOTS = 256
"""Reads per batch and side. Datagrams of one flow in a batch leave in one call, so with many flows the batch must hold several of
each: with 100 clients 256 cost a third less CPU per datagram than 64."""
RELAY_SLOT_SIZE = 65_536 + 1_280
"""A GRO train, and as much more that the datagrams in neighbouring slots do not compete for the same lines of the cache."""
LISTEN_BUFFER_SIZE = 32 << 20
"""All clients share it."""
ALLOCATION_BUFFER_SIZE = 8 << 20
"""What the peers of one client may send while we do not run; a bound on memory, not memory that is used."""
RESERVED_DESCRIPTORS = 256
"""What the rest of the program may need at any time: probes and orders (32 connections each), the portal's connection, files. A
relay whose allocations took them all would fail its health check and could not log in again."""
WANTED_DESCRIPTORS = 2 * 16_384 + RESERVED_DESCRIPTORS
"""Both families of every port of the default range, and the rest."""


class RelaySource:
    """One ring of the relay and the set of sockets that fills it."""

    def __init__(self) -> None:
        self.ring = PacketRing(RELAY_RING_SLOTS, RELAY_SLOT_SIZE)
        self.sockets = SocketSet()

    def descriptors(self) -> tuple[int, ...]:
        return (self.sockets.fd,)

    def fill(self, max_reads: int, descriptor: int | None = None) -> None:
        self.sockets.fill(self.ring, max_reads)

    def release(self, entries: int) -> None:
        self.ring.release(entries)

    def sleeps(self) -> bool:
        return self.ring.ready() == 0

    def take_errors(self) -> list[Exception]:
        return []


class RelaySockets:
    """All sockets of a relay; implements `proto.relay.tables.PortBinder` and the tick's sink."""

    def __init__(self, *, listen_port: int, addresses: dict[int, str]) -> None:
        """Binds the listen port. `addresses` has the address to bind to for each family (4, 6) that is served.

        Raises: ConfigError, saying what to do, when the port cannot be had.
        """
        self.listen_port = listen_port
        self.listeners, self.allocations = self.sources = RelaySource(), RelaySource()
        self._addresses = addresses
        self._table = SendTable()
        self._sockets: dict[tuple[int, int], UdpSocket] = {}
        self._blocked: set[tuple[int, int]] = set()
        self._waiting_bytes = 0
        """In the queues of all sockets."""
        self._errors: list[Exception] = []
        self._refused = self._dropped_waiting = 0
        """Of sockets that are closed."""
        self._no_socket = 0
        self._gso = True
        self._most_sockets = max(_raise_descriptor_limit() - RESERVED_DESCRIPTORS, 2 * len(addresses))
        for family, host in addresses.items():
            try:
                self._open(listen_port, family, host, LISTEN_BUFFER_SIZE)
            except OSError as error:
                self.close_all()
                raise ConfigError(
                    f"UDP port {listen_port} on {host} cannot be had: {error.strerror}. "
                    "Is another relay running, or the address not of this host?"
                ) from error

    # ports of allocations

    def open(self, port: int, families: tuple[int, ...]) -> bool:
        """Opens one socket per family on the port, all or none. Returns False when it is taken or no descriptor is left for it."""
        if len(self._sockets) + len(families) > self._most_sockets:
            return False
        for family in families:
            try:
                self._open(port, family, self._addresses[family], ALLOCATION_BUFFER_SIZE)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    log.warning("a port of an allocation cannot be opened", port=port, family=family, error=error.strerror)
                self.close(port)
                return False
        return True

    def close(self, port: int) -> None:
        """Closes every socket of an allocation's port; what waits in them is gone."""
        for family in self._addresses:
            udp = self._sockets.pop((port, family), None)
            if udp is not None:
                self._table.set(port, family, -1)
                self._source_of(port).sockets.remove(udp.batch.fd)
                self._blocked.discard((port, family))
                self._waiting_bytes -= udp.waiting_bytes
                self._refused += udp.counters.refused
                self._dropped_waiting += udp.counters.dropped_waiting + len(udp.waiting)
                udp.close()

    # sink

    def send_runs(self, batch: PacketBatch, runs: RunList, now: Instant) -> None:
        """Sends every run; what a socket refuses for now is copied into its queue."""
        index = 0
        while True:
            index, row, error = self._table.send_all(batch, runs, index, self._gso)
            if not error:
                return
            self.handle_refused(batch, runs, index, row, error, now)
            index += 1

    def pump(
        self,
        table: RelayTable,
        reasons: NDArray[np.uint32],
        listening: tuple[PacketBatch, RunList],
        relaying: tuple[PacketBatch, RunList],
    ) -> RelayPump:
        """Returns what relays between the listen port and the allocations; each side has a batch and runs of its own.

        Shapes: reasons (256,) uint32.
        """
        sides = tuple(
            (source.sockets, source.ring, *path) for source, path in zip(self.sources, (listening, relaying), strict=True)
        )
        return RelayPump(table, self._table, reasons, sides)

    @property
    def gso(self) -> bool:
        """Whether trains may be sent; off for good once a device could not."""
        return self._gso

    def handle_refused(self, batch: PacketBatch, runs: RunList, index: int, row: int, error: int, now: Instant) -> None:
        """Takes over a run that stopped at `row` (-1: at none): later, without a feature, or not at all."""
        first = runs.runs[index]["first"]
        key = (int(batch.socket[first]), int(batch.remote[first]["family"]))
        udp = self._sockets.get(key)
        if udp is None:
            self._no_socket += int(runs.runs[index]["count"])
        elif udp.waiting:
            before = udp.waiting_bytes
            udp.wait(batch, runs, index, row, now)
            self._note_waiting(key, udp, before)
        else:
            udp.send_rest(batch, runs, index, row, error, now)
            self._note_waiting(key, udp, 0)
            if not udp.batch.gso:
                self._gso = False  # A device that cannot cut for one socket cannot for the others.

    def send(self, transmit: Transmit, now: Instant, port: int | None = None) -> None:
        """Sends one datagram of the machine: from the listen port, or from an allocation's."""
        key = (self.listen_port if port is None else port, 4 if transmit.destination.is_ipv4 else 6)
        udp = self._sockets.get(key)
        if udp is None:
            self._no_socket += 1
            return
        before = udp.waiting_bytes
        udp.send(transmit, now)
        self._note_waiting(key, udp, before)

    def waiting(self, now: Instant) -> bool:
        """Retries what waits and drops what waited too long. False: reading is never held up for one socket's sake."""
        for key in list(self._blocked):
            udp = self._sockets[key]
            before = udp.waiting_bytes
            is_blocked = udp.flush(now)
            self._waiting_bytes += udp.waiting_bytes - before
            if not is_blocked:
                self._blocked.discard(key)
                self._table.set(*key, udp.batch.fd)
        return False

    def blocked_descriptors(self) -> tuple[int, ...]:
        return tuple(self._sockets[key].batch.fd for key in self._blocked)

    def take_errors(self) -> list[Exception]:
        errors = self._errors[:]
        self._errors.clear()
        return errors

    # life

    def families(self) -> tuple[int, ...]:
        """Returns the families that are served."""
        return tuple(self._addresses)

    def local_endpoints(self) -> dict[int, Endpoint]:
        """Returns what the listen sockets are bound to."""
        found = {}
        for family in self._addresses:
            host, port = self._sockets[self.listen_port, family].sock.getsockname()[:2]
            found[family] = Endpoint.from_text(host, port)
        return found

    def counters(self) -> dict[str, Any]:
        """Returns the counters of all sockets there ever were."""
        refused = self._refused + sum(udp.counters.refused for udp in self._sockets.values())
        dropped = self._dropped_waiting + sum(udp.counters.dropped_waiting for udp in self._sockets.values())
        reads, sent = [source.sockets.stats() for source in (self.listeners, self.allocations)], self._table.stats()
        return {
            "sockets": len(self._sockets),
            "no_socket": self._no_socket,
            "refused": refused,
            "dropped_waiting": dropped,
            "waiting_bytes": self._waiting_bytes,
            "receive_calls": sum(read["receive_calls"] for read in reads),
            "received": sum(read["received"] for read in reads),
            "send_calls": sent["send_calls"],
            "sent": sent["sent"],
            "datagrams_per_send": round(sent["sent"] / sent["send_calls"], 2) if sent["send_calls"] else 0.0,
        }

    def close_all(self) -> None:
        """Closes every socket."""
        for port in {port for port, _ in self._sockets}:
            self.close(port)

    # in detail

    def _open(self, port: int, family: int, host: str, buffer: int) -> None:
        tells_local = port == self.listen_port  # An allocation's peers are answered from where the route leads.
        udp = bind_udp(
            family, port=port, host=host, receive_buffer=buffer, may_fragment=True, tells_local=tells_local, errors=self._errors
        )
        try:
            self._source_of(port).sockets.add(udp.batch.fd, port)
        except OSError:
            udp.close()
            raise
        self._table.set(port, family, udp.batch.fd)
        self._sockets[port, family] = udp

    def _source_of(self, port: int) -> RelaySource:
        return self.listeners if port == self.listen_port else self.allocations

    def _note_waiting(self, key: tuple[int, int], udp: UdpSocket, before: int) -> None:
        """Counts what waits at a socket that had `before` bytes, and keeps the sum within its bound at that socket's cost."""
        self._waiting_bytes += udp.waiting_bytes - before
        while self._waiting_bytes > MAX_RELAY_WAITING_BYTES and udp.waiting:
            before = udp.waiting_bytes
            udp.drop_oldest()
            self._waiting_bytes += udp.waiting_bytes - before
        if udp.waiting:
            self._block(key)

    def _block(self, key: tuple[int, int]) -> None:
        self._blocked.add(key)
        self._table.set(*key, BLOCKED)


def _raise_descriptor_limit() -> int:
    """Asks for a descriptor per family and port; where that is not allowed, for as many as the system lets us have.

    Returns: how many there are.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < WANTED_DESCRIPTORS:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (WANTED_DESCRIPTORS, WANTED_DESCRIPTORS))
            return WANTED_DESCRIPTORS
        log.info("fewer descriptors than ports: allocations beyond are refused", descriptors=hard, wanted=WANTED_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
