"""A reader thread over real sockets: it wakes a sleeping tick, waits for room, lets sockets be replaced, and tells its death."""

from __future__ import annotations

import os
import select
import socket
import time
from typing import TYPE_CHECKING

import pytest

from firezone.base.errors import ReaderStopped
from firezone.io.reader_thread import ReaderThread
from firezone.io.tun_batch import TunBatchPort
from firezone.io.udp_batch import UdpBatchPort
from firezone.kernels.ring import PacketRing

if TYPE_CHECKING:
    from collections.abc import Iterator


def bound() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind(("127.0.0.1", 0))
    return sock


def port_of(sock: socket.socket) -> UdpBatchPort:
    return UdpBatchPort(sock.fileno(), 4, sock.getsockname()[1])


@pytest.fixture
def sender() -> Iterator[socket.socket]:
    with bound() as sock:
        yield sock


def wait_for(ring: PacketRing, count: int) -> None:
    deadline = time.monotonic() + 2
    while ring.ready() < count and time.monotonic() < deadline:
        time.sleep(0.002)
    assert ring.ready() == count


def test_sleeping_tick_is_woken_and_one_that_works_is_not(sender: socket.socket) -> None:
    with bound() as sock:
        reader = ReaderThread("test", PacketRing(16, 2048), [port_of(sock)])
        assert reader.sleeps()
        sender.sendto(b"first", sock.getsockname())
        readable, _, _ = select.select(reader.descriptors(), [], [], 2)
        assert readable, "the bell must ring for a sleeper"
        reader.fill(8)
        wait_for(reader.ring, 1)
        sender.sendto(b"second", sock.getsockname())
        wait_for(reader.ring, 2)
        readable, _, _ = select.select(reader.descriptors(), [], [], 0)
        assert not readable, "nobody sleeps, so nobody is rung for"
        reader.stop()


def test_full_ring_stops_the_reader_until_there_is_room(sender: socket.socket) -> None:
    with bound() as sock:
        reader = ReaderThread("test", PacketRing(4, 2048), [port_of(sock)])
        for number in range(10):
            sender.sendto(bytes([number]), sock.getsockname())
        seen = []
        for _ in range(10):
            deadline = time.monotonic() + 2
            while not reader.ring.ready() and time.monotonic() < deadline:
                time.sleep(0.001)
            seen.append(int(reader.ring.slab[reader.ring.tail(), 0]))
            reader.release(1)
        assert seen == list(range(10))
        reader.stop()


def test_sockets_are_replaced_under_a_live_reader(sender: socket.socket) -> None:
    first, second = bound(), bound()
    reader = ReaderThread("test", PacketRing(16, 2048), [port_of(first)])
    sender.sendto(b"old", first.getsockname())
    wait_for(reader.ring, 1)
    reader.replace([])
    first.close()
    reader.replace([port_of(second)])
    sender.sendto(b"new", second.getsockname())
    wait_for(reader.ring, 2)
    reader.stop()
    second.close()


def test_reader_that_dies_is_an_error_told_once() -> None:
    left, right = os.pipe()
    reader = ReaderThread("tun reader", PacketRing(4, 2048), [TunBatchPort(left)])
    assert reader.sleeps()
    os.close(right)  # End of file: what a TUN device that is gone looks like.
    readable, _, _ = select.select(reader.descriptors(), [], [], 2)
    assert readable
    deadline = time.monotonic() + 2
    errors: list[Exception] = []
    while not errors and time.monotonic() < deadline:
        errors = reader.take_errors()
    assert isinstance(errors[0], ReaderStopped)
    assert reader.take_errors() == []
    reader.stop()
    os.close(left)


def test_stopping_joins_the_thread() -> None:
    with bound() as sock:
        reader = ReaderThread("test", PacketRing(4, 2048), [port_of(sock)])
        start = time.monotonic()
        reader.stop()
        assert not reader._thread.is_alive()
        assert time.monotonic() - start < 1
        assert reader.take_errors() == []
