"""The relay as a program: serves from the first moment, tells the portal its secret, answers probes and orders, counts.

The portal learns one thing, the secret made at the start, and hands out credentials with it. Whatever becomes of the portal,
allocations and their data go on. Stand-alone there is no portal, and the secret is the operator's.

Source: relay specification, sections 11 and 12.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import structlog

import firezone
from firezone.base.errors import ConfigError
from firezone.base.log import change_log_filter
from firezone.base.timing import SECOND, Instant
from firezone.io.clock import BootClock
from firezone.io.entropy import SystemRng
from firezone.io.health import HealthServer
from firezone.io.http_server import Answer, HttpServer
from firezone.io.otlp import MetricExport
from firezone.io.service_manager import notify_ready
from firezone.io.threads import name_thread
from firezone.loop.portal_connection import PortalConnection
from firezone.loop.relay import Relay, RelayConfig
from firezone.loop.relay_metrics import exported, metrics, relayed_bytes, throughput_text
from firezone.loop.snapshot import SnapshotFile
from firezone.loop.user_agent import system_user_agent
from firezone.proto.phoenix.login import LoginUrl
from firezone.wire.portal import relay as wire

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from firezone.base.secret import SecretText

log = structlog.get_logger(__name__)
relay_log = structlog.get_logger("relay")
"""The target under which operators of the original look for the relay's state."""

STATISTICS_INTERVAL_S = 10
COMPATIBLE_VERSION = "0.1.0"
"""Version relays present themselves as; the portal looks for the word `relay` alone."""


@dataclass(frozen=True, slots=True)
class RelayPortal:
    """Where and as whom the relay logs in."""

    api_url: str
    token: SecretText
    name: str | None = None
    """Shown in the portal; None: it shows the addresses."""
    max_partition: Instant | None = None
    """Nanoseconds without a portal before giving up; None: never."""
    ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class RelayProgramConfig:
    """Everything a relay program can be told."""

    relay: RelayConfig
    portal: RelayPortal | None
    """None: stand-alone."""
    health_check_address: tuple[str, int] | None = None
    control_address: tuple[str, int] | None = None
    metrics_endpoint: str | None = None
    """`host:port` of an OpenTelemetry collector (OTLP over gRPC)."""
    counters_file: Path | None = None
    """Where snapshots go, at the end too; None: see `loop.snapshot`."""


