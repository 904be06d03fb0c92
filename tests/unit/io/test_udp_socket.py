"""The outer sockets on loopback: both families, ECN, local addresses, trains, refusals and the queue of what waits."""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from firezone.base.net import Endpoint, Transmit
from firezone.base.timing import MILLISECOND
from firezone.io import udp_socket
from firezone.io.udp_socket import MAX_WAITING_TIME, UdpSocket
from firezone.io.udp_sockets import UdpSockets
from firezone.kernels.batch import PacketBatch, RunList
from firezone.kernels.offload import group_runs
from firezone.loop.memory import address_of

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTS = {4: "127.0.0.1", 6: "::1"}


@pytest.fixture
def pair() -> Iterator[tuple[UdpSockets, UdpSockets]]:
    left, right = UdpSockets(port=0, hosts=HOSTS), UdpSockets(port=0, hosts=HOSTS)
    yield left, right
    left.close()
    right.close()


def endpoint(sockets: UdpSockets, family: int) -> Endpoint:
    return Endpoint.from_text(HOSTS[family], sockets.ports()[family])


def batch_of(payloads: list[bytes], source: Endpoint, target: Endpoint, ecn: int = 0) -> tuple[PacketBatch, RunList]:
    batch, runs = PacketBatch(256), RunList(256)
    batch.over(np.frombuffer(b"".join(payloads), np.uint8).copy())
    at = 0
    for payload in payloads:
        row = batch.append(at, len(payload))
        batch.local[row], batch.remote[row] = address_of(source), address_of(target)
        batch.socket[row], batch.ecn[row] = 4 if target.is_ipv4 else 6, ecn
        at += len(payload)
    group_runs(batch, runs)
    return batch, runs


def receive(sockets: UdpSockets, wanted: int) -> list[tuple[bytes, int, int]]:
    """Returns datagrams with their ECN and how many came in the same read."""
    found: list[tuple[bytes, int, int]] = []
    deadline = time.monotonic() + 2
    ring = sockets.ring
    while len(found) < wanted and time.monotonic() < deadline:
        sockets.fill(8)
        while ring.ready():
            slot = ring.tail()
            length, stride = int(ring.length[slot]), int(ring.stride[slot])
            data = ring.slab[slot, :length].tobytes()
            pieces = [data[i : i + stride] for i in range(0, length, stride)]
            found += [(piece, int(ring.ecn[slot]), len(pieces)) for piece in pieces]
            sockets.release(1)
    return found


@pytest.mark.parametrize("family", [4, 6])
def test_run_arrives_as_a_train_with_its_ecn_and_addresses(pair: tuple[UdpSockets, UdpSockets], family: int) -> None:
    left, right = pair
    payloads = [bytes([number]) * 1312 for number in range(40)] + [b"short"]
    left.send_runs(*batch_of(payloads, endpoint(left, family), endpoint(right, family), ecn=2), 0)
    found = receive(right, len(payloads))
    assert [payload for payload, _, _ in found] == payloads
    assert {ecn for _, ecn, _ in found} == {2}
    assert left.counters()["send_calls"] == 1
    assert max(together for _, _, together in found) > 1


def test_local_and_remote_address_stand_in_the_ring(pair: tuple[UdpSockets, UdpSockets]) -> None:
    left, right = pair
    left.send(Transmit(None, endpoint(right, 4), b"hello"), 0)
    right.fill(8)
    slot = right.ring.tail()
    assert right.ring.local[slot] == address_of(endpoint(right, 4))
    assert right.ring.remote[slot] == address_of(endpoint(left, 4))
    assert right.ring.socket[slot] == 4


def test_refused_offload_sends_one_by_one_and_is_remembered(pair: tuple[UdpSockets, UdpSockets]) -> None:
    left, right = pair
    sock = next(udp for udp in left._sockets.values() if udp.family == 4)
    assert sock.retry_without(errno.EIO, lambda: errno.EIO) == errno.EIO
    assert sock.batch.gso, "what fails without offload too says nothing about it"
    assert sock.retry_without(errno.EIO, lambda: 0) == 0
    assert not sock.batch.gso
    assert sock.retry_without(errno.EIO, lambda: 0) == errno.EIO, "nothing is left to refuse"
    payloads = [bytes([number]) * 500 for number in range(10)]
    left.send_runs(*batch_of(payloads, endpoint(left, 4), endpoint(right, 4)), 0)
    assert [payload for payload, _, _ in receive(right, 10)] == payloads
    assert left.counters()["send_calls"] == 10


