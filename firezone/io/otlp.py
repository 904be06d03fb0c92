"""Sends metrics to an OpenTelemetry collector over gRPC, from a thread of its own: a slow or absent collector holds up nobody.

The packages for it come with `firezone[telemetry]` and are imported when an exporter is made. Sums are sent as they stand
(cumulative), histograms as what was added since the collector last took one (delta), as the original's programs do.

Source: OpenTelemetry protocol 1.x; relay specification, sections 12.3 and 16.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from firezone.base.errors import ConfigError
from firezone.io.threads import name_thread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.sdk.metrics.export import Metric, MetricsData

log = structlog.get_logger(__name__)

DEFAULT_INTERVAL_S = 60.0
"""Between two exports, unless $OTEL_METRIC_EXPORT_INTERVAL (milliseconds) says otherwise."""
TIMEOUT_S = 10.0
"""After which one export is given up."""

Labels = tuple[tuple[str, str | int], ...]


@dataclass(frozen=True, slots=True)
class Total:
    """One number per set of labels, counted since the start of the program."""

    name: str
    unit: str
    values: dict[Labels, int]
    is_monotonic: bool = True
    """False for what also falls, as the number of allocations does."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """How many values fell between bounds since the start of the program."""

    name: str
    unit: str
    labels: Labels
    bounds: tuple[int, ...]
    counts: tuple[int, ...]
    """One more than bounds: the last is of what lies above all."""
    total: int
    """Sum of the values."""


@dataclass(slots=True)
class _Sent:
    """The distributions the collector knows of, and since when."""

    at: int
    by_name: dict[str, Distribution] = field(default_factory=dict)


class MetricExport:
    """One connection to a collector. `send` hands over numbers; `close` ends it at once."""

    def __init__(self, endpoint: str, *, scope: str, resource: Mapping[str, str]) -> None:
        """Connects when there is something to send. `endpoint` is `host:port`; $OTEL_RESOURCE_ATTRIBUTES adds to `resource`.

        Raises: ConfigError when the packages are not installed or the interval is no number.
        """
        self.interval_s = check_export()
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self._exporter = OTLPMetricExporter(endpoint=f"http://{endpoint}", insecure=True, timeout=TIMEOUT_S)
        self._resource = Resource.create(dict(resource))
        self._scope = InstrumentationScope(scope)
        self._started = time.time_ns()
        self._sent = _Sent(self._started)
        self._queue: queue.Queue[tuple[int, Sequence[Total | Distribution]] | None] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self._thread.start()

    def send(self, metrics: Sequence[Total | Distribution]) -> None:
        """Hands over how things stand. Left out while the former export is under way: the next tells more."""
        try:
            self._queue.put_nowait((time.time_ns(), metrics))
        except queue.Full:
            log.debug("metrics left out: the collector is slow")

    def close(self) -> None:
        """Ends it; an export under way is given up."""
        self._exporter.shutdown(timeout_millis=0)
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return  # It is a daemon: it ends with the program.

    def _run(self) -> None:
        name_thread("otlp")
        from opentelemetry.sdk.metrics.export import MetricExportResult

        while (item := self._queue.get()) is not None:
            now, metrics = item
            try:
                result = self._exporter.export(self._data(metrics, now), timeout_millis=TIMEOUT_S * 1000)
            except Exception:
                log.exception("metrics could not be sent")
                continue
            if result is MetricExportResult.SUCCESS:
                known = {metric.name: metric for metric in metrics if isinstance(metric, Distribution)}
                self._sent = _Sent(now, known)

    def _data(self, metrics: Sequence[Total | Distribution], now: int) -> MetricsData:
        from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics

        made = [self._total(metric, now) if isinstance(metric, Total) else self._distribution(metric, now) for metric in metrics]
        return MetricsData([ResourceMetrics(self._resource, [ScopeMetrics(self._scope, made, "")], "")])

    def _total(self, metric: Total, now: int) -> Metric:
        from opentelemetry.sdk.metrics.export import AggregationTemporality, Metric, NumberDataPoint, Sum

        points = [NumberDataPoint(dict(labels), self._started, now, value) for labels, value in metric.values.items()]
        return Metric(metric.name, "", metric.unit, Sum(points, AggregationTemporality.CUMULATIVE, metric.is_monotonic))

    def _distribution(self, metric: Distribution, now: int) -> Metric:
        from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram, HistogramDataPoint, Metric

        former = self._sent.by_name.get(metric.name)
        counts, total = metric.counts, metric.total
        if former is not None:
            counts = tuple(new - old for new, old in zip(counts, former.counts, strict=True))
            total -= former.total
        unknown: Any = None  # We keep neither the smallest nor the largest value, which the protocol has as optional.
        point = HistogramDataPoint(
            dict(metric.labels), self._sent.at, now, sum(counts), total, counts, metric.bounds, min=unknown, max=unknown
        )
        return Metric(metric.name, "", metric.unit, Histogram([point], AggregationTemporality.DELTA))


def check_export() -> float:
    """Returns the seconds between two exports.

    Raises: ConfigError when the packages are not installed or the interval is no number.
    """
    try:
        import opentelemetry.exporter.otlp.proto.grpc.metric_exporter
        import opentelemetry.sdk.metrics.export  # noqa: F401
    except ImportError as error:
        raise ConfigError("To send metrics, other packages are needed: pip install 'firezone[telemetry]'.") from error
    text = os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "")
    if text and (not text.isdecimal() or not int(text)):
        raise ConfigError(f"$OTEL_METRIC_EXPORT_INTERVAL is {text!r}; it must be a number of milliseconds.")
    return int(text) / 1000 if text else DEFAULT_INTERVAL_S
