"""The TUN device's sink and source over a packet socket pair in place of the kernel's device: what is refused, waits or ends."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from firezone.base.errors import ConfigError, TunClosed
from firezone.io.tun_device import MAX_WAITING_BYTES, MAX_WAITING_TIME, TunDevice
from firezone.kernels.batch import PacketBatch, RunList
from firezone.kernels.types import Verdict

HEADER = bytes(10)


@pytest.fixture
def pair() -> Iterator[tuple[TunDevice, socket.socket]]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    far.setblocking(False)
    device = TunDevice(near.detach(), "tun-test", "tso+uso")
    yield device, far
    device.close()
    far.close()


def make_run(packets: list[bytes]) -> tuple[PacketBatch, RunList]:
    """One super-packet: the first row's 4 header bytes are replaced by a prefix, the others' are left out."""
    slab = np.frombuffer(b"".join(packets), np.uint8).copy()
    batch = PacketBatch(len(packets))
    batch.over(slab)
    runs = RunList(1)
    offset = 0
    for n, packet in enumerate(packets):
        batch.append(offset, len(packet), Verdict.FORWARD)
        offset += len(packet)
        batch.skip[n] = 4
        batch.next[n] = n + 1 if n + 1 < len(packets) else -1
    batch.prefix_len[0] = 4
    batch.prefix[0][:4] = np.frombuffer(b"JOIN", np.uint8)
    runs.runs[0]["first"], runs.runs[0]["count"] = 0, len(packets)
    runs.n = 1
    return batch, runs


class RefusingPort:
    """A compiled port whose kernel answers every write of a run with one error."""

    def __init__(self, error: int) -> None:
        self.error = error

    def write_runs(self, batch: PacketBatch, runs: RunList, index: int) -> tuple[int, int]:
        return index, self.error


def test_a_super_packet_is_gathered_behind_its_header(pair: tuple[TunDevice, socket.socket]) -> None:
    device, far = pair
    device.write_runs(*make_run([b"HEADone", b"HEADtwo"]), 0)
    assert far.recv(100) == HEADER + b"JOINonetwo"
    counters = device.counters()
    assert (counters["writes"], counters["written"], counters["written_bytes"]) == (1, 2, 10)


def test_a_refused_super_packet_goes_out_packet_by_packet(pair: tuple[TunDevice, socket.socket]) -> None:
    """T12, and nothing of it is lost."""
    device, far = pair
    device.port = RefusingPort(errno.EINVAL)  # type: ignore[assignment]
    device.write_runs(*make_run([b"HEADone", b"HEADtwo"]), 0)
    assert [far.recv(100), far.recv(100)] == [HEADER + b"HEADone", HEADER + b"HEADtwo"]
    assert not device.coalesce
    assert not device.take_errors()


@pytest.mark.parametrize("offload", ["tso", "none"])
def test_without_udp_offload_nothing_is_joined(offload: str) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    device = TunDevice(near.detach(), "tun-test", offload)
    assert not device.coalesce
    device.close()
    far.close()


def test_what_the_device_does_not_take_waits_in_order_and_for_a_moment_only(pair: tuple[TunDevice, socket.socket]) -> None:
    device, far = pair
    sent = 0
    while not device.waiting(0):
        device.write(sent.to_bytes(4, "big") + bytes(1276), 0)
        sent += 1
    device.write_runs(*make_run([b"HEADlast"]), 0)
    got = 0
    while device.waiting(0):
        assert far.recv(2000)[10:14] == got.to_bytes(4, "big")
        got += 1
    for _ in range(sent - got):
        far.recv(2000)
    assert far.recv(2000) == HEADER + b"JOINlast"
    while not device.waiting(0):
        device.write(bytes(1280), 0)
    assert device.waiting(MAX_WAITING_TIME)
    assert not device.waiting(MAX_WAITING_TIME + 1)
    assert device.counters()["dropped_waiting"] == 1


def test_the_queue_is_bounded(pair: tuple[TunDevice, socket.socket]) -> None:
    device, _ = pair
    for _ in range(3 * MAX_WAITING_BYTES // 1290):
        device.write(bytes(1280), 0)
    assert device._waiting_bytes <= MAX_WAITING_BYTES
    assert device.counters()["dropped_waiting"] > 0


@pytest.mark.parametrize("error", [errno.ENODEV, errno.EBADF, errno.EBADFD])
def test_a_device_that_is_gone_ends_the_tunnel(pair: tuple[TunDevice, socket.socket], error: int) -> None:
    device, _ = pair
    device.port = RefusingPort(error)  # type: ignore[assignment]
    device.write_runs(*make_run([b"HEADone"]), 0)
    (told,) = device.take_errors()
    assert isinstance(told, TunClosed)
    assert "tun-test is gone" in str(told)


def test_a_device_that_is_down_is_an_error_and_no_end(pair: tuple[TunDevice, socket.socket]) -> None:
    device, _ = pair
    device.port = RefusingPort(errno.EIO)  # type: ignore[assignment]
    for _ in range(100):
        device.write_runs(*make_run([b"HEADone"]), 0)
    errors = device.take_errors()
    assert 0 < len(errors) <= 16
    assert device._refused == 100
    assert not device.take_errors()


def test_reading_ends_with_the_device(pair: tuple[TunDevice, socket.socket]) -> None:
    device, far = pair
    far.send(HEADER + b"packet")
    far.send(b"short")
    device.fill(8)
    assert device.ring.ready() == 1
    assert int(device.ring.length[0]) == 6
    far.close()
    device.fill(8)
    assert isinstance(device.take_errors()[0], TunClosed)


@pytest.mark.parametrize("name", ["", "a-name-of-sixteen"])
def test_an_impossible_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no name for an interface"):
        TunDevice.open(name)