@pytest.mark.parametrize(("host", "port"), [("255.255.255.255", 9), ("127.0.0.1", 0)], ids=["broadcast", "port-zero"])
def test_refused_destination_costs_its_own_datagrams_only(pair: tuple[UdpSockets, UdpSockets], host: str, port: int) -> None:
    left, right = pair
    bad = Endpoint.from_text(host, port)
    left.send_runs(*batch_of([b"a" * 100], endpoint(left, 4), bad), 0)
    left.send_runs(*batch_of([b"b" * 100, b"c" * 100], endpoint(left, 4), endpoint(right, 4)), 0)
    assert [payload for payload, _, _ in receive(right, 2)] == [b"b" * 100, b"c" * 100]
    assert len(left.take_errors()) == 1
    assert left.counters()["refused"] == 1
    assert left._sockets[4].batch.gso
    assert left._sockets[4].batch.ecn


def test_what_a_socket_refuses_waits_in_order_and_goes_later(
    pair: tuple[UdpSockets, UdpSockets], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = pair
    payloads = [bytes([number]) * 700 for number in range(20)]
    batch, runs = batch_of(payloads, endpoint(left, 4), endpoint(right, 4))
    sock = left._sockets[4]
    sock.wait(batch, runs, 0, -1, 1000)
    left.send(Transmit(None, endpoint(right, 4), b"last"), 1000)
    assert left.blocked_descriptors() == (sock.batch.fd,)
    assert not left.waiting(1000)
    assert [payload for payload, _, _ in receive(right, 21)] == [*payloads, b"last"]


def test_what_waits_too_long_is_dropped_and_counted(pair: tuple[UdpSockets, UdpSockets], monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = pair
    monkeypatch.setattr(UdpSocket, "_send_item", lambda udp, item: False)
    left.send(Transmit(None, endpoint(right, 4), b"x"), 1000)
    assert left.waiting(1000 + MAX_WAITING_TIME)
    assert not left.waiting(1000 + MAX_WAITING_TIME + MILLISECOND)
    assert left.counters()["dropped_waiting"] == 1


def test_waiting_bytes_are_bounded_and_the_oldest_goes(
    pair: tuple[UdpSockets, UdpSockets], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = pair
    monkeypatch.setattr(UdpSocket, "_send_item", lambda udp, item: False)
    monkeypatch.setattr(udp_socket, "MAX_WAITING_BYTES", 1000)
    for number in range(11):
        left.send(Transmit(None, endpoint(right, 4), bytes([number]) * 100), 0)
    sock = left._sockets[4]
    assert sock.waiting_bytes == 1000
    assert sock.waiting[0].payload[0] == 1


def test_rebound_sockets_keep_their_port_and_work(pair: tuple[UdpSockets, UdpSockets]) -> None:
    left, right = pair
    ports = right.ports()
    right._port = ports[4]
    right.rebind()
    assert right.ports()[4] == ports[4]
    left.send(Transmit(None, endpoint(right, 4), b"again"), 0)
    assert [payload for payload, _, _ in receive(right, 1)] == [b"again"]


def test_taken_port_falls_back_to_another() -> None:
    first = UdpSockets(port=0, hosts={4: "127.0.0.1"})
    second = UdpSockets(port=first.ports()[4], hosts={4: "127.0.0.1"})
    assert second.ports()[4] not in (0, first.ports()[4])
    first.close()
    second.close()


def test_family_that_cannot_be_bound_is_done_without() -> None:
    sockets = UdpSockets(port=0, hosts={4: "127.0.0.1", 6: "2001:db8::77"})
    assert set(sockets.ports()) == {4}
    assert len(sockets.take_errors()) == 1
    sockets.send(Transmit(None, Endpoint.from_text("2001:db8::1", 9), b"x"), 0)
    assert sockets.counters()["no_socket"] == 1
    sockets.close()


def test_buffer_size_variables_are_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setenv("FIREZONE_UDP_RECV_BUFFER_SIZE", "100000")
    monkeypatch.setenv("FIREZONE_UDP_SEND_BUFFER_SIZE", "nonsense")
    sockets = UdpSockets(port=0, hosts={4: "127.0.0.1"})
    assert sockets._sockets[4].sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 200000
    sockets.close()


@pytest.mark.root
def test_mark_of_root_is_set() -> None:
    import socket

    sockets = UdpSockets(port=0, mark=0xFD002021, hosts={4: "127.0.0.1"})
    assert sockets._sockets[4].sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) & 0xFFFFFFFF == 0xFD002021
    sockets.close()


def test_reading_an_empty_socket_is_no_error(pair: tuple[UdpSockets, UdpSockets]) -> None:
    left, _ = pair
    left.fill(8)
    assert left.ring.ready() == 0
    assert left.take_errors() == []
