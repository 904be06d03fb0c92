"""`python -m firezone.lab.faults.flow`: what a user of the tunnel would notice of a fault, measured from the client's network.

`serve` answers in the resource's network: UDP with the same bytes, TCP with an endless file from the offset that is asked for.
`echo` sends 50 datagrams a second, `download` reads the file, and `new` opens a TCP connection after the other for a first byte,
each until it is told to stop; all write one JSON line per gap and one per half second to their log. All times are of
CLOCK_MONOTONIC, which every process of the machine shares.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import select
import signal
import socket
import sys
import threading
import time
from typing import Any

ECHO_PORT, FILE_PORT = 7007, 7008
INTERVAL_S = 0.02
GAP_S = 0.1
"""Pauses below are the machine's: five datagrams late by a scheduler of two busy cores."""
FILE_RATE_BYTES = 2_500_000
"""Per second: enough to always have packets under way, little enough to leave the processors idle."""
_BLOCK_SIZE = 1 << 16
_PATTERN = random.Random(4).randbytes(1 << 20)
_CONNECT_TIMEOUT_S = 2.0
_REPORT_S = 0.5
_NEW_EVERY_S, _NEW_TIMEOUT_S = 0.05, 0.5
"""Between two connections, and how long each may take: shorter than the second after which a lost SYN is sent again."""


def block(number: int) -> bytes:
    """Returns one block of the file: its number, then bytes that differ from its neighbours'."""
    at = number * 4096 % (len(_PATTERN) - _BLOCK_SIZE)
    return number.to_bytes(8, "big") + _PATTERN[at + 8 : at + _BLOCK_SIZE]


def digest_of(size: int) -> str:
    """Returns the checksum that the first `size` bytes of the file have."""
    digest = hashlib.sha256()
    whole, rest = divmod(size, _BLOCK_SIZE)
    for number in range(whole):
        digest.update(block(number))
    digest.update(block(whole)[:rest])
    return digest.hexdigest()


def datagram(number: int) -> bytes:
    """Returns what one echo carries: its number, then bytes that belong to it."""
    return number.to_bytes(8, "big") + block(number)[8:100]


def serve() -> None:
    """Answers until it is killed."""
    files = socket.create_server(("", FILE_PORT), family=socket.AF_INET)
    threading.Thread(target=_serve_echo, daemon=True).start()
    print("listening", flush=True)
    while True:
        connection, _ = files.accept()
        threading.Thread(target=_serve_file, args=(connection,), daemon=True).start()


def _serve_echo() -> None:
    echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    echo.bind(("", ECHO_PORT))
    while True:
        data, sender = echo.recvfrom(2048)
        echo.sendto(data, sender)


def _serve_file(connection: socket.socket) -> None:
    try:
        offset = int.from_bytes(connection.recv(8), "big")
        start = time.monotonic()
        number, skip = divmod(offset, _BLOCK_SIZE)
        sent = 0
        while True:
            data = block(number)[skip:]
            connection.sendall(data)
            number, skip, sent = number + 1, 0, sent + len(data)
            # After a pause the rate goes on from there: what was missed is not made up for.
            start = max(start, time.monotonic() - sent / FILE_RATE_BYTES - 0.2)
            time.sleep(max(0.0, start + sent / FILE_RATE_BYTES - time.monotonic()))
    except OSError:
        connection.close()


class Watch:
    """Writes down when nothing came, and every half second that we live."""

    def __init__(self) -> None:
        self.last: float | None = None
        self._reported = self._looked = time.monotonic()
        self._stalled = 0.0
        """Seconds since the last arrival in which this process did not get to run: no fault of the tunnel."""
        self.is_stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def look(self, longest_wait: float) -> None:
        """Takes note of one pass of the loop, which waits no longer than this of its own will."""
        now = time.monotonic()
        self._stalled += max(0.0, now - self._looked - longest_wait)
        self._looked = now

    def arrived(self) -> None:
        now = time.monotonic()
        if self.last is not None and now - self.last - self._stalled > GAP_S:
            _write(gap=[self.last + self._stalled, now])
        self.last, self._stalled = now, 0.0

    def report(self) -> None:
        now = time.monotonic()
        if now - self._reported >= _REPORT_S:
            self._reported = now
            _write(last=self.last)

    def _stop(self, *_: object) -> None:
        self.is_stopping = True


def echo(host: str) -> None:
    """Sends a numbered datagram every 20 ms and waits for its echo until SIGTERM."""
    watch = Watch()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setblocking(False)
    due = time.monotonic()
    sent = wrong = 0
    waiting: set[int] = set()
    while not watch.is_stopping:
        now = time.monotonic()
        if now >= due:
            due = max(due + INTERVAL_S, now)
            try:
                udp.sendto(datagram(sent), (host, ECHO_PORT))
                waiting.add(sent)
                sent += 1
            except OSError:
                pass  # No route for a moment; that is part of what is measured.
        ready = select.select([udp], [], [], max(0.0, due - time.monotonic()))[0]
        watch.look(INTERVAL_S)
        if ready and (data := _receive(udp)):
            number = int.from_bytes(data[:8], "big")
            wrong += number >= sent or data != datagram(number)
            if number in waiting:  # one that comes twice shows nothing
                waiting.remove(number)
                watch.arrived()
        watch.report()
    _write(end=time.monotonic(), last=watch.last, sent=sent, received=sent - len(waiting), is_intact=not wrong)


def _receive(udp: socket.socket) -> bytes:
    try:
        return udp.recv(2048)
    except OSError:
        return b""  # ICMP errors come here as well.


def new(host: str) -> None:
    """Opens a connection after the other until SIGTERM, each for the first byte of the file."""
    watch = Watch()
    while not watch.is_stopping:
        began = time.monotonic()
        try:
            with socket.create_connection((host, FILE_PORT), timeout=_NEW_TIMEOUT_S) as connection:
                connection.sendall(bytes(8))
                if connection.recv(1):
                    watch.arrived()
        except OSError:
            pass
        watch.report()
        time.sleep(max(0.0, began + _NEW_EVERY_S - time.monotonic()))
    _write(end=time.monotonic(), last=watch.last)


def download(host: str) -> None:
    """Reads the file until SIGTERM. A broken connection is opened anew where it broke, which is counted."""
    watch = Watch()
    digest = hashlib.sha256()
    size = breaks = 0
    while not watch.is_stopping:
        try:
            with socket.create_connection((host, FILE_PORT), timeout=_CONNECT_TIMEOUT_S) as connection:
                watch.look(math.inf)
                connection.sendall(size.to_bytes(8, "big"))
                while not watch.is_stopping:
                    ready = select.select([connection], [], [], GAP_S)[0]
                    watch.look(GAP_S)
                    if not ready:
                        watch.report()
                        continue
                    if not (data := connection.recv(1 << 16)):
                        raise ConnectionResetError
                    digest.update(data)
                    size += len(data)
                    watch.arrived()
                    watch.report()
        except OSError:
            breaks += size > 0
            watch.report()
            time.sleep(0.1)
            watch.look(math.inf)
    _write(end=time.monotonic(), last=watch.last, size=size, breaks=breaks, is_intact=digest.hexdigest() == digest_of(size))


def _write(**members: Any) -> None:
    print(json.dumps(members), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            serve()
        case ["echo", address]:
            echo(address)
        case ["download", address]:
            download(address)
        case ["new", address]:
            new(address)
        case _:
            sys.exit("usage: python -m firezone.lab.faults.flow serve | echo HOST | download HOST | new HOST")
