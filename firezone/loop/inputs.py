"""Where batches come from and where they go: the four ends of an engine.

A `Source` is a ring and whoever fills it: a reader thread, a descriptor that is read when the tick asks, or a test that
pushes by hand. A sink takes runs; what the kernel refuses for now waits in the sink, bounded, and is retried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from firezone.base.net import Transmit
    from firezone.base.timing import Instant
    from firezone.kernels.batch import PacketBatch, RunList
    from firezone.kernels.ring import PacketRing
    from firezone.loop.errors import TickErrors


class Source(Protocol):
    """One input of the tick."""

    @property
    def ring(self) -> PacketRing:
        """The ring its reads arrive in."""

    def descriptors(self) -> tuple[int, ...]:
        """Returns what becomes readable when there is something to take."""

    def fill(self, max_reads: int, descriptor: int | None = None) -> None:
        """Reads without blocking when reading is the tick's job; with a reader thread, takes note of its wake-up.

        With `descriptor`, one of `descriptors()`, only that one is read.
        """

    def release(self, entries: int) -> None:
        """Gives the oldest slots back and wakes a reader that waits for room."""

    def sleeps(self) -> bool:
        """Called before the tick goes idle. False: more has arrived, tick again."""

    def take_errors(self) -> list[Exception]:
        """Returns what went wrong since the last call."""


class DatagramSink(Protocol):
    """The outer sockets."""

    def send_runs(self, batch: PacketBatch, runs: RunList, now: Instant) -> None:
        """Sends every run; what a socket refuses for now is copied into its bounded queue."""

    def send(self, transmit: Transmit, now: Instant) -> None:
        """Sends one datagram of a machine."""

    def waiting(self, now: Instant) -> bool:
        """Retries what waits and tells whether something still does. Rows that waited too long are dropped here."""

    def blocked_descriptors(self) -> tuple[int, ...]:
        """Returns the sockets that something waits for: worth another try when they become writable."""

    def take_errors(self) -> list[Exception]:
        """Returns what went wrong since the last call."""


class PacketSink(Protocol):
    """The TUN device."""

    @property
    def coalesce(self) -> bool:
        """Whether it takes super-packets."""

    def write_runs(self, batch: PacketBatch, runs: RunList, now: Instant) -> None:
        """Writes every run; what the device refuses for now waits, bounded."""

    def write(self, packet: bytes, now: Instant) -> None:
        """Writes one packet of a machine."""

    def waiting(self, now: Instant) -> bool:
        """Retries what waits and tells whether something still does."""

    def take_errors(self) -> list[Exception]:
        """Returns what went wrong since the last call."""


class Clock(Protocol):
    """Time, read once per tick."""

    def now(self) -> Instant:
        """Nanoseconds on the monotonic clock."""

    def utc(self) -> int:
        """Nanoseconds since 1970."""


class Ticking(Protocol):
    """What a driver on an event loop asks of an engine, a tunnel's or a relay's."""

    is_held: bool
    """Datagrams wait for a socket: try again when it is writable."""
    deadline: Instant | None
    """When it must tick again even if no source is ready."""

    @property
    def clock(self) -> Clock: ...

    @property
    def errors(self) -> TickErrors: ...

    def tick(self, caller: tuple[Source, int] | None = None) -> bool:
        """Runs one tick. False: there is nothing more to do now."""

    def open_sources(self) -> tuple[Source, ...]:
        """Returns the sources that may wake it now."""

    def blocked_descriptors(self) -> tuple[int, ...]:
        """Returns the sockets that something waits for."""

    def sleeps(self) -> bool:
        """Called before going idle. False: something arrived meanwhile, tick again."""

    def touch(self) -> bool:
        """Takes what the machine wants after somebody outside the tick has called it. True: there is more, tick."""

    def poll_event(self) -> object | None:
        """Returns the machine's next event."""
