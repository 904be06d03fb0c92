"""One tunnel on one host: the engine between real ends, opened in order and closed in reverse.

The client and the gateway differ in their machine and in what the portal tells them; everything a tunnel needs of the
operating system is the same and stands here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from firezone.base.net import Endpoint
from firezone.base.timing import SECOND
from firezone.loop.engine import Engine
from firezone.loop.errors import Severity, classify
from firezone.loop.snapshot import reasons_report
from firezone.loop.tunnel import Tunnel
from firezone.proto.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from firezone.base.timing import Instant
    from firezone.datapath.tables import Tables
    from firezone.io.deadline import DeadlineTimer
    from firezone.loop.ends import Ends
    from firezone.loop.errors import TunnelError
    from firezone.loop.inputs import Clock

log = structlog.get_logger(__name__)

FLUSH_TIMEOUT = SECOND
"""How long goodbyes may take to leave at shutdown; longer would hold up a restart."""


class ReportingMachine(Machine, Protocol):
    """A machine that counts what its connections do."""

    def statistics(self, now: Instant) -> dict[str, Any]:
        """Returns it as one JSON-ready object."""


@dataclass
class Host:
    """The engine of one program with the ends it owns."""

    clock: Clock
    ends: Ends
    tables: Tables
    timer: DeadlineTimer

    def start(self, machine: ReportingMachine, on_event: Callable[[object], None], on_fatal: Callable[[Exception], None]) -> None:
        """Puts the engine between the ends and begins to tick on the running loop."""
        self._machine = machine
        self._on_fatal = on_fatal
        self._told: set[str] = set()
        self.error_counts: dict[str, int] = {}
        self.engine = Engine(
            machine=machine,
            tables=self.tables,
            clock=self.clock,
            tun_source=self.ends.tun_source,
            tun_sink=self.ends.tun_sink,
            udp_sources=self.ends.udp_sources,
            udp_sink=self.ends.udp_sink,
        )
        self.tunnel = Tunnel(self.engine, self.timer, on_event=on_event, on_error=self._on_error)
        self.tunnel.start()

    def flush(self) -> None:
        """Stops ticking and sends what is left for at most a second."""
        self.tunnel.stop()
        deadline = self.clock.now() + FLUSH_TIMEOUT
        while self.engine.tick() and self.clock.now() < deadline:
            pass
        while self.ends.udp_sink.waiting(self.clock.now()) and self.clock.now() < deadline:
            pass
        if (errors := self.engine.errors.take()) is not None:
            self._on_error(errors)

    def close(self) -> None:
        """Closes every end; `flush` comes before."""
        self.timer.close()
        self.ends.close()

    def rebind(self) -> None:
        """Replaces the outer sockets; what waits in them is gone."""
        self.tunnel.unwatch()
        self.ends.rebind()
        self.tunnel.watch()

    def counters(self) -> dict[str, Any]:
        """Returns what happened since the start, as one JSON-ready object."""
        ends = self.ends.counters()
        return {
            **self.engine.counters(),
            "budget_exhausted": self.tunnel.budget.exhausted,
            **reasons_report(self.engine.reasons, {"udp": ends["udp"], "tun": ends["tun"]}),
            "errors": self.error_counts,
            "node": self._machine.statistics(self.clock.now()),
            **ends,
        }

    def local_endpoints(self, addresses: list[str]) -> list[Endpoint]:
        """Returns the host addresses with the port of the socket of their family; families without a socket are left out."""
        endpoints = (Endpoint.from_text(address, 0) for address in addresses)
        ports = self.ends.ports()
        return [Endpoint(e.ip, port) for e in endpoints if (port := ports.get(4 if e.is_ipv4 else 6))]

    def _on_error(self, errors: TunnelError) -> None:
        for error in errors.exceptions:
            name = type(error).__name__
            self.error_counts[name] = self.error_counts.get(name, 0) + 1
            match classify(error):
                case Severity.FATAL:
                    self._on_fatal(error)
                case Severity.ONCE if name not in self._told:
                    self._told.add(name)
                    log.info("the system refuses to send; does a local firewall forbid it?", error=str(error))
                case Severity.BUG:
                    log.error("unexpected error in a tick", exc_info=error)
                case _:
                    log.debug("tunnel error", error=str(error), kind=name)
