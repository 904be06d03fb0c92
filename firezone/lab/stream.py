"""Receives a stream until it stops and tells when it did: `python -m firezone.lab.stream HOST PORT`, run in the client's namespace.

Prints `receiving` with the first bytes, and one JSON line at the end. It ends by itself when nothing has come for a second and a
half.
"""

from __future__ import annotations

import json
import socket
import sys
import time

QUIET_S = 1.5
CONNECT_TIMEOUT_S = 10.0
LIMIT_S = 60.0
"""A stream that nobody stops is given up."""


def receive(host: str, port: int) -> dict[str, object]:
    """Returns the bytes received, the wall clock's time of the last one, and what ended the stream. Raises OSError."""
    with socket.create_connection((host, port), CONNECT_TIMEOUT_S) as sock:
        sock.sendall(f"GET /stream HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        sock.settimeout(QUIET_S)
        received, last, why = 0, time.time(), "nobody stopped it"
        start = time.monotonic()
        while time.monotonic() < start + LIMIT_S:
            try:
                data = sock.recv(65536)
            except TimeoutError:
                why = "silence"
                break
            except OSError as error:
                why = error.strerror or str(error)
                break
            if not data:
                why = "the resource closed it"
                break
            if not received:
                print("receiving", flush=True)
            received, last = received + len(data), time.time()
    return {"bytes": received, "last_byte_at": last, "ended_by": why}


if __name__ == "__main__":
    try:
        print(json.dumps(receive(sys.argv[1], int(sys.argv[2]))), flush=True)
    except OSError as error:
        sys.exit(f"{sys.argv[1]} port {sys.argv[2]}: {error}")
