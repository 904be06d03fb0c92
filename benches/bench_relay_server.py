"""What one control message costs the relay's machine: it bounds how many strangers a second it can afford.

A keep-alive and the first Allocate of a client are what a flood is made of; the others come from clients that have credentials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import structlog

from firezone.base.net import Endpoint
from firezone.wire.stun import Attribute, Method
from tests.harness.relay import PUBLIC4, RelayBench, TurnClient

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUND = 200
"""Messages per measured call."""
PEER = Endpoint.from_text("192.0.2.33", 34567)
TRANSPORT = (Attribute.REQUESTED_TRANSPORT, 17)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("message", ["garbage", "binding", "challenge", "refresh", "channel-bind"])
def bench_control_messages(benchmark: Any, message: str) -> None:
    bench = RelayBench()
    client = TurnClient(bench)
    challenge = client.build(Method.ALLOCATE, TRANSPORT)
    client.allocate()
    server, stranger = bench.server, Endpoint.from_text("198.51.100.8", 1)
    sender, datagram = {
        "garbage": (stranger, bytes(100)),
        "binding": (stranger, client.build(Method.BINDING, sign=False)),
        "challenge": (stranger, challenge),
        "refresh": (client.endpoint, client.build(Method.REFRESH)),
        "channel-bind": (
            client.endpoint,
            client.build(Method.CHANNEL_BIND, (Attribute.CHANNEL_NUMBER, 0x4000), (Attribute.XOR_PEER_ADDRESS, PEER)),
        ),
    }[message]

    def run() -> None:
        for _ in range(ROUND):
            server.handle_datagram(PUBLIC4, sender, datagram, 0)
            server.poll_transmit()

    benchmark.pedantic(run, setup=server._nonces._uses.clear, rounds=20)
    benchmark.extra_info["messages"] = ROUND
    benchmark.extra_info["us_per_message"] = round(benchmark.stats.stats.median / ROUND * 1e6, 1)


@pytest.mark.parametrize("allocations", [100, 10_000])
def bench_an_allocation_and_its_end(benchmark: Any, allocations: int) -> None:
    bench = RelayBench()
    for number in range(allocations):
        TurnClient(bench, f"10.0.{number >> 8}.{number & 255}").allocate()
    client = TurnClient(bench)

    def run() -> None:
        client.allocate()
        client.refresh(0)

    benchmark(run)
