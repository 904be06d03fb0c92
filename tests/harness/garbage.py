"""Sends random datagrams to a UDP port as fast as one process can: `python -m tests.harness.garbage HOST PORT COUNT`.

Lengths and first bytes vary, so that every branch of the demultiplexer is met: nothing, STUN-like, handshake-like, data-like.
"""

from __future__ import annotations

import os
import random
import socket
import sys

KINDS = (
    b"", b"\x07", os.urandom(60), b"\x00\x01\x00\x00\x21\x12\xa4\x42" + os.urandom(40), b"\x01\0\0\0" + os.urandom(144),
    b"\x02\0\0\0" + os.urandom(88), b"\x04\0\0\0" + os.urandom(60), b"\x40\x01" + os.urandom(30), os.urandom(1400),
)  # fmt: skip


def main() -> None:
    host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((host, port))
    generator = random.Random(7)
    batch = [generator.choice(KINDS) for _ in range(512)]
    sent = 0
    while sent < count:
        for datagram in batch:
            try:
                sock.send(datagram)
            except OSError:
                continue
        sent += len(batch)
    print(sent)


if __name__ == "__main__":
    main()
