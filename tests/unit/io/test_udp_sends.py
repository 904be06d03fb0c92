"""The outer sockets over loopback: batches, marks, refusals, queues, rebinding. Needs no privileges."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from firezone.base.errors import RoutingLoopError
from firezone.base.net import Endpoint, Transmit
from firezone.base.timing import MILLISECOND
from firezone.io.udp_socket import MAX_WAITING_BYTES, MAX_WAITING_TIME, bind_udp
from firezone.io.udp_sockets import UdpSockets
from firezone.kernels.batch import PacketBatch, RunList
from firezone.kernels.offload import group_runs
from firezone.kernels.types import Verdict

HOSTS = {4: "127.0.0.1", 6: "::1"}
GONE = Endpoint.from_text("192.0.2.9", 1)
"""An address that this host does not have."""


@pytest.fixture
def sockets() -> Iterator[UdpSockets]:
    with contextlib.closing(UdpSockets(port=0, hosts=HOSTS)) as ours:
        yield ours


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(2)
        yield sock


def endpoint(sock: socket.socket) -> Endpoint:
    host, port = sock.getsockname()[:2]
    return Endpoint.from_text(host, port)


def transmit(to: Endpoint, payload: bytes = b"x", source: Endpoint | None = None, ecn: int = 0) -> Transmit:
    return Transmit(source=source, destination=to, payload=payload, ecn=ecn)


def make_runs(
    datagrams: list[bytes], to: Endpoint, source: Endpoint | None = None, ecn: list[int] | None = None
) -> tuple[PacketBatch, RunList]:
    """Rows that lie apart in memory, grouped as the uplink does."""
    step = max(map(len, datagrams)) + 64
    slab = np.zeros(step * len(datagrams), np.uint8)
    batch = PacketBatch(len(datagrams))
    batch.over(slab)
    for n, datagram in enumerate(datagrams):
        row = batch.append(n * step, len(datagram), Verdict.FORWARD)
        slab[n * step : n * step + len(datagram)] = np.frombuffer(datagram, np.uint8)
        put(batch.remote, row, to)
        if source is not None:
            put(batch.local, row, source)
        batch.socket[row] = 4 if to.is_ipv4 else 6
        batch.ecn[row] = ecn[n] if ecn else 0
    runs = RunList(len(datagrams))
    group_runs(batch, runs)
    return batch, runs


def put(column: np.ndarray, row: int, value: Endpoint) -> None:
    column[row]["ip"][: len(value.ip)] = np.frombuffer(value.ip, np.uint8)
    column[row]["port"] = value.port
    column[row]["family"] = 4 if value.is_ipv4 else 6


def receive(peer: socket.socket, count: int) -> list[bytes]:
    return [peer.recv(65536) for _ in range(count)]


def nothing_more(peer: socket.socket) -> bool:
    peer.settimeout(0.02)
    with contextlib.suppress(TimeoutError):
        return peer.recv(65536) is None
    return True


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 3
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def fill_until(ours: UdpSockets, entries: int) -> None:
    def filled() -> bool:
        ours.fill(8)
        return ours.ring.ready() >= entries

    until(filled)


@pytest.mark.parametrize(("count", "size", "calls"), [(100, 1316, 3), (200, 100, 4), (1, 1316, 1)])
def test_a_run_leaves_in_few_calls_and_arrives_in_order(
    sockets: UdpSockets, peer: socket.socket, count: int, size: int, calls: int
) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    datagrams = [bytes([n]) * size for n in range(count)]
    sockets.send_runs(*make_runs(datagrams, endpoint(peer)), 0)
    assert receive(peer, count) == datagrams
    assert not sockets.take_errors()
    counters = sockets.counters()
    assert (counters["send_calls"], counters["sent"], counters["send_bytes"]) == (calls, count, count * size)


def test_a_short_datagram_between_long_ones_keeps_its_place(sockets: UdpSockets, peer: socket.socket) -> None:
    datagrams = [b"a" * 1312, b"b" * 80, b"c" * 1312]
    sockets.send_runs(*make_runs(datagrams, endpoint(peer)), 0)
    assert receive(peer, 3) == datagrams


def test_ecn_is_sent_and_received_for_both_families(sockets: UdpSockets) -> None:
    """U6: one's own socket is the peer, so the received mark is what went over the wire."""
    for family, host in HOSTS.items():
        to = Endpoint.from_text(host, sockets.ports()[family])
        sockets.send_runs(*make_runs([bytes([n]) * 40 for n in range(4)], to, ecn=[3, 0, 3, 1]), 0)
        sockets.send(transmit(to, b"single", ecn=2), 0)
    fill_until(sockets, 8)
    ring = sockets.ring
    n = ring.ready()
    assert {int(mark) for mark in ring.ecn[:n]} == {0, 1, 2, 3}
    assert {int(family) for family in ring.local["family"][:n]} == {4, 6}
    assert {int(port) for port in ring.local["port"][:n]} == set(sockets.ports().values())


