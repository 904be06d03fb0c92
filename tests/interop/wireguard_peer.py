"""A plain WireGuard program on `noise.Peer`: one peer, a UDP socket, a TUN device, one packet at a time.

    python -m tests.interop.wireguard_peer '{"private": "<hex>", "remote_public": "<hex>", "tun": "tun0", "port": 51820, …}'

It is what the interoperability tests run in a namespace; see `Options`. It prints one JSON object per line and, at SIGTERM,
its counters. It goes to where authentic messages come from, as WireGuard does and Firezone does not.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any

from firezone.base.errors import NoSession, RemoteError
from firezone.base.timing import SECOND, seconds
from firezone.proto.noise.cookie import RateLimiter
from firezone.proto.noise.handshake import StaticKeys
from firezone.proto.noise.index import IndexAllocator
from firezone.proto.noise.peer import Established, Peer
from firezone.proto.noise.timers import PeerTiming
from firezone.wire.wireguard import MessageType, classify
from tests.harness.sessions import SlowSessionStore

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000


@dataclass
class Options:
    """What the program is told."""

    private: str
    remote_public: str
    tun: str
    port: int
    preshared: str | None = None
    endpoint: tuple[str, int] | None = None
    """Where the peer is; without it we wait for its initiation."""
    is_ipv6: bool = False
    initiate: bool = False
    """Start a handshake without waiting for a packet."""
    timing: dict[str, float] = field(default_factory=dict)
    """Fields of `PeerTiming` in seconds."""


@dataclass
class Counters:
    """What happened until the end."""

    sent: int = 0
    received: int = 0
    refused: int = 0
    cookies: int = 0
    """Cookie replies received."""
    cookie_demands: int = 0
    """Cookie replies sent."""


class SystemRng:
    """The operating system's randomness."""

    def bytes(self, count: int) -> bytes:
        return os.urandom(count)


class Program:
    """The peer with its device and its socket."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.counters = Counters()
        self._tun = open_tun(options.tun)
        family = socket.AF_INET6 if options.is_ipv6 else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.bind(("::" if options.is_ipv6 else "0.0.0.0", options.port))
        self._socket.setblocking(False)
        self._endpoint = None if options.endpoint is None else (options.endpoint[0], options.endpoint[1])
        rng, now = SystemRng(), clock()
        static = StaticKeys.from_private(bytes.fromhex(options.private))
        store = SlowSessionStore()
        self._peer = Peer(
            static=static,
            remote_public=bytes.fromhex(options.remote_public),
            preshared_key=bytes.fromhex(options.preshared) if options.preshared else None,
            indices=IndexAllocator(rng).next(),
            row=store.add_peer(),
            store=store,
            limiter=RateLimiter(static, rng, now),
            rng=rng,
            now=now,
            timing=PeerTiming(**{name: seconds(value) for name, value in options.timing.items()}),
        )
        self._is_stopped = False

    def run(self) -> None:
        """Works until SIGTERM."""
        signal.signal(signal.SIGTERM, self._stop)
        say("ready")
        if self.options.initiate:
            self._peer.initiate(clock(), time.time_ns())
        while not self._is_stopped:
            self._flush()
            ready, _, _ = select.select([self._tun, self._socket.fileno()], [], [], self._wait())
            if self._tun in ready:
                self._read_tun()
            if self._socket.fileno() in ready:
                self._read_socket()
            self._peer.handle_timeout(clock(), time.time_ns())
        say("stopped", **asdict(self.counters))

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._is_stopped = True

    def _wait(self) -> float:
        deadline = self._peer.poll_timeout()
        return 0.5 if deadline is None else min(0.5, max(0.0, (deadline[0] - clock()) / SECOND))

    def _read_tun(self) -> None:
        for _ in range(64):
            try:
                packet = os.read(self._tun, 65536)
            except BlockingIOError:
                return
            self._peer.encapsulate(packet, clock(), time.time_ns())
            self._flush()

    def _read_socket(self) -> None:
        for _ in range(64):
            try:
                datagram, source = self._socket.recvfrom(65536)
            except BlockingIOError:
                return
            self.counters.received += 1
            self._handle(datagram, (source[0], source[1]))
            self._flush()

    def _handle(self, datagram: bytes, source: tuple[str, int]) -> None:
        kind = classify(datagram)
        packed = socket.inet_pton(socket.AF_INET6 if self.options.is_ipv6 else socket.AF_INET, source[0])
        was = self._endpoint
        # A cookie demand answers the unproven source, so the endpoint moves for the time of the call and back when refused.
        self._endpoint = source
        demands = self.counters.cookie_demands
        try:
            packet = self._peer.handle_message(datagram, packed, clock(), time.time_ns())
        except (RemoteError, NoSession) as error:
            self._endpoint = was
            self.counters.refused += 1
            if self.counters.refused <= 10:
                say("refused", reason=str(error), kind=None if kind is None else kind.name)
            return
        if kind is MessageType.COOKIE_REPLY:
            self.counters.cookies += 1
        self._flush()
        if self.counters.cookie_demands > demands:
            self._endpoint = was
        if packet is not None:
            os.write(self._tun, packet)

    def _flush(self) -> None:
        while (datagram := self._peer.poll_transmit()) is not None:
            self.counters.cookie_demands += classify(datagram) is MessageType.COOKIE_REPLY
            if self._endpoint is None:
                continue
            self.counters.sent += 1
            try:
                self._socket.sendto(datagram, self._endpoint)
            except OSError as error:
                say("send failed", reason=str(error))
        while (event := self._peer.poll_event()) is not None:
            if isinstance(event, Established):
                say("established", is_initiator=event.is_initiator, is_first=event.is_first)
            else:
                say("expired", reason=event.reason)


def clock() -> int:
    """Returns nanoseconds on the clock that counts suspend."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def say(event: str, **fields: Any) -> None:
    """Prints one line for the test that runs us."""
    print(json.dumps({"event": event, **fields}), flush=True)


def open_tun(name: str) -> int:
    """Returns the descriptor of a new TUN device without packet information and without offloads."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return descriptor


if __name__ == "__main__":
    Program(Options(**json.loads(sys.argv[1]))).run()
