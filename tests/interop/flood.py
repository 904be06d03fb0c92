"""Sends garbage that looks like handshake initiations to a test peer in a namespace, in bursts, and stops by itself.

    python -m tests.interop.flood HOST PORT PUBLIC_KEY_HEX BURST INTERVAL_S ROUNDS

mac1 is right, so the receiver has to count them; nothing else is.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time

from firezone.proto.noise import kdf

MAX_DATAGRAMS = 50_000


def main(host: str, port: int, public: bytes, *, burst: int, interval_s: float, rounds: int) -> None:
    """Floods for `rounds` times `interval_s` seconds."""
    assert burst * rounds <= MAX_DATAGRAMS
    mac1_key = kdf.hash_of(kdf.LABEL_MAC1, public)
    datagrams = [initiation(mac1_key) for _ in range(burst)]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.connect((host, port))
        is_first = True
        for _ in range(rounds):
            for datagram in datagrams:
                # A receiver that stopped answers with ICMP errors, which the socket reports here.
                with contextlib.suppress(ConnectionRefusedError):
                    sender.send(datagram)
            if is_first:
                print("flooding", flush=True)
                is_first = False
            time.sleep(interval_s)


def initiation(mac1_key: bytes) -> bytes:
    """Returns noise with a valid mac1."""
    body = b"\x01\x00\x00\x00" + os.urandom(112)
    return body + kdf.mac(mac1_key, body) + bytes(16)


if __name__ == "__main__":
    main(
        sys.argv[1],
        int(sys.argv[2]),
        bytes.fromhex(sys.argv[3]),
        burst=int(sys.argv[4]),
        interval_s=float(sys.argv[5]),
        rounds=int(sys.argv[6]),
    )
