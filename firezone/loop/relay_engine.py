"""The relay's fair tick: two sources, listen port and allocation ports, around the TURN server's machine.

The same shape as the tunnel's tick and the same driver (`loop.tunnel`). Data never meets the interpreter one by one; control
messages do, and strangers' are admitted at a bounded rate, so that a flood of them leaves the data its share of the core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firezone.base.bucket import TokenBucket
from firezone.base.net import Transmit
from firezone.datapath.punt import endpoint_of
from firezone.datapath.relay_path import RelayPath
from firezone.kernels.types import Reason, Verdict
from firezone.loop.errors import TickErrors

if TYPE_CHECKING:
    from firezone.base.timing import Instant
    from firezone.io.relay_sockets import RelaySockets
    from firezone.kernels.batch import PacketBatch
    from firezone.kernels.relay import RelayTable
    from firezone.loop.inputs import Clock, Source
    from firezone.proto.relay.server import RelayServer

READS_PER_ROUND = 64
"""Datagrams or trains taken from one source per round: a full ring."""
ROUNDS_PER_TICK = 4
OUTPUTS_PER_TICK = 4096
STRANGERS_PER_SECOND, STRANGERS_AT_ONCE = 4_000, 512
"""Control messages of addresses without an allocation. At about 50 us each a fifth of a core; a relay with 100 000 clients that
each ask once in 25 s needs as many. Twice as many would take two fifths from the data."""
CLIENTS_PER_SECOND, CLIENTS_AT_ONCE = 4_000, 2_048
"""Control messages of addresses with an allocation, apart from strangers so that a flood cannot keep them from refreshing."""


class RelayEngine:
    """One relay: its sockets, compiled tables and the machine in the middle."""

    def __init__(self, *, server: RelayServer, table: RelayTable, sockets: RelaySockets, clock: Clock) -> None:
        self.server = server
        self.table = table
        self.sockets = sockets
        self.clock = clock
        self.errors = TickErrors()
        self.reasons = np.zeros(256, np.uint32)
        """Rows dropped or punted since the start, by `types.Reason`."""
        self.ticks = 0
        self.deadline: Instant | None = None
        self.deadline_reason = ""
        self.is_held = False
        """Datagrams wait for a socket. Reading goes on: one full socket holds up nobody else."""
        self._path = RelayPath(table)
        self._strangers = TokenBucket(STRANGERS_PER_SECOND, STRANGERS_AT_ONCE)
        self._clients = TokenBucket(CLIENTS_PER_SECOND, CLIENTS_AT_ONCE)
        self._was_called = True

    def tick(self, caller: tuple[Source, int] | None = None) -> bool:
        """Runs one tick. True: a source or the machine may have more, tick again; False: sleep until input or `deadline`."""
        now = self.clock.now()
        self.ticks += 1
        if self.deadline is not None and now >= self.deadline:
            self._was_called = True
            self.server.set_clock(now, self.clock.utc())
            self.server.handle_timeout(now)
        for _ in range(ROUNDS_PER_TICK):
            moved, more = self._round(now)
            if not moved:
                break
        self.sockets.waiting(now)
        self.is_held = bool(self.sockets.blocked_descriptors())
        outputs_left = self._was_called and self._take_outputs(now)
        self._finish(outputs_left)
        return more or outputs_left

    def open_sources(self) -> tuple[Source, ...]:
        """Returns the sources that may wake the engine: always both."""
        return (self.sockets.listeners, self.sockets.allocations)

    def blocked_descriptors(self) -> tuple[int, ...]:
        """Returns the sockets that something waits for."""
        return self.sockets.blocked_descriptors()

    def sleeps(self) -> bool:
        """Called after a tick that had no more to do. False: something arrived meanwhile, tick again."""
        return all(source.sleeps() for source in self.open_sources())

    def touch(self) -> None:
        """Takes what the machine wants after somebody outside the tick has called it."""
        self._was_called = True
        self._finish(self._take_outputs(self.clock.now()))

    def poll_event(self) -> object | None:
        """Returns None: a relay's machine has no events."""
        return None

    def _round(self, now: Instant) -> tuple[bool, bool]:
        listeners, allocations = self.sockets.listeners, self.sockets.allocations
        listeners.fill(READS_PER_ROUND)
        allocations.fill(READS_PER_ROUND)
        moved = more = False
        for source, run in ((listeners, self._path.from_clients), (allocations, self._path.from_peers)):
            entries = min(source.ring.ready(), READS_PER_ROUND)
            if not entries:
                continue
            taken = run(source.ring, entries)
            if self._path.runs.n:
                self.sockets.send_runs(self._path.batch, self._path.runs, now)
            if self._path.batch.count_reasons(self.reasons):
                was_obeyed = self._deliver_punted(self._path.batch, now)
                if was_obeyed and source is listeners:
                    self._retry(now)
            source.release(taken)
            moved = True
            more = more or taken < entries or entries == READS_PER_ROUND
        return moved, more

    def _retry(self, now: Instant) -> None:
        """Clients send data right behind the request for its channel: both may be in one batch."""
        found = self._path.retry()
        if found:
            self.reasons[Reason.NO_CHANNEL] -= np.uint32(found)
            self.sockets.send_runs(self._path.batch, self._path.runs, now)

    def _deliver_punted(self, batch: PacketBatch, now: Instant) -> bool:
        """Hands the machine what is for it, as far as the rates allow. Returns whether there was anything."""
        rows = batch.rows(Verdict.PUNT).tolist()
        if rows:
            self._was_called = True
        for row in rows:
            remote = endpoint_of(batch.remote[row])
            if batch.reason[row] == Reason.PEER_DATA:
                if self._strangers.take(now):
                    self.server.handle_peer_datagram(int(batch.socket[row]), remote, batch.row_bytes(row), now)
                else:
                    self.reasons[Reason.PUNT_LIMIT] += 1
                continue
            bucket = self._clients if self.server.knows(remote) else self._strangers
            if bucket.take(now):
                self.server.handle_datagram(endpoint_of(batch.local[row]), remote, batch.row_bytes(row), now)
            else:
                self.reasons[Reason.PUNT_LIMIT] += 1
        return bool(rows)

    def _take_outputs(self, now: Instant) -> bool:
        for _ in range(OUTPUTS_PER_TICK):
            if (transmit := self.server.poll_transmit()) is None:
                return False
            self.sockets.send(Transmit(transmit.local, transmit.remote, transmit.payload), now, transmit.port)
        return True

    def _finish(self, outputs_left: bool) -> None:
        for error in self.sockets.take_errors():
            self.errors.push(error)
        if self._was_called:
            self.deadline, self.deadline_reason = self.server.poll_timeout() or (None, "")
        self._was_called = outputs_left
