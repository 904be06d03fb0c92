"""A relay that sends its metrics to a collector: a real one of gRPC, that keeps what it gets."""

from __future__ import annotations

import queue
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.metrics.v1 import metrics_pb2

import firezone
from firezone.base.net import Endpoint
from firezone.wire.stun import Attribute, Method
from tests.harness.relay_program import DEADLINE_S, SECRET, RelayProgram, SocketTurnClient, free_port

INTERVAL_MS = "100"


class Collector(metrics_service_pb2_grpc.MetricsServiceServicer):
    """Takes exports, one after the other."""

    def __init__(self, port: int = 0) -> None:
        self.exports: queue.Queue[Any] = queue.Queue()
        self._server = grpc.server(ThreadPoolExecutor(2))
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def Export(self, request: Any, context: Any) -> Any:
        self.exports.put(request)
        return metrics_service_pb2.ExportMetricsServiceResponse()

    def metrics(self) -> dict[str, Any]:
        """Waits for the next export and returns its metrics by name."""
        (resource,) = self.exports.get(timeout=DEADLINE_S).resource_metrics
        (scope,) = resource.scope_metrics
        assert scope.scope.name == "relay"
        return {metric.name: metric for metric in scope.metrics}

    def stop(self) -> None:
        self._server.stop(None).wait(DEADLINE_S)


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.stop()


@pytest.fixture
def relay(collector: Collector) -> Iterator[RelayProgram]:
    program = RelayProgram(("--otlp-grpc-endpoint", f"127.0.0.1:{collector.port}"), variables=variables())
    program.wait_until_up()
    yield program
    program.end()


def variables(**more: str) -> dict[str, str]:
    return {"FIREZONE_RELAY_SECRET": SECRET, "OTEL_METRIC_EXPORT_INTERVAL": INTERVAL_MS, **more}


def test_a_collector_gets_the_originals_metrics(relay: RelayProgram, collector: Collector) -> None:
    client = SocketTurnClient(relay.port)
    client.allocate()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(DEADLINE_S)
        peer.bind(("127.0.0.1", 0))
        address = Endpoint.from_text(*peer.getsockname())
        client.ask(Method.CHANNEL_BIND, (Attribute.CHANNEL_NUMBER, 0x4000), (Attribute.XOR_PEER_ADDRESS, address))
        client.socket.send(b"\x40\x00\x00\x96" + bytes(150))
        assert len(peer.recv(1000)) == 150
    found, sizes = collect(collector, until_bytes=150)

    allocations = found["allocations_total"].sum
    assert [point.as_int for point in allocations.data_points] == [1]
    assert not allocations.is_monotonic
    assert found["relay.active_allocations"].unit == "{allocation}"
    responses = found["responses_total"].sum
    assert responses.is_monotonic
    assert responses.aggregation_temporality == metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE
    assert {labels(point): point.as_int for point in responses.data_points} == {
        (("message_type", "allocate"), ("response_class", "success")): 1,
        (("error_code", 401), ("message_type", "allocate"), ("response_class", "error")): 1,
        (("message_type", "channelbind"), ("response_class", "success")): 1,
    }
    assert found["relay.responses"].sum == responses
    assert [point.as_int for point in found["data_relayed_userspace_bytes"].sum.data_points] == [150]
    assert found["relay.packet.size"].histogram.aggregation_temporality == metrics_pb2.AGGREGATION_TEMPORALITY_DELTA
    assert sum(point.sum for point in sizes) == 150
    assert sum(point.count for point in sizes) == 1
    assert all(list(point.explicit_bounds) == list(range(100, 1600, 100)) for point in sizes)
    assert all(after.start_time_unix_nano == before.time_unix_nano for before, after in pairwise(sizes))
    assert labels(sizes[0]) == (("relay.datapath", "userspace"),)


def test_the_resource_is_the_relay_and_what_its_operator_adds(collector: Collector) -> None:
    more = variables(
        OTLP_GRPC_ENDPOINT=f"127.0.0.1:{collector.port}", OTEL_RESOURCE_ATTRIBUTES="cloud.region=eu,service.instance.id=7"
    )
    relay = RelayProgram(variables=more)
    relay.wait_until_up()
    try:
        (resource,) = collector.exports.get(timeout=DEADLINE_S).resource_metrics
    finally:
        relay.end()
    found = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    assert found["service.name"] == "relay"
    assert found["service.namespace"] == "firezone"
    assert found["service.version"] == firezone.__version__
    assert (found["cloud.region"], found["service.instance.id"]) == ("eu", "7")


def test_a_collector_that_comes_late_gets_everything_and_one_that_is_away_holds_up_nobody() -> None:
    port = free_port(socket.SOCK_STREAM)
    relay = RelayProgram(variables=variables(OTLP_GRPC_ENDPOINT=f"127.0.0.1:{port}"))
    relay.wait_until_up()
    client = SocketTurnClient(relay.port)
    client.allocate()
    client.ask(
        Method.CHANNEL_BIND, (Attribute.CHANNEL_NUMBER, 0x4000), (Attribute.XOR_PEER_ADDRESS, Endpoint(bytes([127, 0, 0, 1]), 9))
    )
    client.socket.send(b"\x40\x00\x00\x05hello")
    time.sleep(0.5)
    late = Collector(port)
    try:
        _, sizes = collect(late, until_bytes=5, limit=200)
        assert sum(point.count for point in sizes) == 1
    finally:
        late.stop()
    time.sleep(0.3)
    began = time.monotonic()
    status, out, _ = relay.end(signal.SIGTERM)
    assert time.monotonic() - began < 2
    assert status == 0
    assert "Traceback" not in out


def collect(collector: Collector, *, until_bytes: int, limit: int = 50) -> tuple[dict[str, Any], list[Any]]:
    """Takes exports until so many bytes are counted. Returns the last one and the points of all histograms."""
    sizes: list[Any] = []
    for _ in range(limit):
        found = collector.metrics()
        (point,) = found["relay.packet.size"].histogram.data_points
        sizes.append(point)
        if sum(each.sum for each in sizes) >= until_bytes:
            return found, sizes
    raise AssertionError(sizes)


def labels(point: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((each.key, each.value.string_value or each.value.int_value) for each in point.attributes))
