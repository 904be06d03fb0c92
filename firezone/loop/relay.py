"""A running relay: sockets, tables and the TURN server's machine on one asyncio loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from firezone.io.clock import BootClock
from firezone.io.deadline import DeadlineTimer
from firezone.io.entropy import SystemRng
from firezone.io.relay_sockets import RelaySockets
from firezone.kernels.relay import RelayTable
from firezone.loop.errors import Severity, classify
from firezone.loop.relay_engine import LINGER_MS, RelayEngine
from firezone.loop.snapshot import reasons_report
from firezone.loop.tunnel import Tunnel
from firezone.proto.relay.server import RelayServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from firezone.base.rng import Rng
    from firezone.base.secret import SecretText
    from firezone.loop.errors import TunnelError
    from firezone.proto.relay.allocations import RelayLimits

log = structlog.get_logger(__name__)

LISTEN_PORT = 3478
LOWEST_PORT, HIGHEST_PORT = 49152, 65535


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """What a relay serves. At least one public address; ports are inclusive."""

    secret: SecretText
    public_ip4: bytes | None = None
    public_ip6: bytes | None = None
    bind_ip4: str = "0.0.0.0"
    bind_ip6: str = "::"
    listen_port: int = LISTEN_PORT
    lowest_port: int = LOWEST_PORT
    highest_port: int = HIGHEST_PORT
    stands_alone: bool = False
    limits: RelayLimits | None = None
    revision: str | None = None
    rng: Rng | None = None
    """Where ports and nonces come from; None: the operating system."""


class Relay:
    """One relay between its sockets, from `start` to `stop`."""

    def __init__(self, config: RelayConfig, *, on_fatal: Callable[[Exception], None]) -> None:
        """Binds the listen port. Raises ConfigError, saying what to do, when that cannot be had."""
        clock = BootClock()
        addresses = {}
        if config.public_ip4 is not None:
            addresses[4] = config.bind_ip4
        if config.public_ip6 is not None:
            addresses[6] = config.bind_ip6
        self.sockets = RelaySockets(listen_port=config.listen_port, addresses=addresses)
        self.table = RelayTable(config.listen_port, SystemRng().bytes(48), config.public_ip4, config.public_ip6)
        self.server = RelayServer(
            public_ip4=config.public_ip4, public_ip6=config.public_ip6, lowest_port=config.lowest_port,
            highest_port=config.highest_port, secret=config.secret, rng=config.rng or SystemRng(), now=clock.now(), utc=clock.utc(),
            channels=self.table, ports=self.sockets, limits=config.limits, stands_alone=config.stands_alone,
            revision=config.revision,
        )  # fmt: skip
        self.engine = RelayEngine(server=self.server, table=self.table, sockets=self.sockets, clock=clock, linger_ms=LINGER_MS)
        self._on_fatal = on_fatal
        self._timer = DeadlineTimer()
        self._tunnel = Tunnel(self.engine, self._timer, on_event=lambda event: None, on_error=self._on_error)
        self.error_counts: dict[str, int] = {}

    def start(self) -> None:
        """Begins to serve, on the running asyncio loop."""
        self._tunnel.start()

    def stop(self) -> None:
        """Ends serving and closes every socket. Allocations are gone with it; their clients find out by themselves."""
        self._tunnel.stop()
        self._timer.close()
        self.sockets.close_all()

    def counters(self) -> dict[str, Any]:
        """Returns what happened since the start, as one JSON-ready object."""
        sockets = self.sockets.counters()
        return {
            **self.engine.counters(),
            "budget_exhausted": self._tunnel.budget.exhausted,
            **reasons_report(self.engine.reasons, {"udp": sockets}),
            "errors": self.error_counts,
            "relayed": self.table.stats(),
            "sockets": sockets,
            **self.server.counters.as_dict(),
        }

    def _on_error(self, errors: TunnelError) -> None:
        for error in errors.exceptions:
            name = type(error).__name__
            self.error_counts[name] = self.error_counts.get(name, 0) + 1
            match classify(error):
                case Severity.FATAL:
                    self._on_fatal(error)
                case Severity.BUG:
                    log.error("unexpected error in a tick", exc_info=error)
                case _:
                    log.debug("relay error", error=str(error), kind=name)
