"""One outer UDP socket, batched both ways, with what the kernel refuses waiting in a bounded queue.

Every socket is non-blocking and unfragmented (PMTU probe mode); a tunnel's carries the firewall mark, so that its traffic goes
around the tunnel. Segmentation offload is used until the kernel refuses it for a socket; then that socket sends one by one, for
good.
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
from firezone.base.limits import MAX_SEGMENTS
from firezone.base.net import TUNNEL_PORT, Endpoint, Transmit
from firezone.base.timing import MILLISECOND
from firezone.io.udp_batch import UdpBatchPort

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
MAX_ERRORS = 16
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
    errors: list[Exception] = field(default_factory=list)
    """What went wrong, for whoever shares the list to take."""

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

    def send(self, transmit: Transmit, now: Instant) -> None:
        """Sends one datagram of a machine, behind what waits."""
        item = _Waiting(transmit.payload, len(transmit.payload), transmit.destination, transmit.source, transmit.ecn, now)
        if self.waiting or not self._send_item(item):
            self._append(item)

    def flush(self, now: Instant) -> bool:
        """Retries what waits, drops what waited too long, and tells whether something still waits."""
        while self.waiting and self._send_item(self.waiting[0]):
            self._pop()
        while self.waiting and now - self.waiting[0].since > MAX_WAITING_TIME:
            self.drop_oldest()
        return bool(self.waiting)

    def send_rest(self, batch: PacketBatch, runs: RunList, index: int, row: int, error: int, now: Instant) -> None:
        """Goes on with a run that stopped at `row`: later, without the refused feature, or behind the refused datagram."""

        def go_on() -> int:
            nonlocal row, error
            first = row
            row, error = self.batch.send_rows(batch, runs, index, row)
            return 0 if row != first else error

        while error and row >= 0:
            if error in _LATER:
                self.wait(batch, runs, index, row, now)
                return
            refusal = self.retry_without(error, go_on)
            if refusal == 0 or refusal in _LATER:
                error = error if refusal == 0 else refusal
                continue
            self._note(_send_error(refusal, batch, runs, index))
            # Only a size is a matter of one datagram, and only where they go one by one; all else the rest shares.
            rest = row if refusal != errno.EMSGSIZE or self.batch.gso else int(batch.next[row])
            self.counters.refused += _rows_from(batch, row) - _rows_from(batch, rest if rest != row else -1)
            if rest == row or rest < 0:
                return
            row, error = self.batch.send_rows(batch, runs, index, rest)

    def wait(self, batch: PacketBatch, runs: RunList, index: int, row: int, now: Instant) -> None:
        """Copies what is left of a run, from `row` on (-1: all of it), into the queue."""
        run = runs.runs[index]
        first = int(run["first"])
        row = first if row < 0 else row
        rows = []
        while row >= 0:
            rows.append(batch.row_bytes(row))
            row = int(batch.next[row])
        destination = _endpoint(batch.remote[first])
        source = _endpoint(batch.local[first]) if batch.local[first]["family"] else None
        self._append(_Waiting(b"".join(rows), len(rows[0]), destination, source, int(batch.ecn[first]), now))

    def _append(self, item: _Waiting) -> None:
        self.waiting.append(item)
        self.waiting_bytes += len(item.payload)
        while self.waiting_bytes > MAX_WAITING_BYTES:
            self.drop_oldest()

    def drop_oldest(self) -> None:
        """Gives up what waits longest."""
        item = self.waiting[0]
        self.counters.dropped_waiting += max(1, -(-len(item.payload) // max(item.stride, 1)))
        self._pop()

    def _pop(self) -> None:
        self.waiting_bytes -= len(self.waiting.popleft().payload)

    def _send_item(self, item: _Waiting) -> bool:
        """Sends a waiting item. False: not yet. An error for good counts as sent, its datagrams as refused."""
        source = item.source.ip if item.source is not None else None
        size = 0

        def send() -> int:
            nonlocal size
            size = min(len(item.payload), item.stride * (MAX_SEGMENTS if self.batch.gso else 1))
            head = memoryview(item.payload)[:size]
            return self.batch.send_bytes(head, item.stride, item.destination.ip, item.destination.port, source, item.ecn)

        while True:
            error = send()
            if error:
                error = self.retry_without(error, send)
            if error in _LATER:
                return False
            if error:
                self.counters.refused += -(-size // max(item.stride, 1)) or 1
                self._note(OSError(error, f"sending to {item.destination} failed: {os.strerror(error)}"))
            if size == len(item.payload):
                return True
            item.payload = item.payload[size:]
            self.waiting_bytes -= size if self.waiting and self.waiting[0] is item else 0

    def _note(self, error: OSError) -> None:
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(error)

    def close(self) -> None:
        self.sock.close()


def bind_udp(
    family: int,
    *,
    port: int = TUNNEL_PORT,
    mark: int | None = None,
    host: str = "",
    receive_buffer: int = RECEIVE_BUFFER_SIZE,
    may_fragment: bool = False,
    tells_local: bool = True,
    errors: list[Exception] | None = None,
) -> UdpSocket:
    """Binds one non-blocking socket of the family (4 or 6). `receive_buffer` in bytes; `errors` receives what sending meets.

    With `may_fragment` the kernel fragments what is larger than the path, where the tunnel wants to hear of it instead. Without
    `tells_local` datagrams are read without the local address that they came to.

    Raises: OSError when the family or the port is not to be had, RoutingLoopError when the mark is refused.
    """
    sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if family == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host or ("0.0.0.0" if family == 4 else "::"), port))
        if mark is not None:
            _set_mark(sock, mark)
        _set_options(sock, family, receive_buffer, may_fragment, tells_local)
    except BaseException:
        sock.close()
        raise
    batch = UdpBatchPort(sock.fileno(), family, sock.getsockname()[1])
    return UdpSocket(sock, batch, errors=[] if errors is None else errors)


def _set_mark(sock: socket.socket, mark: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("I", mark))
    except OSError as error:
        raise RoutingLoopError(
            f"The tunnel's socket cannot be marked ({error.strerror}), so its traffic would enter the tunnel itself. "
            "Run as root or with CAP_NET_ADMIN."
        ) from error


def _set_options(sock: socket.socket, family: int, receive_buffer: int, may_fragment: bool, tells_local: bool) -> None:
    """Asks for everything that makes batches possible; what the kernel does not have is done without."""
    if family == 4:
        wanted = [
            (socket.IPPROTO_IP, _IP_PKTINFO, int(tells_local)),
            (socket.IPPROTO_IP, _IP_RECVTOS, 1),
        ]
        unfragmented = [(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)]
    else:
        wanted = [
            (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, int(tells_local)),
            (socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1),
            (socket.IPPROTO_IPV6, _IPV6_ADDR_PREFERENCES, _IPV6_PREFER_SRC_PUBLIC),
        ]
        unfragmented = [
            (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_PROBE),
            (socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1),
        ]
    wanted += [*([] if may_fragment else unfragmented), (socket.IPPROTO_UDP, _UDP_GRO, 1)]
    for level, option, value in wanted:
        try:
            sock.setsockopt(level, option, value)
        except OSError as error:
            log.info("a socket option is not available", option=option, level=level, error=error.strerror)
    send = _set_buffer(sock, socket.SO_SNDBUF, _SO_SNDBUFFORCE, "FIREZONE_UDP_SEND_BUFFER_SIZE", SEND_BUFFER_SIZE)
    receive = _set_buffer(sock, socket.SO_RCVBUF, _SO_RCVBUFFORCE, "FIREZONE_UDP_RECV_BUFFER_SIZE", receive_buffer)
    log.debug("udp socket bound", family=family, port=sock.getsockname()[1], send_buffer=send, receive_buffer=receive)


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
