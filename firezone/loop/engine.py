"""The fair tick over rings in memory: the same class in programs, simulation and tests.

One tick, in this order: due timers ▸ what the machine wants ▸ rounds over *all* ready sources, each capped ▸ what the machine
wants now ▸ the next deadline. Nobody is preferred: a source with a full batch comes round again in the next round, after all the
others. The clock is read once. An error costs its row, never the batch.

A round that moved something is followed by another before any book-keeping: writing a packet often makes the kernel queue its
answer within the same system call, and what is done before that answer is read lengthens its round trip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from firezone.base.errors import FirezoneError
from firezone.base.histogram import histogram_report
from firezone.base.limits import READS_PER_ROUND
from firezone.base.timing import MILLISECOND
from firezone.datapath.path import Downlink, Uplink
from firezone.datapath.punt import deliver_punted
from firezone.datapath.translator import Translator, needs_translation
from firezone.kernels.types import Verdict
from firezone.loop.errors import TickErrors
from firezone.loop.stage_times import SAMPLE_EVERY, StageTimes, Timed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firezone.base.timing import Instant
    from firezone.datapath.tables import Tables
    from firezone.kernels.batch import PacketBatch
    from firezone.loop.inputs import Clock, DatagramSink, PacketSink, Source
    from firezone.proto.machine import Machine

OUTPUTS_PER_TICK = 1024
"""Datagrams, packets and updates taken from the machine at a time; the rest follows in the next tick."""


ROUNDS_PER_TICK = 4
"""Rounds over the sources before a tick keeps its books: two serve a packet and its answer, more only spread the books of a
bulk transfer thinner, and delay timers."""

ACTIVITY_DELAY = 50 * MILLISECOND
"""How long what the compiled path did may wait before the machine hears of it. Its timers count seconds; telling it after every
packet costs as much as the packet, at a moment when the answer may be on its way."""

_TIMED_CALLS = {
    "machine": dict.fromkeys(
        ("handle_packet", "handle_datagram", "handle_refused", "handle_control", "handle_activity", "handle_timeout",
         "poll_timeout", "poll_transmit", "poll_packet", "poll_update"), "machine",
    ),
    "tun_source": {"fill": "tun.read"},
    "tun_sink": dict.fromkeys(("write_runs", "write", "waiting"), "tun.write"),
    "udp_sink": dict.fromkeys(("send_runs", "send", "waiting"), "udp.send"),
}  # fmt: skip
"""Stages of a tick by what the engine calls for them: attribute, method, stage."""


class Engine:
    """One tunnel: TUN and outer sockets on its sides, compiled tables and a machine in the middle."""

    def __init__(
        self,
        *,
        machine: Machine,
        tables: Tables,
        clock: Clock,
        tun_source: Source,
        tun_sink: PacketSink,
        udp_sources: Sequence[Source],
        udp_sink: DatagramSink,
    ) -> None:
        self.machine = machine
        self.tables = tables
        self.clock = clock
        self.tun_source = tun_source
        self.tun_sink = tun_sink
        self.udp_sources = udp_sources
        self.udp_sink = udp_sink
        self.errors = TickErrors()
        self.reasons = np.zeros(256, np.uint32)
        """Rows dropped or punted since the start, by `types.Reason`."""
        self.ticks = 0
        self._times = StageTimes()
        self._timed_for: dict[str, Any] = {}
        """The ends that `_timed` has under its stopwatch: they may be replaced."""
        self._timed: dict[str, Any] = {}
        self.deadline: Instant | None = None
        """When the engine must tick again even if no source is ready."""
        self.deadline_reason = ""
        self.is_held = False
        """Datagrams wait for a socket, so TUN is not read until they are gone."""
        self._machine_due: tuple[Instant, str] | None = None
        self._machine_called = True
        """Whether the machine was called since its outputs and its deadline were last taken."""
        self._report_at: Instant | None = None
        """When the machine is told of activity; None: there was none."""
        self.uplink = Uplink(tables, self.reasons)
        self.downlink = Downlink(tables, self.reasons)
        self._translator = Translator(tables)

    def tick(self, caller: tuple[Source, int] | None = None) -> bool:
        """Runs one tick. True: a source or the machine may have more, tick again; False: sleep until input or `deadline`.

        With `caller`, a source and the descriptor of it that became readable, the tick first works off what is there: asking
        the others as well would only make the packet wait that woke us.
        """
        self.ticks += 1
        if self.ticks % SAMPLE_EVERY:
            return self._tick(caller)
        return self._timed_tick(caller)

    def counters(self) -> dict[str, Any]:
        """Returns what the ticks so far have moved and where their time went, as one JSON-ready object."""
        sources = {"tun": (self.tun_source.ring, self.uplink.batch)}
        sources |= {f"udp{n or ''}": (source.ring, self.downlink.batch) for n, source in enumerate(self.udp_sources)}
        ways = {"uplink": self.uplink.stage_ns, "downlink": self.downlink.stage_ns}
        path = {f"{way}.{stage}": ns for way, stages in ways.items() for stage, ns in stages.items()}
        return {
            "ticks": self.ticks,
            "batches": {
                name: {"reads": histogram_report(*ring.taken()), "rows": histogram_report(*batch.sizes())}
                for name, (ring, batch) in sources.items()
            },
            "rings": {
                name: {"slots": ring.slots, "used": ring.ready(), "most_used": ring.most_used}
                for name, (ring, _) in sources.items()
            },
            "stages": {"every": SAMPLE_EVERY, **self._times.report(path)},
        }

    def _timed_tick(self, caller: tuple[Source, int] | None) -> bool:
        """Runs the same tick with a stopwatch around what it calls."""
        kept = {name: getattr(self, name) for name in (*_TIMED_CALLS, "udp_sources")}
        if kept != self._timed_for:
            self._timed_for, self._timed = kept, self._time_ends()
        timed = self._timed
        if caller is not None:
            source = next(one for one in (timed["tun_source"], *timed["udp_sources"]) if one.target is caller[0])
            caller = (source, caller[1])
        self.__dict__.update(timed)
        self.uplink.is_timed = self.downlink.is_timed = True
        try:
            return self._times.run(lambda: self._tick(caller))
        finally:
            self.__dict__.update(kept)
            self.uplink.is_timed = self.downlink.is_timed = False

    def _time_ends(self) -> dict[str, Any]:
        timed: dict[str, Any] = {name: Timed(getattr(self, name), calls, self._times) for name, calls in _TIMED_CALLS.items()}
        return timed | {"udp_sources": [Timed(source, {"fill": "udp.read"}, self._times) for source in self.udp_sources]}

    def _tick(self, caller: tuple[Source, int] | None) -> bool:
        now = self.clock.now()
        if self._machine_due is not None and now >= self._machine_due[0]:
            self._call_timeout(now)
            self._take_outputs(now)
        if caller is not None and not self.is_held:
            self._serve(*caller, now)
        for _ in range(ROUNDS_PER_TICK):
            moved, more = self._round(now)
            if not moved:
                break
            if self._report_at is None:
                self._report_at = now + ACTIVITY_DELAY
        self.tun_sink.waiting(now)
        if self._report_at is not None and now >= self._report_at:
            self._report_activity(now)
        outputs_left = self._machine_called and self._take_outputs(now)
        self._collect_errors()
        self._rearm()
        self._machine_called = outputs_left
        return more or outputs_left

    def open_sources(self) -> tuple[Source, ...]:
        """Returns the sources that may wake the engine now."""
        return tuple(self.udp_sources) if self.is_held else (self.tun_source, *self.udp_sources)

    def blocked_descriptors(self) -> tuple[int, ...]:
        """Returns the sockets that something waits for."""
        return self.udp_sink.blocked_descriptors()

    def sleeps(self) -> bool:
        """Called after a tick that had no more to do. False: something arrived meanwhile, tick again."""
        sources = (self.tun_source, *self.udp_sources)
        return all(source.sleeps() for source in sources)

    def poll_event(self) -> object | None:
        """Returns the machine's next event for the program around it."""
        return self.machine.poll_event()

    def touch(self) -> bool:
        """Takes what the machine wants after somebody outside the tick has called it (portal, signals, netlink).

        Returns: whether there is more than fits into one tick; then tick.
        """
        self._machine_called = True
        outputs_left = self._take_outputs(self.clock.now())
        self._collect_errors()
        self._rearm()
        self._machine_called = outputs_left
        return outputs_left

    def _serve(self, source: Source, descriptor: int, now: Instant) -> None:
        source.fill(READS_PER_ROUND, descriptor)
        if source is self.tun_source:
            moved, _ = self._tun_batch(now)
        else:
            moved, _ = self._udp_batch(source, now)
        if moved and self._report_at is None:
            self._report_at = now + ACTIVITY_DELAY

    def _round(self, now: Instant) -> tuple[bool, bool]:
        """Works off one batch of every source. Returns whether anything moved, and whether a source is sure to have more."""
        # Every source is asked before any is worked off, so that none waits for the work of another.
        for source in self.udp_sources:
            source.fill(READS_PER_ROUND)
        # While datagrams wait for the kernel, taking more from TUN would only make the queue longer.
        self.is_held = self.udp_sink.waiting(now)
        moved = more = False
        if not self.is_held:
            self.tun_source.fill(READS_PER_ROUND)
            moved, more = self._tun_batch(now)
        for source in self.udp_sources:
            one_moved, one_more = self._udp_batch(source, now)
            moved, more = moved or one_moved, more or one_more
        return moved, more

    def _tun_batch(self, now: Instant) -> tuple[bool, bool]:
        uplink, ring = self.uplink, self.tun_source.ring
        taken = uplink.run(ring, READS_PER_ROUND, now)
        if not taken:
            return False, False
        self.tun_source.release(taken)
        if uplink.runs.n:
            self.udp_sink.send_runs(uplink.batch, uplink.runs, now)
        if uplink.punted:
            self._deliver_punted(uplink.batch, now)
        return True, taken == READS_PER_ROUND or ring.ready() > 0

    def _udp_batch(self, source: Source, now: Instant) -> tuple[bool, bool]:
        downlink, ring = self.downlink, source.ring
        taken = downlink.run(ring, READS_PER_ROUND, now, coalesce=self.tun_sink.coalesce)
        if not taken:
            return False, False
        if downlink.runs.n:
            self.tun_sink.write_runs(downlink.batch, downlink.runs, now)
        if downlink.punted:
            self._deliver_punted(downlink.batch, now)
        if self.tables.sessions.is_urgent:
            # Before TUN is read again: the answer to this very packet may be there, and must leave on the new session.
            self._report_activity(now)
        source.release(taken)
        return True, taken == READS_PER_ROUND or ring.ready() > 0

    def _deliver_punted(self, batch: PacketBatch, now: Instant) -> None:
        """Lets the machine answer each message before the next one is handled: the peer works on the answer meanwhile.

        Twenty checks of a new connection are handled in 2 ms, and each way of a handshake would wait for all of them.
        """

        def answer() -> None:
            self._take_outputs(now)

        if deliver_punted(batch, self.machine, now, self.errors.push, self.reasons, answer):
            self._machine_called = True

    def _report_activity(self, now: Instant) -> None:
        self._report_at = None
        records = self.tables.sessions.take_activity()
        if len(records):
            self._guarded(self.machine.handle_activity, records, now)

    def _call_timeout(self, now: Instant) -> None:
        self._machine_due = None
        self._guarded(self.machine.handle_timeout, now, self.clock.utc())

    def _guarded(self, call: object, *args: object) -> None:
        self._machine_called = True
        try:
            call(*args)  # type: ignore[operator]
        except FirezoneError as error:
            self.errors.push(error)

    def _take_outputs(self, now: Instant) -> bool:
        """Takes what the machine wants, tables first so that what follows meets them. True: there may be more."""
        machine = self.machine
        for _ in range(OUTPUTS_PER_TICK):
            if (update := machine.poll_update()) is None:
                break
            self.tables.apply(update)
        else:
            return True
        taken = 0
        while taken < OUTPUTS_PER_TICK and (packet := machine.poll_packet()) is not None:
            self._write_packet(packet, now)
            taken += 1
        while taken < OUTPUTS_PER_TICK and (transmit := machine.poll_transmit()) is not None:
            self.udp_sink.send(transmit, now)
            taken += 1
        return taken == OUTPUTS_PER_TICK

    def _write_packet(self, packet: bytes, now: Instant) -> None:
        """Writes a packet of the machine to TUN; it has come by another way than the compiled path, but not around the NAT."""
        if not needs_translation(packet):
            self.tun_sink.write(packet, now)
            return
        batch = self._translator.translate(packet, now)
        if batch.verdict[0] == Verdict.FORWARD:
            self.tun_sink.write(batch.row_bytes(0), now)
        elif batch.count_reasons(self.reasons):
            self._deliver_punted(batch, now)

    def _collect_errors(self) -> None:
        ends: list[Source | PacketSink | DatagramSink] = [self.tun_source, *self.udp_sources, self.tun_sink, self.udp_sink]
        for end in ends:
            for error in end.take_errors():
                self.errors.push(error)

    def _rearm(self) -> None:
        if self._machine_called:
            self._machine_due = self.machine.poll_timeout()
        self.deadline, self.deadline_reason = self._machine_due or (None, "")
        if self._report_at is not None and (self.deadline is None or self._report_at < self.deadline):
            self.deadline, self.deadline_reason = self._report_at, "activity"
