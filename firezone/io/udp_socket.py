"""The tunnel's outer sockets: one per family, batched both ways, with what the kernel refuses waiting in a bounded queue.

Every socket is non-blocking, unfragmented (PMTU probe mode) and carries the firewall mark, so that its traffic goes around the
tunnel. Segmentation offload is used until the kernel refuses it for a socket; then that socket sends one by one, for good.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from firezone.base.errors import RoutingLoopError
from firezone.base.limits import MAX_SEGMENTS, RING_SLOTS
from firezone.base.net import TUNNEL_PORT, Endpoint, Transmit
from firezone.base.timing import MILLISECOND
from firezone.io.udp_batch import UdpBatchPort
from firezone.kernels.ring import PacketRing

if TYPE_CHECKING:
    from collections.abc import Callable

    from firezone.base.timing import Instant
    from firezone.kernels.batch import PacketBatch, RunList

log = structlog.get_logger(__name__)

SEND_BUFFER_SIZE = 2 << 20
"""10 Gbit/s for 1 ms, rounded up. Half drops under bursts, double only adds delay."""
RECEIVE_BUFFER_SIZE = 16 << 20
"""10 Gbit/s for 10 ms: what arrives while the process does not run."""
MIN_BUFFER_SIZE = 64 << 10
MAX_WAITING_BYTES = 4 << 20
"""Bytes of datagrams that may wait per socket: two full ticks. More would only age."""
MAX_WAITING_TIME = 20 * MILLISECOND
"""How long a datagram may wait for its socket before the oldest are dropped: a socket stuck longer is not coming back soon."""

_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3
_IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_PROBE, _IPV6_DONTFRAG = 23, 3, 62
_IPV6_ADDR_PREFERENCES, _IPV6_PREFER_SRC_PUBLIC = 72, 2
_IP_RECVTOS, _IP_PKTINFO = 13, 8
_UDP_SEGMENT, _UDP_GRO = 103, 104
_LATER = (errno.EAGAIN, errno.ENOBUFS)
"""The socket has no room: the datagrams wait."""
_MAX_ERRORS = 16
"""Errors kept between two ticks; more of the same only cost."""
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 33, 32


@dataclass(slots=True)
class _Waiting:
    """What is left of one run."""

    payload: bytes
    stride: int
    destination: Endpoint
    source: Endpoint | None
    ecn: int
    since: Instant


@dataclass(slots=True)
class UdpCounters:
    """What a socket could not send."""

    refused: int = 0
    """Datagrams that the kernel refused for good."""
    dropped_waiting: int = 0
    """Datagrams that waited too long or found the queue full."""


@dataclass
class UdpSocket:
    """One bound socket of one family."""

    sock: socket.socket
    batch: UdpBatchPort
    waiting: deque[_Waiting] = field(default_factory=deque)
    waiting_bytes: int = 0
    counters: UdpCounters = field(default_factory=UdpCounters)

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.batch.socket_id

    @property
    def port(self) -> int:
        return self.batch.port

    def retry_without(self, error: int, send: Callable[[], int]) -> int:
        """Calls `send` (returns an errno, 0 for success) again without each feature that `error` may be about.

        A feature stays off only when its absence helped: EINVAL is also the answer for a source address that the host no longer
        has, and a roam must not cost the offload. Returns the errno that counts.
        """
        for feature, errors in (("gso", (errno.EIO, errno.EINVAL)), ("ecn", (errno.EINVAL,))):
            if error not in errors or not getattr(self.batch, feature):
                continue
            setattr(self.batch, feature, False)
            outcome = send()
            if outcome == 0:
                log.info("the kernel refuses a socket feature", feature=feature, family=self.family, errno=errno.errorcode[error])
                return 0
            setattr(self.batch, feature, True)
            if outcome in _LATER:
                return outcome
        return error

    def close(self) -> None:
        self.sock.close()


def bind_udp(family: int, *, port: int = TUNNEL_PORT, mark: int | None = None, host: str = "") -> UdpSocket:
    """Binds one socket of the family (4 or 6): on `port`, or on any port when that is taken.

    Raises: OSError when the family is not to be had, RoutingLoopError when the mark is refused.
    """
    sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if family == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        address = host or ("0.0.0.0" if family == 4 else "::")
        try:
            sock.bind((address, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port == 0:
                raise
            sock.bind((address, 0))
        if mark is not None:
            _set_mark(sock, mark)
        _set_options(sock, family)
    except BaseException:
        sock.close()
        raise
    return UdpSocket(sock, UdpBatchPort(sock.fileno(), family, sock.getsockname()[1]))


def _set_mark(sock: socket.socket, mark: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("I", mark))
    except OSError as error:
        raise RoutingLoopError(
            f"The tunnel's socket cannot be marked ({error.strerror}), so its traffic would enter the tunnel itself. "
            "Run as root or with CAP_NET_ADMIN."
        ) from error


def _set_options(sock: socket.socket, family: int) -> None:
    """Asks for everything that makes batches possible; what the kernel does not have is done without."""
    if family == 4:
        wanted = [
            (socket.IPPROTO_IP, _IP_PKTINFO, 1),
            (socket.IPPROTO_IP, _IP_RECVTOS, 1),
            (socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE),
        ]
    else:
        wanted = [
            (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1),
            (socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1),
            (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_PROBE),
            (socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1),
            (socket.IPPROTO_IPV6, _IPV6_ADDR_PREFERENCES, _IPV6_PREFER_SRC_PUBLIC),
        ]
    wanted.append((socket.IPPROTO_UDP, _UDP_GRO, 1))
    for level, option, value in wanted:
        try:
            sock.setsockopt(level, option, value)
        except OSError as error:
            log.info("a socket option is not available", option=option, level=level, error=error.strerror)
    send = _set_buffer(sock, socket.SO_SNDBUF, _SO_SNDBUFFORCE, "FIREZONE_UDP_SEND_BUFFER_SIZE", SEND_BUFFER_SIZE)
    receive = _set_buffer(sock, socket.SO_RCVBUF, _SO_RCVBUFFORCE, "FIREZONE_UDP_RECV_BUFFER_SIZE", RECEIVE_BUFFER_SIZE)
    log.info("udp socket bound", family=family, port=sock.getsockname()[1], send_buffer=send, receive_buffer=receive)


def _set_buffer(sock: socket.socket, option: int, force: int, variable: str, default: int) -> int:
    """Sets a buffer size, forced where allowed, halved until accepted; returns what the kernel gave."""
    text = os.environ.get(variable, "").strip()
    size = default
    # The kernel takes an int and doubles it.
    if text.isdecimal() and 0 < int(text) < 1 << 30:
        size = int(text)
    elif text:
        log.debug("not a number of bytes, ignored", variable=variable)
    smallest = min(size, MIN_BUFFER_SIZE)
    while size >= smallest:
        for how in (force, option):
            try:
                sock.setsockopt(socket.SOL_SOCKET, how, size)
            except OSError:
                continue
            # The kernel reports twice what it was asked for: its own bookkeeping is in it.
            return sock.getsockopt(socket.SOL_SOCKET, option) // 2
        size //= 2
    return sock.getsockopt(socket.SOL_SOCKET, option) // 2


class UdpSockets:
    """Both families: the tick's source of datagrams and its sink. A family that cannot be bound is done without."""

    def __init__(
        self, *, port: int = TUNNEL_PORT, mark: int | None = None, hosts: dict[int, str] | None = None, slots: int = RING_SLOTS
    ) -> None:
        """`hosts` binds the given families to addresses and no others; by default both to the wildcard."""
        self.ring = PacketRing(slots)
        self._port, self._mark = port, mark
        self._hosts = hosts if hosts is not None else {4: "", 6: ""}
        self._sockets: dict[int, UdpSocket] = {}
        self._errors: list[Exception] = []
        self._no_socket = 0
        self._former: dict[str, int] = {}
        self._turn = 0
        self._bind()

    # source

    def descriptors(self) -> tuple[int, ...]:
        return tuple(udp.batch.fd for udp in self._sockets.values())

    def fill(self, max_reads: int, descriptor: int | None = None) -> None:
        """Reads from every socket, or the one; an error of one family does not touch what the other delivered."""
        sockets = [udp for udp in self._sockets.values() if descriptor is None or udp.batch.fd == descriptor]
        # In turn: with a ring that is nearly full, whoever reads first gets all there is.
        self._turn += 1
        for n in range(len(sockets)):
            try:
                sockets[(self._turn + n) % len(sockets)].batch.fill(self.ring, max_reads)
            except OSError as error:
                self._note(error)

    def release(self, entries: int) -> None:
        self.ring.release(entries)

    def sleeps(self) -> bool:
        return self.ring.ready() == 0

    # sink

    def send_runs(self, batch: PacketBatch, runs: RunList, now: Instant) -> None:
        """Sends every run; what a socket refuses for now is copied into its queue."""
        index = 0
        while index < runs.n:
            family = int(batch.remote[runs.runs[index]["first"]]["family"])
            udp = self._sockets.get(family)
            if udp is None:
                self._no_socket += int(runs.runs[index]["count"])
                index += 1
            elif udp.waiting:
                self._wait(udp, batch, runs, index, -1, now)
                index += 1
            else:
                index, row, error = udp.batch.send_all(batch, runs, index, family)
                if error:
                    self._send_rest(udp, batch, runs, index, row, error, now)
                    index += 1

    def send(self, transmit: Transmit, now: Instant) -> None:
        """Sends one datagram of a machine."""
        udp = self._sockets.get(4 if transmit.destination.is_ipv4 else 6)
        if udp is None:
            self._no_socket += 1
            return
        item = _Waiting(transmit.payload, len(transmit.payload), transmit.destination, transmit.source, transmit.ecn, now)
        if udp.waiting or not self._send_item(udp, item):
            self._append(udp, item)

    def waiting(self, now: Instant) -> bool:
        """Retries what waits, drops what waited too long, and tells whether something still waits."""
        still = False
        for udp in self._sockets.values():
            while udp.waiting and self._send_item(udp, udp.waiting[0]):
                self._pop(udp)
            while udp.waiting and now - udp.waiting[0].since > MAX_WAITING_TIME:
                self._drop_oldest(udp)
            still = still or bool(udp.waiting)
        return still

    def blocked_descriptors(self) -> tuple[int, ...]:
        return tuple(udp.batch.fd for udp in self._sockets.values() if udp.waiting)

    def take_errors(self) -> list[Exception]:
        errors, self._errors = self._errors, []
        return errors

    # life

    def rebind(self) -> None:
        """Replaces both sockets, on the same port if it can be had. What waits is gone."""
        self._close_sockets()
        self._bind()

    def batch_ports(self) -> list[UdpBatchPort]:
        """Returns the compiled ports of the sockets there are, for a reader."""
        return [udp.batch for udp in self._sockets.values()]

    def ports(self) -> dict[int, int]:
        """Returns the bound port of each family there is."""
        return {family: udp.port for family, udp in self._sockets.items()}

    def counters(self) -> dict[str, Any]:
        """Returns counters of all sockets together, and how many datagrams one send carried on average."""
        total = {"no_socket": self._no_socket, **self._sum()}
        calls = total.get("send_calls", 0)
        return {**total, "datagrams_per_send": round(total.get("sent", 0) / calls, 2) if calls else 0.0}

    def close(self) -> None:
        self._close_sockets()

    def _bind(self) -> None:
        for family, host in self._hosts.items():
            try:
                self._sockets[family] = bind_udp(family, port=self._port, mark=self._mark, host=host)
            except OSError as error:
                log.info("no socket for this family", family=family, error=error.strerror)
                self._note(error)

    def _sum(self) -> dict[str, int]:
        total = dict(self._former)
        for udp in self._sockets.values():
            refused = {"refused": udp.counters.refused, "dropped_waiting": udp.counters.dropped_waiting}
            for name, value in {**udp.batch.stats(), **refused}.items():
                total[name] = total.get(name, 0) + value
        return total

    def _note(self, error: OSError) -> None:
        if len(self._errors) < _MAX_ERRORS:
            self._errors.append(error)

    def _close_sockets(self) -> None:
        self._former = self._sum()
        for udp in self._sockets.values():
            udp.close()
        self._sockets.clear()

    def _send_rest(self, udp: UdpSocket, batch: PacketBatch, runs: RunList, index: int, row: int, error: int, now: Instant) -> None:
        """Goes on with a run that stopped at `row`: later, without the refused feature, or behind the refused datagram."""

        def go_on() -> int:
            nonlocal row, error
            first = row
            row, error = udp.batch.send_rows(batch, runs, index, row)
            return 0 if row != first else error

        while error and row >= 0:
            if error in _LATER:
                self._wait(udp, batch, runs, index, row, now)
                return
            refusal = udp.retry_without(error, go_on)
            if refusal == 0 or refusal in _LATER:
                error = error if refusal == 0 else refusal
                continue
            self._note(_send_error(refusal, batch, runs, index))
            # Only a size is a matter of one datagram, and only where they go one by one; all else the rest shares.
            rest = row if refusal != errno.EMSGSIZE or udp.batch.gso else int(batch.next[row])
            udp.counters.refused += _rows_from(batch, row) - _rows_from(batch, rest if rest != row else -1)
            if rest == row or rest < 0:
                return
            row, error = udp.batch.send_rows(batch, runs, index, rest)

    def _wait(self, udp: UdpSocket, batch: PacketBatch, runs: RunList, index: int, row: int, now: Instant) -> None:
        run = runs.runs[index]
        first = int(run["first"])
        row = first if row < 0 else row
        rows = []
        while row >= 0:
            rows.append(batch.row_bytes(row))
            row = int(batch.next[row])
        destination = _endpoint(batch.remote[first])
        source = _endpoint(batch.local[first]) if batch.local[first]["family"] else None
        self._append(udp, _Waiting(b"".join(rows), len(rows[0]), destination, source, int(batch.ecn[first]), now))

    def _append(self, udp: UdpSocket, item: _Waiting) -> None:
        udp.waiting.append(item)
        udp.waiting_bytes += len(item.payload)
        while udp.waiting_bytes > MAX_WAITING_BYTES:
            self._drop_oldest(udp)

    def _drop_oldest(self, udp: UdpSocket) -> None:
        item = udp.waiting[0]
        udp.counters.dropped_waiting += max(1, -(-len(item.payload) // max(item.stride, 1)))
        self._pop(udp)

    def _pop(self, udp: UdpSocket) -> None:
        udp.waiting_bytes -= len(udp.waiting.popleft().payload)

    def _send_item(self, udp: UdpSocket, item: _Waiting) -> bool:
        """Sends a waiting item. False: not yet. An error for good counts as sent, its datagrams as refused."""
        source = item.source.ip if item.source is not None else None
        size = 0

        def send() -> int:
            nonlocal size
            size = min(len(item.payload), item.stride * (MAX_SEGMENTS if udp.batch.gso else 1))
            head = memoryview(item.payload)[:size]
            return udp.batch.send_bytes(head, item.stride, item.destination.ip, item.destination.port, source, item.ecn)

        while True:
            error = send()
            if error:
                error = udp.retry_without(error, send)
            if error in _LATER:
                return False
            if error:
                udp.counters.refused += -(-size // max(item.stride, 1)) or 1
                self._note(OSError(error, f"sending to {item.destination} failed: {os.strerror(error)}"))
            if size == len(item.payload):
                return True
            item.payload = item.payload[size:]
            udp.waiting_bytes -= size if udp.waiting and udp.waiting[0] is item else 0


def _rows_from(batch: PacketBatch, row: int) -> int:
    count = 0
    while row >= 0:
        count, row = count + 1, int(batch.next[row])
    return count


def _endpoint(address: Any) -> Endpoint:
    return Endpoint(address["ip"][: 4 if address["family"] == 4 else 16].tobytes(), int(address["port"]))


def _send_error(error: int, batch: PacketBatch, runs: RunList, index: int) -> OSError:
    destination = _endpoint(batch.remote[runs.runs[index]["first"]])
    return OSError(error, f"sending to {destination} failed: {os.strerror(error)}")
