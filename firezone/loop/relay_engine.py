"""The relay's fair tick: two sources, listen port and allocation ports, around the TURN server's machine.

The same shape as the tunnel's tick and the same driver (`loop.tunnel`). Data never meets the interpreter one by one; control
messages do, at a bounded rate, beyond which they are dropped before the interpreter sees them, so that a flood of them leaves the
data its share of the core, and other networks their share of the rate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from firezone.base.bucket import TokenBucket
from firezone.base.histogram import histogram_report
from firezone.base.net import Transmit
from firezone.base.timing import MILLISECOND
from firezone.datapath.punt import endpoint_of
from firezone.datapath.relay_path import RelayPath
from firezone.io.relay_batch import BUSY, IDLE, PUNTED, REFUSED
from firezone.io.relay_sockets import RELAY_RING_SLOTS
from firezone.kernels.types import Reason, Verdict
from firezone.loop.errors import TickErrors
from firezone.loop.stage_times import StageTimes

if TYPE_CHECKING:
    from firezone.base.timing import Instant
    from firezone.io.relay_sockets import RelaySockets
    from firezone.kernels.relay import RelayTable
    from firezone.loop.inputs import Clock, Source
    from firezone.proto.relay.server import RelayServer

READS_PER_BATCH = RELAY_RING_SLOTS
"""Datagrams or trains taken from one side at once: a full ring."""
PUMP_TIME = 3 * MILLISECOND
"""How long data may flow before anything else is looked at. The interpreter's share is then about one per cent; a probe of the
health check waits for eight of these at most."""
LINGER_MS = 3
"""How long a relay whose data has run dry waits for more before it goes back to the loop, which costs as much as 30 datagrams."""
PUMPS_PER_TICK = 64
OUTPUTS_PER_TICK = 4096
STRANGERS_PER_SECOND, STRANGERS_AT_ONCE = 4_000, 512
"""Control messages of addresses without an allocation. At about 50 us each a fifth of a core; a relay with 100 000 clients that
each ask once in 25 s needs as many. Twice as many would take two fifths from the data."""
CLIENTS_PER_SECOND, CLIENTS_AT_ONCE = 4_000, 2_048
"""Control messages of addresses with an allocation, apart from strangers so that a flood cannot keep them from refreshing."""
PEERS_PER_SECOND, PEERS_AT_ONCE = 4_000, 512
"""Datagrams of permitted peers that have no channel, which the interpreter hands on as Data indications."""
SHARE_PER_SECOND, SHARE_AT_ONCE = 32, 32
"""What each client, each network of strangers and each allocation's peers still get when others ask for more than there is: the
last half of what may come at once is kept for that. Ten devices behind one address that come back together need three messages
each; a flood must come from 125 networks before it takes the strangers' half, too."""


