"""Split and join between two real TUN devices: the kernel makes the super-packets and judges ours.

    namespace left                                      namespace right
    sockets - 10.9.0.1 tun-l == TUN fd  ── pump ──  TUN fd == tun-r 10.9.0.2 - sockets

The pump splits every read, parses the packets and joins them again on the other side; both kernels verify the checksums of what
they get, so an error in either direction stops the transfer.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import pytest

from firezone.io.tun_device import TunDevice
from firezone.kernels.batch import PacketBatch, RunList
from firezone.kernels.ip import parse_batch
from firezone.kernels.offload import join_batch, split_batch
from firezone.kernels.types import Reason
from tests.harness.namespaces import Namespace, configure

pytestmark = pytest.mark.root

T = TypeVar("T")
UDP_SEGMENT = 103
HOSTS: dict[int, tuple[str, str]] = {socket.AF_INET: ("10.9.0.1", "10.9.0.2"), socket.AF_INET6: ("fd09::1", "fd09::2")}


class Pump:
    """Moves packets from one device to the other and counts what it saw."""

    def __init__(self, source: TunDevice, sink: TunDevice) -> None:
        self.source, self.sink = source, sink
        self.batch, self.runs, self.slab = PacketBatch(2048), RunList(2048), np.zeros(700_000, np.uint8)
        self.reasons = np.zeros(256, np.uint32)
        self.largest_split = self.largest_join = 0

    def step(self) -> None:
        self.source.fill(8)
        taken = split_batch(self.source.ring, 64, self.batch, self.slab)
        if taken == 0:
            return
        self.largest_split = max(self.largest_split, self.batch.n // taken)
        self.source.release(taken)
        parse_batch(self.batch, False)
        self.batch.count_reasons(self.reasons)
        join_batch(self.batch, self.runs, self.sink.coalesce)
        self.largest_join = max([self.largest_join, *self.runs.runs[: self.runs.n]["count"].tolist()])
        self.sink.write_runs(self.batch, self.runs, time.monotonic_ns())

    def dropped(self) -> dict[Reason, int]:
        return {Reason(int(number)): int(self.reasons[number]) for number in np.flatnonzero(self.reasons)}


class Bench:
    """Two namespaces, their devices, and the thread that pumps between them."""

    def __init__(self, left: Namespace, right: Namespace) -> None:
        self.sides = [left, right]
        names = ("tun-l", "tun-r")
        self.devices = [inside(side, partial(TunDevice.open, name)) for side, name in zip(self.sides, names, strict=True)]
        for number, (side, name) in enumerate(zip(self.sides, names, strict=True)):
            side.run("ip", "link", "set", name, "mtu", "1280")
            configure(side, name, [f"10.9.0.{number + 1}/24", f"fd09::{number + 1}/64"])
        self.pumps = [Pump(*self.devices), Pump(*self.devices[::-1])]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def socket(self, side: int, family: int, kind: int) -> socket.socket:
        made = inside(self.sides[side], lambda: socket.socket(family, kind))
        made.settimeout(20)
        return made

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for device in self.devices:
            device.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for pump in self.pumps:
                pump.step()
                pump.sink.waiting(time.monotonic_ns())
            time.sleep(0.0002)


def inside(namespace: Namespace, function: Callable[[], T]) -> T:
    """Runs a function in a thread that has joined the namespace."""

    def enter() -> T:
        fd = os.open(f"/proc/{namespace.pid}/ns/net", os.O_RDONLY)
        assert ctypes.CDLL(None, use_errno=True).setns(fd, 0) == 0
        os.close(fd)
        return function()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(enter).result()


@pytest.fixture
def bench() -> Iterator[Bench]:
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
        pytest.skip("needs root and /dev/net/tun")
    with Namespace() as left, Namespace() as right:
        made = Bench(left, right)
        try:
            yield made
        finally:
            made.close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
def test_tcp_streams_survive_splitting_and_joining_in_both_directions(bench: Bench, family: int) -> None:
    listener, client = bench.socket(1, family, socket.SOCK_STREAM), bench.socket(0, family, socket.SOCK_STREAM)
    listener.bind((HOSTS[family][1], 5000))
    listener.listen()
    client.connect((HOSTS[family][1], 5000))
    server, _ = listener.accept()
    server.settimeout(20)
    data = random.Random(1).randbytes(8_000_000)
    with ThreadPoolExecutor(2) as pool:
        for sender, receiver in ((client, server), (server, client)):
            digest = pool.submit(receive_all, receiver, len(data))
            sender.sendall(data)
            assert digest.result() == hashlib.sha256(data).digest()
    for made in (listener, client, server):
        made.close()
    for pump in bench.pumps:
        assert pump.largest_split > 4
        assert pump.largest_join > 4
        assert pump.sink.coalesce
        assert not pump.dropped()


def receive_all(receiver: socket.socket, size: int) -> bytes:
    digest = hashlib.sha256()
    while size:
        piece = receiver.recv(min(size, 1 << 16))
        assert piece
        digest.update(piece)
        size -= len(piece)
    return digest.digest()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
def test_udp_super_packets_arrive_as_the_datagrams_that_were_sent(bench: Bench, family: int) -> None:
    receiver, sender = bench.socket(1, family, socket.SOCK_DGRAM), bench.socket(0, family, socket.SOCK_DGRAM)
    receiver.bind((HOSTS[family][1], 6000))
    sender.connect((HOSTS[family][1], 6000))
    sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
    data = random.Random(2).randbytes(40_300)
    sender.send(data)
    got = [receiver.recv(2000) for _ in range(41)]
    assert got == [data[at : at + 1000] for at in range(0, len(data), 1000)]
    if bench.devices[0].offload == "tso+uso":
        assert bench.pumps[0].largest_split == 41
        assert bench.pumps[0].largest_join == 41
    assert not bench.pumps[0].dropped()
    receiver.close()
    sender.close()
