"""The load generator of `./dev perf relay` counts what arrives, and as it was sent; a comparison is worth no more than that."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from perf.relay.build import build

if TYPE_CHECKING:
    from perf.relay.load import Plan, Sinks

MAGIC, SIZE, SECONDS = b"\x04\xfe\xed\x00", 100, 0.1


@pytest.fixture(scope="module", autouse=True)
def _generator() -> None:
    build()


@pytest.fixture
def sink() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        yield sock


@pytest.fixture
def source(sink: socket.socket) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(sink.getsockname())
        yield sock


def plan(source: socket.socket, datagram: bytes) -> Plan:
    from perf.relay.load import Plan

    found = Plan()
    found.add(source.fileno(), datagram, len(datagram))
    found.seal(32)
    return found


def sinks(sock: socket.socket) -> Sinks:
    from perf.relay.load import Sinks

    found = Sinks([sock.fileno()])
    found.expect(SIZE, MAGIC, 0)
    return found


def run(data: Plan, where: Sinks, **options: float) -> dict[str, float]:
    from perf.relay import load

    return load.run(data, where, SECONDS, **options)  # type: ignore[arg-type]


def test_what_arrives_as_it_was_sent_is_counted(source: socket.socket, sink: socket.socket) -> None:
    done = run(plan(source, MAGIC.ljust(SIZE, b"x")), sinks(sink), window=64)
    assert done["received"] == done["sent"] > 100
    assert done["wrong"] == done["refused"] == 0


@pytest.mark.parametrize("datagram", [MAGIC.ljust(SIZE - 1, b"x"), b"nono".ljust(SIZE, b"x")], ids=["size", "content"])
def test_what_arrives_in_another_form_is_wrong(source: socket.socket, sink: socket.socket, datagram: bytes) -> None:
    done = run(plan(source, datagram), sinks(sink), window=64)
    assert done["wrong"] == done["received"] > 100


def test_what_does_not_arrive_is_not_counted(source: socket.socket, sink: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        done = run(plan(source, MAGIC.ljust(SIZE, b"x")), sinks(elsewhere), rate=10_000)
    assert done["received"] == 0
    assert done["sent"] > 100


def test_a_rate_is_kept(source: socket.socket, sink: socket.socket) -> None:
    done = run(plan(source, MAGIC.ljust(SIZE, b"x")), sinks(sink), rate=20_000)
    assert done["sent"] <= 20_000 * done["elapsed_s"] + 64
    assert done["received"] == done["sent"]