class RelayEngine:
    """One relay: its sockets, compiled tables and the machine in the middle."""

    def __init__(self, *, server: RelayServer, table: RelayTable, sockets: RelaySockets, clock: Clock, linger_ms: int = 0) -> None:
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
        self._linger_ms = linger_ms
        self._paths = RelayPath(), RelayPath()
        """From clients, and from peers."""
        listening, relaying = ((path.batch, path.runs) for path in self._paths)
        self._pump = sockets.pump(table, self.reasons, listening, relaying)
        self._allowances = (
            TokenBucket(CLIENTS_PER_SECOND, CLIENTS_AT_ONCE), TokenBucket(STRANGERS_PER_SECOND, STRANGERS_AT_ONCE),
            TokenBucket(PEERS_PER_SECOND, PEERS_AT_ONCE),
        )  # fmt: skip
        table.share_punts((CLIENTS_AT_ONCE // 2, STRANGERS_AT_ONCE // 2, PEERS_AT_ONCE // 2), SHARE_PER_SECOND, SHARE_AT_ONCE)
        self._was_called = True
        # One call of the pump lasts long enough, and one of the machine, that every one of them can be timed.
        self._times = StageTimes()
        self._run_pump = self._times.around("pump", self._pump.run)
        self._call_timeout = self._times.around("machine", server.handle_timeout)
        self._call_machine = self._times.around("machine", self._deliver_punted)

    def tick(self, caller: tuple[Source, int] | None = None) -> bool:
        """Runs one tick. True: a source or the machine may have more, tick again; False: sleep until input or `deadline`."""
        self.ticks += 1
        return self._times.run(self._tick)

    def _tick(self) -> bool:
        now = self.clock.now()
        if self.deadline is not None and now >= self.deadline:
            self._was_called = True
            self.server.set_clock(now, self.clock.utc())
            self._call_timeout(now)
        more = self._relay(now)
        self.sockets.waiting(now)
        self.is_held = bool(self.sockets.blocked_descriptors())
        outputs_left = self._was_called and self._take_outputs(now)
        self._finish(outputs_left)
        return more or outputs_left

    def counters(self) -> dict[str, Any]:
        """Returns what the ticks so far have moved and where their time went, as one JSON-ready object."""
        rings = {"clients": self.sockets.listeners.ring, "peers": self.sockets.allocations.ring}
        batches = dict(zip(rings, (path.batch for path in self._paths), strict=True))
        return {
            "ticks": self.ticks,
            "batches": {
                name: {"reads": histogram_report(*ring.taken()), "rows": histogram_report(*batches[name].sizes())}
                for name, ring in rings.items()
            },
            "rings": {
                name: {"slots": ring.slots, "used": ring.ready(), "most_used": ring.most_used} for name, ring in rings.items()
            },
            "stages": {"every": 1, **self._times.report()},
            "pump": self._pump.times(),
        }

    def open_sources(self) -> tuple[Source, ...]:
        """Returns the sources that may wake the engine: always both."""
        return (self.sockets.listeners, self.sockets.allocations)

    def blocked_descriptors(self) -> tuple[int, ...]:
        """Returns the sockets that something waits for."""
        return self.sockets.blocked_descriptors()

    def sleeps(self) -> bool:
        """Called after a tick that had no more to do. False: something arrived meanwhile, tick again."""
        return all(source.sleeps() for source in self.open_sources())

    def touch(self) -> bool:
        """Takes what the machine wants after somebody outside the tick has called it. True: there is more, tick."""
        self._was_called = True
        has_more = self._take_outputs(self.clock.now())
        self._finish(has_more)
        return has_more

    def poll_event(self) -> object | None:
        """Returns None: a relay's machine has no events."""
        return None

    def _relay(self, now: Instant) -> bool:
        """Lets the data flow, and punted rows to the machine. Returns whether there may be more."""
        clients, strangers, peers = self._allowances
        before = clients.level(now), strangers.level(now), peers.level(now)
        self.table.allow_punts(now, before)
        outcome = BUSY
        for _ in range(PUMPS_PER_TICK):
            outcome = self._run_pump(READS_PER_BATCH, PUMP_TIME, 0 if self.is_held else self._linger_ms, self.sockets.gso)
            path = self._paths[self._pump.side]
            if outcome == PUNTED:
                self._call_machine(path, now)
            elif outcome == REFUSED:
                self.sockets.handle_refused(path.batch, path.runs, *self._pump.refused, now)
            else:
                break
        for bucket, had, has in zip(self._allowances, before, self.table.punts_left(), strict=True):
            bucket.spend(had - has)
        return outcome != IDLE

    def _deliver_punted(self, path: RelayPath, now: Instant) -> None:
        """Hands the machine what is for it and sends its answers."""
        self._was_called = True
        batch = path.batch
        for row in batch.rows(Verdict.PUNT).tolist():
            remote = endpoint_of(batch.remote[row])
            if batch.reason[row] == Reason.PEER_DATA:
                self.server.handle_peer_datagram(int(batch.socket[row]), remote, batch.row_bytes(row), now)
            else:
                self.server.handle_datagram(endpoint_of(batch.local[row]), remote, batch.row_bytes(row), now)
            self._take_outputs(now)
        if path is self._paths[0]:
            self._retry(path, now)

    def _retry(self, path: RelayPath, now: Instant) -> None:
        """Clients send data right behind the request for its channel: both may be in one batch."""
        found = path.retry(self.table)
        if found:
            self.reasons[Reason.NO_CHANNEL] -= np.uint32(found)
            self.sockets.send_runs(path.batch, path.runs, now)

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
