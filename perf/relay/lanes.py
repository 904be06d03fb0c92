"""Clients, relays and peers, each in a namespace of its own, and sockets of this process in any of them.

    clients 198.51.100.2 ── 198.51.100.1 relays 203.0.113.1 ── 203.0.113.2 peers

Both relays run in the middle one, on ports of their own, so they have the same way in and out.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from firezone.base.errors import ConfigError
from firezone.lab.namespaces import Namespace

CLIENT_ADDRESS, RELAY_ADDRESS = "198.51.100.2", "198.51.100.1"
PUBLIC_ADDRESS, PEER_ADDRESS = "203.0.113.1", "203.0.113.2"
FIRST_PEER_PORT = 20_000
SINK_BUFFER_SIZE = 32 << 20

_CLONE_NEWNET = 0x40000000
_SO_RCVBUFFORCE = 33
_UDP_GRO = 104
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Lanes:
    """The three namespaces."""

    clients: Namespace
    relays: Namespace
    peers: Namespace

    @classmethod
    def build(cls) -> Lanes:
        """Makes namespaces, links and addresses. Raises ConfigError, naming the command that failed."""
        clients, relays, peers = (Namespace.create(name) for name in ("clients", "relays", "peers"))
        relays.run_lines(f"""
            ip link add inner type veth peer name eth0 netns {clients.holder.pid}
            ip link add outer type veth peer name eth0 netns {peers.holder.pid}
            ip addr add {RELAY_ADDRESS}/24 dev inner
            ip addr add {PUBLIC_ADDRESS}/24 dev outer
            ip link set inner up
            ip link set outer up
        """)
        for namespace, address in ((clients, CLIENT_ADDRESS), (peers, PEER_ADDRESS)):
            namespace.run_lines(f"""
                ip addr add {address}/24 dev eth0
                ip link set eth0 up
            """)
        return cls(clients, relays, peers)

    def client_socket(self, port: int) -> socket.socket:
        """Returns a socket of the clients' side, connected to a relay's port."""
        with inside(self.clients):
            sock = sink()
        sock.connect((RELAY_ADDRESS, port))
        return sock

    def peer_socket(self, port: int) -> socket.socket:
        """Returns a socket of the peers' side, bound to a port."""
        with inside(self.peers):
            sock = sink()
        sock.bind((PEER_ADDRESS, port))
        return sock


@contextlib.contextmanager
def inside(namespace: Namespace) -> Iterator[None]:
    """Makes sockets that are opened here belong to another namespace; they stay there."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    other = os.open(f"/proc/{namespace.holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set(other)
        try:
            yield
        finally:
            _set(own)
    finally:
        os.close(other)
        os.close(own)


def _set(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET):
        raise ConfigError(f"The namespace cannot be entered: {os.strerror(ctypes.get_errno())}.")


def sink() -> socket.socket:
    """Returns a socket that takes trains whole and much at once, where the kernel lets it."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, SINK_BUFFER_SIZE)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SINK_BUFFER_SIZE)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
    return sock