class RelayProgram:
    """One running relay."""

    def __init__(self, config: RelayProgramConfig, *, owns_process: bool = True) -> None:
        """Prepares; `run` starts. `owns_process` False leaves the process's signals alone."""
        self.config = config
        self.relay: Relay
        self._owns_process = owns_process
        self._clock = BootClock()
        self._stopping = asyncio.Event()
        self._failure: Exception | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._portal: PortalConnection | None = None
        self._is_serving = False
        version = firezone.__version__.encode()
        self._health = HealthServer(config.health_check_address, lambda: self.is_ready, ready_body=version)
        self._control = HttpServer(config.control_address, self._on_order, what="control endpoint")
        self._metrics: MetricExport | None = None
        self._snapshot = SnapshotFile("relay", config.counters_file, self._relay_counters)

    @property
    def is_ready(self) -> bool:
        """Whether clients can be sent here: joined to the portal, or serving when there is none."""
        if self.config.portal is None:
            return self._is_serving
        return self._portal is not None and self._portal.is_joined

    async def run(self) -> None:
        """Runs until a signal or `stop`.

        Raises: what ended it otherwise: ConfigError (a port is taken), PortalError.
        """
        loop = asyncio.get_running_loop()
        if self._owns_process:
            name_thread("fz-relay")
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                    loop.add_signal_handler(number, self.stop)
            self._snapshot.watch_signal(loop)
        self.relay = Relay(self.config.relay, on_fatal=self._fail)
        try:
            self.relay.start()
            self._is_serving = True
            self._tell_what_is_served()
            await self._health.start()
            await self._control.start()
            self._spawn(self._write_statistics())
            if self.config.metrics_endpoint is not None:
                self._metrics = metric_export(self.config.metrics_endpoint)
                self._spawn(self._export(self._metrics))
            if self.config.portal is not None:
                self._portal = self._make_portal(self.config.portal)
                self._spawn(self._portal.run())
            notify_ready()
            gc.collect()
            gc.freeze()  # What exists now lives as long as the program.
            await self._stopping.wait()
        finally:
            await self._end()
        if self._failure is not None:
            raise self._failure
        relay_log.info("goodbye")

    def stop(self) -> None:
        """Ends the program at once: nothing is drained and nobody told, since clients find out by themselves."""
        self._stopping.set()

    def counters(self) -> dict[str, Any]:
        """Returns what happened since the start, as one JSON-ready object."""
        return metrics(self.relay.counters(), firezone.__version__)

    def _relay_counters(self) -> dict[str, Any]:
        return self.relay.counters()

    def _tell_what_is_served(self) -> None:
        relay = self.config.relay
        relay_log.info(
            "relay is up", listen_port=relay.listen_port, ports=f"{relay.lowest_port}-{relay.highest_port}",
            ipv4=relay.public_ip4 is not None, ipv6=relay.public_ip6 is not None,
            mode="stand-alone" if relay.stands_alone else "portal",
        )  # fmt: skip

    def _make_portal(self, portal: RelayPortal) -> PortalConnection:
        relay = self.config.relay
        tls = None if portal.ca_file is None else ssl.create_default_context(cafile=portal.ca_file)
        return PortalConnection(
            login_url(portal, relay), wire.TOPIC, user_agent=system_user_agent(COMPATIBLE_VERSION, word="relay"),
            from_portal=wire.FROM_PORTAL, to_portal=wire.TO_PORTAL, on_message=self._on_message, rng=SystemRng(),
            join_payload=wire.TO_PORTAL.encode(wire.Join(stamp_secret=relay.secret))[1],
            max_partition_ns=portal.max_partition, tls=tls, clock=self._clock.now,
        )  # fmt: skip

    def _on_message(self, message: Any) -> None:
        """Takes `init`, the only message there is; it is not waited for and means nothing."""
        log.debug("message of the portal", message=type(message).__name__)

    async def _write_statistics(self) -> None:
        before, at = 0, self._clock.now()
        while True:
            await asyncio.sleep(STATISTICS_INTERVAL_S)
            now = self._clock.now()
            self.relay.server.set_clock(now, self._clock.utc())
            counters = self.relay.counters()
            relayed = relayed_bytes(counters)
            relay_log.info(
                "statistics", allocations=counters["allocations"], channels=counters["channels"],
                throughput=throughput_text(relayed - before, (now - at) / SECOND),
            )  # fmt: skip
            before, at = relayed, now

    async def _export(self, metrics_export: MetricExport) -> None:
        while True:
            await asyncio.sleep(metrics_export.interval_s)
            metrics_export.send(exported(self.relay.counters()))

    def _on_order(self, method: str, target: str) -> Answer:
        """Answers the control endpoint."""
        path, _, query = target.partition("?")
        match path, method:
            case "/log_filter", "POST":
                return self._change_log_filter(parse_qs(query).get("directives"))
            case "/metrics", "GET" | "HEAD":
                return 200, json.dumps(self.counters()).encode()
            case "/log_filter" | "/metrics", _:
                return 405, b""
            case _:
                return 404, b""

    def _change_log_filter(self, directives: list[str] | None) -> Answer:
        if not directives:
            return 400, b"directives is missing\n"
        try:
            change_log_filter(directives[0])
        except ConfigError as error:
            return 400, f"{error}\n".encode()
        relay_log.info("log filter changed", directives=directives[0])
        return 200, b""

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._stopping.is_set():
            self._fail(error if isinstance(error, Exception) else RuntimeError(str(error)))

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
        self._stopping.set()

    async def _end(self) -> None:
        self._is_serving = False
        if self._owns_process:
            self._snapshot.finish()
        self.relay.stop()
        if self._metrics is not None:
            self._metrics.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)
        await self._health.stop()
        await self._control.stop()


def login_url(portal: RelayPortal, relay: RelayConfig) -> LoginUrl:
    """Returns the relay's login: which addresses and port the portal hands out. Raises ConfigError for a URL that is none."""
    texts = [None if ip is None else _text(ip) for ip in (relay.public_ip4, relay.public_ip6)]
    return LoginUrl.relay(
        portal.api_url, portal.token.reveal(), name=portal.name, ipv4=texts[0], ipv6=texts[1], port=relay.listen_port
    )


def metric_export(endpoint: str) -> MetricExport:
    """Returns what sends a relay's metrics to a collector. Raises ConfigError if the packages for it are not installed."""
    resource = {"service.name": "relay", "service.namespace": "firezone", "service.version": firezone.__version__}
    return MetricExport(endpoint, scope="relay", resource=resource)


async def run_relay(config: RelayProgramConfig) -> None:
    """Runs a relay on this host until a signal ends it. Raises what ends it otherwise."""
    await RelayProgram(config).run()


def _text(ip: bytes) -> str:
    from ipaddress import ip_address

    return str(ip_address(ip))
