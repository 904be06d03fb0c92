"""Run behind a NAT whose mappings live one second: what its sockets see. Prints one JSON object."""

from __future__ import annotations

import json
import socket
import sys
import time

SERVER = sys.argv[1]


def refused() -> bool:
    """Whether a closed port's ICMP error arrives at the socket that asked."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1.0)
        sock.connect((SERVER, 9))
        for _ in range(3):
            try:
                sock.send(b"x")
                sock.recv(100)
            except ConnectionRefusedError:
                return True
            except TimeoutError:
                continue
    return False


def seen_around_a_line() -> list[int]:
    """The ports under which the server sees one socket before and after our parent has said something."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(3.0)
        ports = []
        for _ in range(2):
            sock.sendto(b'{"number": 1}', (SERVER, 3478))
            ports.append(json.loads(sock.recv(500))["seen"][1])
            if len(ports) == 1:
                print("ready", flush=True)
                sys.stdin.readline()
        return ports


def seen_after(pauses: list[float]) -> list[int]:
    """The ports under which the server sees one socket, asked again after each pause."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(3.0)
        ports = []
        for pause in pauses:
            time.sleep(pause)
            sock.sendto(b'{"number": 1}', (SERVER, 3478))
            ports.append(json.loads(sock.recv(500))["seen"][1])
        return ports


if sys.argv[2:] == ["rebound"]:
    print(json.dumps(seen_around_a_line()), flush=True)
    sys.exit()
print(json.dumps({"refused": refused(), "used": seen_after([0, 0.5, 0.5, 0.5]), "idle": seen_after([0, 1.5])}))