def test_a_train_fills_one_slot_with_its_stride(sockets: UdpSockets) -> None:
    """U10: what left as one segmented send arrives as one entry, nothing truncated."""
    to = Endpoint.from_text("127.0.0.1", sockets.ports()[4])
    sockets.send_runs(*make_runs([bytes(1316)] * 40 + [bytes(77)], to), 0)
    fill_until(sockets, 1)

    def is_whole() -> bool:
        sockets.fill(8)
        return int(sockets.ring.length[: sockets.ring.ready()].sum()) == 40 * 1316 + 77

    until(is_whole)
    assert int(sockets.ring.stride[0]) == 1316
    assert sockets.counters()["truncated"] == 0


def test_answers_leave_from_the_address_that_was_asked(peer: socket.socket) -> None:
    with contextlib.closing(UdpSockets(port=0, hosts={4: ""})) as ours:
        source = Endpoint.from_text("127.0.0.77", ours.ports()[4])
        ours.send(transmit(endpoint(peer), b"one", source), 0)
        ours.send_runs(*make_runs([b"two"], endpoint(peer), source), 0)
        for expected in (b"one", b"two"):
            assert peer.recvfrom(100) == (expected, ("127.0.0.77", source.port))


def test_a_source_address_that_is_gone_costs_its_datagrams_and_no_feature(sockets: UdpSockets, peer: socket.socket) -> None:
    sockets.send_runs(*make_runs([b"lost" * 10] * 5, endpoint(peer), GONE), 0)
    sockets.send(transmit(endpoint(peer), b"lost", GONE), 0)
    (first, second) = sockets.take_errors()
    assert isinstance(first, OSError)
    assert isinstance(second, OSError)
    assert str(endpoint(peer)) in str(first)
    assert str(endpoint(peer)) in str(second)
    assert sockets.counters()["refused"] == 6
    assert all(port.gso and port.ecn for port in sockets.batch_ports())
    sockets.send_runs(*make_runs([b"ok"] * 5, endpoint(peer)), 0)
    assert receive(peer, 5) == [b"ok"] * 5
    assert sockets.counters()["sent"] == 5


def test_an_unreachable_ipv6_peer_does_not_disturb_ipv4(sockets: UdpSockets, peer: socket.socket) -> None:
    refuse(sockets, lambda _: errno.ENETUNREACH, 6)
    unreachable = Endpoint.from_text("2001:db8:ffff::1", 9)
    sockets.send_runs(*make_runs([b"lost"] * 3, unreachable), 0)
    sockets.send(transmit(unreachable), 0)
    sockets.send(transmit(endpoint(peer), b"ok"), 0)
    assert peer.recv(100) == b"ok"
    errors = sockets.take_errors()
    assert len(errors) == 2
    assert sockets.counters()["refused"] == 4
    assert not sockets.waiting(0)


