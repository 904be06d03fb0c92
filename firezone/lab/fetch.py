"""Fetches a page once and prints what it took as JSON; run in the client's namespace."""

from __future__ import annotations

import json
import socket
import sys
import time


def fetch(host: str, port: int, timeout: float, path: str = "/") -> dict[str, object]:
    """Returns status, body and the milliseconds to the connection and to the first byte. Raises OSError."""
    start = time.perf_counter()
    with socket.create_connection((host, port), timeout) as sock:
        connected = time.perf_counter()
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        data = sock.recv(65536)
        first = time.perf_counter()
        while more := sock.recv(65536):
            data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return {
        "status": int(head.split()[1]),
        "body": body.decode(errors="replace"),
        "connect_ms": round((connected - start) * 1000, 2),
        "first_byte_ms": round((first - start) * 1000, 2),
    }


if __name__ == "__main__":
    try:
        print(json.dumps(fetch(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])))
    except OSError as error:
        sys.exit(f"{sys.argv[1]} port {sys.argv[2]}: {error}")
