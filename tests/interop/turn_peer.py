"""An allocation on real sockets: the TURN client as a test drives it, in a network namespace of its own."""

from __future__ import annotations

import ctypes
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from firezone.base.net import Endpoint
from firezone.io.entropy import SystemRng
from firezone.proto.turn.allocation import Allocation
from firezone.proto.turn.channels import decode_channel_data
from firezone.proto.turn.events import AllocationEvent
from firezone.proto.turn.messages import Credentials
from firezone.wire import stun
from firezone.wire.stun import Method
from tests.harness.namespaces import Namespace

CLONE_NEWNET = 0x40000000
T = TypeVar("T")


def inside(namespace: Namespace, action: Callable[[], T]) -> T:
    """Runs something in a thread that has entered the namespace; sockets made there stay in it."""
    results: list[T] = []

    def enter_and_act() -> None:
        with open(f"/proc/{namespace.pid}/ns/net", "rb") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "the namespace cannot be entered")
        results.append(action())

    thread = threading.Thread(target=enter_and_act)
    thread.start()
    thread.join()
    return results[0]


class TurnPeer:
    """One client of a relay: a socket per family, an allocation, what it received."""

    def __init__(self, namespace: Namespace, hosts: list[str], servers: list[str], username: str, password: str) -> None:
        self.sockets: dict[bool, socket.socket] = {}
        for host in hosts:
            self.sockets[":" not in host] = inside(namespace, lambda host=host: _bound(host))  # type: ignore[misc]
        self.sent: list[stun.Message] = []
        self.answers: list[stun.Message] = []
        self.events: list[AllocationEvent] = []
        self.received: list[tuple[Endpoint, bytes]] = []
        """Peer and payload of channel data."""
        endpoints = [Endpoint.from_text(server, 3478) for server in servers]
        credentials = Credentials.from_password(username, password)
        self.allocation = Allocation(endpoints, credentials, gate=None, rng=SystemRng(), now=time.monotonic_ns())

    def close(self) -> None:
        for sock in self.sockets.values():
            sock.close()

    @property
    def lent(self) -> dict[bool, Endpoint]:
        """Lent addresses by family: is it IPv4?"""
        found = (item.candidate.endpoint for item in self.allocation.candidates())
        return {endpoint.is_ipv4: endpoint for endpoint in found if self.allocation.has_lent(endpoint)}

    def bind(self, peer: Endpoint) -> None:
        self.allocation.bind_channel(peer, time.monotonic_ns())
        self._flush()

    def send(self, peer: Endpoint, payload: bytes) -> None:
        transmit = self.allocation.encapsulate(peer, payload, time.monotonic_ns())
        if transmit is not None:
            self._put(transmit.destination, transmit.payload)
        self._flush()

    def requests(self, method: Method) -> int:
        return sum(message.method == method for message in self.sent)

    def errors(self) -> list[int]:
        """Codes of all errors the relay answered with."""
        codes = (message.get(stun.Attribute.ERROR_CODE) for message in self.answers)
        return [code.code for code in codes if code is not None]

    def step(self, timeout: float) -> None:
        """Waits for a datagram or the next deadline, at most so many seconds."""
        self._flush()
        now, due = time.monotonic_ns(), self.allocation.poll_timeout()
        wait = timeout if due is None else min(timeout, max(0.0, (due[0] - now) / 1e9))
        readable, _, _ = select.select(list(self.sockets.values()), [], [], wait)
        for sock in readable:
            data, address = sock.recvfrom(2048)
            self._take(Endpoint.from_text(address[0], address[1]), _endpoint(sock), data)
        now, due = time.monotonic_ns(), self.allocation.poll_timeout()
        if due is not None and due[0] <= now:
            self.allocation.handle_timeout(now)
        self._flush()

    def _take(self, remote: Endpoint, local: Endpoint, data: bytes) -> None:
        framed = decode_channel_data(data)
        if framed is not None:
            found = self.allocation.decapsulate(remote, framed[0], time.monotonic_ns())
            if found is not None:
                self.received.append((found[1], framed[1]))
            return
        received = stun.decode(data)
        self.answers.append(received.message)
        self.allocation.handle_message(local, remote, received, time.monotonic_ns())

    def _flush(self) -> None:
        while (event := self.allocation.poll_event()) is not None:
            self.events.append(event)
        while (transmit := self.allocation.poll_transmit()) is not None:
            self.sent.append(stun.decode(transmit.payload).message)
            self._put(transmit.destination, transmit.payload)

    def _put(self, destination: Endpoint, payload: bytes) -> None:
        sock = self.sockets.get(destination.is_ipv4)
        if sock is not None:
            sock.sendto(payload, (destination.host, destination.port))


def run(peers: list[TurnPeer], condition: Callable[[], bool], limit: float = 10.0) -> bool:
    """Drives several peers until the condition holds. Returns whether it came to hold."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            return False
        for peer in peers:
            peer.step(0.01)
    return True


def _bound(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET if ":" not in host else socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    return sock


def _endpoint(sock: socket.socket) -> Endpoint:
    host, port = sock.getsockname()[:2]
    return Endpoint.from_text(host, port)