class RefusingPort:
    """A compiled port whose kernel refuses what it is told to refuse."""

    def __init__(self, port: object, refuse: Callable[[RefusingPort], int]) -> None:
        self._port, self._refuse = port, refuse
        self.gso = self.ecn = True

    def __getattr__(self, name: str) -> object:
        return getattr(self._port, name)

    def _pass(self, name: str, *args: object) -> object:
        self._port.gso, self._port.ecn = self.gso, self.ecn  # type: ignore[attr-defined]
        return getattr(self._port, name)(*args)

    def send_all(self, batch: PacketBatch, runs: RunList, index: int, family: int) -> object:
        error = self._refuse(self)
        return (index, int(runs.runs[index]["first"]), error) if error else self._pass("send_all", batch, runs, index, family)

    def send_rows(self, batch: PacketBatch, runs: RunList, index: int, row: int) -> object:
        error = self._refuse(self)
        return (row, error) if error else self._pass("send_rows", batch, runs, index, row)

    def send_bytes(self, *args: object) -> object:
        return self._refuse(self) or self._pass("send_bytes", *args)


def refuse(sockets: UdpSockets, how: Callable[[RefusingPort], int], family: int = 4) -> RefusingPort:
    udp = sockets._sockets[family]
    udp.batch = RefusingPort(udp.batch, how)  # type: ignore[assignment]
    return udp.batch  # type: ignore[return-value]


@pytest.mark.parametrize("error", [errno.EIO, errno.EINVAL])
def test_refused_segmentation_sends_all_once_and_is_remembered(sockets: UdpSockets, peer: socket.socket, error: int) -> None:
    port = refuse(sockets, lambda port: error if port.gso else 0)
    datagrams = [bytes([n]) * 50 for n in range(10)]
    sockets.send_runs(*make_runs(datagrams, endpoint(peer)), 0)
    assert receive(peer, 10) == datagrams
    assert nothing_more(peer)
    assert not port.gso
    assert port.ecn
    assert not sockets.take_errors()


def test_refused_marks_are_left_out_and_segmentation_stays(sockets: UdpSockets, peer: socket.socket) -> None:
    port = refuse(sockets, lambda port: errno.EINVAL if port.ecn else 0)
    sockets.send_runs(*make_runs([b"m" * 50] * 4, endpoint(peer), ecn=[1] * 4), 0)
    assert receive(peer, 4) == [b"m" * 50] * 4
    assert port.gso
    assert not port.ecn


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.ENOBUFS])
def test_what_a_socket_has_no_room_for_waits_in_order(sockets: UdpSockets, peer: socket.socket, error: int) -> None:
    blocked = [True]
    refuse(sockets, lambda _: error if blocked[0] else 0)
    sockets.send_runs(*make_runs([b"a" * 50] * 3, endpoint(peer)), 0)
    sockets.send(transmit(endpoint(peer), b"b"), 0)
    sockets.send_runs(*make_runs([b"c" * 50] * 2, endpoint(peer)), 0)
    assert sockets.waiting(1)
    assert len(sockets.blocked_descriptors()) == 1
    blocked[0] = False
    assert not sockets.waiting(2)
    assert receive(peer, 6) == [b"a" * 50] * 3 + [b"b"] + [b"c" * 50] * 2
    assert sockets._sockets[4].waiting_bytes == 0
    assert not sockets.take_errors()


def test_what_waits_too_long_or_too_much_is_dropped_oldest_first(sockets: UdpSockets, peer: socket.socket) -> None:
    refuse(sockets, lambda _: errno.EAGAIN)
    batch, runs = make_runs([bytes(1300)] * 40, endpoint(peer))
    for _ in range(MAX_WAITING_BYTES // (1300 * 40) + 5):
        sockets.send_runs(batch, runs, 0)
    assert sockets._sockets[4].waiting_bytes <= MAX_WAITING_BYTES
    dropped = sockets.counters()["dropped_waiting"]
    assert 0 < dropped <= 6 * 40
    assert sockets.waiting(MAX_WAITING_TIME)
    assert not sockets.waiting(MAX_WAITING_TIME + MILLISECOND)
    assert sockets._sockets[4].waiting_bytes == 0


def test_a_queue_that_came_and_went_for_hours_still_takes_datagrams(sockets: UdpSockets, peer: socket.socket) -> None:
    blocked = [True]
    refuse(sockets, lambda _: errno.EAGAIN if blocked[0] else 0)
    for _ in range(80):
        blocked[0] = True
        sockets.send(transmit(endpoint(peer), bytes(60_000)), 0)
        blocked[0] = False
        assert not sockets.waiting(0)
        assert len(peer.recv(65536)) == 60_000
    assert sockets.counters()["dropped_waiting"] == 0


def test_an_oversized_datagram_is_an_error_of_its_own(sockets: UdpSockets, peer: socket.socket) -> None:
    sockets.send(transmit(endpoint(peer), bytes(65_600)), 0)
    sockets.send(transmit(endpoint(peer), b"ok"), 0)
    assert peer.recv(100) == b"ok"
    (error,) = sockets.take_errors()
    assert isinstance(error, OSError)
    assert error.errno == errno.EMSGSIZE


def test_one_familys_error_leaves_what_the_other_received(sockets: UdpSockets) -> None:
    """U13."""
    to = Endpoint.from_text("127.0.0.1", sockets.ports()[4])
    sockets.send(transmit(to, b"data"), 0)
    reader, writer = os.pipe()
    sockets._sockets[6].batch.fd = reader  # recvmmsg of a pipe: ENOTSOCK
    try:
        fill_until(sockets, 1)
    finally:
        os.close(reader)
        os.close(writer)
    assert any(isinstance(error, OSError) and error.errno == errno.ENOTSOCK for error in sockets.take_errors())


def test_a_taken_port_is_replaced_by_another(peer: socket.socket) -> None:
    taken = endpoint(peer).port
    with contextlib.closing(UdpSockets(port=taken, hosts={4: "127.0.0.1"})) as ours:
        assert ours.ports()[4] not in (0, taken)


def test_a_missing_family_is_done_without() -> None:
    with contextlib.closing(UdpSockets(port=0, hosts={4: "127.0.0.1", 6: "2001:db8::1"})) as ours:
        assert set(ours.ports()) == {4}
        assert len(ours.take_errors()) == 1
        ours.send(transmit(Endpoint.from_text("::1", 9)), 0)
        assert ours.counters()["no_socket"] == 1


def test_rebinding_keeps_port_and_counters(sockets: UdpSockets, peer: socket.socket) -> None:
    ours = UdpSockets(port=sockets.ports()[4] % 20000 + 30000, hosts=HOSTS)
    with contextlib.closing(ours):
        before = ours.ports()
        ours.send(transmit(endpoint(peer), b"1"), 0)
        ours.rebind()
        ours.send(transmit(endpoint(peer), b"2"), 0)
        assert ours.ports() == before
        assert receive(peer, 2) == [b"1", b"2"]
        assert ours.counters()["sent"] == 2


def test_a_refused_mark_is_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket.setsockopt

    def unprivileged(self: socket.socket, level: int, option: int, *value: object) -> None:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_MARK):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        real(self, level, option, *value)  # type: ignore[call-overload]

    monkeypatch.setattr(socket.socket, "setsockopt", unprivileged)
    with pytest.raises(RoutingLoopError, match="CAP_NET_ADMIN"):
        UdpSockets(port=0, mark=1, hosts=HOSTS)


@pytest.mark.parametrize(("text", "expected"), [("131072", 131072), ("8192", 8192)])
def test_buffer_sizes_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, text: str, expected: int) -> None:
    monkeypatch.setenv("FIREZONE_UDP_RECV_BUFFER_SIZE", text)
    monkeypatch.setenv("FIREZONE_UDP_SEND_BUFFER_SIZE", text)
    udp = bind_udp(4, port=0, host="127.0.0.1")
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        assert udp.sock.getsockopt(socket.SOL_SOCKET, option) == 2 * expected
    udp.close()


@pytest.mark.parametrize("text", ["lots", "-1", "0", "99999999999999", "1.5", ""])
def test_a_senseless_buffer_size_is_ignored(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    usual = bind_udp(4, port=0, host="127.0.0.1")
    monkeypatch.setenv("FIREZONE_UDP_RECV_BUFFER_SIZE", text)
    udp = bind_udp(4, port=0, host="127.0.0.1")
    sizes = {sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) for sock in (usual.sock, udp.sock)}
    assert len(sizes) == 1
    usual.close()
    udp.close()
